//! The walls of the source: what may use what, how long a file may be, how a text is worded.
//!
//! What depends on what is measured by `scripts/structure`, which needs python3 and nothing
//! else. Everything here reads files only: a failure names the file, the line and the way out.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Arrows between rooms that may point up, with the reason: (from, to, why).
const ARROWS_UP: &[(&str, &str, &str)] = &[];
/// Folders whose own file and parts may use each other, with the reason.
const ONE_IN_PARTS: &[(&str, &str)] = &[
    (
        "src/backplane",
        "access is a part of the contract of Backplane",
    ),
    (
        "src/backplane/redis",
        "look-ups are methods of Redis, and timeouts are shared",
    ),
    ("src/config", "checks and faults are about Config itself"),
    (
        "src/local/connection",
        "one state machine, its requests and subscriptions apart",
    ),
    ("src/presence", "one task, its peers apart"),
];
/// Who alone may name a crate.
const HOMES: &[(&str, &[&str])] = &[
    ("fred", &["src/backplane/redis/"]),
    ("warp", &["src/edge/", "src/api/"]),
    ("hyper", &["src/edge/", "src/api/", "src/http_client.rs"]),
    (
        "hyper_util",
        &["src/edge/", "src/api/", "src/http_client.rs"],
    ),
    ("hyper_rustls", &["src/http_client.rs"]),
    (
        "http_body_util",
        &["src/edge/", "src/api/", "src/http_client.rs"],
    ),
    ("io_uring", &[UNSAFE]),
    (
        "libc",
        &[UNSAFE, "src/local/shard/socket.rs", "src/edge/listeners.rs"],
    ),
    ("nix", &["src/edge/accept.rs", "src/edge/listeners.rs"]),
];
/// The one file that may be unsafe.
const UNSAFE: &str = "src/local/shard/uring.rs";
/// What the protocol does without: it is grammar, and everything about it can be tested with bytes.
const NOT_IN_PROTOCOL: &[&str] = &["tokio", "mio", "socket2"];
/// Types that several files may have, with the reason.
const SHARED_NAMES: &[(&str, &str)] = &[
    ("State", "what a lock guards, private to its file"),
    ("Body", "of one answer or request, private to its file"),
    (
        "Shared",
        "what the clones of a handle share, private to its file",
    ),
];
const FILE_LINES: usize = 500;
/// `src/lib.rs` is a map.
const MAP_LINES: usize = 60;
const FUNCTION_LINES: usize = 80;
const LINE_CHARS: usize = 100;
/// Words that readers stumble over, and what to write instead.
const WORDS: &[(&str, &str)] = &[
    ("anew", "again"),
    ("anybody", "any client, any sender: name the actor"),
    ("behind that", "after that"),
    ("broom", "safety net"),
    ("come by", "get, receive"),
    ("comes by", "gets, receives"),
    ("goes on where", "resumes where"),
    ("how-manieth", "sequence number"),
    ("nobody", "no client, no node: name the actor"),
    ("on wish", "optional"),
    ("put again", "renewed"),
    ("say the word", "notify"),
    ("says the word", "notifies"),
    ("sign of life", "answer, heartbeat"),
    ("somebody", "a client, an operator: name the actor"),
    ("stand against", "exceed"),
    ("stands against", "was exceeded"),
    ("whoever", "the client, the operator: name the actor"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder whose names end so, with their texts.
fn texts(folder: &Path, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(root()).expect("below the root");
        let name = name.to_str().expect("UTF-8").to_owned();
        let last = path
            .file_name()
            .and_then(|last| last.to_str())
            .expect(&name);
        let is_made = last == "target" || last == "node_modules";
        if path.is_dir() && !is_made && !last.starts_with('.') {
            found.extend(texts(&path, endings));
        } else if path.is_file() && endings.iter().any(|ending| last.ends_with(ending)) {
            found.push((name, std::fs::read_to_string(&path).expect("a text")));
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    texts(&root().join("src"), &[".rs"])
}

/// The sources without their tests, which stand last in a file or in one of their own.
fn sources_alone() -> Vec<(String, String)> {
    let mut files = sources();
    files.retain(|(name, _)| !name.ends_with("tests.rs"));
    for (_, text) in &mut files {
        let tests = text.find("\n#[cfg(test)]\nmod ");
        text.truncate(tests.map_or(text.len(), |at| at + 1));
    }
    files
}

/// Whether a line has this word or phrase, and not as a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let is_inside = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_inside) && !line[at + word.len()..].starts_with(is_inside)
    })
}

fn hold(wall: &str, breaches: &[String]) {
    let (count, list) = (breaches.len(), breaches.join("\n"));
    assert!(breaches.is_empty(), "{wall} ({count} times):\n{list}");
}

/// What `scripts/structure --list` finds.
fn structure() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        let script = root().join("scripts/structure");
        let output = Command::new("python3").arg(script).arg("--list").output();
        let output = output.expect("python3 runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "scripts/structure: {errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    })
}

/// The circles of `scripts/structure`: the line of each, and the lines of its way round.
fn circles() -> Vec<String> {
    let mut circles: Vec<String> = Vec::new();
    for line in structure().lines() {
        match line.strip_prefix("  ") {
            Some(step) => *circles.last_mut().expect("a circle") += &format!("\n    {step}"),
            None if line.contains(": circle ") => circles.push(line.to_owned()),
            None => {}
        }
    }
    circles
}

#[test]
fn a_room_uses_only_what_lib_rs_declares_above_it() {
    let (mut breaches, mut used) = (Vec::new(), Vec::new());
    for line in structure().lines().filter(|line| line.contains(": up: ")) {
        let (_, arrow) = line.split_once(": up: ").expect("an arrow");
        let arrow = arrow.split(" (").next().expect("two rooms");
        let is_it = |(from, to, _): &&(&str, &str, &str)| arrow == format!("{from} -> {to}");
        match ARROWS_UP.iter().find(is_it) {
            Some(exception) => used.push(exception),
            None => breaches.push(line.to_owned()),
        }
    }
    let stale = ARROWS_UP
        .iter()
        .filter(|exception| !used.contains(exception));
    breaches.extend(stale.map(|one| format!("no longer needed in ARROWS_UP: {one:?}")));
    hold(
        "move what is used to a room below, or the user up",
        &breaches,
    );
}

#[test]
fn no_rooms_files_or_folders_use_each_other_in_a_circle() {
    let mut breaches = circles();
    breaches.retain(|circle| !circle.contains(": circle through "));
    hold(
        "cut one arrow of each circle: give what both need a file below both",
        &breaches,
    );
}

#[test]
fn the_parts_of_a_folder_do_not_use_its_own_file_which_uses_them() {
    let mut breaches = circles();
    breaches.retain(|circle| circle.contains(": circle through "));
    for (folder, why) in ONE_IN_PARTS {
        let before = breaches.len();
        breaches.retain(|circle| !circle.starts_with(&format!("{folder}: ")));
        if breaches.len() == before {
            breaches.push(format!("no longer needed in ONE_IN_PARTS: {folder}, {why}"));
        }
    }
    hold(
        "move what the parts need out of mod.rs into a file beside them",
        &breaches,
    );
}

#[test]
fn each_crate_is_named_only_where_it_belongs() {
    let mut breaches = Vec::new();
    for (name, text) in sources_alone() {
        for (at, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let names = |krate: &str| has_word(&code.replace("::", ":: "), &format!("{krate}::"));
            for (krate, homes) in HOMES {
                if names(krate) && !homes.iter().any(|home| name.starts_with(home)) {
                    let homes = homes.join(" and ");
                    breaches.push(format!("{name}:{}: {krate} belongs to {homes}", at + 1));
                }
            }
            for krate in NOT_IN_PROTOCOL {
                if names(krate) && name.starts_with("src/protocol") {
                    breaches.push(format!("{name}:{}: {krate}", at + 1));
                }
            }
        }
    }
    hold("leave the crate to the folder it belongs to", &breaches);
}

#[test]
fn one_file_alone_is_unsafe() {
    // What the compiler denies, but for what allows itself more.
    let allows = |(name, text): &(String, String)| {
        text.contains("unsafe_code") && !name.ends_with("uring.rs")
    };
    let breaches: Vec<String> = sources()
        .into_iter()
        .filter(allows)
        .map(|it| it.0)
        .collect();
    hold("do it without, or there", &breaches);
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"deny\""));
    assert!(sources().iter().any(|(name, _)| name == UNSAFE));
}

#[test]
fn no_type_name_stands_for_two_things() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, text) in sources_alone() {
        for (at, line) in text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let kinds = ["struct", "enum", "union", "trait", "type"];
            let is_item = line.starts_with("pub") || kinds.iter().any(|k| line.starts_with(k));
            let is_item = is_item && words.any(|word| kinds.contains(&word));
            // A field of JSON in a constant may be called `type` too.
            let name_of_type = words.next().filter(|word| is_item && !word.is_empty());
            if let Some(type_name) = name_of_type {
                let found = places.entry(type_name.to_owned());
                found.or_default().push(format!("{name}:{}", at + 1));
            }
        }
    }
    places.retain(|name, found| {
        let is_shared = SHARED_NAMES.iter().any(|(shared, _)| shared == name);
        found.len() > 1 && !is_shared
    });
    let list = places
        .iter()
        .map(|(name, found)| format!("{name}: {}", found.join(", ")));
    hold(
        "rename all but one, by what sets it apart",
        &list.collect::<Vec<_>>(),
    );
}

#[test]
fn files_are_short_and_lib_rs_is_a_map() {
    let mut breaches = Vec::new();
    for (name, text) in sources() {
        let is_map = name == "src/lib.rs";
        let most = if is_map { MAP_LINES } else { FILE_LINES };
        let count = text.lines().count();
        if count > most {
            breaches.push(format!("{name}:{most}: {count} lines, at most {most}"));
        }
    }
    hold(
        "find the second noun of the file and give it a file",
        &breaches,
    );
}

#[test]
fn functions_are_short() {
    let mut breaches = Vec::new();
    for (name, text) in sources_alone() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let is_function = has_word(code, "fn") && code.contains("fn ");
            if !is_function || line.ends_with([';', '}']) {
                continue;
            }
            // As rustfmt writes it, its last line begins where its first does.
            let indent = &line[..line.len() - line.trim_start().len()];
            let is_last = |line: &&str| {
                let line = line.strip_prefix(indent).unwrap_or_default();
                line == "}" || line.starts_with(')') && line.ends_with(';')
            };
            let length = lines[at..].iter().position(is_last).expect(line) + 1;
            if length > FUNCTION_LINES {
                breaches.push(format!(
                    "{name}:{}: {length} lines: {}",
                    at + 1,
                    line.trim()
                ));
            }
        }
    }
    hold("part the function: 80 lines at most", &breaches);
}

#[test]
fn lines_of_documents_end_at_100_characters() {
    let mut breaches = Vec::new();
    for (name, text) in texts(root(), &[".md"]) {
        let mut is_code = false;
        for (at, line) in text.lines().enumerate() {
            is_code ^= line.trim_start().starts_with("```");
            // Cannot be wrapped: a row, a message on the wire, an account of the ledger, a URL.
            let is_whole = if is_code {
                line.contains("{\"") || line.starts_with("pushnode_")
            } else {
                line.starts_with('|')
            };
            let words = line.split(' ').filter(|word| !word.contains("://"));
            let length = words.map(|word| word.chars().count() + 1).sum::<usize>();
            if !is_whole && length > LINE_CHARS + 1 {
                breaches.push(format!("{name}:{}: {} characters", at + 1, length - 1));
            }
        }
    }
    hold("wrap the line at 100 characters", &breaches);
}

#[test]
fn texts_use_words_that_readers_know() {
    let documents = texts(root(), &[".md", ".env.example", "openapi.json", ".html"]);
    let mut breaches = Vec::new();
    for (name, text) in documents.into_iter().chain(sources()) {
        let text = text.to_lowercase();
        let mut lines = text.lines().enumerate().peekable();
        while let Some((at, line)) = lines.next() {
            // What stands in backticks is a name.
            let plain = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join("`");
            // A phrase may go on in the next line.
            let next = lines.peek().map_or("", |(_, next)| *next);
            let next = next.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '`');
            let next = next.split(' ').next().unwrap_or_default();
            for (word, better) in WORDS {
                // So is a string of one word: the label of a metric, a field.
                let line = plain(line).replace(&format!("\"{word}\""), "");
                let both = format!("{} {next}", line.trim_end());
                if has_word(&line, word) || has_word(&both, word) && !has_word(next, word) {
                    breaches.push(format!("{name}:{}: \"{word}\": write: {better}", at + 1));
                }
            }
        }
    }
    hold("say it in words that people search for", &breaches);
}

/// A bug that cannot be planted any more leaves a check of the chaos harness without its proof.
#[test]
fn each_planted_bug_can_still_be_planted() {
    let folder = root().join("tests/chaos/bugs");
    let table = std::fs::read_to_string(root().join("scripts/planted-bugs")).expect("the script");
    let listed: Vec<&str> = table
        .lines()
        .skip_while(|line| *line != "table='")
        .skip(1)
        .map_while(|line| line.split_whitespace().next())
        .take_while(|name| *name != "'")
        .collect();
    let mut breaches = Vec::new();
    for name in &listed {
        let patch = folder.join(format!("{name}.patch"));
        let applied = Command::new("git")
            .args(["apply", "--check"])
            .arg(&patch)
            .current_dir(root())
            .output()
            .expect("git");
        if !applied.status.success() {
            let why = String::from_utf8_lossy(&applied.stderr);
            breaches.push(format!("tests/chaos/bugs/{name}.patch: {why}"));
        }
    }
    let patches = std::fs::read_dir(&folder).expect("the bugs").count();
    if patches != listed.len() {
        breaches.push(format!(
            "{patches} patches, but {} in scripts/planted-bugs",
            listed.len()
        ));
    }
    hold("every patch applies, and the script lists it", &breaches);
}

//! What would be published: one version everywhere, and a crate with what belongs there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The texts at the root that a reader of the crate looks for.
const TEXTS: [&str; 6] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "PROTOCOL.md",
    "README.md",
    "SECURITY.md",
];
/// Made by cargo itself, and what the source or a reader of the documents needs.
const FURTHER: [&str; 6] = [
    ".cargo_vcs_info.json",
    "Cargo.lock",
    "Cargo.toml",
    "Cargo.toml.orig",
    ".env.example",
    "deploy/redis.acl",
];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text between two others, of the first place that has both.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).expect("the text before");
    rest.split_once(after).expect("the text after").0
}

/// All files below a folder, by their names below the root.
fn files_below(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new(ROOT).join(folder)).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = format!("{folder}/{}", entry.file_name().to_str().expect("text"));
        if entry.path().is_dir() {
            found.extend(files_below(&name));
        } else {
            found.push(name);
        }
    }
    found
}

#[test]
fn all_parts_have_one_version() {
    let json =
        |path: &str| -> serde_json::Value { serde_json::from_str(&read(path)).expect("JSON") };
    let (package, lock) = (
        json("clients/js/package.json"),
        json("clients/js/package-lock.json"),
    );
    let python = read("clients/python/pyproject.toml");
    let module = read("clients/python/src/pushnode/__init__.py");
    let protocol = read("PROTOCOL.md");
    let script = read("src/api/pushnode.js");
    for (place, version) in [
        ("package.json", package["version"].as_str().expect("text")),
        ("package-lock.json", lock["version"].as_str().expect("text")),
        ("pyproject.toml", between(&python, "version = \"", "\"")),
        ("__init__.py", between(&module, "__version__ = \"", "\"")),
        (
            "PROTOCOL.md",
            between(&protocol, "services of pushnode ", " say"),
        ),
        ("pushnode.js", between(&script, "pushnode-js ", ",")),
    ] {
        assert_eq!(version, pushnode::VERSION, "{place}");
    }
}

#[test]
fn the_crate_has_what_it_needs_and_nothing_else() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["package", "--list", "--allow-dirty", "--offline"])
        .current_dir(ROOT)
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let listed = String::from_utf8(output.stdout).expect("names are text");
    let listed: BTreeSet<&str> = listed.lines().collect();

    for name in &listed {
        let is_document = name
            .strip_prefix("docs/")
            .is_some_and(|rest| rest.ends_with(".md") && !rest.contains('/'));
        let belongs = name.starts_with("src/")
            || is_document
            || TEXTS.contains(name)
            || FURTHER.contains(name);
        assert!(
            belongs,
            "{name} is in the crate: see `include` in Cargo.toml"
        );
    }
    let needed = files_below("src");
    for name in needed.iter().map(String::as_str).chain(TEXTS) {
        assert!(listed.contains(name), "{name} is missing");
    }
    // What the source includes from elsewhere.
    let root = Path::new(ROOT).canonicalize().expect("the root");
    for name in needed.iter().filter(|name| name.ends_with(".rs")) {
        let text = read(name);
        for part in text.split("include_str!(\"").skip(1) {
            let target = part.split('"').next().expect("a name");
            let path = root.join(name).with_file_name(target);
            let path = path.canonicalize().expect("an included file");
            let target = path.strip_prefix(&root).expect("below the root");
            let target = target.to_str().expect("text");
            assert!(listed.contains(target), "{name} includes {target}");
        }
    }
}

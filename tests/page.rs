//! The page at `/` in a real browser: what a newcomer clicks must work.
//!
//! Headless Chromium is driven through chromedriver; the few WebDriver commands we need are plain
//! HTTP and JSON. Every wait polls with a limit. Whatever is started ends with its guard, also
//! after a panic.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// For one thing to happen. A browser that starts on a busy machine takes seconds.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);
const INSTALL: &str = "the tests of the page need the Debian packages chromium and chromium-driver (or any Chromium or \
                       Chrome with its chromedriver in PATH)";

#[test]
fn a_push_over_http_appears_on_the_page() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.connect(&node, "anna");

    browser.until(
        "node and fd of `ready` are shown",
        "return text('#node').startsWith('page.') && Number(text('#fd')) > 0",
    );
    assert_eq!(browser.text("#status"), "Connected");

    let answer = node.push(&json!({"to": {"user": "anna"}, "data": "dinner is ready"}));
    assert_eq!(answer["connections"], 1, "{answer}");
    browser.until(
        "the push is shown",
        "return text('.message-data') === '\"dinner is ready\"'",
    );
    assert_eq!(browser.text(".message-size"), "17 B");
    browser.until(
        "its time has milliseconds",
        r"return /^\d\d:\d\d:\d\d\.\d{3}$/.test(text('.message-time'))",
    );

    // Numbers no JavaScript can hold and text that looks like HTML are shown as they were sent.
    node.push_text(r#"{"to":{"user":"anna"},"id":"m1","data":{"n":12345678901234567890,"html":"<b id=injected>"}}"#);
    browser.until(
        "the second push is shown",
        "return text('.message-data').includes('12345678901234567890')",
    );
    browser.until("data is no HTML", "return text('.message-data').includes('<b id=injected>') && !document.querySelector('#injected')");
    assert_eq!(browser.text(".message-id"), "id m1");

    browser.until(
        "nothing was fetched from elsewhere",
        "return performance.getEntriesByType('resource').every(e => new URL(e.name).host === location.host)",
    );
    let console = browser
        .command("/se/log", Some(json!({"type": "browser"})))
        .expect("the console of the page");
    assert_eq!(console, json!([]), "the page complains on its console");
}

#[test]
fn the_page_sends_to_its_user_and_to_everyone() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.connect(&node, "anna");

    browser.write("#data", "to myself");
    browser.click("#send");
    browser.until(
        "the answer is shown",
        r"return /^routed · 1 connection on 1 node · [\d.]+\sms$/.test(text('#answer'))",
    );
    browser.until(
        "the message is shown",
        "return text('.message-data') === '\"to myself\"'",
    );

    browser.click("#to-kind option[value=all]");
    browser.click("#data-kind option[value=json]");
    browser.click("#wait option[value=acked]");
    browser.write("#data", r#"{"to": "all"}"#);
    browser.click("#send");
    browser.until(
        "the message to all is shown",
        r#"return text('.message-data') === '{"to": "all"}'"#,
    );
    browser.until(
        "our own ack is in the answer",
        "return text('#answer').startsWith('acked · 1 connection')",
    );

    browser.write("#data", r#"{"to": "#);
    browser.click("#send");
    browser.until(
        "what is no JSON is not sent",
        "return text('#answer').startsWith('This is not JSON')",
    );

    browser.click("#to-kind option[value=user]");
    browser.click("#data-kind option[value=text]");
    browser.click("#wait option[value=routed]");
    browser.write("#to-user", "nobody");
    browser.click("#send");
    browser.until(
        "who is not there is said to be offline",
        "return text('#answer').startsWith('offline')",
    );
}

#[test]
fn the_page_says_so_when_the_senders_api_wants_a_key_or_is_elsewhere() {
    let browser = Browser::start(1280, 860, "light");

    let node = Node::start(&[("PUSH_API_KEYS", "a-key-of-32-characters-for-tests")]);
    browser.connect(&node, "anna");
    browser.click("#send");
    browser.until(
        "the key is asked for",
        "return text('#answer').startsWith('401') && document.activeElement.id === 'key'",
    );
    browser.write("#key", "a-key-of-32-characters-for-tests");
    browser.click("#send");
    browser.until(
        "the key opens",
        "return text('#answer').startsWith('routed')",
    );
    browser.until(
        "the key is not for the screen",
        "return !document.body.innerText.includes('a-key-of')",
    );

    let node = Node::start(&[("PUSH_API_LISTEN", "127.0.0.1:0")]);
    browser.connect(&node, "anna");
    browser.click("#send");
    browser.until(
        "the other port is named",
        "return text('#answer').startsWith('404') && text('#answer').includes('PUSH_API_LISTEN')",
    );
}

#[test]
fn the_page_tells_why_it_was_closed_and_comes_back_unless_kicked() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.connect(&node, "anna");

    let kick = agent()
        .delete(format!("{}/v1/users/anna", node.url))
        .call()
        .expect("an answer to the kick");
    assert!(kick.status().is_success(), "{kick:?}");
    browser.until(
        "the kick is told and obeyed",
        "return text('#status') === 'Kicked' && text('#connect') === 'Connect'",
    );

    browser.click("#connect");
    browser.until("connected again", "return text('#status') === 'Connected'");
    node.process.terminate();
    browser.until(
        "the goodbye is told",
        "return text('#messages').includes('Bye: drain')",
    );
    browser.until(
        "the page means to come back",
        "return text('#status') === 'Reconnecting'",
    );
    browser.click("#connect");
    browser.until(
        "unless it is told not to",
        "return text('#status') === 'Disconnected'",
    );
}

#[test]
fn a_phone_in_dark_mode_scrolls_only_down() {
    let node = Node::start(&[]);
    let browser = Browser::start(360, 740, "dark");
    let only_down = "const e = document.documentElement, list = document.querySelector('#messages'); \
                     return innerWidth === 360 && e.scrollWidth <= e.clientWidth && list.scrollWidth <= list.clientWidth";

    browser.open(&node, "anna");
    browser.until(
        "the page is dark",
        "const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number); \
         return matchMedia('(prefers-color-scheme: dark)').matches && r + g + b < 150",
    );
    browser.until("it fits before it is connected", only_down);

    // The longest id and data without a place to break.
    let user = "u".repeat(128);
    browser.connect(&node, &user);
    node.push(&json!({"to": {"user": user}, "id": "i".repeat(60), "data": {"word": "w".repeat(2000), "deep": [[[[[[[["d".repeat(80)]]]]]]]]}}));
    browser.until(
        "the message is shown",
        "return text('.message-data').includes('wwwww')",
    );
    browser.click("#key-box summary");
    browser.click("#send");
    browser.until(
        "the answer is shown",
        "return text('#answer').startsWith('routed')",
    );
    browser.until("it fits with long content", only_down);
    browser.until(
        "fingers hit what they aim at",
        "return [...document.querySelectorAll('button, input, select, textarea')].every(e => e.hidden || e.getBoundingClientRect().height >= 40)",
    );
}

/// A running pushnode.
struct Node {
    process: Process,
    url: String,
}

impl Node {
    fn start(settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pushnode"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PUSH_") || name == "REDIS_URL" {
                command.env_remove(name);
            }
        }
        command
            .env("PUSH_LISTEN", "127.0.0.1:0")
            .env("PUSH_ADMIN_LISTEN", "127.0.0.1:0");
        command
            .env("PUSH_NODE_NAME", "page")
            .env("PUSH_DRAIN_SECONDS", "1")
            .env("PUSH_LOG", "warn");
        command.envs(settings.iter().copied());
        let mut process = Process::start(&mut command).expect("pushnode starts");
        let line = process.line_with("clients ");
        let start = line.find("http://").expect("an address");
        let url = line[start..]
            .split('/')
            .take(3)
            .collect::<Vec<_>>()
            .join("/");
        Self { process, url }
    }

    fn push(&self, body: &Value) -> Value {
        self.push_text(&body.to_string())
    }

    fn push_text(&self, body: &str) -> Value {
        let request = agent()
            .post(format!("{}/v1/push", self.url))
            .content_type("application/json");
        let mut answer = request.send(body).expect("an answer to the push");
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.body_mut().read_json().expect("a JSON answer")
    }
}

/// A browser with one window.
struct Browser {
    session: String,
    /// Chromium itself; chromedriver, when it is killed, leaves it behind.
    chromium: Option<i32>,
    _driver: Process,
    _profile: TempDir,
}

impl Browser {
    /// A window of this size; below 600 pixels it is a phone's, with touch.
    fn start(width: u32, height: u32, colours: &str) -> Self {
        let mut driver = match Process::start(
            Command::new("chromedriver")
                .arg("--port=0")
                .stderr(Stdio::null()),
        ) {
            Ok(driver) => driver,
            Err(error) => panic!("cannot start chromedriver ({error}): {INSTALL}"),
        };
        let line = driver.line_with("successfully on port ");
        let port = line
            .trim_end_matches('.')
            .rsplit(' ')
            .next()
            .expect("a port");
        let profile = tempfile::tempdir().expect("a directory for the browser");
        let mut options = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            format!("--user-data-dir={}", profile.path().display()),
            format!("--window-size={width},{height}"),
        ]});
        if width < 600 {
            let metrics = json!({"width": width, "height": height, "pixelRatio": 2, "mobile": true, "touch": true});
            options["mobileEmulation"] = json!({"deviceMetrics": metrics});
        }
        let wanted = json!({"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let mut browser = Self {
            session: format!("http://127.0.0.1:{port}/session"),
            chromium: None,
            _driver: driver,
            _profile: profile,
        };
        let session =
            match browser.command("", Some(json!({"capabilities": {"alwaysMatch": wanted}}))) {
                Ok(session) => session,
                Err(error) => panic!("cannot start Chromium: {error}\n{INSTALL}"),
            };
        browser.chromium = session["capabilities"]["goog:processID"]
            .as_i64()
            .and_then(|pid| i32::try_from(pid).ok());
        browser.session = format!(
            "{}/{}",
            browser.session,
            session["sessionId"].as_str().expect("a session")
        );
        let features = json!([{"name": "prefers-color-scheme", "value": colours}]);
        let emulate =
            json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        browser
            .command("/goog/cdp/execute", Some(emulate))
            .expect("light or dark");
        browser
    }

    fn open(&self, node: &Node, user: &str) {
        self.command(
            "/url",
            Some(json!({"url": format!("{}/?user={user}", node.url)})),
        )
        .expect("the page");
    }

    fn connect(&self, node: &Node, user: &str) {
        self.open(node, user);
        self.click("#connect");
        self.until("connected", "return text('#status') === 'Connected'");
    }

    fn click(&self, css: &str) {
        // Away from the bar that stays at the top.
        let centre = "document.querySelector(arguments[0])?.scrollIntoView({block: 'center'})";
        self.run(centre, &json!([css]));
        let path = format!("/element/{}/click", self.element(css));
        self.command(&path, Some(json!({})))
            .unwrap_or_else(|error| panic!("click {css}: {error}"));
    }

    /// Types `text` in the place of what is there.
    fn write(&self, css: &str, text: &str) {
        let element = self.element(css);
        for (action, body) in [("clear", json!({})), ("value", json!({"text": text}))] {
            let path = format!("/element/{element}/{action}");
            self.command(&path, Some(body))
                .unwrap_or_else(|error| panic!("write into {css}: {error}"));
        }
    }

    fn text(&self, css: &str) -> String {
        let text = self.run("return text(arguments[0])", &json!([css]));
        text.as_str().expect("text").to_owned()
    }

    /// Runs `script` until it returns true.
    fn until(&self, what: &str, script: &str) {
        let deadline = Instant::now() + LIMIT;
        while self.run(script, &json!([])) != json!(true) {
            let page = || self.run("return document.body.innerText", &json!([]));
            assert!(
                Instant::now() < deadline,
                "not within {LIMIT:?}: {what}\n{script}\nthe page shows: {:#}",
                page()
            );
            thread::sleep(POLL);
        }
    }

    fn run(&self, script: &str, arguments: &Value) -> Value {
        // The first match: new messages stand at the top.
        let script =
            format!("const text = css => document.querySelector(css)?.textContent ?? ''; {script}");
        let body = json!({"script": script, "args": arguments});
        self.command("/execute/sync", Some(body))
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    fn element(&self, css: &str) -> String {
        let found = self.command(
            "/element",
            Some(json!({"using": "css selector", "value": css})),
        );
        let found = found.unwrap_or_else(|error| panic!("{css}: {error}"));
        // The name of the one member is fixed by the WebDriver standard.
        found["element-6066-11e4-a52e-4f735466cecf"]
            .as_str()
            .expect("an element")
            .to_owned()
    }

    /// One WebDriver command: POST with a body, DELETE without.
    fn command(&self, path: &str, body: Option<Value>) -> Result<Value, String> {
        let url = format!("{}{path}", self.session);
        let answer = match body {
            Some(body) => agent().post(url).send_json(body),
            None => agent().delete(url).call(),
        };
        let mut answer = answer.map_err(|error| error.to_string())?;
        let mut value: Value = answer
            .body_mut()
            .read_json()
            .map_err(|error| error.to_string())?;
        match value["value"]["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", value["value"]["message"])),
            None => Ok(value["value"].take()),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if self.command("", None).is_err()
            && let Some(pid) = self.chromium
        {
            signal(pid, rustix::process::Signal::KILL);
        }
    }
}

/// A child process that is killed when its owner goes.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> std::io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map(Self)
    }

    /// Waits for a line on standard output that contains `marker`; call it once.
    fn line_with(&mut self, marker: &str) -> String {
        let stdout = self.0.stdout.take().expect("standard output");
        let (sender, lines) = mpsc::channel();
        // Reads on to the end, so that the process never waits for a reader.
        thread::spawn(move || {
            BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .for_each(|line| drop(sender.send(line)));
        });
        let deadline = Instant::now() + LIMIT;
        let mut seen = String::new();
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if line.contains(marker) {
                return line;
            }
            seen = seen + &line + "\n";
        }
        panic!("no line with {marker:?} on standard output; it had:\n{seen}");
    }

    fn terminate(&self) {
        signal(
            i32::try_from(self.0.id()).expect("a process id"),
            rustix::process::Signal::TERM,
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Waits longer than chromedriver waits for Chromium: then it is chromedriver that clears up.
fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder();
    config
        .timeout_global(Some(3 * LIMIT))
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into()
}

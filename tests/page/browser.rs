//! What the tests of the page drive: a node, and a headless Chromium by the WebDriver protocol
//! over plain HTTP. Whatever is started ends with its guard.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// For one thing to happen. A browser that starts on a busy machine takes seconds.
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(25);
const INSTALL: &str = "the tests of the page need the Debian packages chromium and chromium-driver (or any Chromium or \
                       Chrome with its chromedriver in PATH)";

/// A running pushnode.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) url: String,
    operations: String,
}

impl Node {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
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
            .env("PUSH_PRESTOP_SECONDS", "0")
            .env("PUSH_DRAIN_SECONDS", "1")
            .env("PUSH_LOG", "warn");
        command.envs(settings.iter().copied());
        let mut process = Process::start(&mut command).expect("pushnode starts");
        let (line, lines) = process.line_with(|line| line.contains("clients "));
        let start = line.find("http://").expect("an address");
        let url = line[start..]
            .split('/')
            .take(3)
            .collect::<Vec<_>>()
            .join("/");
        let mut operations = lines.into_iter().filter_map(|line: String| {
            let (_, rest) = line.split_once("operations ")?;
            Some(rest.split('/').take(3).collect::<Vec<_>>().join("/"))
        });
        let operations = operations.next().expect("where operators look");
        Self {
            process,
            url,
            operations,
        }
    }

    pub(crate) fn wait_ready(&self) {
        let deadline = Instant::now() + LIMIT;
        let ready = || http(Method::GET, &format!("{}/readyz", self.operations), None);
        while ready().expect("an answer").0 != 200 {
            assert!(Instant::now() < deadline, "not ready within {LIMIT:?}");
            thread::sleep(POLL);
        }
    }

    pub(crate) fn push(&self, body: &Value) -> Value {
        self.push_text(&body.to_string())
    }

    pub(crate) fn push_text(&self, body: &str) -> Value {
        let url = format!("{}/v1/push", self.url);
        let (status, answer) = http(Method::POST, &url, Some(body)).expect("an answer to the push");
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).expect("a JSON answer")
    }
}

/// A browser with one window.
pub(crate) struct Browser {
    session: String,
    /// Chromium itself; chromedriver, when it is killed, leaves it behind.
    chromium: Option<i32>,
    _driver: Process,
    _profile: TempDir,
}

impl Browser {
    /// A window of this size; below 600 pixels it is a phone's, with touch.
    pub(crate) fn start(width: u32, height: u32, colours: &str) -> Self {
        let (driver, port) = (0..20)
            .find_map(|_| start_driver())
            .expect("chromedriver finds no port");
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

    pub(crate) fn open(&self, node: &Node, user: &str) {
        self.command(
            "/url",
            Some(json!({"url": format!("{}/?user={user}", node.url)})),
        )
        .expect("the page");
    }

    pub(crate) fn connect(&self, node: &Node, user: &str) {
        self.open(node, user);
        self.click("#connect");
        self.until("connected", "return text('#status') === 'Connected'");
    }

    pub(crate) fn click(&self, css: &str) {
        // Away from the bar that stays at the top.
        let centre = "document.querySelector(arguments[0])?.scrollIntoView({block: 'center'})";
        self.run(centre, &json!([css]));
        let path = format!("/element/{}/click", self.element(css));
        self.command(&path, Some(json!({})))
            .unwrap_or_else(|error| panic!("click {css}: {error}"));
    }

    /// Types `text` in the place of what is there.
    pub(crate) fn write(&self, css: &str, text: &str) {
        let element = self.element(css);
        for (action, body) in [("clear", json!({})), ("value", json!({"text": text}))] {
            let path = format!("/element/{element}/{action}");
            self.command(&path, Some(body))
                .unwrap_or_else(|error| panic!("write into {css}: {error}"));
        }
    }

    pub(crate) fn text(&self, css: &str) -> String {
        let text = self.run("return text(arguments[0])", &json!([css]));
        text.as_str().expect("text").to_owned()
    }

    /// Runs `script` until it returns true.
    pub(crate) fn until(&self, what: &str, script: &str) {
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

    pub(crate) fn run(&self, script: &str, arguments: &Value) -> Value {
        // The first match: new messages stand at the top.
        let script =
            format!("const text = css => document.querySelector(css)?.textContent ?? ''; {script}");
        let body = json!({"script": script, "args": arguments});
        self.command("/execute/sync", Some(body))
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    pub(crate) fn element(&self, css: &str) -> String {
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
    pub(crate) fn command(&self, path: &str, body: Option<Value>) -> Result<Value, String> {
        let url = format!("{}{path}", self.session);
        let (_, answer) = match body {
            Some(body) => http(Method::POST, &url, Some(&body.to_string())),
            None => http(Method::DELETE, &url, None),
        }?;
        let mut value: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
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

/// ChromeDriver, and the port that it chose; none if it gave up. It takes one that is free for IPv6,
/// and needs the same for IPv4, which another process may have.
fn start_driver() -> Option<(Process, String)> {
    let mut command = Command::new("chromedriver");
    let mut driver = match Process::start(command.arg("--port=0").stderr(Stdio::null())) {
        Ok(driver) => driver,
        Err(error) => panic!("cannot start chromedriver ({error}): {INSTALL}"),
    };
    let (line, _) = driver.line_with(|line| {
        line.contains(" successfully on port ") || line.contains(" port not available")
    });
    let (_, port) = line.rsplit_once(" successfully on port ")?;
    Some((driver, port.trim_end_matches('.').to_owned()))
}

/// A child process that is killed when its owner goes.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map(Self)
    }

    /// Waits for such a line on standard output; answers it and those that follow. Call it once.
    pub(crate) fn line_with(
        &mut self,
        is_wanted: impl Fn(&str) -> bool,
    ) -> (String, mpsc::Receiver<String>) {
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
            if is_wanted(&line) {
                return (line, lines);
            }
            seen = seen + &line + "\n";
        }
        panic!("not the line that was awaited on standard output, but:\n{seen}");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) {
        self.0.wait().expect("our child");
    }

    pub(crate) fn terminate(&self) {
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

/// One request with a body of JSON, if any; answers status and body. Waits longer than
/// chromedriver waits for Chromium: then it is chromedriver that clears up.
pub(crate) fn http(method: Method, url: &str, body: Option<&str>) -> Result<(u16, String), String> {
    let mut request = reqwest::Client::new()
        .request(method, url)
        .timeout(3 * LIMIT);
    if let Some(body) = body {
        let json = "application/json";
        request = request.header("content-type", json).body(body.to_owned());
    }
    let answer = async {
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok::<_, reqwest::Error>((status, answer.text().await?))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = runtime.expect("a runtime").block_on(answer);
    answer.map_err(|error| error.to_string())
}

//! `pushnode check`: whether a node with these settings could serve, before one is started.
//!
//! What must stay true: it binds no port and changes nothing in Redis, so that it can be run beside
//! a cluster that serves.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use crate::auth::keyring::Sources;
use crate::backplane::redis::checkup::rights::Features;
use crate::backplane::redis::checkup::{Finding, Gravity, examine};
use crate::backplane::redis::keys::Keys;
use crate::command_line::output::{UNAVAILABLE, USAGE, print};
use crate::command_line::rules::summary;
use crate::config::Config;
use crate::config::redis_url::{RedisUrl, Topology};

/// One line of the result.
#[derive(Debug, Serialize)]
struct CheckLine {
    check: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    /// `ok`, `warning` or `fault`.
    status: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct CheckResult {
    ok: bool,
    checks: Vec<CheckLine>,
}

pub(super) fn run(json: bool) -> ExitCode {
    let (mut checks, config) = check_settings();
    let mut code = ExitCode::from(USAGE);
    if let Some(config) = config {
        code = ExitCode::SUCCESS;
        let findings = check_redis(&config);
        if findings.iter().any(|line| line.status == "fault") {
            code = ExitCode::from(UNAVAILABLE);
        }
        checks.extend(findings);
    }
    let result = CheckResult {
        ok: code == ExitCode::SUCCESS,
        checks,
    };
    print(&if json {
        let text = serde_json::to_string(&result);
        text.expect("texts are JSON") + "\n"
    } else {
        in_lines(&result)
    });
    code
}

fn line(check: &'static str, status: &'static str, text: String) -> CheckLine {
    CheckLine {
        check,
        server: None,
        status,
        text,
        missing: Vec::new(),
    }
}

/// The configuration, if a node would start with it.
fn check_settings() -> (Vec<CheckLine>, Option<Config>) {
    let fault = |text: &String| line("configuration", "fault", text.clone());
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(faults) => return (faults.list().iter().map(fault).collect(), None),
    };
    if config.auth.takes_jwt()
        && let Err(what) = Sources::of(&config).read()
    {
        return (vec![fault(&what)], None);
    }
    let text = "a node starts with it".to_owned();
    let mut lines = vec![line("configuration", "ok", text)];
    if !config.topic_rules.is_empty() {
        let text = summary(&config.topic_rules).trim_end().to_owned();
        lines.push(line("topic rules", "ok", text));
    }
    (lines, Some(config))
}

fn check_redis(config: &Config) -> Vec<CheckLine> {
    let Some(url) = &config.redis_url else {
        let text = "none: a single node, for PUSH_REDIS_URL is empty".to_owned();
        return vec![line("redis", "ok", text)];
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return vec![line("redis", "fault", error.to_string())],
    };
    let findings = runtime.block_on(examine(url, &features(config, url)));
    // Without waiting for threads that look up a name.
    runtime.shutdown_background();
    findings.into_iter().map(CheckLine::from).collect()
}

fn features(config: &Config, url: &RedisUrl) -> Features {
    let keys = Keys::new(&config.prefix, url.database());
    let (prefix, channels) = keys.prefixes();
    Features {
        keys: prefix.to_owned(),
        channels: channels.to_owned(),
        cluster: matches!(url.topology(), Topology::Cluster { .. }),
        upstream: config.upstream_routes.has_services(),
        sessions: config.auth.takes_sessions(),
        replicas: config.keep_replicas > 0,
    }
}

impl From<Finding> for CheckLine {
    fn from(finding: Finding) -> Self {
        Self {
            check: finding.about,
            server: Some(finding.server),
            status: match finding.gravity {
                Gravity::Fine => "ok",
                Gravity::Warning => "warning",
                Gravity::Fault => "fault",
            },
            text: finding.text,
            missing: finding.missing,
        }
    }
}

fn in_lines(result: &CheckResult) -> String {
    let mut out = String::new();
    for check in &result.checks {
        let at = check.server.as_ref();
        let at = at.map_or(String::new(), |server| format!("{server}: "));
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<8} {:<14} {at}{}",
            check.status, check.check, check.text
        );
        for missing in &check.missing {
            let _ = writeln!(out, "{:24}{missing}", "");
        }
    }
    out
}

//! Whether the user may send what nodes send, tried without doing it.
//!
//! Within a `MULTI`, Redis looks at rights when a command is queued, and `DISCARD` then forgets the
//! queue. (`ACL DRYRUN` is a right that few users have.) The commands, keys and channels are those
//! of `deploy/redis.acl`, so that the two cannot differ.

use fred::error::Error;
use fred::prelude::{Client, ClientLike, FredResult};
use fred::types::{CustomCommand, Value};

/// The rights of a node.
const RULES: &str = include_str!("../../../../deploy/redis.acl");
/// The prefix of keys and channels there.
const PREFIX: &str = "pn:";
/// Stands where the rules have a `*`.
const ANY: &str = "{pushnode-check}";
/// Commands in one transaction: fewer than a connection lets wait.
const BATCH: usize = 32;

/// What nodes would use, and so need rights for.
#[derive(Debug, Clone)]
pub(crate) struct Features {
    /// The prefix of keys.
    pub(crate) keys: String,
    /// The prefix of channels.
    pub(crate) channels: String,
    pub(crate) cluster: bool,
    /// Whether clients send to services.
    pub(crate) upstream: bool,
    /// Whether tokens can be sessions.
    pub(crate) sessions: bool,
    /// Whether replicas must have kept messages.
    pub(crate) replicas: bool,
}

/// One command on one kind of key.
#[derive(Debug, PartialEq, Eq)]
struct QueuedCommand {
    words: Vec<String>,
    shown: String,
}

/// What the user may not send, as `XADD pn:seat:*`.
pub(super) async fn missing(client: &Client, features: &Features) -> FredResult<Vec<String>> {
    let mut commands = transactions(client).await?;
    if !commands.is_empty() {
        // Without a transaction, the rest would be carried out.
        return Ok(commands);
    }
    for batch in trials(features).chunks(BATCH) {
        commands.extend(try_batch(client, batch).await?);
    }
    Ok(commands)
}

/// What is missing for a transaction itself.
async fn transactions(client: &Client) -> FredResult<Vec<String>> {
    let mut missing = Vec::new();
    for end in ["DISCARD", "EXEC"] {
        let pipeline = client.pipeline();
        for word in ["MULTI", end] {
            let command = CustomCommand::new_static(word, None, false);
            let _: () = pipeline.custom(command, Vec::<String>::new()).await?;
        }
        let answers = pipeline.try_all::<Value>().await;
        for (word, answer) in ["MULTI", end].into_iter().zip(answers) {
            match answer {
                Err(error) if is_refused(&error) => missing.push(word.to_owned()),
                // `ERR EXEC without MULTI`, where MULTI was refused.
                Err(error) if missing.is_empty() => return Err(error),
                _ => {}
            }
        }
        if !missing.is_empty() {
            break;
        }
    }
    Ok(missing)
}

async fn try_batch(client: &Client, batch: &[QueuedCommand]) -> FredResult<Vec<String>> {
    let pipeline = client.pipeline();
    let custom = |word: &str| CustomCommand::new(word.to_owned(), None, false);
    let nothing = Vec::<String>::new;
    let _: () = pipeline.custom(custom("MULTI"), nothing()).await?;
    for trial in batch {
        let (command, operands) = trial.words.split_first().expect("a command");
        let _: () = pipeline.custom(custom(command), operands.to_vec()).await?;
    }
    let _: () = pipeline.custom(custom("DISCARD"), nothing()).await?;
    let mut answers = pipeline.try_all::<Value>().await.into_iter();
    answers.next().transpose()?;
    let mut missing = Vec::new();
    for (trial, answer) in batch.iter().zip(answers) {
        match answer {
            Err(error) if is_refused(&error) => missing.push(trial.shown.clone()),
            // What is said of the key's place, or of WATCH in a MULTI, comes after the rights.
            Err(error) if !is_said_by_redis(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(missing)
}

/// Whether Redis denies the command, or does not know it.
fn is_refused(error: &Error) -> bool {
    let said = error.details();
    // What is said of an EXEC that is denied: `EXECABORT ... because of: NOPERM ...`.
    let is_denied = said.starts_with("NOPERM") || said.contains(": NOPERM");
    is_denied || said.starts_with("ERR unknown")
}

fn is_said_by_redis(error: &Error) -> bool {
    let word = error.details().split(' ').next().unwrap_or_default();
    error.is_cluster() || (word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase()))
}

/// The commands of the node's user: those without a key, then those of each selector.
fn trials(features: &Features) -> Vec<QueuedCommand> {
    let line = RULES
        .lines()
        .find_map(|line| line.strip_prefix("user node "));
    let rules = line.expect("the rules have a node").replace(')', "");
    let mut parts = rules.split('(');
    let mut trials = Vec::new();
    for rule in words_with(parts.next().unwrap_or_default(), '+') {
        if is_needed(rule, "", features) {
            trials.push(trial(rule, None, features));
        }
    }
    for selector in parts {
        for sign in ['~', '&'] {
            for target in words_with(selector, sign) {
                let needed = words_with(selector, '+')
                    .filter(|rule| is_needed(rule, target, features))
                    .map(|rule| trial(rule, Some((sign, target)), features));
                trials.extend(needed);
            }
        }
    }
    trials
}

fn words_with(text: &str, sign: char) -> impl Iterator<Item = &str> {
    text.split(' ')
        .filter_map(move |word| word.strip_prefix(sign))
}

/// Whether nodes with these settings send this command there.
fn is_needed(rule: &str, target: &str, features: &Features) -> bool {
    let kind = target.trim_start_matches(PREFIX);
    match (rule, kind.split(':').next().unwrap_or_default()) {
        // Sent while connecting, which has worked, and when leaving; or tried before.
        ("hello" | "auth" | "select" | "quit" | "multi" | "exec" | "discard", _) => false,
        ("asking" | "cluster|nodes" | "spublish" | "ssubscribe" | "sunsubscribe", _) => {
            features.cluster
        }
        ("wait", _) => features.replicas,
        (_, "upstream") => features.upstream,
        (_, "session") => features.sessions,
        _ => true,
    }
}

fn trial(rule: &str, target: Option<(char, &str)>, features: &Features) -> QueuedCommand {
    let mut words: Vec<String> = rule.split('|').map(str::to_uppercase).collect();
    let mut shown = words.join(" ");
    if let Some((sign, target)) = target {
        let rest = target.strip_prefix(PREFIX).unwrap_or(target);
        let prefix = if sign == '&' {
            &features.channels
        } else {
            &features.keys
        };
        words.push(format!("{prefix}{}", rest.replace('*', ANY)));
        shown += &format!(" {prefix}{rest}");
    }
    words.extend(operands(rule).iter().map(|&word| word.to_owned()));
    QueuedCommand { words, shown }
}

/// What follows the key, so that the number of words is right.
fn operands(rule: &str) -> &'static [&'static str] {
    match rule {
        "client|setname" => &["pushnode-check"],
        "expire" | "pexpire" => &["1"],
        "hdel" | "hget" | "hmget" => &["field"],
        "incrby" => &["1"],
        "hincrby" => &["field", "1"],
        "hset" | "hsetnx" => &["field", "value"],
        "publish" | "spublish" => &["line"],
        "sadd" | "srem" => &["member"],
        "set" => &["value"],
        "sscan" => &["0"],
        "wait" => &["0", "0"],
        "xadd" => &["*", "field", "value"],
        "xdel" => &["1-1"],
        "xpending" => &["group"],
        "xrange" => &["-", "+"],
        "xrevrange" => &["+", "-"],
        "xtrim" => &["MAXLEN", "1"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Features {
        Features {
            keys: "app:".to_owned(),
            channels: "app:3:".to_owned(),
            cluster: true,
            upstream: true,
            sessions: true,
            replicas: true,
        }
    }

    #[test]
    fn the_trials_are_those_of_the_shipped_rules_with_this_prefix() {
        let trials = trials(&all());
        let of = |shown: &str| {
            let found = trials.iter().find(|trial| trial.shown == shown);
            found
                .unwrap_or_else(|| panic!("no {shown} in {trials:#?}"))
                .words
                .join(" ")
        };
        assert_eq!(
            of("XADD app:seat:*"),
            "XADD app:seat:{pushnode-check} * field value"
        );
        assert_eq!(
            of("SPUBLISH app:3:n:*"),
            "SPUBLISH app:3:n:{pushnode-check} line"
        );
        assert_eq!(of("PUBLISH app:3:g"), "PUBLISH app:3:g line");
        assert_eq!(
            of("XINFO STREAM app:log:*"),
            "XINFO STREAM app:log:{pushnode-check}"
        );
        assert_eq!(of("ROLE"), "ROLE");
        // Every word that gives a right is in one.
        let rules = RULES.lines().next().expect("the node's");
        for right in rules
            .split(['(', ')', ' '])
            .filter_map(|word| word.strip_prefix('+'))
        {
            let command = right.replace('|', " ").to_uppercase();
            let is_tried = trials.iter().any(|trial| trial.shown.starts_with(&command));
            assert!(
                is_tried || !is_needed(right, "", &all()),
                "{right} is not tried"
            );
        }
    }

    #[test]
    fn what_is_not_used_is_not_tried() {
        let few = Features {
            cluster: false,
            upstream: false,
            sessions: false,
            replicas: false,
            ..all()
        };
        for trial in trials(&few) {
            for word in ["upstream", "session", "SPUBLISH", "SSUBSCRIBE", "WAIT"] {
                assert!(!trial.shown.contains(word), "{trial:?}");
            }
        }
    }
}

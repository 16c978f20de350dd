//! `pushnode rules`: which rule of a file is for a topic, and what it allows there.
//!
//! What must stay true: it reads the file as a node with these settings would.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::command_line::output::{USAGE, print};
use crate::config::Config;
use crate::config::secret_files::{self, FileForm};
use crate::config::topic_rules::topic_rules;
use crate::protocol::ids::{Topic, UserId};
use crate::protocol::topic_rules::{
    EntryRule, HistoryRule, PolicyRule, PresenceRule, SubscribeRule, TopicRule, TopicRules, name_of,
};

/// What is asked of a file of rules.
#[derive(Debug)]
pub struct RulesRequest {
    pub(super) file: PathBuf,
    /// Whose rule is shown. Without one, only the file is checked.
    pub(super) topic: Option<Topic>,
    /// Who is asked for.
    pub(super) user: Option<UserId>,
}

pub(super) fn run(request: &RulesRequest, config: &Config) -> ExitCode {
    let rules = match read(&request.file, config) {
        Ok(rules) => rules,
        Err(faults) => {
            for fault in faults {
                eprintln!("pushnode: {fault}");
            }
            return ExitCode::from(USAGE);
        }
    };
    print(&match &request.topic {
        None => summary(&rules),
        Some(topic) => shown(&rules, topic, request.user.as_ref(), config),
    });
    ExitCode::SUCCESS
}

fn read(file: &Path, config: &Config) -> Result<TopicRules, Vec<String>> {
    let text = secret_files::read(file, FileForm::Text).map_err(|what| vec![what])?;
    let rules = topic_rules(&text).map_err(|what| vec![what])?;
    let faults = config.faults_of_rules(&rules);
    match faults.is_empty() {
        true => Ok((*rules).clone()),
        false => Err(faults),
    }
}

/// How many rules there are, and by what nodes compare them.
pub(super) fn summary(rules: &TopicRules) -> String {
    match rules.len() {
        0 => "no rules\n".to_owned(),
        1 => format!("1 rule, digest {}\n", rules.digest()),
        count => format!("{count} rules, digest {}\n", rules.digest()),
    }
}

fn shown(rules: &TopicRules, topic: &Topic, user: Option<&UserId>, config: &Config) -> String {
    let fits = |(_, rule): &(usize, &std::sync::Arc<TopicRule>)| rule.pattern.fits(topic);
    let found = rules.iter().enumerate().find(fits);
    let name = match found {
        Some((place, rule)) => name_of(place + 1, Some(rule.pattern.as_str())),
        None => "none; the settings decide".to_owned(),
    };
    let rule = found.map(|(_, rule)| &**rule);
    let of = |word: &'static str| word.to_owned();
    let rows = [
        ("topic", topic.to_string()),
        ("rule", name),
        ("subscribe", subscribe(rule, topic, user, config)),
        ("publish", publish(rule, config)),
        ("keep", keep(rule, config)),
        (
            "entry",
            of(match rule.map(|rule| rule.entry).unwrap_or_default() {
                EntryRule::None => "a new member gets nothing",
                EntryRule::Last => "a new member gets the newest message",
                EntryRule::All => "a new member gets all that is kept",
            }),
        ),
        (
            "history",
            of(match rule.map(|rule| rule.history).unwrap_or_default() {
                HistoryRule::Members => "members and senders read it",
                HistoryRule::NoClient => "only senders read it",
            }),
        ),
        (
            "presence",
            of(match rule.map(|rule| rule.presence).unwrap_or_default() {
                PresenceRule::Members => "members see each other",
                PresenceRule::Count => "members see how many there are",
                PresenceRule::NoClient => "members see nothing",
            }),
        ),
        (
            "policy",
            of(match rule.map(|rule| rule.policy).unwrap_or_default() {
                PolicyRule::Close => "close: a slow client is closed",
                PolicyRule::Drop => "drop: a slow client misses messages",
                PolicyRule::Latest => "latest: a slow client gets the newest",
            }),
        ),
    ];
    let mut out = String::new();
    for (name, text) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<10} {text}");
    }
    out
}

fn subscribe(
    rule: Option<&TopicRule>,
    topic: &Topic,
    user: Option<&UserId>,
    config: &Config,
) -> String {
    let subscribe = rule.map(|rule| rule.subscribe).unwrap_or_default();
    let who = user.map_or("a client".to_owned(), |user| format!("user {user}"));
    let is_granted = user.is_some_and(|user| config.topics.allows(topic, user));
    let is_own =
        user.is_some_and(|user| rule.is_some_and(|rule| rule.pattern.fits_for(topic, user)));
    match subscribe {
        SubscribeRule::NoClient => "no client; senders subscribe connections".to_owned(),
        SubscribeRule::Hook => "the hook decides".to_owned(),
        SubscribeRule::Anyone if user.is_none() => {
            "any client, whose user stands in the place of {user}".to_owned()
        }
        SubscribeRule::Anyone if is_own => format!("{who} may, by the rule"),
        _ if is_granted => format!("{who} may by PUSH_TOPICS, unless a token grants others"),
        _ => format!("{who} may only with a token that grants it"),
    }
}

fn publish(rule: Option<&TopicRule>, config: &Config) -> String {
    let Some(send) = rule.and_then(|rule| rule.send) else {
        return "only senders".to_owned();
    };
    let rate = match send.rate.unwrap_or(config.send_rate) {
        0 => "any number".to_owned(),
        rate => rate.to_string(),
    };
    let bytes = send.max_bytes.unwrap_or(config.max_message_bytes);
    format!("members: {rate} a second each, {bytes} bytes at most; senders")
}

fn keep(rule: Option<&TopicRule>, config: &Config) -> String {
    let keep = rule.map(|rule| rule.keep).unwrap_or_default();
    let messages = keep.messages.unwrap_or(config.keep_messages);
    if messages == 0 {
        return "nothing (PUSH_KEEP_MESSAGES is 0)".to_owned();
    }
    let what = match keep.every {
        true => "every push",
        false => "pushes that say so",
    };
    let bytes = keep.bytes.unwrap_or(config.keep_bytes);
    let seconds = keep.seconds.unwrap_or(config.keep_seconds).as_secs();
    format!("{what}; {messages} messages, {bytes} bytes, {seconds} s at most")
}

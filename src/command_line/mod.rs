//! What the process is asked to do by its arguments: to serve, or one command that ends by itself.
//!
//! A command prints its result on standard output and everything else on standard error.

pub(crate) mod check;
pub(crate) mod healthcheck;
pub(crate) mod output;
pub(crate) mod rules;
pub(crate) mod token;

use std::ffi::OsString;
use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt as _};

use crate::command_line::output::{USAGE, print};
use crate::command_line::rules::RulesRequest;
use crate::command_line::token::TokenRequest;
use crate::config::Config;
use crate::config::env_file::env_file;

const HELP: &str = "\
pushnode pushes messages to connected users. Without an argument it serves. All settings are
environment variables; `pushnode env` lists them with their defaults.

  check [--json]   check the settings, and Redis: whether it answers, its version, the rights of
                   the user, eviction. Changes nothing. Exit 0, or 64 for the settings, 69 for Redis
  env              print all settings with their defaults, as a .env file
  rules FILE [--topic TOPIC [--user ID]]
                   check a file of topic rules (PUSH_TOPIC_RULES_FILE), and show which rule is for
                   a topic and what it allows. Exit 0, or 64 for the file
  token --user ID [--topic PATTERN]... [--device NAME] [--ttl 1h]
                   print a token, signed with the first of PUSH_JWT_SECRETS: for development and
                   tests. --ttl is a number with s, m, h or d

  --healthcheck    ask a running node of the same environment whether it lives: exit 0 or 1
  --version        print the version
  --help           print this
";

/// What the process is to do.
#[derive(Debug)]
pub enum Invocation {
    /// To serve as a node.
    Serve,
    /// To do this and end.
    Once(OneCommand),
}

/// A command that ends by itself.
#[derive(Debug)]
pub enum OneCommand {
    /// Print a text.
    Print(String),
    /// Ask a running node whether it lives.
    Healthcheck,
    /// Check settings and Redis.
    Check {
        /// Whether the result is one JSON object.
        json: bool,
    },
    /// Show what rules of topics allow.
    Rules(RulesRequest),
    /// Sign a token.
    Token(TokenRequest),
}

impl Invocation {
    /// Reads the arguments, without the program's name.
    ///
    /// # Errors
    /// What is wrong with them, for a person.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = arguments.into_iter();
        let Some(first) = arguments.next() else {
            return Ok(Self::Serve);
        };
        let mut rest = Parser::from_args(arguments);
        let command = match first.to_str() {
            Some("--version") => {
                OneCommand::Print(concat!("pushnode ", env!("CARGO_PKG_VERSION"), "\n").to_owned())
            }
            Some("--help" | "-h" | "help") => OneCommand::Print(HELP.to_owned()),
            Some("--healthcheck") => OneCommand::Healthcheck,
            Some("env") => parse_env(&mut rest).map_err(in_words)?,
            Some("check") => parse_check(&mut rest).map_err(in_words)?,
            Some("rules") => parse_rules(&mut rest).map_err(in_words)?,
            Some("token") => parse_token(&mut rest).map_err(in_words)?,
            _ => return Err(in_words(format!("unknown argument {first:?}"))),
        };
        Ok(Self::Once(command))
    }
}

fn in_words(fault: impl std::fmt::Display) -> String {
    format!("{fault}\n\n{HELP}")
}

fn parse_env(arguments: &mut Parser) -> Result<OneCommand, lexopt::Error> {
    match arguments.next()? {
        None => Ok(OneCommand::Print(env_file())),
        Some(Arg::Long("help")) => Ok(OneCommand::Print(HELP.to_owned())),
        Some(other) => Err(other.unexpected()),
    }
}

fn parse_check(arguments: &mut Parser) -> Result<OneCommand, lexopt::Error> {
    let mut json = false;
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("json") => json = true,
            Arg::Long("help") => return Ok(OneCommand::Print(HELP.to_owned())),
            other => return Err(other.unexpected()),
        }
    }
    Ok(OneCommand::Check { json })
}

fn parse_rules(arguments: &mut Parser) -> Result<OneCommand, lexopt::Error> {
    let (mut file, mut topic, mut user) = (None, None, None);
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("topic") => topic = Some(arguments.value()?.parse()?),
            Arg::Long("user") => user = Some(arguments.value()?.parse()?),
            Arg::Long("help") => return Ok(OneCommand::Print(HELP.to_owned())),
            Arg::Value(path) if file.is_none() => file = Some(path.into()),
            other => return Err(other.unexpected()),
        }
    }
    if user.is_some() && topic.is_none() {
        return Err("--user needs --topic".into());
    }
    let file = file.ok_or("rules needs a file")?;
    Ok(OneCommand::Rules(RulesRequest { file, topic, user }))
}

fn parse_token(arguments: &mut Parser) -> Result<OneCommand, lexopt::Error> {
    let mut user = None;
    let (mut topics, mut device, mut ttl) = (Vec::new(), None, token::DEFAULT_TTL);
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("user") => user = Some(arguments.value()?.parse()?),
            Arg::Long("topic") => topics.push(arguments.value()?.string()?),
            Arg::Long("device") => device = Some(arguments.value()?.string()?),
            Arg::Long("ttl") => ttl = arguments.value()?.parse_with(token::time_to_live)?,
            Arg::Long("help") => return Ok(OneCommand::Print(HELP.to_owned())),
            other => return Err(other.unexpected()),
        }
    }
    let user = user.ok_or("a token needs --user")?;
    Ok(OneCommand::Token(TokenRequest {
        user,
        topics,
        device,
        ttl,
    }))
}

impl OneCommand {
    /// Does it; returns the exit code.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Self::Print(text) => {
                print(&text);
                ExitCode::SUCCESS
            }
            Self::Healthcheck => with_config(|config| healthcheck::run(&config)),
            Self::Check { json } => check::run(json),
            Self::Rules(request) => with_config(|config| rules::run(&request, &config)),
            Self::Token(request) => with_config(|config| token::run(&request, &config)),
        }
    }
}

fn with_config(run: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::from_env() {
        Ok(config) => run(config),
        Err(faults) => {
            eprintln!("pushnode: {faults}");
            ExitCode::from(USAGE)
        }
    }
}

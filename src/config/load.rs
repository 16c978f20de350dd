//! From the environment to a [`Config`]: which variables count, and all faults in one pass.
//!
//! What must stay true: no variable with our prefix is ignored, and a secret comes from one place.

use crate::config::checks::auth_mode;
use crate::config::faults::{Faults, nearest};
use crate::config::{Config, PREFIX, Texts, VARIABLES, secret_files};

/// Without PUSH_THREADS, more processors than this are left to others.
const MOST_THREADS: usize = 64;

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Every fault in it.
    pub fn from_env() -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let mut pairs = Vec::new();
        // Not `std::env::vars`: it panics if another program's variable is not UTF-8.
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => pairs.push((name, value)),
                Err(_) if is_ours(&name) => faults.add(&name, "is not valid UTF-8"),
                Err(_) => {}
            }
        }
        Self::load(pairs, faults)
    }

    /// Reads pairs of variable and value.
    ///
    /// # Errors
    /// Every fault in them.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Faults> {
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self::load(pairs.collect(), Faults::default())
    }

    /// How many threads serve clients and senders.
    #[must_use]
    pub fn thread_count(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        match self.threads {
            0 => processors().min(MOST_THREADS),
            count => count,
        }
    }

    fn load(mut pairs: Vec<(String, String)>, mut faults: Faults) -> Result<Self, Faults> {
        pairs.retain(|(name, _)| is_ours(name));
        secret_files::read_into(&mut pairs, &mut faults);
        if !pairs.iter().any(|(name, _)| name == "PUSH_REDIS_URL")
            && let Some(at) = pairs.iter().position(|(name, _)| name == "REDIS_URL")
        {
            "PUSH_REDIS_URL".clone_into(&mut pairs[at].0);
        }
        pairs.retain(|(name, _)| name != "REDIS_URL");
        let is_set = |wanted: &str| pairs.iter().any(|(name, _)| name == wanted);
        // Where there are identities, topics are closed until an operator opens them.
        let has_tokens = |(name, value): &(String, String)| {
            name == "PUSH_AUTH" && auth_mode(value.trim()).is_ok_and(|mode| !mode.is_none())
        };
        if !is_set("PUSH_TOPICS") && pairs.iter().any(has_tokens) {
            pairs.push(("PUSH_TOPICS".to_owned(), String::new()));
        }
        // What is unknown does not go on: envy takes the prefix away as often as it is there.
        pairs.retain(|(name, _)| {
            let is_known = VARIABLES.iter().any(|variable| variable.name == name);
            if !is_known {
                match nearest(name) {
                    Some(known) => faults.add(name, format!("is unknown; did you mean {known}?")),
                    None => faults.add(name, "is unknown; .env.example lists all variables"),
                }
            }
            is_known
        });

        let texts: Texts = envy::prefixed(PREFIX)
            .from_iter(pairs)
            .expect("every field is an optional string");
        let mut config = texts.check(&mut faults);
        if let Some(config) = &mut config {
            config.check_exposure(&mut faults);
            config.check_proxies(&mut faults);
            config.check_streams(&mut faults);
            config.check_keys(&mut faults);
            config.check_hooks(&mut faults);
            config.check_topic_rules(&mut faults);
            config.check_redis(&mut faults);
            config.complete_redis_url();
        }
        match config {
            Some(config) if faults.list().is_empty() => Ok(config),
            _ => Err(faults),
        }
    }
}

/// Whether the variable is read by pushnode. Other programs read `REDIS_URL` too.
fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || name == "REDIS_URL"
}

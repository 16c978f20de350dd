//! What a running node reads again: keys of tokens when it is told to (SIGHUP), rules of topics
//! then and when their file changes. All else needs a restart.
//!
//! What must stay true: a file that is missing, empty or faulty changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::app::App;
use crate::config::secret_files::{self, FileForm};
use crate::config::topic_rules::topic_rules;

/// The time between two looks at the file.
const LOOK: Duration = Duration::from_secs(1);

/// Reads it for each order, and looks at files, until the node ends.
pub(super) async fn serve(app: Arc<App>, mut orders: mpsc::Receiver<()>) {
    let mut rules = RulesFile::of(&app);
    let mut has_orders = true;
    while has_orders || rules.is_some() {
        let mut is_ordered = false;
        tokio::select! {
            order = orders.recv(), if has_orders => {
                has_orders = order.is_some();
                is_ordered = has_orders;
            }
            () = tokio::time::sleep(LOOK), if rules.is_some() => {}
        }
        if is_ordered {
            app.authenticator.reload();
        }
        if let Some(rules) = &mut rules {
            rules.look(&app, is_ordered).await;
        }
    }
}

/// The file with the rules of topics.
struct RulesFile {
    path: PathBuf,
    /// What was found there at last. At the start that is what the node began with.
    seen: Option<Result<String, String>>,
}

impl RulesFile {
    fn of(app: &App) -> Option<Self> {
        let path = app.config.topic_rules_file.clone()?;
        Some(Self { path, seen: None })
    }

    /// Takes other rules if there are some, or if it `must` look at the same ones again.
    async fn look(&mut self, app: &App, must: bool) {
        let found = secret_files::read(&self.path, FileForm::Text);
        if !must && self.seen.as_ref() == Some(&found) {
            return;
        }
        let rules = found.clone().and_then(|text| {
            let rules = topic_rules(&text)?;
            let faults = app.config.faults_of_rules(&rules);
            match faults.is_empty() {
                true => Ok(rules),
                false => Err(faults.join("; ")),
            }
        });
        self.seen = Some(found);
        match rules {
            Ok(rules) if rules == app.hub.topics().rules().all() => {}
            Ok(rules) => {
                let (count, digest) = (rules.len(), rules.digest());
                app.metrics.topic_rules_read("taken");
                tracing::info!(count, digest, "PUSH_TOPIC_RULES_FILE read again");
                app.hub.replace_rules(rules).await;
            }
            Err(what) => {
                app.metrics.topic_rules_read("refused");
                tracing::warn!("PUSH_TOPIC_RULES_FILE {what}; the rules read before stay");
            }
        }
    }
}

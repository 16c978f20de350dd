//! Secrets in files are read again when they change: API keys, secrets of tokens and of the
//! cluster. The credentials for Redis are read at each dial instead.
//!
//! What must stay true: a file that is missing, empty or faulty changes nothing, and the log says
//! so once. Nothing logged shows a secret.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::config::Config;
use crate::config::checks::{api_keys, cluster_secrets, jwt_secrets};
use crate::config::secret_files::{self, FileForm};
use crate::protocol::ClusterKeys;
use crate::protocol::secret::Secret;

/// The time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// What takes the secrets that were read.
type Apply = Box<dyn Fn(&[Secret]) + Send>;

/// What is in a file: the check of its setting, and who uses it.
struct Watched {
    variable: &'static str,
    path: PathBuf,
    check: fn(&str) -> Result<Vec<Secret>, String>,
    apply: Apply,
    /// What was found there at last.
    seen: Result<Secret, String>,
}

impl Watched {
    fn look(&mut self) {
        let found = secret_files::read(&self.path, FileForm::List).map(Secret::new);
        if found == self.seen {
            return;
        }
        let checked = match &found {
            Ok(text) => (self.check)(text.reveal()),
            Err(what) => Err(what.clone()),
        };
        match checked {
            Ok(secrets) => {
                (self.apply)(&secrets);
                let count = secrets.len();
                tracing::info!(count, "{} read again", self.variable);
            }
            Err(what) => tracing::warn!("{} {what}; what was read before stays", self.variable),
        }
        self.seen = found;
    }
}

/// Looks at the files until the node ends.
pub(super) async fn watch(app: Arc<App>, cluster: ClusterKeys) {
    let Config {
        api_keys_file,
        jwt_secrets_file,
        cluster_secret_file,
        hook_secret_file,
        ..
    } = &app.config;
    let mut files = Vec::new();
    let mut add = |variable, path: &Option<PathBuf>, given: &[Secret], check, apply| {
        let path = path.clone()?;
        // As they were read at the start.
        let given: Vec<&str> = given.iter().map(Secret::reveal).collect();
        files.push(Watched {
            variable,
            path,
            check,
            apply,
            seen: Ok(Secret::new(given.join(","))),
        });
        Some(())
    };
    let owner = app.clone();
    let apply: Apply = Box::new(move |keys| owner.api_keys.replace(keys));
    add(
        "PUSH_API_KEYS_FILE",
        api_keys_file,
        &app.config.api_keys,
        api_keys as fn(&str) -> _,
        apply,
    );
    let owner = app.authenticator.clone();
    let apply = Box::new(move |secrets: &[Secret]| owner.replace_secrets(secrets));
    add(
        "PUSH_JWT_SECRETS_FILE",
        jwt_secrets_file,
        &app.config.jwt_secrets,
        jwt_secrets,
        apply,
    );
    let apply =
        Box::new(move |secrets: &[Secret]| cluster.replace(secrets.iter().map(Secret::reveal)));
    add(
        "PUSH_CLUSTER_SECRET_FILE",
        cluster_secret_file,
        &app.config.cluster_secret,
        cluster_secrets,
        apply,
    );
    let owner = app.hooks.clone();
    let apply = Box::new(move |secrets: &[Secret]| owner.replace_secrets(secrets));
    add(
        "PUSH_HOOK_SECRET_FILE",
        hook_secret_file,
        &app.config.hook_secret,
        cluster_secrets,
        apply,
    );
    while !files.is_empty() {
        tokio::time::sleep(LOOK).await;
        files.iter_mut().for_each(Watched::look);
    }
}

//! All settings as a text for a `.env` file: `pushnode env`, and the project's `.env.example`.

use crate::config::VARIABLES;

const HEAD: &str = "\
# All settings of a node, with their defaults. A node reads its environment, not this file.
# Use `docker run --env-file`, `EnvironmentFile=` of systemd, or in a shell
# `set -a; . ./.env; set +a`. An unknown PUSH_ variable stops the start.
";

/// Every variable with its documentation and default, commented out.
#[must_use]
pub fn env_file() -> String {
    let mut text = HEAD.to_owned();
    for variable in VARIABLES {
        text.push('\n');
        for line in variable.doc {
            text += &format!("#{line}\n");
        }
        text += &format!("# {}={}\n", variable.name, variable.default);
    }
    text
}

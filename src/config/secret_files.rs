//! Secrets in files, as Docker and Kubernetes mount them: `PUSH_API_KEYS_FILE` instead of
//! `PUSH_API_KEYS`. Rules of topics may be in a file, too.
//!
//! What must stay true: a secret comes from one place, and an empty file is a fault and not an
//! empty secret, which could open the node to everybody.

use std::io::Read as _;
use std::path::Path;

use crate::config::faults::Faults;

/// Largest file, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileForm {
    /// One line.
    Line,
    /// Items, comma-separated or one on each line.
    List,
    /// Any text.
    Text,
}

/// The variables that can be in a file, and in what form.
const IN_FILES: [(&str, &str, FileForm); 7] = [
    ("PUSH_REDIS_URL", "PUSH_REDIS_URL_FILE", FileForm::Line),
    (
        "PUSH_REDIS_PASSWORD",
        "PUSH_REDIS_PASSWORD_FILE",
        FileForm::Line,
    ),
    (
        "PUSH_CLUSTER_SECRET",
        "PUSH_CLUSTER_SECRET_FILE",
        FileForm::List,
    ),
    ("PUSH_JWT_SECRETS", "PUSH_JWT_SECRETS_FILE", FileForm::List),
    ("PUSH_API_KEYS", "PUSH_API_KEYS_FILE", FileForm::List),
    ("PUSH_TOPIC_RULES", "PUSH_TOPIC_RULES_FILE", FileForm::Text),
    ("PUSH_HOOK_SECRET", "PUSH_HOOK_SECRET_FILE", FileForm::List),
];

/// Adds the variables that are in files.
pub(super) fn read_into(pairs: &mut Vec<(String, String)>, faults: &mut Faults) {
    let value = |pairs: &[(String, String)], wanted: &str| {
        let found = pairs.iter().find(|(name, _)| name == wanted);
        let value = found.map(|(_, value)| value.trim().to_owned());
        value.filter(|value| !value.is_empty())
    };
    for (variable, file, form) in IN_FILES {
        let Some(path) = value(pairs, file) else {
            continue;
        };
        if value(pairs, variable).is_some() {
            faults.add(
                file,
                format!("is set, and so is {variable}; set one of them"),
            );
            continue;
        }
        match read(Path::new(&path), form) {
            Ok(text) => {
                pairs.retain(|(name, _)| name != variable);
                pairs.push((variable.to_owned(), text));
            }
            Err(what) => faults.add(file, what),
        }
    }
}

/// The text in a file, without line breaks and blanks around it. Lines of a list become its items.
///
/// # Errors
/// What is wrong with the file; never what is in it.
pub(crate) fn read(path: &Path, form: FileForm) -> Result<String, String> {
    let fault = |what: String| format!("({}) {what}", path.display());
    let cannot = |error: std::io::Error| fault(format!("cannot be read: {error}"));
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut text = String::new();
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
    if read.map_err(cannot)? as u64 > MAX_BYTES {
        return Err(fault(format!("has more than {MAX_BYTES} bytes")));
    }
    let text = text.trim();
    if text.is_empty() {
        return Err(fault("is empty".to_owned()));
    }
    match form {
        FileForm::List => Ok(text.lines().collect::<Vec<_>>().join(",")),
        FileForm::Line if text.contains(char::is_control) => {
            Err(fault("has more than one line".to_owned()))
        }
        FileForm::Line | FileForm::Text => Ok(text.to_owned()),
    }
}

//! The faults of the configuration, and suggestions for misspelt names.

use std::fmt;

use crate::config::VARIABLES;

/// All faults of the configuration, one sentence each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults(pub(super) Vec<String>);

impl Faults {
    pub(super) fn add(&mut self, variable: &str, what: impl fmt::Display) {
        self.0.push(format!("{variable} {what}"));
    }

    pub(super) fn check<T>(
        &mut self,
        variable: &str,
        text: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        check(text).map_err(|what| self.add(variable, what)).ok()
    }

    /// The faults as sentences.
    #[must_use]
    pub fn list(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.0.len() == 1 { "fault" } else { "faults" };
        write!(f, "{} {many} in the configuration:", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

/// The known variable that is closest to `name`, if one is close.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let known = VARIABLES.iter().map(|variable| variable.name);
    // Cut off, such as PUSH_REDIS: what it begins is nearer than what it resembles.
    let longer = known.clone().filter(|known| known.starts_with(name));
    if let Some(begun) = longer.min_by_key(|known| known.len()) {
        return Some(begun);
    }
    let (distance, nearest) = known.map(|known| (edits(name, known), known)).min()?;
    (distance <= 3).then_some(nearest)
}

/// The Levenshtein distance, in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

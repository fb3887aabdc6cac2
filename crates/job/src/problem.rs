//! What is wrong with the files of a job: all of it at once, each with its place.

use std::fmt;

use crate::location::redacted;
use crate::schema;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `pipelines/mine.toml:14`, `configs/local.toml` or `--set masks.min_area=x`.
    pub place: String,
    /// What is wrong there and what would be right, naming the setting by path.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// The job cannot start: everything that is wrong with its files and overrides.
///
/// One variant for the caller (fix the files, exit code 2), so a struct.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// In the order of the files' lines; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "1 problem in the job's settings; nothing was started:")?,
            n => write!(
                f,
                "{n} problems in the job's settings; nothing was started:"
            )?,
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// Collects problems while settings are read; reading goes on after each.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<(SortKey, Problem)>,
}

/// File order, then line; overrides come last.
type SortKey = (usize, usize);

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The name of a file, its rank among the files read, and the line if it is known.
    File {
        name: String,
        rank: usize,
        line: Option<usize>,
    },
    /// A `--set` of the command line, as typed.
    Override(String),
}

impl Problems {
    pub(crate) fn add(&mut self, origin: &Origin, message: impl Into<String>) {
        let (key, place) = match origin {
            Origin::File {
                name,
                rank,
                line: Some(line),
            } => ((*rank, *line), format!("{name}:{line}")),
            Origin::File { name, rank, .. } => ((*rank, usize::MAX), name.clone()),
            Origin::Override(typed) => ((usize::MAX, 0), format!("--set {}", shown(typed))),
        };
        // A wrong value is repeated, and it may be an address with a password in it.
        let message = redacted(&message.into());
        self.found.push((key, Problem { place, message }));
    }

    pub(crate) fn into_result<T>(mut self, value: T) -> Result<T, ConfigError> {
        if self.found.is_empty() {
            return Ok(value);
        }
        self.found.sort_by_key(|(key, _)| *key);
        let problems = self.found.into_iter().map(|(_, problem)| problem).collect();
        Err(ConfigError { problems })
    }
}

/// An override without its value where that may be a secret.
fn shown(typed: &str) -> String {
    let (path, value) = typed.split_once('=').unwrap_or((typed, ""));
    if value.contains("://") || value.contains('@') || schema::names_a_secret(path) {
        // What stands before a `=` may be an address, too, typed without its key.
        return format!("{}=(hidden)", redacted(path));
    }
    redacted(typed)
}

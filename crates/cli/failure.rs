//! An error and the exit code it ends with.

/// Work was begun and not all of it succeeded.
pub(crate) const INCOMPLETE: u8 = 1;
/// Nothing was begun: bad usage, configuration, model or output.
pub(crate) const NOT_STARTED: u8 = 2;

/// Why a command failed.
pub(crate) struct Failure {
    pub error: anyhow::Error,
    pub code: u8,
}

impl Failure {
    /// Some work failed.
    pub(crate) fn incomplete(error: impl Into<anyhow::Error>) -> Self {
        let error = error.into();
        let code = INCOMPLETE;
        Self { error, code }
    }

    /// The error and its causes, each said once: many errors have their cause's words in their own.
    pub(crate) fn message(&self) -> String {
        let mut message = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            if message.is_empty() {
                message = cause;
            } else if !message.contains(&cause) {
                message.push_str(": ");
                message.push_str(&cause);
            }
        }
        message
    }
}

/// Errors are of the second kind unless said otherwise.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let code = NOT_STARTED;
        Self { error, code }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_that_was_said_is_not_repeated() {
        let root = || anyhow!("disk full");
        let failure = Failure::from(root().context("a.json: disk full").context("no report"));
        assert_eq!(failure.message(), "no report: a.json: disk full");
        let failure = Failure::from(root().context("a.json"));
        assert_eq!(failure.message(), "a.json: disk full");
    }
}

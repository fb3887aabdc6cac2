//! An error and the exit code it ends with.

/// Work was begun and not all of it succeeded.
pub(crate) const INCOMPLETE: u8 = 1;
/// Nothing was begun: bad usage, configuration, model or output.
pub(crate) const NOT_STARTED: u8 = 2;

/// A signal ended it; running it again goes on.
pub(crate) const INTERRUPTED: u8 = 130;

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
}

/// Errors are of the second kind unless said otherwise.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let code = NOT_STARTED;
        Self { error, code }
    }
}

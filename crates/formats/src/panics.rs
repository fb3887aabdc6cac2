//! Codecs that panic on damaged bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `read` returns, or the message it panicked with. `read` is to look at nothing but immutable bytes, so that a
/// panic leaves nothing half-changed.
pub(crate) fn caught<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|payload| {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        message.unwrap_or("no message").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive() {
        assert_eq!(caught(|| 3), Ok(3));
        assert_eq!(caught(|| panic!("fixed")), Err::<(), _>("fixed".to_owned()));
        assert_eq!(
            caught(|| panic!("row {}", 3)),
            Err::<(), _>("row 3".to_owned())
        );
    }
}

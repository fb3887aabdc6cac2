//! An error with its causes, as one line.

use std::error::Error;

/// The error's message, then each cause's that the messages before do not hold already.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let layer = |text, source: Option<Layer>| Layer {
            text,
            source: source.map(Box::new),
        };
        let full = layer("no space left", None);
        let put = layer("part-1 cannot be written", Some(full));
        let shard = layer("shard 1: part-1 cannot be written", Some(put));
        assert_eq!(
            describe(&shard),
            "shard 1: part-1 cannot be written: no space left"
        );
    }
}

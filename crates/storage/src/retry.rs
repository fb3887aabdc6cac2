//! Trying again, above what object_store tries by itself.
//!
//! object_store repeats what a server refuses and, for reads, what a network loses. It does not
//! repeat a conditional write that may or may not have arrived, an answer whose body broke off
//! without an etag to go on with, or an odd transport error; those are repeated here, by callers
//! that know the operation to be idempotent.

use std::future::Future;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use object_store::{BackoffConfig, RetryConfig};

use crate::options::StoreOptions;

/// Whether an error's message is object_store's that all retries are used up. What it retries by
/// itself is not to be retried again on top: it would be the square of what is set.
pub(crate) fn used_up(message: &str) -> bool {
    let number = |text: &str| -> Option<u32> {
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        text[..digits].parse().ok()
    };
    let Some((before, after)) = message.split_once(" retries, max_retries: ") else {
        return false;
    };
    let done = before.rsplit(' ').next().and_then(number);
    done.is_some() && done >= number(after)
}

/// How often and how long something is tried again.
#[derive(Debug, Clone)]
pub(crate) struct Retry {
    times: usize,
    within: Duration,
    first: Duration,
    longest: Duration,
}

impl Retry {
    pub(crate) fn of(options: &StoreOptions) -> Self {
        Retry {
            times: options.max_retries as usize,
            within: options.retry_timeout,
            first: options.first_backoff,
            longest: options.longest_backoff,
        }
    }

    /// Once is enough: for stores on this machine, whose errors do not pass by themselves.
    pub(crate) fn never() -> Self {
        Retry {
            times: 0,
            within: Duration::ZERO,
            first: Duration::ZERO,
            longest: Duration::ZERO,
        }
    }

    /// The same for object_store's own retries.
    pub(crate) fn config(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: self.first,
                max_backoff: self.longest,
                base: 2.0,
            },
            max_retries: self.times,
            retry_timeout: self.within,
        }
    }

    /// Runs `attempt` until it succeeds, fails with an error that is not `to_be_retried`, or the
    /// retries or the time are used up: then its last error.
    pub(crate) async fn run<T, E, F>(
        &self,
        mut attempt: impl FnMut() -> F,
        to_be_retried: impl Fn(&E) -> bool,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let begin = Instant::now();
        let waits = ExponentialBuilder::new()
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .with_max_times(self.times)
            .with_jitter();
        let mut waits = waits.build();
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let wait = waits.next().filter(|_| to_be_retried(&error));
            match wait.filter(|wait| begin.elapsed() + *wait <= self.within) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_up_retries_are_told_from_others() {
        let message = |done| {
            format!(
                "Generic S3 error: Error performing GET http://h/b in 3ms, after {done} retries, \
                 max_retries: 8, retry_timeout: 180s  - Server returned 500"
            )
        };
        assert!(used_up(&message(8)));
        assert!(!used_up(&message(7)));
        assert!(!used_up(
            "Error performing PUT http://h/b in 3ms - timed out"
        ));
        assert!(!used_up("many retries, max_retries: few"));
    }
}

//! Which shards of a plan this process runs, so that machines can share one plan and nothing else.

use std::ops::Range;

use crate::shard::ShardId;

/// Which shards of a plan to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection {
    /// All of them.
    #[default]
    All,
    /// Worker `index` of `of` takes every shard whose number leaves `index` when divided by `of`:
    /// together the workers take every shard once, also those that the plan gets later.
    Worker {
        /// From 0, below `of`.
        index: u32,
        /// How many workers there are.
        of: u32,
    },
    /// The shards with these numbers, the end left out.
    Range(Range<u32>),
}

/// A selection on the command line that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// Not two numbers with the sign between them.
    #[error("{typed:?} is not {expected}")]
    Malformed {
        /// As typed.
        typed: String,
        /// What it should be, with an example.
        expected: &'static str,
    },
    /// The worker's number is not below the number of workers.
    #[error(
        "there is no worker {index} of {of}: workers are counted from 0, so with {of} of them the \
         last is {last}", last = i64::from(*of) - 1
    )]
    NoSuchWorker {
        /// The worker.
        index: u32,
        /// How many there are.
        of: u32,
    },
    /// There are no workers.
    #[error("{typed:?} shares the shards among 0 workers; write 0/1 for one worker that takes all")]
    NoWorkers {
        /// As typed.
        typed: String,
    },
    /// No shard lies in the range.
    #[error(
        "{start}..{end} has no shard in it: the end is left out, so {start}..{next} is shard \
         {start} alone", next = u64::from(*start) + 1
    )]
    EmptyRange {
        /// The first shard.
        start: u32,
        /// The shard behind the last.
        end: u32,
    },
}

impl Selection {
    /// Reads `I/N`, worker I of N, counted from 0.
    ///
    /// # Errors
    /// Not two numbers, or no such worker.
    pub fn parse_worker(typed: &str) -> Result<Self, SelectionError> {
        let numbers = typed.split_once('/').map(|(i, n)| (number(i), number(n)));
        match numbers {
            Some((Some(_), Some(0))) => Err(SelectionError::NoWorkers {
                typed: typed.to_string(),
            }),
            Some((Some(index), Some(of))) if index >= of => {
                Err(SelectionError::NoSuchWorker { index, of })
            }
            Some((Some(index), Some(of))) => Ok(Selection::Worker { index, of }),
            _ => Err(SelectionError::Malformed {
                typed: typed.to_string(),
                expected: "a worker I/N counted from 0, such as 0/8 to 7/8",
            }),
        }
    }

    /// Reads `A..B`, the shards from A to before B.
    ///
    /// # Errors
    /// Not two numbers, or no shard between them.
    pub fn parse_range(typed: &str) -> Result<Self, SelectionError> {
        let numbers = typed.split_once("..").map(|(a, b)| (number(a), number(b)));
        match numbers {
            Some((Some(start), Some(end))) if start >= end => {
                Err(SelectionError::EmptyRange { start, end })
            }
            Some((Some(start), Some(end))) => Ok(Selection::Range(start..end)),
            _ => Err(SelectionError::Malformed {
                typed: typed.to_string(),
                expected: "a range A..B of shards, the end left out, such as 10..20",
            }),
        }
    }

    /// Whether this selection has the shard.
    pub fn contains(&self, shard: ShardId) -> bool {
        match self {
            Selection::All => true,
            // `checked_rem`: the fields are public, and no worker of none has a shard.
            Selection::Worker { index, of } => shard.0.checked_rem(*of) == Some(*index),
            Selection::Range(range) => range.contains(&shard.0),
        }
    }
}

/// Digits only: `parse` would take a `+` too.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn workers_and_ranges_are_read() {
        let worker = Selection::Worker { index: 2, of: 8 };
        assert_eq!(Selection::parse_worker("2/8"), Ok(worker));
        assert_eq!(
            Selection::parse_range("10..20"),
            Ok(Selection::Range(10..20))
        );
        assert_eq!(Selection::parse_range("0..1"), Ok(Selection::Range(0..1)));
    }

    #[test]
    fn what_cannot_be_meant_is_explained() {
        let worker = |typed| Selection::parse_worker(typed).unwrap_err().to_string();
        assert_eq!(
            worker("8/8"),
            "there is no worker 8 of 8: workers are counted from 0, so with 8 of them the last is 7"
        );
        assert!(worker("0/0").contains("0 workers"), "{}", worker("0/0"));
        for typed in [
            "",
            "3",
            "/8",
            "1/",
            "-1/8",
            "+1/8",
            "1/8/9",
            " 1/8",
            "1/99999999999",
        ] {
            let said = worker(typed);
            assert!(
                said.starts_with(&format!("{typed:?} is not a worker I/N")),
                "{said}"
            );
        }
        let range = |typed| Selection::parse_range(typed).unwrap_err().to_string();
        assert_eq!(
            range("20..20"),
            "20..20 has no shard in it: the end is left out, so 20..21 is shard 20 alone"
        );
        assert!(range("20..10").starts_with("20..10 has no shard in it"));
        for typed in [
            "", "10", "10..", "..10", "10..=20", "a..b", "1...3", "10-20",
        ] {
            let said = range(typed);
            assert!(
                said.starts_with(&format!("{typed:?} is not a range A..B")),
                "{said}"
            );
        }
    }

    #[test]
    fn a_range_leaves_its_end_out() {
        let range = Selection::parse_range("10..12").unwrap();
        let taken = (0..20).filter(|id| range.contains(ShardId(*id)));
        assert_eq!(taken.collect::<Vec<_>>(), [10, 11]);
        assert!(Selection::All.contains(ShardId(u32::MAX)));
        assert!(!Selection::Worker { index: 0, of: 0 }.contains(ShardId(0)));
    }

    proptest! {
        #[test]
        fn each_shard_has_one_worker(of in 1..40_u32, id: u32) {
            let workers = (0..of).map(|index| Selection::parse_worker(&format!("{index}/{of}")));
            let taken_by = workers.filter(|worker| worker.as_ref().unwrap().contains(ShardId(id)));
            prop_assert_eq!(taken_by.count(), 1);
        }
    }
}

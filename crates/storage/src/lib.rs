//! Where bytes come from and where they go.
//!
//! ```text
//!  folder, prefix, URL <-- SourceStore --list--> Listing --get--> Fetch --body--> bytes of one image
//!                                      --open_blob--> Blob --> SequentialReader, RandomReader
//!                                                 (the pipeline works)
//!  part files, marker <--commit_shard-- CommitStore -- OutputStore -- any object store
//! ```
//!
//! What enters: locations as users type them, and finished files as bytes. What leaves: listings,
//! bytes, and the answer to "is this shard committed?". Disk, S3 and web servers go through the same
//! code; only listing a folder is apart, since a disk has names that no object store knows.
//!
//! Outputs are written create-if-absent. What is overwritten is only what workers say about
//! themselves, and what is deleted only what no marker names, so no run can damage what another has
//! committed: see [`commit`] for the protocol. Keys and sizes are all this crate knows of a file. It
//! never looks inside: the caller brings a function that reads what a part says about itself
//! ([`InspectPart`]).
//!
//! # What goes wrong
//! Networks lose requests, answers and the ends of bodies, and servers ask for patience: all of that
//! is tried again, with growing waits, as [`StoreOptions`] say. What is left comes sorted by what
//! the caller does about it: a row with a reason, another try at the shard, or the end of the job
//! ([`ReadError`], [`StorageError`]).
//!
//! # Secrets
//! Credentials come from the environment and stay there. Errors of stores and answers of servers
//! repeat URIs with signed queries, keys and tokens; none of that passes the module `redact` into an
//! error, a log line or a `Debug` of this crate.
//!
//! # Durability
//! A marker promises that its parts exist, so a marker must not outlive them. On a local disk a
//! file appears under its name only when its bytes have been written and synced, and the directory
//! entry is synced before the write is reported done. Per shard that costs three syncs of files
//! that took minutes to compute.

pub mod commit;
mod connect;
mod error;
mod failures;
#[cfg(any(test, feature = "faulty"))]
pub mod faulty;
pub mod layout;
mod location;
mod options;
mod output;
mod record;
mod redact;
mod retry;
mod source;
mod stores;
#[cfg(test)]
mod testing;
mod verdict;

pub use commit::{
    Commit, CommitError, CommitStore, InspectPart, Marker, Part, PartFacts, PartInfo, PartKind,
    ShardParts, ShardStats, ShardSummary,
};
pub use connect::{StoreCounters, store_counters};
pub use error::StorageError;
pub use failures::{FailureRecord, failed_shards, record_failure};
pub use options::StoreOptions;
pub use output::{ObjectInfo, OutputStore, PutOutcome, Shallow};
pub use record::{Claim, ClaimError, claim, read_record};
pub use source::{
    Blob, Expect, Fetch, Listing, ObjectFacts, RandomReader, ReadError, RejectReason,
    SequentialReader, SourceError, SourceFile, SourceReject, SourceStore, Wanted, Wants,
    read_error,
};

/// 16 hex digits that no other attempt has, here or on another machine.
pub(crate) fn attempt_id(seed: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos());
    let process = std::process::id();
    // The hasher's keys come from the operating system's random numbers.
    let random = RandomState::new().hash_one(nanos);
    let mut id = sha256_hex(format!("{seed} {process} {nanos} {random}").as_bytes());
    id.truncate(16);
    id
}

/// SHA-256 of `bytes` in lower-case hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

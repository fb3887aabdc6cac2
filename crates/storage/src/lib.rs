//! Where bytes come from and where they go.
//!
//! ```text
//!  folder or tars --list_images / list_tars--> Listing --read_file--> bytes of one image
//!                                                 (the pipeline works)
//!  part files, marker <--commit_shard-- CommitStore -- OutputStore -- any object store
//! ```
//!
//! What enters: locations as users type them, and finished files as bytes. What leaves: listings,
//! bytes, and the answer to "is this shard committed?".
//!
//! Outputs are written create-if-absent only. There is no method here that overwrites or deletes
//! an object, so no run can damage what another has committed: see [`commit`] for the protocol.
//! Keys and sizes are all this crate knows of a file. It never looks inside: the caller brings a
//! function that reads what a part says about itself ([`InspectPart`]).
//!
//! # Durability
//! A marker promises that its parts exist, so a marker must not outlive them. On a local disk a
//! file appears under its name only when its bytes have been written and synced, and the directory
//! entry is synced before the write is reported done. Per shard that costs three syncs of files
//! that took minutes to compute.

pub mod commit;
mod error;
#[cfg(any(test, feature = "faulty"))]
pub mod faulty;
pub mod layout;
mod output;
mod record;
mod source;

pub use commit::{
    Commit, CommitError, CommitStore, InspectPart, Marker, Part, PartFacts, PartInfo, PartKind,
    ShardParts, ShardSummary,
};
pub use error::StorageError;
pub use output::{ObjectInfo, OutputStore, PutOutcome};
pub use record::{Claim, ClaimError, claim, read_record};
pub use source::{
    Listing, ReadError, RejectReason, SourceError, SourceFile, SourceReject, list_images,
    list_tars, read_file,
};

/// SHA-256 of `bytes` in lower-case hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

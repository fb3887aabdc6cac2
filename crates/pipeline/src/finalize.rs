//! Lists all parts in one table, once every shard is committed.

use std::collections::BTreeMap;

use maskmill_formats::manifest_out::{CommittedRow, committed_to_parquet};
use maskmill_formats::rows::ParquetMeta;
use maskmill_storage::{Marker, PutOutcome, layout};

use crate::output::{JobOutput, OutputError};

/// What [`JobOutput::finalize`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finalized {
    /// The table, below the output's root.
    pub path: String,
    /// Its rows.
    pub shards: u64,
    /// Whether it was there already, with the same content.
    pub before: bool,
}

impl JobOutput {
    /// Writes `_manifest.parquet`: one row per shard with its parts, rows, sizes and digests. A reader
    /// who sees it knows that the dataset is complete. Idempotent.
    ///
    /// A plan that was extended afterwards gets a table of its own, `_manifest-NNNNNN.parquet` with
    /// the number of its segments, which again lists all shards.
    ///
    /// # Errors
    /// Shards are missing, a marker cannot be read, or the store fails.
    pub fn finalize(&self) -> Result<Finalized, OutputError> {
        let mut markers = self.markers()?;
        // Whatever else is there: another machine may have extended the plan since it was read here.
        markers.retain(|marker| self.planned(marker.shard).is_some());
        let planned = self.plan().shards().count() as u64;
        let missing = planned - markers.len() as u64;
        if missing > 0 {
            let failed = self.failures(&self.committed_shards()?)?.len() as u64;
            return Err(OutputError::Unfinished {
                missing,
                planned,
                failed,
            });
        }
        let segments = self.plan().segments().len() as u32;
        let path = layout::manifest(segments);
        let meta = ParquetMeta {
            fingerprint: self.record().fingerprint.to_string(),
            entries: BTreeMap::from([("plan".to_owned(), self.plan().digest().to_owned())]),
        };
        let rows: Vec<CommittedRow> = markers.iter().map(row).collect();
        let bytes = committed_to_parquet(&rows, &meta).map_err(OutputError::Table)?;
        let put = self.store.put_if_absent(&path, bytes.clone().into());
        let before = match self.runtime.block_on(put)? {
            PutOutcome::Created => false,
            PutOutcome::AlreadyExists => {
                let found = self.runtime.block_on(self.store.get(&path))?;
                if found.is_none_or(|found| found != bytes) {
                    let location = self.location().to_owned();
                    return Err(OutputError::OtherManifest { location, path });
                }
                true
            }
        };
        Ok(Finalized {
            path,
            shards: rows.len() as u64,
            before,
        })
    }
}

fn row(marker: &Marker) -> CommittedRow {
    CommittedRow {
        shard: marker.shard,
        masks_path: marker.masks.path.clone(),
        masks_rows: marker.masks.rows,
        masks_bytes: marker.masks.bytes,
        masks_sha256: marker.masks.sha256.clone(),
        images_path: marker.images.path.clone(),
        images_rows: marker.images.rows,
        images_bytes: marker.images.bytes,
        images_sha256: marker.images.sha256.clone(),
        images_ok: marker.images_ok,
        images_rejected: marker.images_rejected,
        retry_of: marker.retry_of,
    }
}

//! The bytes of one image of an output, read again from the job's source.

use std::sync::Arc;

use bytes::Bytes;
use maskmill_formats::image_table::{ImageTable, TableItem};
use maskmill_formats::rows::ImageRow;
use maskmill_formats::tar_shard::{TarItem, TarLimits, TarReader};
use maskmill_job::{Item, ItemKind};
use maskmill_storage::{Expect, StoreOptions};
use sha2::{Digest, Sha256};

use crate::blob_table::BlobTable;
use crate::describe::describe;
use crate::open_source::OpenSource;
use crate::output::{JobOutput, OutputError};
use crate::source::{row_key, table_columns};
use crate::stages::hex;

/// Bytes of a tar that one request asks for.
const TAR_CHUNK: u64 = 4 << 20;
/// Memory for the blocks of a table.
const TABLE_BYTES: u64 = 32 << 20;

impl JobOutput {
    /// The bytes of an image, read again from the job's source.
    ///
    /// # Errors
    /// They are gone, unreadable, or not those that the job saw.
    pub fn source_image(
        &self,
        image: &ImageRow,
        options: &StoreOptions,
    ) -> Result<Bytes, OutputError> {
        let source = &self.record().pipeline.source;
        let error = |detail: String| OutputError::SourceImage {
            key: image.image_key.clone(),
            origin: source.path().to_owned(),
            detail,
        };
        let store = OpenSource::open(source, options)?;
        let gone = || error("the plan has no such item".to_owned());
        let shard = self.planned(image.shard).ok_or_else(gone)?;
        let items = self.runtime.block_on(self.plan_items().of(shard))?;
        let mut bytes = None;
        for item in items.iter().filter(|item| holds(item, &image.image_key)) {
            bytes = self.read(item, &image.image_key, &store).map_err(error)?;
            if bytes.is_some() {
                break;
            }
        }
        let bytes = bytes.ok_or_else(gone)?;
        if hex(&Sha256::digest(&bytes)) != image.sha256 {
            return Err(error("its bytes changed since the job read it".to_owned()));
        }
        Ok(bytes)
    }

    /// The image `key` of an item that may hold it.
    fn read(&self, item: &Item, key: &str, store: &OpenSource) -> Result<Option<Bytes>, String> {
        let runtime = self.runtime.handle();
        let max_bytes = self.record().pipeline.limits.max_file_bytes;
        let anything = Expect {
            bytes: None,
            etag: None,
        };
        let inside = key.get(item.key.len() + 1..).unwrap_or_default();
        let blob = || {
            let blob = runtime.block_on(store.open_blob(item.at(), anything));
            blob.map_err(|error| describe(&error))
        };
        match item.kind {
            ItemKind::Image => runtime
                .block_on(async {
                    store
                        .get(item.at(), anything, max_bytes)
                        .await?
                        .body()
                        .await
                })
                .map(Some)
                .map_err(|error| describe(&error)),
            ItemKind::Tar => {
                let limits = TarLimits {
                    max_entry_bytes: max_bytes,
                    ..TarLimits::default()
                };
                let stream = blob()?.sequential(runtime.clone(), TAR_CHUNK, 1);
                for sample in TarReader::detect(stream, limits) {
                    match sample.map_err(|error| describe(&error))? {
                        TarItem::Sample { key, bytes, .. } if key == inside => {
                            return Ok(Some(bytes.into()));
                        }
                        _ => {}
                    }
                }
                Ok(None)
            }
            ItemKind::Rows { row_group, .. } => {
                let input = BlobTable::new(&blob()?, runtime.clone(), TABLE_BYTES);
                let columns = table_columns(&self.record().pipeline.source);
                let table = ImageTable::open(Arc::new(input), &columns);
                let table = table.map_err(|error| describe(&error))?;
                for row in table.read(row_group as usize, max_bytes) {
                    match row.map_err(|error| describe(&error))? {
                        TableItem::Sample {
                            row, key, bytes, ..
                        } if row_key(row, &key) == inside => {
                            return Ok(Some(bytes.into()));
                        }
                        _ => {}
                    }
                }
                Ok(None)
            }
        }
    }
}

/// Whether an item is, or may hold, the image of that key.
fn holds(item: &Item, key: &str) -> bool {
    match item.kind {
        ItemKind::Image => &*item.key == key,
        _ => key
            .strip_prefix(&*item.key)
            .is_some_and(|rest| rest.starts_with('/')),
    }
}

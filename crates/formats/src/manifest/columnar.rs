//! Parquet manifests, read by the crate that reads this crate's own tables: it knows every type other programs write.

use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;

use super::{Chunk, ManifestColumns, ManifestError, Places};
use crate::columns::with_views;

/// Rows decoded at once.
const ROWS_PER_BATCH: usize = 8192;

/// Most rows per byte of the file. Addresses differ, so that each takes a byte or more however well they are packed; a
/// damaged file may declare billions, all equal, in a kilobyte.
const MOST_ROWS_PER_BYTE: i64 = 16;

pub(super) fn read(file: Bytes, columns: &ManifestColumns) -> Result<Vec<Chunk>, ManifestError> {
    // Plain Parquet types only: other writers' Arrow hints (large strings, dictionaries) are not of the data.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = ArrowReaderMetadata::load(&file, options)?;
    let options = ArrowReaderOptions::new().with_schema(with_views(metadata.schema()));
    let metadata = ArrowReaderMetadata::try_new(metadata.metadata().clone(), options)?;
    let places = Places::find(metadata.schema().fields(), columns)?;
    let all = places.all();
    let schema = metadata.metadata().file_metadata().schema_descr();
    let declared = metadata.metadata().file_metadata().num_rows();
    let most = MOST_ROWS_PER_BYTE.saturating_mul(file.len() as i64);
    if declared > most {
        return Err(ManifestError::Damaged {
            detail: format!("{declared} rows are declared in {} bytes", file.len()),
        });
    }
    let mask = ProjectionMask::roots(schema, all.iter().copied());
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
        .with_projection(mask)
        .with_batch_size(ROWS_PER_BATCH)
        .build()?;

    let mut chunks = Vec::new();
    let mut rows = 0;
    for batch in reader {
        let batch = batch.map_err(ParquetError::from)?;
        let column = |place| {
            let position = all.binary_search(&place);
            batch
                .column(position.expect("every place is among all"))
                .clone()
        };
        chunks.push(Chunk::new(&places, column));
        rows += batch.num_rows() as i64;
        if rows > declared {
            break;
        }
    }
    if rows != declared {
        return Err(ManifestError::Damaged {
            detail: format!("{rows} rows were found where {declared} are declared"),
        });
    }
    Ok(chunks)
}

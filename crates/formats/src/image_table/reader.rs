//! A row group's rows, a few at a time.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BinaryViewArray, RecordBatch, StringViewArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use parquet::errors::ParquetError;

use super::input::Input;
use super::{ImageTableError, Places, TableItem, guarded};
use crate::annotations::AnnotationColumns;
use crate::columns::{is_text, text_at, texts};

/// Reads the images of a row group; see [`ImageTable::read`](super::ImageTable::read). After an error the iterator is finished.
pub struct TableReader {
    input: Input,
    /// `None` when the group, or an error, has been given.
    batches: Result<Option<ParquetRecordBatchReader>, ImageTableError>,
    places: Places,
    max_entry_bytes: u64,
    /// Rows that were decoded, and how many of them were given.
    batch: Option<(Columns, usize)>,
    /// Rows that are still to be decoded.
    rows_left: u64,
    /// The number of the next row, in the file.
    row: u64,
}

impl TableReader {
    /// `row` is the number of the group's first row in the file, `rows` how many it has.
    pub(super) fn new(
        input: Input,
        batches: Result<ParquetRecordBatchReader, ImageTableError>,
        places: Places,
        max_entry_bytes: u64,
        (row, rows): (u64, u64),
    ) -> Self {
        Self {
            input,
            batches: batches.map(Some),
            places,
            max_entry_bytes,
            batch: None,
            rows_left: rows,
            row,
        }
    }

    fn next_batch(&mut self) -> Result<Option<Columns>, ImageTableError> {
        let reader = std::mem::replace(&mut self.batches, Ok(None))?;
        let Some(mut reader) = reader else {
            return Ok(None);
        };
        let batch = guarded(&self.input, || {
            let batch = reader.next().transpose().map_err(ParquetError::from)?;
            Ok(batch.map(|batch| Columns::new(&batch, self.places)))
        })?;
        let rows = batch.as_ref().map_or(0, |batch| batch.rows as u64);
        // A page that lost rows would give the ones behind it other numbers.
        if rows > self.rows_left || (batch.is_none() && self.rows_left > 0) {
            let detail = format!(
                "a row group has {rows} more rows where {} are declared",
                self.rows_left
            );
            return Err(ImageTableError::Damaged { detail });
        }
        self.rows_left -= rows;
        if batch.is_some() {
            self.batches = Ok(Some(reader));
        }
        Ok(batch)
    }

    fn next_item(&mut self) -> Result<Option<TableItem>, ImageTableError> {
        loop {
            if let Some((columns, given)) = &mut self.batch
                && *given < columns.rows
            {
                let item = columns.item(*given, self.row, self.max_entry_bytes);
                *given += 1;
                self.row += 1;
                return Ok(Some(item));
            }
            // The old batch's pages go before the next one's come.
            self.batch = None;
            let Some(columns) = self.next_batch()? else {
                return Ok(None);
            };
            self.batch = Some((columns, 0));
        }
    }
}

impl Iterator for TableReader {
    type Item = Result<TableItem, ImageTableError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_item().transpose()
    }
}

/// The columns of a few rows.
struct Columns {
    rows: usize,
    /// Of a Hugging Face struct: whether it is there at all.
    image: ArrayRef,
    bytes: BinaryViewArray,
    path: Option<StringViewArray>,
    key: Option<StringViewArray>,
    caption: Option<StringViewArray>,
    annotations: AnnotationColumns,
}

impl Columns {
    fn new(batch: &RecordBatch, places: Places) -> Self {
        let all = places.all();
        let column = |place: usize| {
            let position = all.binary_search(&place);
            batch.column(position.expect("every place is among all"))
        };
        let text = |place: Option<usize>| place.map(|place| texts(column(place)));
        let image = column(places.image);
        let (bytes, path) = match image.as_struct_opt() {
            Some(image) => (image.column_by_name("bytes"), image.column_by_name("path")),
            None => (Some(image), None),
        };
        let path = path.filter(|path| is_text(path.data_type()));
        Self {
            rows: batch.num_rows(),
            image: image.clone(),
            bytes: bytes
                .expect("the image column's type was checked")
                .as_binary_view()
                .clone(),
            path: path.map(texts),
            key: text(places.key),
            caption: text(places.caption),
            annotations: AnnotationColumns::new(places.annotations, |place| column(place).clone()),
        }
    }

    /// The image of a row of this batch, which is `row` of the file.
    fn item(&self, at: usize, row: u64, max_entry_bytes: u64) -> TableItem {
        let key = text_at(self.key.as_ref(), at)
            .or_else(|| text_at(self.path.as_ref(), at).filter(|_| self.image.is_valid(at)));
        let key = key.map_or_else(|| format!("{row:08}"), str::to_owned);
        let rejected = |key, reason, detail| TableItem::Rejected {
            row,
            key,
            reason,
            detail,
        };
        if self.image.is_null(at) || self.bytes.is_null(at) {
            let detail = match text_at(self.path.as_ref(), at) {
                Some(path) => format!("the row holds no image, only its path {path:?}"),
                None => "the row holds no image".to_owned(),
            };
            return rejected(key, "no_bytes", detail);
        }
        let bytes = self.bytes.value(at);
        if bytes.len() as u64 > max_entry_bytes {
            let detail = format!(
                "{} bytes, at most {max_entry_bytes} are allowed",
                bytes.len()
            );
            return rejected(key, "entry_too_large", detail);
        }
        match self.annotations.row(at) {
            Err(bad) => rejected(key, bad.reason, bad.detail),
            Ok(annotations) => TableItem::Sample {
                row,
                key,
                bytes: bytes.to_vec(),
                caption: text_at(self.caption.as_ref(), at).map(str::to_owned),
                boxes: annotations.boxes,
                labels: annotations.labels,
                scores: annotations.scores,
                points: annotations.points,
            },
        }
    }
}

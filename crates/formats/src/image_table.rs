//! Parquet files that hold images: Hugging Face datasets, img2dataset shards, or a plain column of bytes.
//!
//! ```text
//! image    struct{bytes binary, path utf8} | binary
//! key      utf8 | integer, else the struct's path, else the row's number
//! caption  utf8
//! boxes    list<list<number>> | list<number> | utf8 with JSON: [[x0, y0, x1, y1], ..] in pixels
//! labels   list<utf8> | utf8: a JSON list, or one label; only if named
//! scores   list<number> | number | utf8 with JSON: one per box; only if named
//! points   list<list<number>> | utf8 with JSON: [[x, y], ..] or [[x, y, label], ..] in pixels; only if named
//! ```
//! A file is read by row groups, and a row group a few rows at a time: what is held is the pages of those rows, not the
//! group. A page is at most 2 GiB, and usually 1 MiB or one image.

mod input;
mod reader;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::sync::Arc;

use arrow_schema::{DataType, FieldRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};

use self::input::Input;
pub use self::input::ReadAt;
pub use self::reader::TableReader;
use crate::annotations::{AnnotationNames, AnnotationPlaces};
pub use crate::columns::ColumnError;
use crate::columns::{CAPTION_NAMES, KEY_NAMES, Wanted, is_text, list, with_views};
use crate::panics::caught;

/// Names under which an image column is looked for.
const IMAGE_NAMES: &[&str] = &[
    "image",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "img",
    "bytes",
    "image_bytes",
    "content",
];

/// Rows decoded at once.
const ROWS_PER_BATCH: usize = 16;

/// Row groups whose rows have more bytes than this on average are decoded row by row.
const LARGE_ROW_BYTES: u64 = 4 << 20;

/// The columns to read; one without a name is looked for under the usual names, if it has any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageTableColumns {
    /// The image files: `image`, `jpg`, `png`, .. by default, else the one column that can hold images.
    pub image: Option<String>,
    /// The images' keys: `key`, `id`, .. by default.
    pub key: Option<String>,
    /// Captions: `caption` or `text` by default.
    pub caption: Option<String>,
    /// Boxes: `boxes`, `bboxes` or `bbox` by default.
    pub boxes: Option<String>,
    /// Labels: only if named.
    pub labels: Option<String>,
    /// Scores of the boxes: only if named.
    pub scores: Option<String>,
    /// Points: only if named.
    pub points: Option<String>,
}

/// A part of a file that is read on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowGroup {
    /// Its number of rows.
    pub rows: u64,
    /// Bytes of the columns that are read, as they are in the file.
    pub bytes: u64,
}

/// An image of a table, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum TableItem {
    /// An image file, not decoded yet.
    Sample {
        /// The row's number in the file, from 0.
        row: u64,
        /// The image's key, which other rows may have too.
        key: String,
        /// The file's bytes.
        bytes: Vec<u8>,
        /// The image's caption.
        caption: Option<String>,
        /// Boxes `[x0, y0, x1, y1]`, in pixels.
        boxes: Option<Vec<[f64; 4]>>,
        /// Labels, none of them empty.
        labels: Option<Vec<String>>,
        /// The scores of the boxes, one for each.
        scores: Option<Vec<f32>>,
        /// Points `[x, y, label]`, in pixels; the label is 1 on the object and 0 beside it.
        points: Option<Vec<[f64; 3]>>,
    },
    /// A row that gives no image.
    Rejected {
        /// The row's number in the file, from 0.
        row: u64,
        /// The image's key, which other rows may have too.
        key: String,
        /// A stable code: `no_bytes`, `entry_too_large`, `bad_boxes`, `bad_labels`, `bad_scores` or `bad_points`.
        reason: &'static str,
        /// The reason in words.
        detail: String,
    },
}

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageTableError {
    /// The file could not be read; trying again may help.
    #[error("reading the Parquet file failed at byte {offset}")]
    Io {
        /// Where the read that failed began.
        offset: u64,
        /// What kept it from being read.
        #[source]
        source: io::Error,
    },
    /// The file is not Parquet, or is damaged.
    #[error("the Parquet file cannot be read: it is damaged, or of a kind that is not supported")]
    Parquet(#[from] ParquetError),
    /// The file is damaged in a way that was found while decoding it.
    #[error("the Parquet file is damaged: {detail}")]
    Damaged {
        /// What was found.
        detail: String,
    },
    /// The columns are not the ones expected.
    #[error("the Parquet file's columns cannot be used")]
    Column(#[from] ColumnError),
    /// There are several columns that may hold images.
    #[error("several columns may hold the images; name one of {columns}")]
    SeveralImageColumns {
        /// Their names.
        columns: String,
    },
    /// The file has no such row group: it is not the file that was planned.
    #[error("there is no row group {row_group}, the file has {row_groups}; was it replaced?")]
    NoSuchRowGroup {
        /// The row group asked for, from 0.
        row_group: usize,
        /// The row groups there are.
        row_groups: usize,
    },
}

impl ImageTableError {
    /// The failure of the file under the table, if that is why it could not be read: not damage, but a network.
    pub fn io_error(&self) -> Option<&io::Error> {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref() {
                return Some(error);
            }
            cause = error.source();
        }
        None
    }
}

/// A Parquet file of images. Holds its metadata alone.
pub struct ImageTable {
    file: Arc<dyn ReadAt>,
    metadata: ArrowReaderMetadata,
    places: Places,
    row_groups: Vec<RowGroup>,
}

/// Where the columns are among the file's.
#[derive(Debug, Clone, Copy)]
struct Places {
    image: usize,
    key: Option<usize>,
    caption: Option<usize>,
    annotations: AnnotationPlaces,
}

impl ImageTable {
    /// Reads the end of a file, where its layout is described.
    ///
    /// # Errors
    /// [`ImageTableError`] if it is not a Parquet file with a column of images, or could not be read.
    pub fn open(
        file: Arc<dyn ReadAt>,
        columns: &ImageTableColumns,
    ) -> Result<Self, ImageTableError> {
        let input = Input::new(file.clone(), vec![]);
        guarded(&input, || Self::open_input(file, input.clone(), columns))
    }

    fn open_input(
        file: Arc<dyn ReadAt>,
        input: Input,
        columns: &ImageTableColumns,
    ) -> Result<Self, ImageTableError> {
        // Plain Parquet types only: other writers' Arrow hints (large strings, dictionaries) are not of the data.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&input, options)?;
        let options = ArrowReaderOptions::new().with_schema(with_views(metadata.schema()));
        let metadata = ArrowReaderMetadata::try_new(metadata.metadata().clone(), options)?;
        let places = Places::find(metadata.schema().fields(), columns)?;
        let row_groups = metadata.metadata().row_groups();
        let row_groups: Result<_, _> = row_groups.iter().map(|group| places.size(group)).collect();
        Ok(Self {
            file,
            places,
            row_groups: row_groups?,
            metadata,
        })
    }

    /// The row groups, in order.
    pub fn row_groups(&self) -> Vec<RowGroup> {
        self.row_groups.clone()
    }

    /// The images of one row group, in order. A file of more than `max_entry_bytes` is rejected.
    pub fn read(&self, row_group: usize, max_entry_bytes: u64) -> TableReader {
        let before = self.row_groups.iter().take(row_group);
        let row = before.map(|group| group.rows).sum();
        let group = self.row_groups.get(row_group);
        let ends = match self.metadata.metadata().row_groups().get(row_group) {
            Some(group) => self.places.ends(group),
            None => vec![],
        };
        let input = Input::new(self.file.clone(), ends);
        let batches = guarded(&input, || self.batches(row_group, input.clone()));
        let rows = group.map_or(0, |group| group.rows);
        TableReader::new(input, batches, self.places, max_entry_bytes, (row, rows))
    }

    fn batches(
        &self,
        row_group: usize,
        input: Input,
    ) -> Result<ParquetRecordBatchReader, ImageTableError> {
        let group = self.metadata.metadata().row_groups().get(row_group);
        let group = group.ok_or(ImageTableError::NoSuchRowGroup {
            row_group,
            row_groups: self.row_groups.len(),
        })?;
        let bytes: u64 = self
            .places
            .chunks(group)
            .map(|chunk| u64::try_from(chunk.uncompressed_size()).unwrap_or(0))
            .fold(0, u64::saturating_add);
        let rows_per_batch = match bytes / self.row_groups[row_group].rows.max(1) {
            LARGE_ROW_BYTES.. => 1,
            _ => ROWS_PER_BATCH,
        };
        let schema = self.metadata.metadata().file_metadata().schema_descr();
        let mask = ProjectionMask::roots(schema, self.places.all());
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(input, self.metadata.clone())
                .with_row_groups(vec![row_group])
                .with_projection(mask)
                .with_batch_size(rows_per_batch);
        Ok(builder.build()?)
    }
}

impl Places {
    fn find(fields: &[FieldRef], columns: &ImageTableColumns) -> Result<Self, ImageTableError> {
        let wanted = |named, known, usable, expected| Wanted {
            named,
            known,
            usable,
            expected,
        };
        let image = wanted(
            columns.image.as_deref(),
            IMAGE_NAMES,
            is_image,
            "binary or struct{bytes binary, path utf8}",
        );
        let text = |named, known| wanted(named, known, is_text, "text or integers");
        let key = text(columns.key.as_deref(), KEY_NAMES);
        let caption = text(columns.caption.as_deref(), CAPTION_NAMES);
        let annotations = AnnotationNames {
            boxes: columns.boxes.as_deref(),
            labels: columns.labels.as_deref(),
            scores: columns.scores.as_deref(),
            points: columns.points.as_deref(),
        };
        let image = match image.find(fields)? {
            Some(image) => image,
            None => only_image(fields)?,
        };
        Ok(Self {
            image,
            key: key.find(fields)?,
            caption: caption.find(fields)?,
            annotations: AnnotationPlaces::find(fields, annotations)?,
        })
    }

    /// In the order of the file, in which batches have them.
    fn all(&self) -> Vec<usize> {
        let others = [self.key, self.caption].into_iter().flatten();
        let mut all: Vec<usize> = others
            .chain(self.annotations.all())
            .chain([self.image])
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The parts of a row group that are read. A struct or a list may have several.
    fn chunks<'a>(
        &self,
        group: &'a RowGroupMetaData,
    ) -> impl Iterator<Item = &'a ColumnChunkMetaData> {
        let all = self.all();
        let schema = group.schema_descr_ptr();
        let chunks = group.columns().iter().enumerate();
        chunks
            .filter(move |(leaf, _)| all.contains(&schema.get_column_root_idx(*leaf)))
            .map(|(_, chunk)| chunk)
    }

    fn size(&self, group: &RowGroupMetaData) -> Result<RowGroup, ImageTableError> {
        let damaged = |what, value: i64| ImageTableError::Damaged {
            detail: format!("a row group has {value} {what}"),
        };
        let mut bytes = 0_u64;
        for chunk in self.chunks(group) {
            let size = chunk.compressed_size();
            let size = u64::try_from(size).map_err(|_| damaged("bytes", size))?;
            bytes = bytes.saturating_add(size);
        }
        let rows = group.num_rows();
        Ok(RowGroup {
            rows: u64::try_from(rows).map_err(|_| damaged("rows", rows))?,
            bytes,
        })
    }

    /// Where the parts that are read end, in order.
    fn ends(&self, group: &RowGroupMetaData) -> Vec<u64> {
        let end = |chunk: &ColumnChunkMetaData| {
            let start = chunk
                .dictionary_page_offset()
                .unwrap_or(chunk.data_page_offset());
            u64::try_from(start.saturating_add(chunk.compressed_size())).ok()
        };
        let mut ends: Vec<u64> = self.chunks(group).filter_map(end).collect();
        ends.sort_unstable();
        ends
    }
}

fn is_image(column: &DataType) -> bool {
    match column {
        DataType::BinaryView => true,
        DataType::Struct(fields) => fields
            .iter()
            .any(|field| field.name() == "bytes" && *field.data_type() == DataType::BinaryView),
        _ => false,
    }
}

fn only_image(fields: &[FieldRef]) -> Result<usize, ImageTableError> {
    let places: Vec<usize> = (0..fields.len())
        .filter(|place| is_image(fields[*place].data_type()))
        .collect();
    match places[..] {
        [place] => Ok(place),
        [] => Err(ImageTableError::Column(ColumnError::Unknown {
            what: "images (binary or struct{bytes binary, path utf8})",
            columns: list(fields),
        })),
        _ => {
            let several: Vec<FieldRef> =
                places.iter().map(|&place| fields[place].clone()).collect();
            Err(ImageTableError::SeveralImageColumns {
                columns: list(&several),
            })
        }
    }
}

/// Puts the file's own failure in the place of what the Parquet reader made of it, and a panic on damaged bytes
/// among the errors.
fn guarded<T>(
    input: &Input,
    read: impl FnOnce() -> Result<T, ImageTableError>,
) -> Result<T, ImageTableError> {
    let result = caught(read).unwrap_or_else(|detail| Err(ImageTableError::Damaged { detail }));
    match (result, input.take_failure()) {
        (Err(_), Some((offset, source))) => Err(ImageTableError::Io { offset, source }),
        (result, _) => result,
    }
}

//! Lists of images: Parquet, CSV or JSON lines with an address per row.
//!
//! ```text
//! uri      text
//! key      text | integer                                        optional
//! caption  text                                                  optional
//! boxes    list<list<number>> | list<number> | text with JSON:   optional
//!          [[x0, y0, x1, y1], ..] in pixels
//! labels   list<text> | text: a JSON list, or one label          only if named
//! scores   list<number> | number | text with JSON: one per box   only if named
//! points   list<list<number>> | text with JSON: [[x, y], ..]     only if named
//!          or [[x, y, label], ..] in pixels
//! bytes    integer: the file's length, a hint                    optional
//! ```
//! Only these columns are decoded, and a row costs little more than its text: a million rows of 70 bytes take some 100 MB
//! beyond their file. CSV and JSON lines are parsed by Polars. A file that cannot be read is one error; a row that cannot be used
//! is a [`ManifestReject`] in its place, so that no row vanishes.

mod columnar;
mod csv;
mod json_lines;
#[cfg(test)]
mod tests;
mod text;

use arrow_array::{Array, ArrayRef, StringViewArray, UInt64Array};
use arrow_schema::FieldRef;
use bytes::Bytes;
use parquet::errors::ParquetError;

use crate::annotations::{AnnotationColumns, AnnotationNames, AnnotationPlaces};
pub use crate::columns::ColumnError;
use crate::columns::{CAPTION_NAMES, KEY_NAMES, Wanted, is_text, list, text_at, texts};
use crate::panics::caught;

/// Names under which an address is looked for.
const URI_NAMES: &[&str] = &[
    "uri",
    "url",
    "image_uri",
    "image_url",
    "path",
    "image_path",
    "file_name",
    "filename",
    "image",
];

/// Names under which a length is looked for.
const BYTES_NAMES: &[&str] = &["bytes", "size", "file_size"];

/// How a manifest is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ManifestFormat {
    /// Apache Parquet.
    Parquet,
    /// A header, then a line per image. The separator (comma, tab or semicolon) is the one in the header.
    Csv,
    /// One JSON object per line.
    JsonLines,
}

impl ManifestFormat {
    /// The format of a file of this name: `.parquet`, `.pq`, `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.json`, in any
    /// case. Compressed files (`.csv.gz`) are not read.
    pub fn of_name(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "parquet" | "pq" => Some(Self::Parquet),
            "csv" | "tsv" => Some(Self::Csv),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// The columns to read; one without a name is looked for under the usual names, in any case, if it has any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManifestColumns {
    /// Addresses: `uri`, `url`, `path`, `file_name`, .. by default.
    pub uri: Option<String>,
    /// Keys: `key`, `id`, `image_key` or `image_id` by default.
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
    /// Lengths: `bytes`, `size` or `file_size` by default.
    pub bytes: Option<String>,
}

/// An image of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestRow<'a> {
    /// The row, from 0; a header does not count, nor do blank lines between JSON lines.
    pub row: usize,
    /// Where the image is, never empty.
    pub uri: &'a str,
    /// Its key, if there is one.
    pub key: Option<&'a str>,
    /// Its caption, if there is one.
    pub caption: Option<&'a str>,
    /// Its boxes `[x0, y0, x1, y1]`, in pixels.
    pub boxes: Option<Vec<[f64; 4]>>,
    /// Its labels, none of them empty.
    pub labels: Option<Vec<String>>,
    /// The scores of its boxes, one for each.
    pub scores: Option<Vec<f32>>,
    /// Its points `[x, y, label]`, in pixels; the label is 1 on the object and 0 beside it.
    pub points: Option<Vec<[f64; 3]>>,
    /// Its length; `None` for what is not a whole number.
    pub bytes: Option<u64>,
}

/// A row of a manifest that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {row} of the manifest: {detail}")]
pub struct ManifestReject {
    /// The row, from 0; a header does not count, nor do blank lines between JSON lines.
    pub row: usize,
    /// The image's key, if there is one.
    pub key: Option<String>,
    /// A stable code: `no_uri`, `bad_boxes`, `bad_labels`, `bad_scores` or `bad_points`.
    pub reason: &'static str,
    /// The reason in words.
    pub detail: String,
}

/// Why a manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The columns are not the ones expected.
    #[error("the manifest's columns cannot be used")]
    Column(#[from] ColumnError),
    /// A CSV or JSON lines file that is damaged or not one.
    #[error("the {format} manifest cannot be read: {detail}")]
    Text {
        /// `CSV` or `JSON lines`.
        format: &'static str,
        /// What is wrong, and in which line.
        detail: String,
    },
    /// Not a Parquet file, or a damaged one.
    #[error(
        "the Parquet manifest cannot be read: it is damaged, or of a kind that is not supported"
    )]
    Parquet(#[from] ParquetError),
    /// The file is damaged in a way that was found while decoding it.
    #[error("the manifest is damaged: {detail}")]
    Damaged {
        /// What was found.
        detail: String,
    },
}

/// A list of images in memory.
#[derive(Debug)]
pub struct Manifest {
    chunks: Vec<Chunk>,
}

impl Manifest {
    /// Reads a whole manifest. No rows make a valid, empty one.
    ///
    /// # Errors
    /// [`ManifestError`] if the file cannot be read, or has no column of addresses, or lacks a column of `columns`.
    pub fn read(
        file: Bytes,
        format: ManifestFormat,
        columns: &ManifestColumns,
    ) -> Result<Self, ManifestError> {
        let read = || match format {
            ManifestFormat::Parquet => columnar::read(file, columns),
            ManifestFormat::Csv => csv::read(&file, columns),
            ManifestFormat::JsonLines => json_lines::read(&file, columns),
        };
        let chunks =
            caught(read).unwrap_or_else(|detail| Err(ManifestError::Damaged { detail }))?;
        Ok(Self { chunks })
    }

    /// Number of rows, rejected ones included.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.uri.len()).sum()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows in order, each of them an image or the reason why it is none.
    pub fn rows(&self) -> impl Iterator<Item = Result<ManifestRow<'_>, ManifestReject>> {
        let rows = self.chunks.iter().flat_map(|chunk| {
            let rows = 0..chunk.uri.len();
            rows.map(move |at| (chunk, at))
        });
        rows.enumerate()
            .map(|(row, (chunk, at))| chunk.row(at, row))
    }

    /// Gives `each` the rows in order, as [`rows`](Self::rows) does, and frees them on the way: whoever turns a list
    /// into another does not hold both.
    pub fn drain(self, mut each: impl FnMut(Result<ManifestRow<'_>, ManifestReject>)) {
        let mut row = 0;
        for chunk in self.chunks {
            for at in 0..chunk.uri.len() {
                each(chunk.row(at, row));
                row += 1;
            }
        }
    }
}

/// Some rows' columns.
#[derive(Debug)]
struct Chunk {
    uri: StringViewArray,
    key: Option<StringViewArray>,
    caption: Option<StringViewArray>,
    annotations: AnnotationColumns,
    bytes: Option<UInt64Array>,
}

impl Chunk {
    /// `column` gives the column at a place among the file's.
    fn new(places: &Places, column: impl Fn(usize) -> ArrayRef) -> Self {
        Self {
            uri: texts(&column(places.uri)),
            key: places.key.map(|place| texts(&column(place))),
            caption: places.caption.map(|place| texts(&column(place))),
            annotations: AnnotationColumns::new(places.annotations, &column),
            bytes: places.bytes.map(|place| lengths(&column(place))),
        }
    }

    /// The image at a place in this chunk, which is `row` of the file.
    fn row(&self, at: usize, row: usize) -> Result<ManifestRow<'_>, ManifestReject> {
        let key = text_at(self.key.as_ref(), at);
        let reject = |reason, detail| ManifestReject {
            row,
            key: key.map(str::to_owned),
            reason,
            detail,
        };
        let uri = text_at(Some(&self.uri), at)
            .ok_or_else(|| reject("no_uri", "the image's address is missing".to_owned()))?;
        let annotations = self.annotations.row(at);
        let annotations = annotations.map_err(|bad| reject(bad.reason, bad.detail))?;
        let bytes = self.bytes.as_ref().filter(|bytes| bytes.is_valid(at));
        Ok(ManifestRow {
            row,
            uri,
            key,
            caption: text_at(self.caption.as_ref(), at),
            boxes: annotations.boxes,
            labels: annotations.labels,
            scores: annotations.scores,
            points: annotations.points,
            bytes: bytes.map(|bytes| bytes.value(at)),
        })
    }
}

/// Lengths as whole numbers: also those that pandas made `1234.0` of because others are missing.
fn lengths(column: &ArrayRef) -> UInt64Array {
    let length = |text: &str| {
        let whole = text.strip_suffix(".0").unwrap_or(text);
        whole.parse().ok()
    };
    texts(column)
        .iter()
        .map(|text| text.and_then(length))
        .collect()
}

/// Where the columns are among the file's.
#[derive(Debug, Clone, Copy)]
struct Places {
    uri: usize,
    key: Option<usize>,
    caption: Option<usize>,
    annotations: AnnotationPlaces,
    bytes: Option<usize>,
}

impl Places {
    fn find(fields: &[FieldRef], columns: &ManifestColumns) -> Result<Self, ColumnError> {
        let text = |named: &Option<String>, known| {
            let wanted = Wanted {
                named: named.as_deref(),
                known,
                usable: is_text,
                expected: "text or integers",
            };
            wanted.find(fields)
        };
        let annotations = AnnotationNames {
            boxes: columns.boxes.as_deref(),
            labels: columns.labels.as_deref(),
            scores: columns.scores.as_deref(),
            points: columns.points.as_deref(),
        };
        let uri = text(&columns.uri, URI_NAMES)?.ok_or_else(|| ColumnError::Unknown {
            what: "the images' addresses",
            columns: list(fields),
        })?;
        Ok(Self {
            uri,
            key: text(&columns.key, KEY_NAMES)?,
            caption: text(&columns.caption, CAPTION_NAMES)?,
            annotations: AnnotationPlaces::find(fields, annotations)?,
            bytes: text(&columns.bytes, BYTES_NAMES)?,
        })
    }

    /// In the order of the file.
    fn all(&self) -> Vec<usize> {
        let others = [self.key, self.caption, self.bytes].into_iter().flatten();
        let mut all: Vec<usize> = others
            .chain(self.annotations.all())
            .chain([self.uri])
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

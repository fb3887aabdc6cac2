//! A plan's items as a Parquet table: what each shard is made of, frozen before the first shard runs.
//!
//! ```text
//! shard int64, key utf8, uri utf8?, bytes int64, etag utf8?, kind utf8, row_group int64?, rows int64?,
//! reason utf8?, detail utf8?, caption utf8?, boxes list<list<double>>? [[x0, y0, x1, y1], ..],
//! labels list<utf8>?, scores list<float>?, points list<list<double>>? [[x, y, label], ..]
//! ```
//! Columns may be added at the end, nullable: a plan without them is read as if they were null.
//! Rows keep their order, and the same rows always give the same bytes: a digest of the file names the plan.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

use crate::rows::read::{Table, guarded, meta, open};
use crate::rows::schema::list_of;
use crate::rows::table::{
    TableWriter, float_lists, integers, optional_integers, optional_strings,
    optional_wide_integers, string_lists, strings, to_parquet, vector_lists, wide_integers,
};
use crate::rows::{ParquetMeta, RowsError};

/// One item of a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRow {
    /// The shard it belongs to.
    pub shard: u32,
    /// The key of an image, or the name of what holds several.
    pub key: String,
    /// Where it is; none for an item that was rejected before it had an address.
    pub uri: Option<String>,
    /// Its length; 0 if it is not known.
    pub bytes: u64,
    /// The version the store gave it when the plan was made.
    pub etag: Option<String>,
    /// What it is.
    pub kind: PlanRowKind,
    /// Why it was rejected while planning: a stable code such as `no_uri`.
    pub reason: Option<String>,
    /// Why it was rejected, in words.
    pub detail: Option<String>,
    /// What the image's source says of it.
    pub caption: Option<String>,
    /// The boxes `[x0, y0, x1, y1]` that came with the image, in pixels.
    pub boxes: Option<Vec<[f64; 4]>>,
    /// The labels that came with the image.
    pub labels: Option<Vec<String>>,
    /// The scores of the boxes.
    pub scores: Option<Vec<f32>>,
    /// The points `[x, y, label]` that came with the image, in pixels; the label is 1 on the object and 0 beside it.
    pub points: Option<Vec<[f64; 3]>>,
}

/// What an item of a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlanRowKind {
    /// One image file.
    Image,
    /// A tar file of images.
    Tar,
    /// A row group of a Parquet file that holds images.
    Rows {
        /// The row group's place in its file, from 0.
        row_group: u32,
        /// Its number of rows.
        rows: u64,
    },
}

impl PlanRowKind {
    /// The column's value: `image`, `tar` or `rows`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Tar => "tar",
            Self::Rows { .. } => "rows",
        }
    }

    fn row_group(self) -> Option<u32> {
        match self {
            Self::Rows { row_group, .. } => Some(row_group),
            Self::Image | Self::Tar => None,
        }
    }

    fn rows(self) -> Option<u64> {
        match self {
            Self::Rows { rows, .. } => Some(rows),
            Self::Image | Self::Tar => None,
        }
    }
}

/// The plan table of `rows`, as a Parquet file compressed with zstd. No rows make a valid, empty table.
///
/// # Errors
/// [`RowsError::BadValue`] for numbers over 2^63.
pub fn plan_rows_to_parquet(rows: &[PlanRow], meta: &ParquetMeta) -> Result<Vec<u8>, RowsError> {
    to_parquet(schema(), rows, meta, batch)
}

/// Writes a plan table as its rows appear, holding them compressed: a row in memory takes some 300 bytes, in the file
/// 20. Gives the bytes of [`plan_rows_to_parquet`].
#[derive(Debug)]
pub struct PlanWriter(TableWriter<PlanRow>);

impl PlanWriter {
    /// An empty table.
    ///
    /// # Errors
    /// [`RowsError::Parquet`] if the schema cannot be written, which would be a bug.
    pub fn new(meta: &ParquetMeta) -> Result<Self, RowsError> {
        TableWriter::new(schema(), meta, batch).map(Self)
    }

    /// Appends a row.
    ///
    /// # Errors
    /// [`RowsError::BadValue`] for numbers over 2^63.
    pub fn push(&mut self, row: PlanRow) -> Result<(), RowsError> {
        self.0.push(row)
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.0.rows()
    }

    /// The finished file.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(self) -> Result<Vec<u8>, RowsError> {
        self.0.finish()
    }
}

/// All rows of a plan table, in order, and what the file says of its origin.
///
/// # Errors
/// [`RowsError`] if `file` is not such a table.
pub fn read_plan_rows(file: Bytes) -> Result<(Vec<PlanRow>, ParquetMeta), RowsError> {
    let reader = PlanReader::open(file)?;
    let meta = reader.meta().clone();
    Ok((reader.collect::<Result<_, _>>()?, meta))
}

/// Reads the rows of a plan table one at a time, in order. After an error the iterator is finished.
pub struct PlanReader {
    meta: ParquetMeta,
    /// `None` when all batches, or an error, have been given.
    batches: Option<ParquetRecordBatchReader>,
    table: Option<Table>,
    /// The next row of `table`.
    row: usize,
    /// Rows of the tables before.
    rows_before: usize,
}

impl PlanReader {
    /// Opens a plan table.
    ///
    /// # Errors
    /// [`RowsError`] if `file` is not such a table.
    pub fn open(file: Bytes) -> Result<Self, RowsError> {
        let (meta, batches) =
            guarded(|| Ok((meta(file.clone())?, open(file, "plan", &schema())?)))?;
        Ok(Self {
            meta,
            batches: Some(batches),
            table: None,
            row: 0,
            rows_before: 0,
        })
    }

    /// What the file says of its origin.
    pub fn meta(&self) -> &ParquetMeta {
        &self.meta
    }

    fn next_row(&mut self) -> Result<Option<PlanRow>, RowsError> {
        loop {
            if let Some(table) = &self.table {
                if self.row < table.rows() {
                    let row = plan_row(table, self.row)?;
                    self.row += 1;
                    return Ok(Some(row));
                }
                self.rows_before += table.rows();
            }
            self.row = 0;
            self.table = None;
            let Some(batches) = &mut self.batches else {
                return Ok(None);
            };
            let Some(batch) = guarded(|| Ok(batches.next().transpose()?))? else {
                return Ok(None);
            };
            self.table = Some(Table::new(batch, self.rows_before));
        }
    }
}

impl Iterator for PlanReader {
    type Item = Result<PlanRow, RowsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row().transpose();
        if !matches!(row, Some(Ok(_))) {
            self.batches = None;
            self.table = None;
        }
        row
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("shard", DataType::Int64, false),
        Field::new("key", DataType::Utf8, false),
        Field::new("uri", DataType::Utf8, true),
        Field::new("bytes", DataType::Int64, false),
        Field::new("etag", DataType::Utf8, true),
        Field::new("kind", DataType::Utf8, false),
        Field::new("row_group", DataType::Int64, true),
        Field::new("rows", DataType::Int64, true),
        Field::new("reason", DataType::Utf8, true),
        Field::new("detail", DataType::Utf8, true),
        Field::new("caption", DataType::Utf8, true),
        Field::new("boxes", list_of(list_of(DataType::Float64)), true),
        Field::new("labels", list_of(DataType::Utf8), true),
        Field::new("scores", list_of(DataType::Float32), true),
        Field::new("points", list_of(list_of(DataType::Float64)), true),
    ]))
}

fn batch(rows: &[PlanRow], first_row: usize) -> Result<RecordBatch, RowsError> {
    let columns = vec![
        integers(rows, |row| row.shard),
        strings(rows, |row| row.key.as_str()),
        optional_strings(rows, |row| row.uri.as_deref()),
        wide_integers(rows, first_row, "bytes", |row| row.bytes)?,
        optional_strings(rows, |row| row.etag.as_deref()),
        strings(rows, |row| row.kind.as_str()),
        optional_integers(rows, |row| row.kind.row_group()),
        optional_wide_integers(rows, first_row, "rows", |row| row.kind.rows())?,
        optional_strings(rows, |row| row.reason.as_deref()),
        optional_strings(rows, |row| row.detail.as_deref()),
        optional_strings(rows, |row| row.caption.as_deref()),
        vector_lists(rows, |row| row.boxes.as_deref()),
        string_lists(rows, |row| row.labels.as_deref()),
        float_lists(rows, |row| row.scores.as_deref()),
        vector_lists(rows, |row| row.points.as_deref()),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

fn plan_row(table: &Table, row: usize) -> Result<PlanRow, RowsError> {
    Ok(PlanRow {
        shard: table.number("shard", row)?,
        key: table.string("key", row)?.to_owned(),
        uri: table.optional_string("uri", row).map(str::to_owned),
        bytes: table.number("bytes", row)?,
        etag: table.optional_string("etag", row).map(str::to_owned),
        kind: kind(table, row)?,
        reason: table.optional_string("reason", row).map(str::to_owned),
        detail: table.optional_string("detail", row).map(str::to_owned),
        caption: table.optional_string("caption", row).map(str::to_owned),
        boxes: table.optional_vectors("boxes", row)?,
        labels: table.optional_strings("labels", row)?,
        scores: table.optional_floats("scores", row)?,
        points: table.optional_vectors("points", row)?,
    })
}

fn kind(table: &Table, row: usize) -> Result<PlanRowKind, RowsError> {
    match table.string("kind", row)? {
        "image" => Ok(PlanRowKind::Image),
        "tar" => Ok(PlanRowKind::Tar),
        "rows" => Ok(PlanRowKind::Rows {
            row_group: table.number("row_group", row)?,
            rows: table.number("rows", row)?,
        }),
        other => {
            let detail = format!("{other:?} is none of \"image\", \"tar\" and \"rows\"");
            Err(table.bad_value("kind", row, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(key: &str, kind: PlanRowKind) -> PlanRow {
        PlanRow {
            shard: 7,
            key: key.to_owned(),
            uri: Some(format!("s3://bucket/{key}")),
            bytes: 1_234,
            etag: Some("\"abc-2\"".to_owned()),
            kind,
            reason: None,
            detail: None,
            caption: None,
            boxes: None,
            labels: None,
            scores: None,
            points: None,
        }
    }

    fn meta() -> ParquetMeta {
        ParquetMeta {
            fingerprint: "f00d".to_owned(),
            entries: [("shards".to_owned(), "3".to_owned())].into(),
        }
    }

    fn round_trip(rows: &[PlanRow]) -> (Vec<PlanRow>, ParquetMeta) {
        let file = plan_rows_to_parquet(rows, &meta()).unwrap();
        assert_eq!(file, plan_rows_to_parquet(rows, &meta()).unwrap());
        read_plan_rows(file.into()).unwrap()
    }

    #[test]
    fn every_kind_comes_back_with_its_origin() {
        let rows = [
            row("b c/ü.jpg", PlanRowKind::Image),
            row("a.tar", PlanRowKind::Tar),
            row(
                "t.parquet",
                PlanRowKind::Rows {
                    row_group: 3,
                    rows: 1 << 40,
                },
            ),
            PlanRow {
                uri: None,
                bytes: 0,
                etag: None,
                reason: Some("no_uri".to_owned()),
                detail: Some("row 9 has no uri".to_owned()),
                caption: Some("two\nlines".to_owned()),
                boxes: Some(vec![[0.5, 1.0, 8.0, 6.0], [0.0; 4]]),
                labels: Some(vec!["a \"red\" car".to_owned(), String::new()]),
                scores: Some(vec![0.1, 1.0]),
                points: Some(vec![[7.5, 2.0, 1.0], [0.0; 3]]),
                ..row("row 9", PlanRowKind::Image)
            },
            PlanRow {
                boxes: Some(vec![]),
                labels: Some(vec![]),
                scores: Some(vec![]),
                points: Some(vec![]),
                ..row("no boxes", PlanRowKind::Image)
            },
        ];
        assert_eq!(round_trip(&rows), (rows.to_vec(), meta()));
        assert_eq!(round_trip(&[]), (vec![], meta()));
    }

    #[test]
    fn long_plans_are_written_and_read_row_by_row() {
        // Beyond a row group of the file, and a batch of the reader.
        let rows = |n: u32| PlanRow {
            shard: n / 100,
            ..row(&format!("{n}"), PlanRowKind::Image)
        };
        let count = 16 * 1024 + 7;
        let mut writer = PlanWriter::new(&meta()).unwrap();
        for n in 0..count {
            writer.push(rows(n)).unwrap();
        }
        assert_eq!(writer.rows(), count as usize);
        let file = writer.finish().unwrap();
        let all: Vec<PlanRow> = (0..count).map(rows).collect();
        assert!(file == plan_rows_to_parquet(&all, &meta()).unwrap());

        let mut reader = PlanReader::open(file.into()).unwrap();
        assert_eq!(*reader.meta(), meta());
        for n in 0..count {
            assert_eq!(reader.next().unwrap().unwrap(), rows(n));
        }
        assert!(reader.next().is_none());
    }

    #[test]
    fn a_row_at_fault_is_named_and_ends_the_reading() {
        let rows = vec![row("a", PlanRowKind::Tar); 1500];
        let good = batch(&rows, 0).unwrap();
        let mut columns = good.columns().to_vec();
        columns[5] = strings(&(0..1500).collect::<Vec<_>>(), |&n: &i32| {
            if n == 1400 { "zip" } else { "tar" }
        });
        let edited = RecordBatch::try_new(schema(), columns).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), schema(), None).unwrap();
        writer.write(&edited).unwrap();
        let mut reader = PlanReader::open(writer.into_inner().unwrap().into()).unwrap();
        let (good, bad): (Vec<_>, Vec<_>) = reader.by_ref().partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (1400, 1));
        let error = bad[0].as_ref().unwrap_err().to_string();
        assert!(error.starts_with("row 1400, column kind"), "{error}");
        assert!(reader.next().is_none());
    }

    #[test]
    fn kinds_that_no_maskmill_writes_are_refused() {
        let edited = |column: usize, value: arrow_array::ArrayRef| {
            let batch = batch(&[row("a", PlanRowKind::Tar)], 0).unwrap();
            let mut columns = batch.columns().to_vec();
            columns[column] = value;
            let batch = RecordBatch::try_new(schema(), columns).unwrap();
            let mut writer =
                parquet::arrow::ArrowWriter::try_new(Vec::new(), schema(), None).unwrap();
            writer.write(&batch).unwrap();
            let file = writer.into_inner().unwrap();
            read_plan_rows(file.into()).unwrap_err().to_string()
        };
        assert_eq!(
            edited(5, strings(&["zip"], |kind| *kind)),
            "row 0, column kind: \"zip\" is none of \"image\", \"tar\" and \"rows\""
        );
        assert_eq!(
            edited(5, strings(&["rows"], |kind| *kind)),
            "row 0, column row_group: is null"
        );
        assert_eq!(
            edited(0, integers(&[-1_i64], |shard| *shard)),
            "row 0, column shard: -1 is outside the range of u32"
        );
    }

    #[test]
    fn plans_from_before_the_last_columns_are_read() {
        let rows = vec![row("a", PlanRowKind::Image); 3];
        let whole = batch(&rows, 0).unwrap();
        let before: Vec<usize> = (0..whole.num_columns() - 3).collect();
        let before = whole.project(&before).unwrap();
        assert_eq!(before.schema().fields().last().unwrap().name(), "boxes");
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(Vec::new(), before.schema(), None).unwrap();
        writer.write(&before).unwrap();
        let file = writer.into_inner().unwrap();
        assert_eq!(read_plan_rows(file.into()).unwrap().0, rows);
    }

    #[test]
    fn nulls_inside_lists_are_refused() {
        use arrow_array::builder::{Float32Builder, ListBuilder, StringBuilder};
        let mut labels = ListBuilder::new(StringBuilder::new());
        labels.append_value([Some("a"), None]);
        let mut scores = ListBuilder::new(Float32Builder::new());
        scores.append_value([None]);
        let good = batch(&[row("a", PlanRowKind::Image)], 0).unwrap();
        for (name, column) in [
            ("labels", Arc::new(labels.finish()) as arrow_array::ArrayRef),
            ("scores", Arc::new(scores.finish())),
        ] {
            let mut columns = good.columns().to_vec();
            columns[schema().index_of(name).unwrap()] = column;
            let edited = RecordBatch::try_new(schema(), columns).unwrap();
            let mut writer =
                parquet::arrow::ArrowWriter::try_new(Vec::new(), schema(), None).unwrap();
            writer.write(&edited).unwrap();
            let file = writer.into_inner().unwrap();
            assert_eq!(
                read_plan_rows(file.into()).unwrap_err().to_string(),
                format!("row 0, column {name}: is null")
            );
        }
    }

    #[test]
    fn lengths_over_the_column_are_refused() {
        let huge = PlanRow {
            bytes: u64::MAX,
            ..row("a", PlanRowKind::Image)
        };
        let error = plan_rows_to_parquet(&[huge], &meta()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 0, column bytes: 18446744073709551615 does not fit a signed 64-bit integer"
        );
    }

    proptest! {
        #[test]
        fn rows_round_trip(
            keys in proptest::collection::vec(any::<String>(), 0..12),
            texts in any::<[Option<String>; 5]>(),
            shard in any::<u32>(),
            bytes in 0..u64::MAX / 2,
            group in proptest::option::of((any::<u32>(), 0..u64::MAX / 2)),
            boxes in proptest::option::of(proptest::collection::vec(any::<[i32; 4]>(), 0..4)),
            labels in proptest::option::of(proptest::collection::vec(any::<String>(), 0..4)),
            scores in proptest::option::of(proptest::collection::vec(0.0_f32..1.0, 0..4)),
        ) {
            let [uri, etag, reason, detail, caption] = texts;
            let boxes = boxes.map(|boxes: Vec<[i32; 4]>| {
                boxes.into_iter().map(|corners| corners.map(f64::from)).collect::<Vec<_>>()
            });
            let kind = group.map_or(PlanRowKind::Image, |(row_group, rows)| PlanRowKind::Rows {
                row_group,
                rows,
            });
            let rows: Vec<PlanRow> = keys
                .into_iter()
                .map(|key| PlanRow {
                    shard,
                    key,
                    uri: uri.clone(),
                    bytes,
                    etag: etag.clone(),
                    kind,
                    reason: reason.clone(),
                    detail: detail.clone(),
                    caption: caption.clone(),
                    boxes: boxes.clone(),
                    labels: labels.clone(),
                    scores: scores.clone(),
                    points: None,
                })
                .collect();
            prop_assert_eq!(round_trip(&rows).0, rows);
        }

        #[test]
        fn damaged_plans_never_panic(at in 0.0_f64..1.0, byte in any::<u8>()) {
            let rows = vec![row("a.jpg", PlanRowKind::Image); 30];
            let mut file = plan_rows_to_parquet(&rows, &meta()).unwrap();
            let at = (at * file.len() as f64) as usize;
            file[at] = byte;
            let _ = read_plan_rows(file.into());
        }
    }
}

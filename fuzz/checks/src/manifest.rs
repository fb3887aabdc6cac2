//! Manifests.

use bytes::Bytes;
use maskmill_formats::manifest::{Manifest, ManifestColumns, ManifestFormat};

use crate::panics::guarded;
use crate::{is_set, split};

/// A row without anything in it takes little of a Parquet file, but something.
const MOST_ROWS_PER_BYTE: usize = 16;

/// Reads a manifest: every row is an image with an address and finite boxes, or says why it is none.
///
/// The options modulo 3 are the format: Parquet, CSV or JSON lines. Bit 7: columns are named. Bit 6: so are those of
/// labels, scores and points.
pub fn manifest(data: &[u8]) {
    guarded(|| check(data));
}

fn check(data: &[u8]) {
    let (options, file) = split(data);
    let format = match options % 3 {
        0 => ManifestFormat::Parquet,
        1 => ManifestFormat::Csv,
        _ => ManifestFormat::JsonLines,
    };
    let mut columns = ManifestColumns::default();
    if is_set(options, 7) {
        columns.uri = Some("uri".to_owned());
        columns.caption = Some("c".to_owned());
    }
    if is_set(options, 6) {
        columns.labels = Some("labels".to_owned());
        columns.scores = Some("scores".to_owned());
        columns.points = Some("points".to_owned());
    }
    let bytes = Bytes::copy_from_slice(file);
    let manifest = match Manifest::read(bytes, format, &columns) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut rows = 0;
    for (at, row) in manifest.rows().enumerate() {
        rows += 1;
        match row {
            Ok(row) => {
                assert_eq!(row.row, at);
                assert!(!row.uri.is_empty(), "row {at} has an empty address");
                assert_ne!(row.key, Some(""), "row {at} has an empty key");
                for corners in row.boxes.iter().flatten() {
                    check_box(*corners);
                }
                let mut labels = row.labels.iter().flatten();
                assert!(labels.all(|label| !label.trim().is_empty()), "row {at}");
                if let Some(scores) = row.scores {
                    let boxes = row.boxes.as_ref().map_or(0, Vec::len);
                    assert_eq!(scores.len(), boxes, "row {at}");
                    assert!(scores.iter().all(|score| score.is_finite()), "row {at}");
                }
                for [x, y, label] in row.points.into_iter().flatten() {
                    assert!(x.is_finite() && y.is_finite(), "row {at}");
                    assert!(label == 0.0 || label == 1.0, "row {at}");
                }
            }
            Err(reject) => {
                assert_eq!(reject.row, at);
                let reasons = [
                    "no_uri",
                    "bad_boxes",
                    "bad_labels",
                    "bad_scores",
                    "bad_points",
                ];
                assert!(reasons.contains(&reject.reason), "{reject:?}");
                assert!(!reject.detail.is_empty(), "{reject:?}");
            }
        }
    }
    assert_eq!(rows, manifest.len());
    let most = MOST_ROWS_PER_BYTE * file.len();
    assert!(rows <= most, "{rows} rows of {} bytes", file.len());
    assert_eq!(rows == 0, manifest.is_empty());
}

/// Asserts that a box can be used as one.
pub(crate) fn check_box(corners: [f64; 4]) {
    let [x0, y0, x1, y1] = corners;
    assert!(corners.iter().all(|c| c.is_finite()), "{corners:?}");
    assert!(x0 <= x1 && y0 <= y1, "{corners:?}");
}

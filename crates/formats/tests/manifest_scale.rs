//! A manifest of a million images in each format, and their plan: memory, and time to look at.
//!
//! Not run by default; `cargo test --release -p maskmill-formats --test manifest_scale -- --ignored --nocapture`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use bytes::Bytes;
use maskmill_formats::manifest::{Manifest, ManifestColumns, ManifestFormat};
use maskmill_formats::plan_items::{PlanReader, PlanRow, PlanRowKind, PlanWriter};
use maskmill_formats::rows::ParquetMeta;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

const ROWS: usize = 1_000_000;

/// 60 bytes, no two alike.
fn uri(row: usize) -> String {
    format!("s3://some-bucket/a-prefix/of-images/{row:020}.jpeg")
}

fn csv() -> Vec<u8> {
    let mut text = String::with_capacity(80 << 20);
    text.push_str("url,key\n");
    for row in 0..ROWS {
        writeln!(text, "{},{row:09}", uri(row)).unwrap();
    }
    text.into_bytes()
}

fn json_lines() -> Vec<u8> {
    let mut text = String::with_capacity(100 << 20);
    for row in 0..ROWS {
        writeln!(text, "{{\"url\":\"{}\",\"key\":\"{row:09}\"}}", uri(row)).unwrap();
    }
    text.into_bytes()
}

fn parquet() -> Vec<u8> {
    let batch = |rows: std::ops::Range<usize>| {
        let uris = StringArray::from_iter_values(rows.clone().map(uri));
        let keys = StringArray::from_iter_values(rows.map(|row| format!("{row:09}")));
        let columns: [(&str, ArrayRef); 2] = [("url", Arc::new(uris)), ("key", Arc::new(keys))];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let properties = Some(properties.build());
    let mut writer = ArrowWriter::try_new(Vec::new(), batch(0..0).schema(), properties).unwrap();
    for start in (0..ROWS).step_by(10_000) {
        writer.write(&batch(start..start + 10_000)).unwrap();
    }
    writer.into_inner().unwrap()
}

/// A line of `/proc/self/status`, in MiB.
fn memory(line: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status
        .lines()
        .find_map(|found| found.strip_prefix(line))
        .unwrap();
    value
        .split_whitespace()
        .next()
        .unwrap()
        .parse::<usize>()
        .unwrap()
        / 1024
}

fn measure(name: &str, format: ManifestFormat, file: Vec<u8>) {
    let file = Bytes::from(file);
    let megabytes = file.len() >> 20;
    // Forgets the peak of making the file.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let start = Instant::now();
    let manifest = Manifest::read(file, format, &ManifestColumns::default()).unwrap();
    let read = start.elapsed();
    let mut keys = 0;
    for (n, row) in manifest.rows().enumerate() {
        let row = row.unwrap();
        assert_eq!(row.row, n);
        keys += usize::from(row.key.is_some());
    }
    assert_eq!((manifest.len(), keys), (ROWS, ROWS));
    let peak = memory("VmHWM:");
    println!(
        "{name}: file {megabytes} MiB, resident before {before} MiB, peak {peak} MiB, read {read:.2?}, with rows {:.2?}",
        start.elapsed()
    );
    assert!(peak < 350, "{name}: {peak} MiB");
}

fn measure_plan() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    let start = Instant::now();
    let mut writer = PlanWriter::new(&ParquetMeta::default()).unwrap();
    for row in 0..ROWS {
        let row = PlanRow {
            shard: (row / 1000) as u32,
            key: format!("{row:09}"),
            uri: Some(uri(row)),
            bytes: 100_000 + row as u64 * 7919 % 100_000,
            etag: None,
            kind: PlanRowKind::Image,
            reason: None,
            detail: None,
            caption: None,
            boxes: None,
            labels: None,
            scores: None,
            points: None,
        };
        writer.push(row).unwrap();
    }
    let file = Bytes::from(writer.finish().unwrap());
    let written = start.elapsed();
    let megabytes = file.len() >> 20;
    let rows = PlanReader::open(file)
        .unwrap()
        .filter(Result::is_ok)
        .count();
    assert_eq!(rows, ROWS);
    let peak = memory("VmHWM:");
    println!(
        "plan: file {megabytes} MiB, resident before {before} MiB, peak {peak} MiB, written {written:.2?}, and read {:.2?}",
        start.elapsed()
    );
    assert!(peak < before + 150, "{peak} MiB");
}

#[test]
#[ignore = "takes some seconds and measures the whole process"]
fn a_million_rows_take_bounded_memory() {
    measure("Parquet", ManifestFormat::Parquet, parquet());
    measure("CSV", ManifestFormat::Csv, csv());
    measure("JSON lines", ManifestFormat::JsonLines, json_lines());
    measure_plan();
}

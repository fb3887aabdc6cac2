//! A table of numbers as CSV, appended to row by row, whose first column is the step.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::MetricsError;

/// A table, open for appending.
#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    file: File,
}

impl Table {
    /// Opens the table at `path`, or begins it, and cuts rows of steps after `step` and a row that was not finished.
    pub(super) fn open(path: &Path, columns: &[&str], step: u32) -> Result<Self, MetricsError> {
        let io = |source| MetricsError::Io {
            path: path.to_owned(),
            source,
        };
        let header = format!("{}\n", columns.join(","));
        let text = text_of(path).map_err(io)?;
        // A kill while the very first line was written leaves its beginning.
        let kept = match header.starts_with(&text) {
            true => 0,
            false => kept(&text, &header, step).ok_or_else(|| MetricsError::OtherTable {
                path: path.to_owned(),
                found: text.lines().next().unwrap_or_default().to_owned(),
                expected: header.trim_end().to_owned(),
            })?,
        };
        let file = OpenOptions::new().create(true).append(true).open(path);
        let mut file = file.map_err(io)?;
        file.set_len(kept as u64).map_err(io)?;
        if kept == 0 {
            file.write_all(header.as_bytes()).map_err(io)?;
        }
        Ok(Table {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends a row, a number for each column, with as many digits as read back to the same number.
    pub(super) fn append(&mut self, values: &[f64]) -> Result<(), MetricsError> {
        let cells: Vec<String> = values.iter().map(f64::to_string).collect();
        let row = format!("{}\n", cells.join(","));
        let written = self.file.write_all(row.as_bytes());
        written.map_err(|source| MetricsError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// How many bytes of `text` are whole rows of steps up to `step`; `None` where it is another table.
fn kept(text: &str, header: &str, step: u32) -> Option<usize> {
    let rows = text.strip_prefix(header)?;
    let mut kept = header.len();
    for row in rows.split_inclusive('\n') {
        let of_step = row.split(',').next().and_then(|cell| cell.parse().ok());
        match of_step {
            Some(of_step) if row.ends_with('\n') && u64::from(step) >= of_step => kept += row.len(),
            _ => break,
        }
    }
    Some(kept)
}

/// The text of a file; of none, nothing.
fn text_of(path: &Path) -> io::Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The columns of the table at `path` by their names, all of one length; empty where there is no table. A row that is
/// being written is left out.
///
/// # Errors
/// [`MetricsError::Io`].
pub(crate) fn read_columns(path: &Path) -> Result<BTreeMap<String, Vec<f64>>, MetricsError> {
    let text = text_of(path).map_err(|source| MetricsError::Io {
        path: path.to_owned(),
        source,
    })?;
    let mut lines = text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'));
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let mut columns = vec![Vec::new(); names.len()];
    for line in lines {
        let cells: Vec<f64> = line
            .split(',')
            .filter_map(|cell| cell.parse().ok())
            .collect();
        if cells.len() == names.len() {
            columns
                .iter_mut()
                .zip(cells)
                .for_each(|(column, cell)| column.push(cell));
        }
    }
    Ok(names.into_iter().map(str::to_owned).zip(columns).collect())
}

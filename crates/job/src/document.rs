//! A TOML file as a tree in which every value knows its line, with the overrides applied.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::load::TextFile;
use crate::problem::{Origin, Problems};

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Boolean(bool),
    /// Saturated: what does not fit is out of every setting's range and reported as such.
    Integer(i128),
    Float(f64),
    String(String),
    Datetime(String),
    Array(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Value {
    /// The type with its article, for messages.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Boolean(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number",
            Value::String(_) => "a string",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }

    /// The value as typed, shortened: `= "0.7"`; arrays and tables are not repeated.
    pub(crate) fn shown(&self) -> String {
        match self {
            Value::Boolean(value) => format!(" = {value}"),
            Value::Integer(value) => format!(" = {value}"),
            Value::Float(value) => format!(" = {value}"),
            Value::String(value) if value.chars().count() > 60 => {
                format!(" = {:?}...", value.chars().take(60).collect::<String>())
            }
            Value::String(value) => format!(" = {value:?}"),
            Value::Datetime(value) => format!(" = {value}"),
            Value::Array(_) | Value::Table(_) => String::new(),
        }
    }
}

/// One file: its tables, and the origin that stands for the file as a whole.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) root: BTreeMap<String, Node>,
    pub(crate) whole_file: Origin,
}

impl Document {
    /// Parses `file`; every syntax error becomes a problem, and `None` says there was one.
    pub(crate) fn parse(file: TextFile<'_>, rank: usize, problems: &mut Problems) -> Option<Self> {
        let at = |line: Option<usize>| Origin::File {
            name: file.name.to_string(),
            rank,
            line,
        };
        let lines = Lines::of(file.text);
        let (table, errors) = DeTable::parse_recoverable(file.text);
        for error in &errors {
            let place = error.span().map(|span| lines.position(span.start));
            let column = place.map_or(String::new(), |(_, column)| format!(", column {column}"));
            problems.add(
                &at(place.map(|(line, _)| line)),
                format!("not TOML{column}: {}", error.message()),
            );
        }
        if !errors.is_empty() {
            return None;
        }
        let origin_at = |offset: usize| at(Some(lines.position(offset).0));
        Some(Document {
            root: convert_table(table.get_ref(), &origin_at),
            whole_file: at(None),
        })
    }

    /// The value at `path`, such as `["model", "detector"]`, if it is written.
    pub(crate) fn get(&self, path: &[&str]) -> Option<&Node> {
        let (last, tables) = path.split_last()?;
        let mut table = &self.root;
        for name in tables {
            match &table.get(*name)?.value {
                Value::Table(inner) => table = inner,
                _ => return None,
            }
        }
        table.get(*last)
    }

    /// Where the value at `path` is written, or else the nearest table around it.
    pub(crate) fn place_of(&self, path: &[&str]) -> &Origin {
        let mut around = (1..=path.len()).rev().map(|length| &path[..length]);
        let written = around.find_map(|path| self.get(path));
        written.map_or(&self.whole_file, |node| &node.origin)
    }

    /// Applies one `--set section.key=value`, replacing what the file says.
    pub(crate) fn set(&mut self, setting: &Override) {
        let origin = Origin::Override(setting.typed.clone());
        let table = if setting.section.is_empty() {
            &mut self.root
        } else {
            let section = self.root.entry(setting.section.clone());
            let node = section.or_insert_with(|| Node {
                value: Value::Table(BTreeMap::new()),
                origin: origin.clone(),
            });
            match &mut node.value {
                Value::Table(table) => table,
                // `masks = 3` in the file: reported when the section is read.
                _ => return,
            }
        };
        let value = setting.value(&origin);
        table.insert(setting.key.clone(), Node { value, origin });
    }
}

/// A `--set` of the command line, split.
#[derive(Debug)]
pub(crate) struct Override {
    pub(crate) typed: String,
    pub(crate) section: String,
    pub(crate) key: String,
    raw: String,
}

impl Override {
    /// Splits `section.key=value`; what cannot be split becomes a problem.
    pub(crate) fn parse(typed: &str, problems: &mut Problems) -> Option<Self> {
        let origin = Origin::Override(typed.to_string());
        let Some((path, raw)) = typed.split_once('=') else {
            problems.add(
                &origin,
                "has no `=`; write it as section.key=value, such as masks.box_nms_thresh=0.8",
            );
            return None;
        };
        let path = path.trim();
        let (section, key) = path.split_once('.').unwrap_or(("", path));
        if key.is_empty() || key.contains('.') || (section.is_empty() && path.contains('.')) {
            problems.add(
                &origin,
                format!("{path:?} is not the path of a setting; write it as section.key=value"),
            );
            return None;
        }
        Some(Override {
            typed: typed.to_string(),
            section: section.to_string(),
            key: key.to_string(),
            raw: raw.trim().to_string(),
        })
    }

    /// The value as TOML where it is TOML, else as a string, so that quotes are not needed.
    fn value(&self, origin: &Origin) -> Value {
        match DeValue::parse(&self.raw) {
            Ok(value) => convert(value.get_ref(), &|_| origin.clone()),
            Err(_) => Value::String(self.raw.clone()),
        }
    }
}

fn convert_table(
    table: &DeTable<'_>,
    origin_at: &dyn Fn(usize) -> Origin,
) -> BTreeMap<String, Node> {
    let node = |key: &Spanned<_>, value: &Spanned<DeValue<'_>>| Node {
        value: convert(value.get_ref(), origin_at),
        // The key's line: an array or a table may begin lines later.
        origin: origin_at(key.span().start),
    };
    let entries = table.iter();
    entries
        .map(|(key, value)| (key.get_ref().to_string(), node(key, value)))
        .collect()
}

fn convert(value: &DeValue<'_>, origin_at: &dyn Fn(usize) -> Origin) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(digits) => Value::Integer(
            i128::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(i128::MAX),
        ),
        // The parser admits only what `f64` reads, infinities included.
        DeValue::Float(digits) => Value::Float(digits.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(value) => Value::Datetime(value.to_string()),
        DeValue::Array(items) => {
            let node = |item: &Spanned<DeValue<'_>>| Node {
                value: convert(item.get_ref(), origin_at),
                origin: origin_at(item.span().start),
            };
            Value::Array(items.iter().map(node).collect())
        }
        DeValue::Table(table) => Value::Table(convert_table(table, origin_at)),
    }
}

/// Where the lines of a text begin, so that finding a place does not read the text again: a list
/// of labels has as many places as labels.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn of(text: &'t str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Lines {
            text,
            starts: std::iter::once(0).chain(breaks).collect(),
        }
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset);
        let before = self.text.get(self.starts[line - 1]..offset);
        (line, before.map_or(0, |before| before.chars().count()) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_line_and_a_column_of_characters() {
        let lines = Lines::of("a\nb\u{e9}c\n\nd");
        for (offset, place) in [
            (0, (1, 1)),
            (1, (1, 2)),
            (2, (2, 1)),
            (5, (2, 3)), // behind the two bytes of the accented letter
            (6, (2, 4)),
            (7, (3, 1)),
            (8, (4, 1)),
            (9, (4, 2)), // the end of the text
        ] {
            assert_eq!(lines.position(offset), place, "at {offset}");
        }
    }

    #[test]
    fn the_place_of_what_is_not_written_is_the_table_around_it() {
        let text = "x = 1\n[labels]\n[labels.names]\ncar = { phrases = 'auto' }\n";
        let file = TextFile { name: "f", text };
        let document = Document::parse(file, 0, &mut Problems::default()).unwrap();
        for (path, line) in [
            (&["x"][..], Some(1)),
            (&["x", "y"], Some(1)),
            (&["labels", "templates"], Some(2)),
            (&["labels", "names", "car", "phrases"], Some(4)),
            (&["labels", "names", "dog", "phrases"], Some(3)),
            (&["model", "detector"], None),
        ] {
            match document.place_of(path) {
                Origin::File { line: at, .. } => assert_eq!(*at, line, "{path:?}"),
                Origin::Override(set) => panic!("{set}"),
            }
        }
    }
}

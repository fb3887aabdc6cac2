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
#[derive(Debug)]
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
        let (table, errors) = DeTable::parse_recoverable(file.text);
        for error in &errors {
            let place = error.span().map(|span| position(file.text, span.start));
            let column = place.map_or(String::new(), |(_, column)| format!(", column {column}"));
            problems.add(
                &at(place.map(|(line, _)| line)),
                format!("not TOML{column}: {}", error.message()),
            );
        }
        if !errors.is_empty() {
            return None;
        }
        let origin_at = |offset: usize| at(Some(position(file.text, offset).0));
        Some(Document {
            root: convert_table(table.get_ref(), &origin_at),
            whole_file: at(None),
        })
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

/// Line and column of a byte offset, both from 1; the column counts characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

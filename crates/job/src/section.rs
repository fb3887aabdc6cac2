//! Reads the settings of one section by type and range, noting every problem and going on.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::byte_size::parse_bytes;
use crate::document::{Document, Node, Value};
use crate::location;
use crate::problem::{Origin, Problems};
use crate::schema::{self, FileKind};

/// The unread settings of one section.
///
/// A getter returns the default where the setting is absent or wrong; a wrong one has been noted
/// in `problems`, so the value returned for it is never used. [`Section::finish`] notes what no
/// getter asked for.
pub(crate) struct Section<'p> {
    kind: FileKind,
    name: &'static str,
    entries: BTreeMap<String, Node>,
    origin: Origin,
    problems: &'p mut Problems,
}

impl<'p> Section<'p> {
    /// Takes `[name]` out of the document; a section that is absent reads as an empty one.
    ///
    /// The name `""` takes the keys in front of the first section; take it last, when the
    /// sections are gone.
    pub(crate) fn take(
        document: &mut Document,
        kind: FileKind,
        name: &'static str,
        problems: &'p mut Problems,
    ) -> Self {
        let whole_file = document.whole_file.clone();
        let (entries, origin) = if name.is_empty() {
            (std::mem::take(&mut document.root), whole_file)
        } else {
            match document.root.remove(name) {
                None => (BTreeMap::new(), whole_file),
                Some(Node { value, origin }) => match value {
                    Value::Table(entries) => (entries, origin),
                    other => {
                        let is = other.type_name();
                        problems.add(&origin, format!("`{name}` is {is}; it must be [{name}]"));
                        (BTreeMap::new(), origin)
                    }
                },
            }
        };
        Section {
            kind,
            name,
            entries,
            origin,
            problems,
        }
    }

    /// Notes every key that is left: unknown ones.
    pub(crate) fn finish(self) {
        for (key, node) in &self.entries {
            let message = match node.value {
                Value::Table(_) if self.name.is_empty() => schema::unknown_section(self.kind, key),
                _ => schema::unknown_key(self.kind, self.name, key),
            };
            self.problems.add(&node.origin, message);
        }
    }

    /// Notes a problem that concerns `key`, at its line or else the section's.
    pub(crate) fn note(&mut self, origin: Option<Origin>, key: &str, what: &str) {
        let origin = origin.unwrap_or_else(|| self.origin.clone());
        let path = schema::path(self.name, key);
        self.problems.add(&origin, format!("{path}{what}"));
    }

    /// Where `key` is written, while it has not been read.
    pub(crate) fn origin_of(&self, key: &str) -> Option<Origin> {
        self.entries.get(key).map(|node| node.origin.clone())
    }

    /// A number in `range`; integers are numbers too.
    pub(crate) fn number(&mut self, key: &str, default: f64, range: RangeInclusive<f64>) -> f64 {
        self.optional_number(key, range).unwrap_or(default)
    }

    /// A number in `range`, or nothing.
    pub(crate) fn optional_number(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let Node { value, origin } = self.remove(key)?;
        let number = match value {
            Value::Float(number) => number,
            Value::Integer(number) => number as f64,
            other => return self.wrong_type(key, &other, origin, "a number"),
        };
        if !range.contains(&number) {
            let (low, high) = (range.start(), range.end());
            let what = format!(" = {number} is outside [{low}, {high}]");
            self.note(Some(origin), key, &what);
            return None;
        }
        // -0.0 and 0.0 mean the same and must have one fingerprint.
        Some(number + 0.0)
    }

    /// An integer in `range`.
    pub(crate) fn integer(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(Node { value, origin }) = self.remove(key) else {
            return default;
        };
        let number = match value {
            Value::Integer(number) => number,
            other => {
                let wrong: Option<u64> = self.wrong_type(key, &other, origin, "an integer");
                return wrong.unwrap_or(default);
            }
        };
        match u64::try_from(number) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (low, high) = (range.start(), range.end());
                let what = format!(" = {number} is outside [{low}, {high}]");
                self.note(Some(origin), key, &what);
                default
            }
        }
    }

    /// [`Section::integer`] for settings of 32 bits.
    pub(crate) fn integer_u32(
        &mut self,
        key: &str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        let number = self.integer(key, u64::from(default), wide);
        u32::try_from(number).expect("checked against a range of u32")
    }

    /// An amount of bytes in `range`: a number of bytes, or a string such as `"512 MiB"`.
    pub(crate) fn bytes(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let text = match self.entries.get(key) {
            Some(Node {
                value: Value::String(text),
                origin,
            }) => Some((text.clone(), origin.clone())),
            _ => None,
        };
        let Some((text, origin)) = text else {
            return self.integer(key, default, range);
        };
        self.remove(key);
        match parse_bytes(&text) {
            Ok(bytes) if range.contains(&bytes) => bytes,
            Ok(_) => {
                let (low, high) = (range.start(), range.end());
                let what = format!(" = {text:?} is outside [{low}, {high}] bytes");
                self.note(Some(origin), key, &what);
                default
            }
            Err(why) => {
                self.note(Some(origin), key, &format!(" = {text:?} {why}"));
                default
            }
        }
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, key: &str, default: bool) -> bool {
        self.optional_boolean(key).unwrap_or(default)
    }

    /// `true`, `false` or nothing.
    pub(crate) fn optional_boolean(&mut self, key: &str) -> Option<bool> {
        let Node { value, origin } = self.remove(key)?;
        match value {
            Value::Boolean(value) => Some(value),
            other => self.wrong_type(key, &other, origin, "true or false"),
        }
    }

    /// A string that is not empty, and where it is written.
    pub(crate) fn text(&mut self, key: &str) -> Option<(String, Origin)> {
        let Node { value, origin } = self.remove(key)?;
        match value {
            Value::String(text) if text.trim().is_empty() => {
                self.note(Some(origin), key, " is empty");
                None
            }
            Value::String(text) => Some((text, origin)),
            other => self.wrong_type(key, &other, origin, "a string"),
        }
    }

    /// A string that is not empty, or nothing.
    pub(crate) fn optional_text(&mut self, key: &str) -> Option<String> {
        self.text(key).map(|(text, _)| text)
    }

    /// A string that must be there; `what` says what it is: `the folder to read`.
    pub(crate) fn required_text(&mut self, key: &str, what: &str) -> Option<(String, Origin)> {
        if !self.entries.contains_key(key) {
            self.note(None, key, &format!(" is missing: {what}"));
            return None;
        }
        self.text(key)
    }

    /// A local path or a URI of one of `schemes`, checked by [`location::check`].
    pub(crate) fn location(&mut self, key: &str, schemes: &[&str]) -> Option<String> {
        let (location, origin) = self.text(key)?;
        if let Err(what) = location::check(&location, schemes) {
            self.note(Some(origin), key, &what);
            return None;
        }
        Some(location)
    }

    /// A location that must be there; `what` says what it is: `the folder to read`.
    pub(crate) fn required_location(&mut self, key: &str, schemes: &[&str], what: &str) -> String {
        if !self.entries.contains_key(key) {
            self.note(None, key, &format!(" is missing: {what}"));
        }
        self.location(key, schemes).unwrap_or_default()
    }

    /// One of a few words.
    pub(crate) fn one_of<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let (text, origin) = self.text(key)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let hint = schema::suggestion(&text, &names);
            self.note(
                Some(origin),
                key,
                &format!(" = {text:?} is unknown; {hint}"),
            );
        }
        found.map(|(_, value)| *value)
    }

    /// Point grids, one per crop layer: `[[[x, y], ...], ...]` with x and y in [0, 1].
    pub(crate) fn point_grids(&mut self, key: &str) -> Option<Vec<Vec<[f64; 2]>>> {
        const SHAPE: &str = "an array of grids, one per crop layer, each an array of [x, y] points";
        let Node { value, origin } = self.remove(key)?;
        let Value::Array(layers) = value else {
            return self.wrong_type(key, &value, origin, SHAPE);
        };
        let mut grids = Vec::new();
        for (layer, node) in layers.into_iter().enumerate() {
            let Value::Array(points) = node.value else {
                return self.wrong_type(key, &node.value, node.origin, SHAPE);
            };
            if points.is_empty() {
                let what = format!("[{layer}] has no points");
                self.note(Some(node.origin), key, &what);
            }
            let mut grid = Vec::new();
            for (at, point) in points.into_iter().enumerate() {
                match as_point(&point.value) {
                    Some(point) => grid.push(point),
                    None => {
                        let what =
                            format!("[{layer}][{at}] is not a point [x, y] with x and y in [0, 1]");
                        self.note(Some(point.origin), key, &what);
                    }
                }
            }
            grids.push(grid);
        }
        Some(grids)
    }

    fn remove(&mut self, key: &str) -> Option<Node> {
        let keys = self.kind.keys(self.name).unwrap_or_default();
        assert!(keys.contains(&key), "{key} is not in the schema");
        self.entries.remove(key)
    }

    fn wrong_type<T>(&mut self, key: &str, is: &Value, at: Origin, must: &str) -> Option<T> {
        let what = format!("{} is {}; it must be {must}", is.shown(), is.type_name());
        self.note(Some(at), key, &what);
        None
    }
}

fn as_point(value: &Value) -> Option<[f64; 2]> {
    let Value::Array(xy) = value else {
        return None;
    };
    let coordinate = |node: &Node| match node.value {
        Value::Float(number) => Some(number),
        Value::Integer(number) => Some(number as f64),
        _ => None,
    };
    let [x, y] = xy.as_slice() else {
        return None;
    };
    let point = [coordinate(x)? + 0.0, coordinate(y)? + 0.0];
    point
        .iter()
        .all(|c| (0.0..=1.0).contains(c))
        .then_some(point)
}

//! Reads the settings of one section by type and range, noting every problem and going on.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::byte_size::parse_bytes;
use crate::document::{Document, Node, Value};
use crate::location;
use crate::problem::{Origin, Problems};
use crate::schema::{self, FileKind, TableKeys};

/// The unread settings of one section, or of a table inside one.
///
/// A getter returns the default where the setting is absent or wrong; a wrong one has been noted
/// in `problems`, so the value returned for it is never used. [`Section::finish`] notes what no
/// getter asked for.
pub(crate) struct Section<'p> {
    scope: Scope,
    entries: BTreeMap<String, Node>,
    origin: Origin,
    problems: &'p mut Problems,
}

/// Which keys there can be, and what stands before them in messages.
enum Scope {
    Section {
        kind: FileKind,
        name: &'static str,
    },
    Table {
        path: String,
        keys: &'static TableKeys,
    },
}

impl Scope {
    fn keys(&self) -> &'static [&'static str] {
        match self {
            Scope::Section { kind, name } => kind.keys(name).unwrap_or_default(),
            Scope::Table { keys, .. } => keys.keys,
        }
    }

    fn path(&self) -> &str {
        match self {
            Scope::Section { name, .. } => name,
            Scope::Table { path, .. } => path,
        }
    }

    fn unknown(&self, key: &str, value: &Value) -> String {
        match (self, value) {
            (Scope::Section { kind, name: "" }, Value::Table(_)) => {
                schema::unknown_section(*kind, key)
            }
            (Scope::Section { kind, name }, _) => schema::unknown_key(*kind, name, key),
            (Scope::Table { path, keys }, _) => schema::unknown_table_key(path, keys, key),
        }
    }
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
            scope: Scope::Section { kind, name },
            entries,
            origin,
            problems,
        }
    }

    /// Opens `node`, a table that was written as `key` of this one, such as `examples[2]`; what is
    /// no table is noted, with the `shape` it must have.
    pub(crate) fn table(
        &mut self,
        key: &str,
        node: Node,
        keys: &'static TableKeys,
        shape: &str,
    ) -> Option<Section<'_>> {
        let Node { value, origin } = node;
        let Value::Table(entries) = value else {
            return self.wrong_type(key, &value, origin, shape);
        };
        Some(Section {
            scope: Scope::Table {
                path: schema::path(self.scope.path(), key),
                keys,
            },
            entries,
            origin,
            problems: &mut *self.problems,
        })
    }

    /// Notes every key that is left: unknown ones.
    pub(crate) fn finish(self) {
        for (key, node) in &self.entries {
            let message = self.scope.unknown(key, &node.value);
            self.problems.add(&node.origin, message);
        }
    }

    /// Drops `key` unread: what it means hangs on a setting that is wrong itself.
    pub(crate) fn ignore(&mut self, key: &str) {
        self.remove(key);
    }

    /// Notes a problem that concerns `key`, at its line or else the section's.
    pub(crate) fn note(&mut self, origin: Option<Origin>, key: &str, what: &str) {
        let origin = origin.unwrap_or_else(|| self.origin.clone());
        let path = schema::path(self.scope.path(), key);
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

    /// An array of exactly `N` finite numbers, or nothing; `shape` says what it must be.
    pub(crate) fn numbers<const N: usize>(&mut self, key: &str, shape: &str) -> Option<[f64; N]> {
        let Node { value, origin } = self.remove(key)?;
        let numbers = as_numbers(&value).filter(|all: &[f64; N]| all.iter().all(|n| n.is_finite()));
        if numbers.is_none() {
            match &value {
                Value::Array(_) => self.note(Some(origin), key, &format!(" is not {shape}")),
                other => return self.wrong_type(key, other, origin, shape),
            }
        }
        numbers
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

    /// A range within `allowed`: `[least, most]`, or an integer that is both.
    pub(crate) fn range_u32(
        &mut self,
        key: &str,
        default: [u32; 2],
        allowed: RangeInclusive<u32>,
    ) -> [u32; 2] {
        const SHAPE: &str = "an integer, or [least, most]";
        let Some(Node { value, origin }) = self.remove(key) else {
            return default;
        };
        let ends: Option<[i128; 2]> = match &value {
            Value::Integer(number) => Some([*number; 2]),
            Value::Array(items) => match items.as_slice() {
                [
                    Node {
                        value: Value::Integer(least),
                        ..
                    },
                    Node {
                        value: Value::Integer(most),
                        ..
                    },
                ] => Some([*least, *most]),
                _ => None,
            },
            _ => None,
        };
        let Some([least, most]) = ends else {
            let wrong: Option<[u32; 2]> = self.wrong_type(key, &value, origin, SHAPE);
            return wrong.unwrap_or(default);
        };
        if least > most {
            let what = format!(" = [{least}, {most}] is empty: the first is above the second");
            self.note(Some(origin), key, &what);
            return default;
        }
        let inside = |end: i128| u32::try_from(end).ok().filter(|end| allowed.contains(end));
        let (Some(low), Some(high)) = (inside(least), inside(most)) else {
            let shown = match value {
                Value::Array(_) => format!("[{least}, {most}]"),
                _ => least.to_string(),
            };
            let (low, high) = (allowed.start(), allowed.end());
            let what = format!(" = {shown} is outside [{low}, {high}]");
            self.note(Some(origin), key, &what);
            return default;
        };
        [low, high]
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

    /// A string of at least one character, white space too, and where it is written.
    pub(crate) fn string(&mut self, key: &str) -> Option<(String, Origin)> {
        let node = self.remove(key)?;
        self.as_string(key, node, "a string")
    }

    /// A string that is not empty, and where it is written.
    pub(crate) fn text(&mut self, key: &str) -> Option<(String, Origin)> {
        let (text, origin) = self.string(key)?;
        if text.trim().is_empty() {
            self.note(Some(origin), key, " is empty");
            return None;
        }
        Some((text, origin))
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

    /// An array, unread; `shape` says what it must be: `an array of examples`.
    pub(crate) fn array(&mut self, key: &str, shape: &str) -> Option<Vec<Node>> {
        let Node { value, origin } = self.remove(key)?;
        match value {
            Value::Array(items) => Some(items),
            other => self.wrong_type(key, &other, origin, shape),
        }
    }

    /// Whatever is written, unread: for a setting of several shapes.
    pub(crate) fn any(&mut self, key: &str) -> Option<Node> {
        self.remove(key)
    }

    /// `node`, which was written as `key`, such as `negatives[2]`: a string of at least one
    /// character, and where it is written.
    pub(crate) fn as_string(
        &mut self,
        key: &str,
        node: Node,
        must: &str,
    ) -> Option<(String, Origin)> {
        let Node { value, origin } = node;
        match value {
            Value::String(text) if text.is_empty() => {
                self.note(Some(origin), key, " is empty");
                None
            }
            Value::String(text) => Some((text, origin)),
            other => self.wrong_type(key, &other, origin, must),
        }
    }

    /// Points `[x, y]` with x and y in [0, 1], at least one.
    pub(crate) fn points(&mut self, key: &str) -> Option<Vec<[f64; 2]>> {
        const SHAPE: &str = "an array of [x, y] points";
        let origin = self.origin_of(key);
        let points = self.array(key, SHAPE)?;
        if points.is_empty() {
            self.note(origin, key, " has no points");
        }
        Some(self.as_points(key, points))
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
            grids.push(self.as_points(&format!("{key}[{layer}]"), points));
        }
        Some(grids)
    }

    /// The points of `nodes`, an array that was written as `key`.
    fn as_points(&mut self, key: &str, nodes: Vec<Node>) -> Vec<[f64; 2]> {
        let mut points = Vec::new();
        for (at, node) in nodes.into_iter().enumerate() {
            let in_image = |point: &[f64; 2]| point.iter().all(|c| (0.0..=1.0).contains(c));
            match as_numbers(&node.value).filter(in_image) {
                Some(point) => points.push(point),
                None => {
                    let what = format!("[{at}] is not a point [x, y] with x and y in [0, 1]");
                    self.note(Some(node.origin), key, &what);
                }
            }
        }
        points
    }

    /// A box `[x0, y0, x1, y1]` in pixels, finite and with an area, or nothing.
    pub(crate) fn optional_box_xyxy_px(&mut self, key: &str) -> Option<[f64; 4]> {
        const SHAPE: &str = "a box [x0, y0, x1, y1] in pixels";
        let Node { value, origin } = self.remove(key)?;
        let Some(box_xyxy_px) = as_numbers(&value) else {
            return match &value {
                Value::Array(_) => {
                    self.note(Some(origin), key, &format!(" is not {SHAPE}"));
                    None
                }
                other => self.wrong_type(key, other, origin, SHAPE),
            };
        };
        let [x0, y0, x1, y1] = box_xyxy_px;
        let wrong = if !box_xyxy_px.iter().all(|c: &f64| c.is_finite()) {
            "has a coordinate that is not finite"
        } else if x0 >= x1 || y0 >= y1 {
            "has no area: x0 must be below x1, and y0 below y1"
        } else {
            return Some(box_xyxy_px);
        };
        let what = format!(" = [{x0}, {y0}, {x1}, {y1}] {wrong}");
        self.note(Some(origin), key, &what);
        None
    }

    fn remove(&mut self, key: &str) -> Option<Node> {
        let keys = self.scope.keys();
        assert!(keys.contains(&key), "{key} is not in the schema");
        self.entries.remove(key)
    }

    /// Notes that `key` is `is`, which is not what it `must` be.
    pub(crate) fn wrong_type<T>(
        &mut self,
        key: &str,
        is: &Value,
        at: Origin,
        must: &str,
    ) -> Option<T> {
        let what = format!("{} is {}; it must be {must}", is.shown(), is.type_name());
        self.note(Some(at), key, &what);
        None
    }
}

/// An array of exactly `N` numbers; -0.0 becomes 0.0, which means the same.
fn as_numbers<const N: usize>(value: &Value) -> Option<[f64; N]> {
    let Value::Array(items) = value else {
        return None;
    };
    let mut numbers = [0.0; N];
    if items.len() != N {
        return None;
    }
    for (number, item) in numbers.iter_mut().zip(items) {
        *number = match item.value {
            Value::Float(value) => value + 0.0,
            Value::Integer(value) => value as f64,
            _ => return None,
        };
    }
    Some(numbers)
}

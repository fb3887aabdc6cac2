//! The names of YOLO's classes: a `classes.txt`, or the `names` of a dataset's `data.yaml`.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScanError};

/// The names of classes by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YoloNames(BTreeMap<u32, String>);

/// Why a file of names cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum YoloNamesError {
    /// It is no YAML.
    #[error("it is not YAML")]
    Yaml(#[from] ScanError),
    /// It has no `names`, or they are neither a list nor a map.
    #[error("{0}; expected is `names:` with a list of names, or a map from class numbers to names")]
    Shape(String),
    /// A class is given twice.
    #[error("the class {0} has two names")]
    Twice(u32),
    /// A name is empty.
    #[error("the class {0} has an empty name")]
    Empty(u32),
    /// There are none.
    #[error("it has no names")]
    None,
}

impl YoloNames {
    /// One name a line; the first is that of class 0. Blank lines are allowed at the end alone, because every line
    /// counts.
    ///
    /// # Errors
    /// [`YoloNamesError`] if there are none, or one is empty.
    pub fn from_classes_txt(text: &str) -> Result<Self, YoloNamesError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let names = (0..).zip(text.trim_end().lines());
        Self::new(names.map(|(class, name)| (class, name.to_owned())))
    }

    /// The `names` of a dataset's YAML, which are a list or a map. All else in the file is skipped.
    ///
    /// # Errors
    /// [`YoloNamesError`] if it is no YAML, or has no names.
    pub fn from_data_yaml(text: &str) -> Result<Self, YoloNamesError> {
        let mut events = Parser::new_from_str(text).map(|event| event.map(|(event, _)| event));
        let shape = |found: &str| Err(YoloNamesError::Shape(found.to_owned()));
        loop {
            match next(&mut events)? {
                Event::StreamStart | Event::DocumentStart(_) => {}
                Event::MappingStart(..) => break,
                _ => return shape("it is not a map"),
            }
        }
        // Keys and values of the outermost map, in turn.
        loop {
            let Event::Scalar(key, ..) = next(&mut events)? else {
                return shape("it has no key `names`");
            };
            if key == "names" {
                break;
            }
            let value = next(&mut events)?;
            skip(value, &mut events)?;
        }
        match next(&mut events)? {
            Event::SequenceStart(..) => Self::new((0..).zip(list(&mut events)?)),
            Event::MappingStart(..) => Self::new(map(&mut events)?),
            _ => shape("`names` is a single value"),
        }
    }

    fn new(names: impl IntoIterator<Item = (u32, String)>) -> Result<Self, YoloNamesError> {
        let mut all = BTreeMap::new();
        for (class, name) in names {
            let name = name.trim();
            if name.is_empty() {
                return Err(YoloNamesError::Empty(class));
            }
            if all.insert(class, name.to_owned()).is_some() {
                return Err(YoloNamesError::Twice(class));
            }
        }
        match all.is_empty() {
            true => Err(YoloNamesError::None),
            false => Ok(Self(all)),
        }
    }

    /// The name of a class.
    pub fn get(&self, class: u32) -> Option<&str> {
        self.0.get(&class).map(String::as_str)
    }

    /// How many names there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// The next of the events, which end with one of their own.
fn next<'a>(
    events: &mut impl Iterator<Item = Result<Event<'a>, ScanError>>,
) -> Result<Event<'a>, YoloNamesError> {
    Ok(events.next().transpose()?.unwrap_or(Event::StreamEnd))
}

/// Reads to the end of the value that begins with `event`.
fn skip<'a>(
    event: Event<'a>,
    events: &mut impl Iterator<Item = Result<Event<'a>, ScanError>>,
) -> Result<(), YoloNamesError> {
    let mut depth = 0_usize;
    let mut event = event;
    loop {
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            Event::StreamEnd => return Ok(()),
            _ => {}
        }
        if depth == 0 {
            return Ok(());
        }
        event = next(events)?;
    }
}

fn list<'a>(
    events: &mut impl Iterator<Item = Result<Event<'a>, ScanError>>,
) -> Result<Vec<String>, YoloNamesError> {
    let mut names = Vec::new();
    loop {
        match next(events)? {
            Event::Scalar(name, ..) => names.push(name.into_owned()),
            Event::SequenceEnd => return Ok(names),
            _ => {
                let found = format!("name {}, counted from 0, is not a text", names.len());
                return Err(YoloNamesError::Shape(found));
            }
        }
    }
}

fn map<'a>(
    events: &mut impl Iterator<Item = Result<Event<'a>, ScanError>>,
) -> Result<Vec<(u32, String)>, YoloNamesError> {
    let mut names = Vec::new();
    loop {
        let class = match next(events)? {
            Event::Scalar(class, ..) => class,
            Event::MappingEnd => return Ok(names),
            _ => return Err(YoloNamesError::Shape("a class is not a number".to_owned())),
        };
        let Ok(number) = class.parse() else {
            let found = format!("the class {class:?} is not a number from 0");
            return Err(YoloNamesError::Shape(found));
        };
        let Event::Scalar(name, ..) = next(events)? else {
            let found = format!("the name of class {number} is not a text");
            return Err(YoloNamesError::Shape(found));
        };
        names.push((number, name.into_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[(u32, &str)]) -> YoloNames {
        YoloNames(
            names
                .iter()
                .map(|(n, name)| (*n, name.to_string()))
                .collect(),
        )
    }

    #[test]
    fn every_line_of_classes_txt_is_a_class() {
        let found =
            YoloNames::from_classes_txt("\u{feff}person\r\n red car \r\ndog\r\n\r\n").unwrap();
        assert_eq!(found, names(&[(0, "person"), (1, "red car"), (2, "dog")]));
        assert_eq!((found.get(1), found.get(3)), (Some("red car"), None));
        assert_eq!(found.len(), 3);
        assert_eq!(
            YoloNames::from_classes_txt("a\n\nb"),
            Err(YoloNamesError::Empty(1))
        );
        assert_eq!(YoloNames::from_classes_txt("\n"), Err(YoloNamesError::None));
    }

    #[test]
    fn names_of_a_yaml_are_a_list_or_a_map() {
        let expected = names(&[(0, "person"), (1, "red car"), (2, "7")]);
        for text in [
            "path: ../x  # root\nnc: 3\nnames:\n  0: person\n  1: red car  # mostly\n  2: 7\ndownload: |\n  names: no\n",
            "train: [a, {names: b}]\nnames: ['person', \"red car\",\n  7]\n",
            "---\nroboflow:\n  names: 1\n  deep: [[1], {a: b}]\nnames:\n- person\n- red car\n- '7'\n...\n",
            "{\"names\": {\"0\": \"person\", \"1\": \"red car\", \"2\": 7}}",
        ] {
            assert_eq!(
                YoloNames::from_data_yaml(text),
                Ok(expected.clone()),
                "{text}"
            );
        }
        let sparse = YoloNames::from_data_yaml("names: {3: a, 16: dog}").unwrap();
        assert_eq!(sparse, names(&[(3, "a"), (16, "dog")]));
    }

    #[test]
    fn what_is_wrong_with_a_yaml_is_said() {
        for (text, expected) in [
            ("", "it is not a map; expected is `names:` with a list"),
            ("- a\n- b\n", "it is not a map"),
            ("nc: 3\n", "it has no key `names`"),
            ("x:\n  names: [a]\n", "it has no key `names`"),
            ("names: person\n", "`names` is a single value"),
            ("names: [a, [b]]", "name 1, counted from 0, is not a text"),
            ("names: {a: b}", "the class \"a\" is not a number from 0"),
            ("names: {0: [b]}", "the name of class 0 is not a text"),
            ("names: {0: a, 0: b}", "the class 0 has two names"),
            ("names: [a, '']", "the class 1 has an empty name"),
            ("names: []", "it has no names"),
            ("names: [a", "it is not YAML"),
        ] {
            let error = YoloNames::from_data_yaml(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }
}

//! The JSON of COCO files. Of each entry only what is used is held, and what is wrong with a value is decided by whoever
//! knows which entry it is of.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Keys of a file that are repeated in a message.
const MOST_KEYS: usize = 20;

/// One of the two kinds of files.
pub(super) enum Document {
    /// `{images, annotations, categories}`
    Dataset(Dataset),
    /// `[{image_id, category_id, bbox, score}, ..]`
    Results(Vec<Entry>),
}

#[derive(Default)]
pub(super) struct Dataset {
    pub(super) images: Option<Vec<Image>>,
    pub(super) annotations: Option<Vec<Entry>>,
    pub(super) categories: Option<Vec<Category>>,
    /// The first of the keys that there are.
    pub(super) keys: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Image {
    pub(super) id: Id,
    pub(super) file_name: Option<String>,
    /// LVIS has this instead: `http://images.cocodataset.org/val2017/000000000139.jpg`.
    pub(super) coco_url: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Category {
    pub(super) id: Id,
    pub(super) name: String,
}

/// An annotation or a result.
#[derive(Deserialize)]
pub(super) struct Entry {
    pub(super) image_id: Option<Id>,
    pub(super) category_id: Option<Id>,
    pub(super) bbox: Option<BoxField>,
    pub(super) score: Option<Number>,
    #[serde(default)]
    pub(super) iscrowd: Flag,
}

/// A number or a text. A text that is a number, as it would be written, is that number: some tools quote ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Id {
    Number(i64),
    Text(String),
}

/// `[x, y, width, height]`; `None` if it is not four numbers.
pub(super) struct BoxField(pub(super) Option<[f64; 4]>);

/// `None` if it is none.
pub(super) struct Number(pub(super) Option<f64>);

/// 0 or 1, or a boolean.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Flag(pub(super) bool);

/// Reads a file; the keys and values that are not used may be anything.
pub(super) fn parse(file: &[u8]) -> Result<Document, serde_json::Error> {
    let file = file.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(file);
    serde_json::from_slice(&with_quoted_numbers(file))
}

const NAN: &str = "N";
const INFINITY: &str = "Infini";
const MINUS_INFINITY: &str = "-Infini";

/// Python writes `NaN`, `Infinity` and `-Infinity`, which are not JSON. They become texts of the same length, so that
/// what is said of lines and columns remains true.
fn with_quoted_numbers(file: &[u8]) -> Cow<'_, [u8]> {
    let mut quoted = Cow::Borrowed(file);
    let mut in_text = false;
    let mut at = 0;
    while at < file.len() {
        match file[at] {
            b'"' => in_text = !in_text,
            b'\\' if in_text => at += 1,
            b'N' | b'I' | b'-' if !in_text => {
                let words = [
                    (&b"NaN"[..], NAN),
                    (b"Infinity", INFINITY),
                    (b"-Infinity", MINUS_INFINITY),
                ];
                let found = words.iter().find(|(word, _)| file[at..].starts_with(word));
                if let Some((word, text)) = found {
                    let text = format!("\"{text}\"");
                    quoted.to_mut()[at..at + word.len()].copy_from_slice(text.as_bytes());
                    at += word.len() - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    quoted
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Document, A::Error> {
        let mut entries = Vec::new();
        while let Some(Object(entry)) = list.next_element()? {
            entries.push(entry);
        }
        Ok(Document::Results(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut dataset = Dataset::default();
        while let Some(key) = map.next_key::<String>()? {
            let is_twice = match key.as_str() {
                "images" => objects(&mut map, &mut dataset.images)?,
                "annotations" => objects(&mut map, &mut dataset.annotations)?,
                "categories" => objects(&mut map, &mut dataset.categories)?,
                _ => map.next_value::<IgnoredAny>().map(|_| false)?,
            };
            if is_twice {
                return Err(A::Error::custom(format!("the key {key:?} is there twice")));
            }
            if dataset.keys.len() < MOST_KEYS {
                dataset.keys.push(key);
            }
        }
        Ok(Document::Dataset(dataset))
    }
}

/// Reads a list of objects, or `null`; whether there was a list before.
fn objects<'de, A: MapAccess<'de>, T: DeserializeOwned>(
    map: &mut A,
    list: &mut Option<Vec<T>>,
) -> Result<bool, A::Error> {
    let objects = map.next_value::<Option<Vec<Object<T>>>>()?;
    let objects = objects.map(|objects| objects.into_iter().map(|Object(value)| value).collect());
    Ok(std::mem::replace(list, objects).is_some())
}

/// A JSON object. Without it a list would be read as an object whose values come in the order of the fields.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;

        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id, which is a whole number or a text")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Id, E> {
                Ok(Id::Number(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Id, E> {
                Ok(match i64::try_from(number) {
                    Ok(number) => Id::Number(number),
                    Err(_) => Id::Text(number.to_string()),
                })
            }

            /// pandas makes `139.0` of a column with gaps.
            fn visit_f64<E: Error>(self, number: f64) -> Result<Id, E> {
                let whole = number as i64;
                match whole as f64 == number {
                    true => Ok(Id::Number(whole)),
                    false => Err(E::custom(format!("{number} is not an id"))),
                }
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Id, E> {
                let number = text.parse::<i64>().ok();
                let number = number.filter(|number| number.to_string() == text);
                Ok(number.map_or_else(|| Id::Text(text.to_owned()), Id::Number))
            }
        }

        deserializer.deserialize_any(IdVisitor)
    }
}

impl<'de> Deserialize<'de> for BoxField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoxVisitor;

        impl<'de> Visitor<'de> for BoxVisitor {
            type Value = BoxField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[x, y, width, height]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<BoxField, A::Error> {
                let mut sides = [0.0; 4];
                let mut count = 0;
                let mut all_numbers = true;
                while let Some(Number(number)) = list.next_element()? {
                    all_numbers &= number.is_some();
                    if let (Some(side), Some(number)) = (sides.get_mut(count), number) {
                        *side = number;
                    }
                    count += 1;
                }
                Ok(BoxField((all_numbers && count == 4).then_some(sides)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BoxField, A::Error> {
                skip(map)?;
                Ok(BoxField(None))
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<BoxField, E> {
                Ok(BoxField(None))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<BoxField, E> {
                Ok(BoxField(None))
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<BoxField, E> {
                Ok(BoxField(None))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<BoxField, E> {
                Ok(BoxField(None))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<BoxField, E> {
                Ok(BoxField(None))
            }
        }

        deserializer.deserialize_any(BoxVisitor)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        impl<'de> Visitor<'de> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Number, E> {
                Ok(Number(Some(number)))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(Some(number as f64)))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(Some(number as f64)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
                Ok(Number(match text {
                    NAN => Some(f64::NAN),
                    INFINITY => Some(f64::INFINITY),
                    MINUS_INFINITY => Some(f64::NEG_INFINITY),
                    _ => None,
                }))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_unit<E: Error>(self) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Number, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Number(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Number, A::Error> {
                skip(map)?;
                Ok(Number(None))
            }
        }

        deserializer.deserialize_any(NumberVisitor)
    }
}

fn skip<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FlagVisitor;

        impl Visitor<'_> for FlagVisitor {
            type Value = Flag;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("iscrowd, which is 0 or 1")
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Flag, E> {
                Ok(Flag(flag))
            }

            fn visit_u64<E: Error>(self, flag: u64) -> Result<Flag, E> {
                Ok(Flag(flag != 0))
            }

            fn visit_i64<E: Error>(self, flag: i64) -> Result<Flag, E> {
                Ok(Flag(flag != 0))
            }

            fn visit_f64<E: Error>(self, flag: f64) -> Result<Flag, E> {
                Ok(Flag(flag != 0.0))
            }

            fn visit_unit<E: Error>(self) -> Result<Flag, E> {
                Ok(Flag(false))
            }
        }

        deserializer.deserialize_any(FlagVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_s_numbers_are_quoted_outside_texts_and_keep_their_places() {
        for (text, expected) in [
            (
                r#"[NaN, -Infinity, Infinity, -1]"#,
                r#"["N", "-Infini", "Infini", -1]"#,
            ),
            (r#"{"NaN \" NaN": NaN}"#, r#"{"NaN \" NaN": "N"}"#),
            (
                r#"{"a\\": Infinity, "In": 1}"#,
                r#"{"a\\": "Infini", "In": 1}"#,
            ),
            ("[N, I, -", "[N, I, -"),
            ("\"\\", "\"\\"),
        ] {
            let quoted = with_quoted_numbers(text.as_bytes());
            assert_eq!(String::from_utf8_lossy(&quoted), expected);
            assert_eq!(quoted.len(), text.len());
        }
        assert!(matches!(
            with_quoted_numbers(b"{\"Na\": [1, -2.5]}"),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn ids_are_numbers_or_texts() {
        let id = |text| serde_json::from_str::<Id>(text).unwrap();
        assert_eq!(id("139"), Id::Number(139));
        assert_eq!(id("\"139\""), Id::Number(139));
        assert_eq!(id("139.0"), Id::Number(139));
        assert_eq!(id("-7"), Id::Number(-7));
        assert_eq!(id("\"0139\""), Id::Text("0139".to_owned()));
        assert_eq!(id("\"+139\""), Id::Text("+139".to_owned()));
        let large = u64::MAX.to_string();
        assert_eq!(id(&large), Id::Text(large.clone()));
        for bad in ["0.5", "true", "[1]", "null"] {
            assert!(serde_json::from_str::<Id>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn boxes_are_four_numbers_or_recognised_as_none() {
        let sides = |text: &str| {
            let list = format!("[{text}, 7]");
            let (BoxField(sides), seven) = serde_json::from_str::<(_, u8)>(&list).unwrap();
            assert_eq!(seven, 7, "all of {text} was read");
            sides
        };
        assert_eq!(sides("[1, 2.5, -3, 4e1]"), Some([1.0, 2.5, -3.0, 40.0]));
        assert!(sides("[1, 2, \"N\", 4]").unwrap()[2].is_nan());
        for bad in [
            "[]",
            "[1, 2, 3]",
            "[1, 2, 3, 4, 5]",
            "[1, 2, 3, null]",
            "[1, 2, 3, \"4\"]",
            "[1, 2, 3, [4]]",
            "[[1, 2, 3, 4]]",
            "{\"x\": 1}",
            "\"1 2 3 4\"",
            "7",
            "-1",
            "0.5",
            "false",
        ] {
            assert_eq!(sides(bad), None, "{bad}");
        }
    }
}

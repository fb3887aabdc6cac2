//! The JSON of COCO files; what is not used of it may be anything.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use crate::segmentation::Segmentation;

/// What a file should be, for messages.
pub(super) const EXPECTED: &str = "a COCO file {\"images\": [{\"id\", \"file_name\"}, ..], \"annotations\": \
                                   [{\"image_id\", \"segmentation\"}, ..]}";

#[derive(Deserialize)]
pub(super) struct Content {
    pub(super) images: Vec<Image>,
    pub(super) annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
pub(super) struct Image {
    pub(super) id: Id,
    pub(super) file_name: String,
    pub(super) height: Option<u32>,
    pub(super) width: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct Annotation {
    pub(super) id: Option<Id>,
    pub(super) image_id: Id,
    #[serde(default)]
    pub(super) segmentation: Segmentation,
    #[serde(default)]
    pub(super) iscrowd: Flag,
}

/// A whole number or a text. Some tools quote numbers, so they are compared as they are written.
#[derive(Debug)]
pub(super) struct Id(pub(super) Box<str>);

/// 0 or 1, or a boolean.
#[derive(Debug, Default)]
pub(super) struct Flag(pub(super) bool);

pub(super) fn parse(file: &[u8]) -> Result<Content, serde_json::Error> {
    // A byte order mark, as some editors on Windows write it.
    serde_json::from_slice(file.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(file))
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;

        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id, which is a whole number or a text")
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<Id, E> {
                Ok(Id(id.to_string().into()))
            }

            fn visit_i64<E: Error>(self, id: i64) -> Result<Id, E> {
                Ok(Id(id.to_string().into()))
            }

            fn visit_str<E: Error>(self, id: &str) -> Result<Id, E> {
                Ok(Id(id.into()))
            }
        }

        deserializer.deserialize_any(IdVisitor)
    }
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
        }

        deserializer.deserialize_any(FlagVisitor)
    }
}

//! What a shard reads, one item each: an image, a tar, or a row group of a Parquet file.

use sha2::{Digest, Sha256};

use crate::fingerprint::hex;

/// Why a listed object is rejected before it is read; it becomes a row all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// A short word to count by: `duplicate_key`.
    pub reason: String,
    /// A sentence for people.
    pub detail: String,
}

/// What the source says of one object. Compact: a plan has millions.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The path below the source's root with `/`, or the manifest's key: names the image, or the
    /// file that holds images, in every output.
    pub key: Box<str>,
    /// Where it is, if not at the key below the source's root.
    pub uri: Option<Box<str>>,
    /// Its size when it was listed, in bytes; 0 if that is not known.
    pub bytes: u64,
    /// The store's name for this very content, if it has one.
    pub etag: Option<Box<str>>,
    /// What it holds.
    pub kind: ItemKind,
    /// What most items do not have, apart so that it costs them 8 bytes.
    pub extras: Option<Box<Extras>>,
}

/// What few items have.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extras {
    /// Set when the listing already knows that the item cannot be used.
    pub reject: Option<Reject>,
    /// A text about the image, carried into the output.
    pub caption: Option<String>,
    /// Boxes on the image, `[x0, y0, x1, y1]` in pixels, carried into the output.
    pub boxes: Option<Vec<[f64; 4]>>,
    /// Labels: what to look for on the image, or one for each box.
    pub labels: Option<Vec<String>>,
    /// The scores of the boxes.
    pub scores: Option<Vec<f32>>,
    /// Points `[x, y, label]` in pixels; the label is 1 on the object and 0 beside it.
    pub points: Option<Vec<[f64; 3]>>,
}

/// What an item holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    /// One image.
    Image,
    /// The samples of a tar; how many is known only when it is read.
    Tar,
    /// The images of one row group of a Parquet file.
    Rows {
        /// Its number in the file.
        row_group: u32,
        /// How many rows it has.
        rows: u64,
    },
}

/// What begins the labels, scores and points of an item. Plans from before there were any have
/// nothing in their place, and there follows either nothing or an option, which begins with 0 or 1.
const PROMPTS: u8 = 2;

impl Extras {
    /// Appends labels, scores and points, if there are any of the three.
    fn write_prompts(&self, bytes: &mut Vec<u8>) {
        if self.labels.is_none() && self.scores.is_none() && self.points.is_none() {
            return;
        }
        bytes.push(PROMPTS);
        bytes.push(u8::from(self.labels.is_some()));
        if let Some(labels) = &self.labels {
            write_count(labels.len(), bytes);
            for label in labels {
                write_text(label, bytes);
            }
        }
        bytes.push(u8::from(self.scores.is_some()));
        if let Some(scores) = &self.scores {
            write_count(scores.len(), bytes);
            for score in scores {
                bytes.extend_from_slice(&score.to_bits().to_le_bytes());
            }
        }
        bytes.push(u8::from(self.points.is_some()));
        if let Some(points) = &self.points {
            write_count(points.len(), bytes);
            for number in points.iter().flatten() {
                bytes.extend_from_slice(&number.to_bits().to_le_bytes());
            }
        }
    }
}

impl Item {
    /// Where to read it: an absolute location, or a key below the source's root.
    pub fn at(&self) -> &str {
        self.uri.as_deref().unwrap_or(&self.key)
    }

    /// Why it is rejected, if it is.
    pub fn reject(&self) -> Option<&Reject> {
        self.extras.as_ref()?.reject.as_ref()
    }

    /// The text about the image.
    pub fn caption(&self) -> Option<&str> {
        self.extras.as_ref()?.caption.as_deref()
    }

    /// The boxes on the image, `[x0, y0, x1, y1]` in pixels.
    pub fn boxes(&self) -> Option<&[[f64; 4]]> {
        self.extras.as_ref()?.boxes.as_deref()
    }

    /// How many image rows it makes: one if it is rejected; not known of a tar.
    pub fn images(&self) -> Option<u64> {
        match self.kind {
            _ if self.reject().is_some() => Some(1),
            ItemKind::Image => Some(1),
            ItemKind::Rows { rows, .. } => Some(rows),
            ItemKind::Tar => None,
        }
    }

    /// Appends everything that decides the item's rows but its key and whether it is rejected.
    ///
    /// Texts are preceded by their length and options by whether they are there, so that no two
    /// items give the same bytes.
    pub(crate) fn write_content(&self, bytes: &mut Vec<u8>) {
        match self.kind {
            ItemKind::Image => bytes.push(0),
            ItemKind::Tar => bytes.push(1),
            ItemKind::Rows { row_group, rows } => {
                bytes.push(2);
                bytes.extend_from_slice(&row_group.to_le_bytes());
                bytes.extend_from_slice(&rows.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        write_option(self.etag.as_deref(), bytes);
        write_option(self.uri.as_deref(), bytes);
        write_option(self.caption(), bytes);
        match self.boxes() {
            None => bytes.push(0),
            Some(boxes) => {
                bytes.push(1);
                write_count(boxes.len(), bytes);
                for side in boxes.iter().flatten() {
                    bytes.extend_from_slice(&side.to_bits().to_le_bytes());
                }
            }
        }
        if let Some(extras) = self.extras.as_deref() {
            extras.write_prompts(bytes);
        }
    }

    fn write_whole(&self, bytes: &mut Vec<u8>) {
        write_text(&self.key, bytes);
        self.write_content(bytes);
        let reject = self.reject();
        write_option(reject.map(|reject| reject.reason.as_str()), bytes);
        write_option(reject.map(|reject| reject.detail.as_str()), bytes);
    }
}

/// SHA-256 over everything in `items` that decides rows, in their order, in lower-case hex.
///
/// Where the source's root lies does not enter, so it may be mounted elsewhere on another machine.
/// Without an etag (local files have none) an object replaced by one of the same size is not seen.
pub fn items_digest(items: &[Item]) -> String {
    let mut hash = Sha256::new();
    // One buffer for all items: a million of them cost no allocation.
    let mut record = Vec::new();
    for item in items {
        record.clear();
        item.write_whole(&mut record);
        hash.update(&record);
    }
    hex(&hash.finalize())
}

fn write_count(count: usize, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&(count as u64).to_le_bytes());
}

pub(crate) fn write_text(text: &str, bytes: &mut Vec<u8>) {
    write_count(text.len(), bytes);
    bytes.extend_from_slice(text.as_bytes());
}

pub(crate) fn write_option(text: Option<&str>, bytes: &mut Vec<u8>) {
    bytes.push(u8::from(text.is_some()));
    if let Some(text) = text {
        write_text(text, bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(key: &str) -> Item {
        Item {
            key: key.into(),
            uri: None,
            bytes: 640,
            etag: Some("\"5d\"".into()),
            kind: ItemKind::Image,
            extras: None,
        }
    }

    fn with_extras(extras: Extras) -> Item {
        Item {
            extras: Some(Box::new(extras)),
            ..item("a/b.jpg")
        }
    }

    #[test]
    fn an_item_is_small() {
        // A plan of ten million items is 800 MB beside its texts.
        assert!(size_of::<Item>() <= 80, "{} bytes", size_of::<Item>());
    }

    #[test]
    fn an_item_is_read_at_its_uri_or_else_its_key() {
        assert_eq!(item("a/b.jpg").at(), "a/b.jpg");
        let elsewhere = Item {
            uri: Some("s3://b/x.jpg".into()),
            ..item("a/b.jpg")
        };
        assert_eq!(elsewhere.at(), "s3://b/x.jpg");
    }

    #[test]
    fn rows_are_counted_as_far_as_they_are_known() {
        let of = |kind| Item { kind, ..item("a") }.images();
        let rows = ItemKind::Rows {
            row_group: 2,
            rows: 31,
        };
        assert_eq!(of(ItemKind::Image), Some(1));
        assert_eq!(of(rows), Some(31));
        assert_eq!(of(ItemKind::Tar), None);
        let reject = Some(Reject {
            reason: "unreadable".to_string(),
            detail: "no permission".to_string(),
        });
        let rejected = Extras {
            reject,
            ..Extras::default()
        };
        let rejected = Item {
            kind: ItemKind::Tar,
            ..with_extras(rejected)
        };
        assert_eq!(rejected.images(), Some(1), "its row says why");
    }

    #[test]
    fn the_digest_is_stable() {
        // Frozen plans rely on it: when it has to change, raise `SEGMENT_VERSION`.
        let rows = Item {
            uri: Some("s3://b/t.parquet".into()),
            kind: ItemKind::Rows {
                row_group: 3,
                rows: 100,
            },
            ..item("t.parquet")
        };
        let extras = Extras {
            reject: Some(Reject {
                reason: "bad_key".to_string(),
                detail: "rename it".to_string(),
            }),
            caption: Some("a cat".to_string()),
            boxes: Some(vec![[0.5, 1.0, 20.0, 30.25]]),
            ..Extras::default()
        };
        let items = [item("a b/\u{fc}.jpg"), rows, with_extras(extras)];
        assert_eq!(
            items_digest(&items),
            "3004b133dcfdd44458b5887702d0ef3dfc34c7ad79ab57109630a1a82d01502a"
        );
    }

    #[test]
    fn the_digest_of_prompts_is_stable() {
        let extras = Extras {
            boxes: Some(vec![[0.5, 1.0, 20.0, 30.25]]),
            labels: Some(vec!["a cat".to_string(), "\u{fc}".to_string()]),
            scores: Some(vec![0.75]),
            points: Some(vec![[7.5, 2.0, 1.0], [0.0, 5.0, 0.0]]),
            ..Extras::default()
        };
        let mut content = Vec::new();
        with_extras(extras).write_content(&mut content);
        let mut without = Vec::new();
        let boxes = Extras {
            boxes: Some(vec![[0.5, 1.0, 20.0, 30.25]]),
            ..Extras::default()
        };
        with_extras(boxes).write_content(&mut without);
        assert!(content.starts_with(&without), "what is new comes behind");
        assert_eq!(
            content[without.len()..],
            [
                // The block, two labels of five and two bytes.
                &[2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0][..],
                b"a cat",
                &[2, 0, 0, 0, 0, 0, 0, 0, 0xC3, 0xBC],
                // One score.
                &[1, 1, 0, 0, 0, 0, 0, 0, 0],
                &0.75_f32.to_bits().to_le_bytes(),
                // Two points.
                &[1, 2, 0, 0, 0, 0, 0, 0, 0],
                &[7.5, 2.0, 1.0, 0.0, 5.0, 0.0]
                    .map(|number: f64| number.to_bits().to_le_bytes())
                    .concat(),
            ]
            .concat()
        );
    }

    #[test]
    fn everything_that_decides_rows_changes_the_digest() {
        let base = items_digest(&[item("a/b.jpg")]);
        let reject = |reason: &str, detail: &str| {
            with_extras(Extras {
                reject: Some(Reject {
                    reason: reason.to_string(),
                    detail: detail.to_string(),
                }),
                ..Extras::default()
            })
        };
        let caption = |text: &str| {
            with_extras(Extras {
                caption: Some(text.to_string()),
                ..Extras::default()
            })
        };
        let boxes = |boxes: &[[f64; 4]]| {
            with_extras(Extras {
                boxes: Some(boxes.to_vec()),
                ..Extras::default()
            })
        };
        let labels = |labels: &[&str]| {
            with_extras(Extras {
                labels: Some(labels.iter().map(|label| label.to_string()).collect()),
                ..Extras::default()
            })
        };
        let scores = |scores: &[f32]| {
            with_extras(Extras {
                scores: Some(scores.to_vec()),
                ..Extras::default()
            })
        };
        let points = |points: &[[f64; 3]]| {
            with_extras(Extras {
                points: Some(points.to_vec()),
                ..Extras::default()
            })
        };
        let rows = |row_group, rows| Item {
            kind: ItemKind::Rows { row_group, rows },
            ..item("a/b.jpg")
        };
        let others = [
            item("a/b.jpeg"),
            Item {
                bytes: 641,
                ..item("a/b.jpg")
            },
            Item {
                etag: None,
                ..item("a/b.jpg")
            },
            // The etag of the base, moved.
            Item {
                etag: None,
                uri: Some("\"5d\"".into()),
                ..item("a/b.jpg")
            },
            Item {
                kind: ItemKind::Tar,
                ..item("a/b.jpg")
            },
            rows(0, 3),
            rows(3, 0),
            reject("x", "yz"),
            reject("xy", "z"),
            caption(""),
            caption("\"5d\""),
            boxes(&[]),
            boxes(&[[1.0, 2.0, 3.0, 4.0]]),
            boxes(&[[1.0, 2.0, 4.0, 3.0]]),
            labels(&[]),
            labels(&["ab"]),
            labels(&["a", "b"]),
            scores(&[]),
            scores(&[0.5]),
            scores(&[0.25]),
            points(&[]),
            points(&[[1.0, 2.0, 0.0]]),
            points(&[[1.0, 2.0, 1.0]]),
        ];
        let mut digests: Vec<String> = others
            .iter()
            .map(|other| items_digest(std::slice::from_ref(other)))
            .collect();
        digests.extend([base.clone(), items_digest(&[])]);
        digests.push(items_digest(&[item("a/b.jpg"), item("a/b.jpg")]));
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), others.len() + 3);
        // No extras and empty ones mean the same.
        let empty = items_digest(&[with_extras(Extras::default())]);
        assert_eq!(empty, base);
    }

    /// Few letters and short texts, so that different items often have the same letters in a row.
    fn any_item() -> impl Strategy<Value = Item> {
        let text = || "[ab]{0,2}";
        let kind = prop_oneof![
            Just(ItemKind::Image),
            Just(ItemKind::Tar),
            (0..2_u32, 0..2_u64).prop_map(|(row_group, rows)| ItemKind::Rows { row_group, rows }),
        ];
        let option = || proptest::option::of(text());
        let fields = (
            text(),
            option(),
            0..2_u64,
            option(),
            kind,
            option(),
            option(),
            proptest::option::of(proptest::collection::vec(text(), 0..3)),
            proptest::option::of(proptest::collection::vec(0..2_u8, 0..3)),
        );
        fields.prop_map(
            |(key, uri, bytes, etag, kind, caption, reason, labels, scores)| {
                let reject = reason.map(|reason| Reject {
                    reason,
                    detail: String::new(),
                });
                let extras = Extras {
                    reject,
                    caption,
                    labels,
                    scores: scores.map(|scores| scores.into_iter().map(f32::from).collect()),
                    ..Extras::default()
                };
                Item {
                    key: key.into(),
                    uri: uri.map(Into::into),
                    bytes,
                    etag: etag.map(Into::into),
                    kind,
                    extras: Some(Box::new(extras)),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn two_lists_have_one_digest_only_if_they_are_equal(
            a in proptest::collection::vec(any_item(), 0..3),
            b in proptest::collection::vec(any_item(), 0..3),
        ) {
            prop_assert_eq!(items_digest(&a) == items_digest(&b), a == b);
        }
    }
}

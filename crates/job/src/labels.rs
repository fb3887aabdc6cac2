//! What masks are called: the labels, the phrases that find them, and the labeller's settings.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::{Deserialize, Serialize};

use crate::document::{Node, Value};
use crate::problem::Origin;
use crate::schema;
use crate::section::Section;

/// The labels a text prompt or the labeller looks for, in one form whatever order they were
/// written in: sorted, without repeats, and with single spaces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Labels {
    /// The labels by name; none when each image brings its own.
    pub names: Vec<Label>,
    /// Sentences with one `{}`, where a phrase is put; their embeddings are averaged.
    pub templates: Vec<String>,
    /// Phrases that take detections and crops away from the labels and give no row.
    pub negatives: Vec<String>,
}

/// A label and the phrases that mean it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// What is written into the rows.
    pub name: String,
    /// What the model is given, at least one; the best of them counts.
    pub phrases: Vec<String>,
    /// In place of `prompts.score_thresh`, for this label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_thresh: Option<f64>,
}

/// How CLIP labels masks by their crops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabellerSettings {
    /// What is added to a mask's box on each side, as a fraction of the box's longer side.
    pub crop_padding: f64,
    /// What is done to the pixels of the crop outside the mask.
    pub crop_background: CropBackground,
    /// A label whose probability among labels and negatives is below this is not given.
    pub min_probability: f64,
    /// A label whose cosine with the crop is below this is not given.
    pub min_similarity: f64,
    /// What masks are called that no label is given.
    pub other_label: String,
}

/// What is done to the pixels of a crop outside its mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropBackground {
    /// Nothing.
    Keep,
    /// They are blurred.
    Blur,
    /// They are painted over in one colour.
    Remove,
}

/// Sixteen times the categories of LVIS (1,203); their embeddings take some 40 MB.
const MAX_PHRASES: usize = 20_000;
/// Texts that are encoded before the first image: some minutes of a GPU.
const MAX_TEXTS: usize = 200_000;
/// Models read 16 or 77 tokens; a text of this length is a mistake, such as a file's content.
const MAX_CHARACTERS: usize = 500;

/// White space at both ends removed, and every run of it inside become one space.
pub(crate) fn tidy(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the tokenizers of CLIP and OWLv2 make of letter case and white space: texts with equal
/// results have equal tokens.
pub(crate) fn folded(text: &str) -> String {
    tidy(text).to_lowercase()
}

/// A text of the file, and where.
struct Written {
    /// The setting, such as `names.car.phrases[1]`.
    key: String,
    /// Tidied.
    text: String,
    /// As typed.
    typed: String,
    origin: Origin,
}

/// A label of the file.
struct WrittenLabel {
    name: Written,
    phrases: Vec<Written>,
    score_thresh: Option<f64>,
}

/// Reads `[labels]`. Whether anything uses it is checked elsewhere.
pub(crate) fn read_labels(mut section: Section<'_>) -> Labels {
    let names_origin = section.origin_of("names");
    let templates_origin = section.origin_of("templates");
    let negatives_origin = section.origin_of("negatives");
    let names = read_names(&mut section);
    let templates = read_templates(&mut section);
    let negatives = read_texts(&mut section, "negatives").unwrap_or_default();

    let names = distinct_labels(&mut section, names);
    note_shared_phrases(&mut section, &names, &negatives);
    let labels = Labels {
        names: sorted_labels(names),
        templates,
        negatives: sorted(negatives),
    };
    let of_labels: usize = labels.names.iter().map(|label| label.phrases.len()).sum();
    let phrases = of_labels + labels.negatives.len();
    let texts = phrases * labels.templates.len();
    if phrases > MAX_PHRASES {
        let what = format!(
            " and labels.negatives have {phrases} phrases; there can be {MAX_PHRASES} at most"
        );
        section.note(names_origin.or(negatives_origin), "names", &what);
    } else if texts > MAX_TEXTS {
        let what = format!(
            ": {} templates for {phrases} phrases make {texts} texts; there can be {MAX_TEXTS} \
             at most",
            labels.templates.len()
        );
        section.note(templates_origin, "templates", &what);
    }
    section.finish();
    labels
}

/// Reads `[labeller]`. Whether there is one is checked elsewhere.
pub(crate) fn read_labeller(mut section: Section<'_>) -> LabellerSettings {
    let backgrounds = [
        ("keep", CropBackground::Keep),
        ("blur", CropBackground::Blur),
        ("remove", CropBackground::Remove),
    ];
    let other = section.text("other_label");
    let settings = LabellerSettings {
        crop_padding: section.number("crop_padding", 0.1, 0.0..=10.0),
        crop_background: section
            .one_of("crop_background", &backgrounds)
            .unwrap_or(CropBackground::Keep),
        min_probability: section.number("min_probability", 0.0, 0.0..=1.0),
        min_similarity: section.number("min_similarity", -1.0, -1.0..=1.0),
        other_label: other.map_or("other".to_string(), |(label, _)| tidy(&label)),
    };
    section.finish();
    settings
}

const NAMES_SHAPE: &str = "an array of labels, or a table of labels with their phrases, such as \
                           { car = [\"car\", \"automobile\"] }";

fn read_names(section: &mut Section<'_>) -> Vec<WrittenLabel> {
    let Some(Node { value, origin }) = section.any("names") else {
        return Vec::new();
    };
    let labels: Vec<WrittenLabel> = match value {
        Value::Array(items) if !items.is_empty() => {
            let names = items.into_iter().enumerate();
            names
                .filter_map(|(at, node)| read_name(section, &format!("names[{at}]"), node))
                .collect()
        }
        Value::Table(entries) if !entries.is_empty() => entries
            .into_iter()
            .filter_map(|(name, node)| read_label(section, &name, node))
            .collect(),
        Value::Array(_) | Value::Table(_) => {
            section.note(Some(origin), "names", " has no labels");
            Vec::new()
        }
        other => section
            .wrong_type("names", &other, origin, NAMES_SHAPE)
            .unwrap_or_default(),
    };
    labels
}

/// A label of the array form: its name is its phrase.
fn read_name(section: &mut Section<'_>, key: &str, node: Node) -> Option<WrittenLabel> {
    const MUST: &str = "a string; labels with several phrases are written as a table, such as \
                        names = { car = [\"car\", \"automobile\"] }";
    let (typed, origin) = section.as_string(key, node, MUST)?;
    let name = checked(section, key, typed, origin)?;
    Some(WrittenLabel {
        phrases: vec![phrase_of(&name)],
        name,
        score_thresh: None,
    })
}

/// A label of the table form: `name = "phrase"`, `name = ["phrase", ...]`, or
/// `name = { phrases = ..., score_thresh = ... }`.
fn read_label(section: &mut Section<'_>, name: &str, node: Node) -> Option<WrittenLabel> {
    const SHAPE: &str = "a phrase, an array of phrases, or { phrases = [...], score_thresh = 0.3 }";
    let key = format!("names.{}", schema::quoted_key(name));
    let name = checked(section, &key, name.to_string(), node.origin.clone());
    let (phrases, score_thresh) = match node.value {
        Value::Table(_) => {
            let mut table = section.table(&key, node, &schema::LABEL, SHAPE)?;
            let score_thresh = table.optional_number("score_thresh", 0.0..=1.0);
            let phrases = table.any("phrases");
            table.finish();
            let key = format!("{key}.phrases");
            let must = "a phrase or an array of phrases";
            match phrases {
                Some(phrases) => (read_phrases(section, &key, phrases, must), score_thresh),
                None => (name.iter().map(phrase_of).collect(), score_thresh),
            }
        }
        _ => (read_phrases(section, &key, node, SHAPE), None),
    };
    Some(WrittenLabel {
        name: name?,
        phrases,
        score_thresh,
    })
}

/// A name as its own phrase.
fn phrase_of(name: &Written) -> Written {
    Written {
        key: name.key.clone(),
        text: name.text.clone(),
        typed: name.typed.clone(),
        origin: name.origin.clone(),
    }
}

/// One phrase or an array of them.
fn read_phrases(section: &mut Section<'_>, key: &str, node: Node, must: &str) -> Vec<Written> {
    let Node { value, origin } = node;
    match value {
        Value::String(typed) => checked(section, key, typed, origin).into_iter().collect(),
        Value::Array(items) if items.is_empty() => {
            section.note(Some(origin), key, " has no phrases");
            Vec::new()
        }
        Value::Array(items) => read_items(section, key, items),
        other => section
            .wrong_type(key, &other, origin, must)
            .unwrap_or_default(),
    }
}

/// The array of texts `key`, if it is there.
fn read_texts(section: &mut Section<'_>, key: &str) -> Option<Vec<Written>> {
    let items = section.array(key, "an array of strings")?;
    Some(read_items(section, key, items))
}

fn read_items(section: &mut Section<'_>, key: &str, items: Vec<Node>) -> Vec<Written> {
    let mut texts = Vec::new();
    for (at, node) in items.into_iter().enumerate() {
        let key = format!("{key}[{at}]");
        let text = section.as_string(&key, node, "a string");
        texts.extend(text.and_then(|(typed, origin)| checked(section, &key, typed, origin)));
    }
    texts
}

/// A label or phrase, unless it is empty or too long.
fn checked(section: &mut Section<'_>, key: &str, typed: String, origin: Origin) -> Option<Written> {
    let text = tidy(&typed);
    let characters = text.chars().count();
    if text.is_empty() {
        section.note(Some(origin), key, " is empty");
        return None;
    }
    if characters > MAX_CHARACTERS {
        let what = format!(
            " has {characters} characters; labels and phrases have {MAX_CHARACTERS} at most"
        );
        section.note(Some(origin), key, &what);
        return None;
    }
    Some(Written {
        key: key.to_string(),
        text,
        typed,
        origin,
    })
}

fn read_templates(section: &mut Section<'_>) -> Vec<String> {
    let origin = section.origin_of("templates");
    let Some(templates) = read_texts(section, "templates") else {
        return vec!["{}".to_string()];
    };
    if templates.is_empty() {
        let what = " has no template; leave it out to use phrases as they are";
        section.note(origin, "templates", what);
    }
    for template in &templates {
        let holes = template.text.matches("{}").count();
        if holes != 1 {
            let has = match holes {
                0 => "has no {}".to_string(),
                _ => format!("has {{}} {holes} times"),
            };
            let what = format!(
                " = {:?} {has}; a template has {{}} once, where the phrase goes, such as \"a \
                 photo of a {{}}\"",
                template.text
            );
            section.note(Some(template.origin.clone()), &template.key, &what);
        }
    }
    sorted(templates)
}

/// Notes labels that are there twice, and puts the phrases of each under its first.
fn distinct_labels(section: &mut Section<'_>, labels: Vec<WrittenLabel>) -> Vec<WrittenLabel> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut distinct: Vec<WrittenLabel> = Vec::new();
    for label in labels {
        let name = &label.name;
        match places.entry(folded(&name.text)) {
            Entry::Vacant(place) => {
                place.insert(distinct.len());
                distinct.push(label);
            }
            Entry::Occupied(place) => {
                let first = &mut distinct[*place.get()];
                let what = duplicate(&name.typed, &first.name.typed);
                section.note(Some(name.origin.clone()), &name.key, &what);
                first.phrases.extend(label.phrases);
            }
        }
    }
    distinct
}

/// Says that two labels, as typed, are one.
pub(crate) fn duplicate(label: &str, first: &str) -> String {
    match label == first {
        true => format!(": the label {label:?} is given twice; remove one"),
        false => format!(
            ": the labels {first:?} and {label:?} differ only in case or white space, and models \
             read them as the same text; keep one of them"
        ),
    }
}

/// Notes phrases of two labels, and those of a label and of the negatives: both would have the
/// same score for everything, and which of them wins would be chance.
fn note_shared_phrases(section: &mut Section<'_>, labels: &[WrittenLabel], negatives: &[Written]) {
    let mut owners: HashMap<String, &str> = HashMap::new();
    for label in labels {
        for phrase in &label.phrases {
            let owner = owners
                .entry(folded(&phrase.text))
                .or_insert(&label.name.text);
            if *owner != label.name.text {
                let what = format!(
                    ": {:?} is a phrase of the label {owner:?} and of {:?}, whose scores for it \
                     are always equal, so that nothing decides between the two; keep it in one",
                    phrase.text, label.name.text
                );
                section.note(Some(phrase.origin.clone()), &phrase.key, &what);
            }
        }
    }
    for negative in negatives {
        if let Some(owner) = owners.get(&folded(&negative.text)) {
            let what = format!(
                ": {:?} is also a phrase of the label {owner:?}; their scores are always equal, \
                 so that nothing decides whether it counts. Keep it in one",
                negative.text
            );
            section.note(Some(negative.origin.clone()), &negative.key, &what);
        }
    }
}

fn sorted_labels(labels: Vec<WrittenLabel>) -> Vec<Label> {
    let label = |label: WrittenLabel| Label {
        name: label.name.text,
        phrases: sorted(label.phrases),
        score_thresh: label.score_thresh,
    };
    let mut labels: Vec<Label> = labels.into_iter().map(label).collect();
    labels.sort_by(|a, b| a.name.cmp(&b.name));
    labels
}

fn sorted(texts: Vec<Written>) -> Vec<String> {
    let mut texts: Vec<String> = texts.into_iter().map(|text| text.text).collect();
    texts.sort();
    texts.dedup();
    texts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tidying_twice_is_tidying_once_and_changes_no_word(text in "[a\u{e9}C \t\n\u{a0}]{0,12}") {
            let once = tidy(&text);
            prop_assert_eq!(tidy(&once), once.clone());
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(words(&once), words(&text));
            prop_assert!(!once.contains("  ") && once.trim() == once);
            prop_assert_eq!(folded(&once.to_uppercase()), folded(&text));
        }
    }
}

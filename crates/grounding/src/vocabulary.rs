//! What to look for: labels with their phrases, phrases that only absorb, and templates.
//!
//! Labels and phrases are kept in alphabetical order, whatever order they were given in, and encoded and
//! scored in it: results do not depend on the order in which labels were written.

use std::collections::{BTreeMap, HashMap};

use crate::texts::{Embeddings, Overlong, TextEncoder};

/// Where a template takes its phrase.
const PLACE: &str = "{}";

/// A label and the phrases that mean it.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// The label, as it is written to rows.
    pub name: String,
    /// Synonyms; any of them finds the label.
    pub phrases: Vec<String>,
    /// Its own score threshold.
    pub score_thresh: Option<f32>,
}

impl Label {
    /// A label that is its only phrase.
    pub fn plain(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            phrases: vec![name.clone()],
            name,
            score_thresh: None,
        }
    }
}

/// What a phrase belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The label of this number.
    Label(usize),
    /// No label: what it finds is dropped.
    Negative,
}

/// Why labels cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// There is nothing to look for.
    #[error("there is no label to look for")]
    NoLabels,
    /// A label, phrase or template of white space.
    #[error("{what} is empty: give it at least one word")]
    Empty {
        /// What is: `label 2`, `a phrase of "cat"`.
        what: String,
    },
    /// A label is given twice.
    #[error("the label {name:?} is given twice; give it once, with all its phrases")]
    DuplicateLabel {
        /// The label.
        name: String,
    },
    /// A phrase belongs to two labels, so what it finds cannot be told apart.
    #[error(
        "the phrase {phrase:?} is given for {first} and for {second}; remove it from one of them"
    )]
    DuplicatePhrase {
        /// The phrase.
        phrase: String,
        /// Whose it is: `the label "cat"`, `the negatives`.
        first: String,
        /// Whose it is too.
        second: String,
    },
    /// A template without a place for the phrase, or with several.
    #[error("the template {template:?} must have {PLACE} at one place, where the phrase goes")]
    Template {
        /// The template.
        template: String,
    },
}

/// Labels, phrases and templates, checked and in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    labels: Vec<(String, Option<f32>)>,
    phrases: Vec<(String, Owner)>,
    templates: Vec<String>,
}

impl Vocabulary {
    /// Checks and sorts. White space around and within phrases does not matter. Without templates a phrase
    /// is encoded as it is.
    ///
    /// # Errors
    /// See [`VocabularyError`].
    pub fn new(
        mut labels: Vec<Label>,
        negatives: &[String],
        templates: &[String],
    ) -> Result<Self, VocabularyError> {
        if labels.is_empty() {
            return Err(VocabularyError::NoLabels);
        }
        for (place, label) in labels.iter_mut().enumerate() {
            label.name = collapsed(&label.name);
            if label.name.is_empty() {
                let what = format!("label {}", place + 1);
                return Err(VocabularyError::Empty { what });
            }
        }
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = labels.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let name = pair[0].name.clone();
            return Err(VocabularyError::DuplicateLabel { name });
        }
        let mut owners: BTreeMap<String, Owner> = BTreeMap::new();
        let whose = |owner: Owner| match owner {
            Owner::Label(index) => format!("the label {:?}", labels[index].name),
            Owner::Negative => "the negatives".to_owned(),
        };
        let of_labels = labels.iter().enumerate().flat_map(|(index, label)| {
            let phrases = label.phrases.iter();
            phrases.map(move |phrase| (phrase, Owner::Label(index)))
        });
        let of_negatives = negatives.iter().map(|phrase| (phrase, Owner::Negative));
        for (phrase, owner) in of_labels.chain(of_negatives) {
            let phrase = collapsed(phrase);
            if phrase.is_empty() {
                let what = format!("a phrase of {}", whose(owner));
                return Err(VocabularyError::Empty { what });
            }
            match owners.insert(phrase.clone(), owner) {
                Some(other) if other != owner => {
                    return Err(VocabularyError::DuplicatePhrase {
                        phrase,
                        first: whose(other),
                        second: whose(owner),
                    });
                }
                _ => {}
            }
        }
        if let Some(label) = labels.iter().find(|label| label.phrases.is_empty()) {
            let what = format!("the list of phrases of {:?}", label.name);
            return Err(VocabularyError::Empty { what });
        }
        let one_place = |template: &String| template.matches(PLACE).count() == 1;
        if let Some(template) = templates.iter().find(|template| !one_place(template)) {
            let template = template.clone();
            return Err(VocabularyError::Template { template });
        }
        let mut templates = templates.to_vec();
        templates.sort();
        templates.dedup();
        if templates.is_empty() {
            templates.push(PLACE.to_owned());
        }
        Ok(Self {
            labels: labels
                .into_iter()
                .map(|label| (label.name, label.score_thresh))
                .collect(),
            phrases: owners.into_iter().collect(),
            templates,
        })
    }

    /// A vocabulary of example images instead of phrases: `labels` has one entry per example, in the order of the
    /// examples' embeddings. Several examples may show one label.
    ///
    /// # Errors
    /// [`VocabularyError::NoLabels`], [`VocabularyError::Empty`].
    pub fn of_examples(labels: &[String]) -> Result<Self, VocabularyError> {
        let mut names: Vec<String> = labels.iter().map(|label| collapsed(label)).collect();
        if let Some(place) = names.iter().position(String::is_empty) {
            let what = format!("the label of example {}", place + 1);
            return Err(VocabularyError::Empty { what });
        }
        let of_example = names.clone();
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Err(VocabularyError::NoLabels);
        }
        let owner = |label: &String| names.binary_search(label).expect("it is one of them");
        let phrases = of_example.iter().enumerate().map(|(place, label)| {
            let name = format!("example {} of {label}", place + 1);
            (name, Owner::Label(owner(label)))
        });
        Ok(Self {
            phrases: phrases.collect(),
            labels: names.into_iter().map(|name| (name, None)).collect(),
            templates: vec![PLACE.to_owned()],
        })
    }

    /// The labels' names, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.labels.iter().map(|(name, _)| name.as_str())
    }

    /// A label's name.
    pub fn name(&self, label: usize) -> &str {
        &self.labels[label].0
    }

    /// A label's own score threshold.
    pub fn score_thresh(&self, label: usize) -> Option<f32> {
        self.labels[label].1
    }

    /// The phrases in order, and whose each is.
    pub fn phrases(&self) -> &[(String, Owner)] {
        &self.phrases
    }

    /// Every phrase in every template, phrase by phrase.
    pub fn texts(&self) -> Vec<String> {
        self.texts_of(self.phrases.iter().map(|(phrase, _)| phrase.as_str()))
    }

    fn texts_of<'a>(&self, phrases: impl Iterator<Item = &'a str>) -> Vec<String> {
        phrases
            .flat_map(|phrase| {
                let templates = self.templates.iter();
                templates.map(move |template| template.replacen(PLACE, phrase, 1))
            })
            .collect()
    }

    /// One embedding per phrase, normalised: the mean of its normalised embeddings in all templates, as CLIP's
    /// prompt ensembles have it. With them come the texts that were longer than the model's context.
    pub fn embed(&self, encoder: TextEncoder<'_>) -> (Embeddings, Vec<Overlong>) {
        self.embed_texts(encoder, &self.texts())
    }

    /// [`Vocabulary::embed`], where phrases that `known` has are not encoded again. Those it has not are added; the
    /// templates must be those that it was filled with.
    pub fn embed_with(
        &self,
        encoder: TextEncoder<'_>,
        known: &mut KnownPhrases,
    ) -> (Embeddings, Vec<Overlong>) {
        let phrases = || self.phrases.iter().map(|(phrase, _)| phrase.as_str());
        let new: Vec<&str> = phrases()
            .filter(|phrase| !known.0.contains_key(*phrase))
            .collect();
        let mut overlong = Vec::new();
        if !new.is_empty() {
            let texts = self.texts_of(new.iter().copied());
            let (embedded, too_long) = self.embed_texts(encoder, &texts);
            overlong = too_long;
            known.make_room(new.len());
            // What was dropped to make room may be among the others of this vocabulary.
            if phrases().any(|phrase| !known.0.contains_key(phrase) && !new.contains(&phrase)) {
                return self.embed(encoder);
            }
            let rows = new.iter().zip(embedded.rows());
            known
                .0
                .extend(rows.map(|(phrase, row)| ((*phrase).to_owned(), row.to_vec())));
        }
        let rows: Vec<&[f32]> = phrases().map(|phrase| known.0[phrase].as_slice()).collect();
        let dim = rows.first().map_or(1, |row| row.len());
        (Embeddings::new(rows.concat(), dim), overlong)
    }

    fn embed_texts(
        &self,
        encoder: TextEncoder<'_>,
        texts: &[String],
    ) -> (Embeddings, Vec<Overlong>) {
        let (embeddings, overlong) = encoder.embed(texts);
        let embeddings = embeddings.normalised();
        (embeddings.group_means(self.templates.len()), overlong)
    }
}

/// Embeddings of phrases that occur again and again, where every image has labels of its own. At most so many are
/// kept that they take some tens of megabytes.
#[derive(Debug, Default)]
pub struct KnownPhrases(HashMap<String, Vec<f32>>);

impl KnownPhrases {
    /// 40 MB of CLIP's 512 channels.
    const MOST: usize = 20_000;

    /// Forgets everything when `more` would be too many: simpler than knowing what is used least, and the phrases
    /// of a dataset are fewer.
    fn make_room(&mut self, more: usize) {
        if self.0.len() + more > Self::MOST {
            self.0.clear();
        }
    }
}

/// Without white space at the ends, and single spaces within.
fn collapsed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(name: &str, phrases: &[&str]) -> Label {
        Label {
            name: name.to_owned(),
            phrases: phrases.iter().map(|p| (*p).to_owned()).collect(),
            score_thresh: None,
        }
    }

    fn refused(labels: Vec<Label>, negatives: &[&str], templates: &[&str]) -> String {
        let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let refused = Vocabulary::new(labels, &owned(negatives), &owned(templates));
        refused.unwrap_err().to_string()
    }

    #[test]
    fn the_order_of_writing_does_not_matter() {
        let one = vec![
            label("dog", &["dog"]),
            label("car", &["car", "auto  mobile"]),
        ];
        let other = vec![
            label("car", &[" auto mobile", "car"]),
            label("dog", &["dog"]),
        ];
        let sky = ["sky".to_owned(), "grass".to_owned()];
        let grass = ["grass".to_owned(), "sky".to_owned()];
        let vocabulary = Vocabulary::new(one, &sky, &[]).unwrap();
        assert_eq!(vocabulary, Vocabulary::new(other, &grass, &[]).unwrap());
        assert_eq!(vocabulary.names().collect::<Vec<_>>(), ["car", "dog"]);
        assert_eq!(
            vocabulary.texts(),
            ["auto mobile", "car", "dog", "grass", "sky"]
        );
        assert_eq!(vocabulary.phrases()[3].1, Owner::Negative);
    }

    #[test]
    fn a_phrase_goes_through_every_template() {
        let templates = ["a {}".to_owned(), "the {} here".to_owned()];
        let vocabulary = Vocabulary::new(vec![Label::plain("cat")], &[], &templates).unwrap();
        assert_eq!(vocabulary.texts(), ["a cat", "the cat here"]);
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        assert_eq!(refused(vec![], &[], &[]), "there is no label to look for");
        let empty = refused(vec![label("a", &["a"]), label(" ", &["b"])], &[], &[]);
        assert_eq!(empty, "label 2 is empty: give it at least one word");
        let empty = refused(vec![label("a", &["a", "\t"])], &[], &[]);
        assert!(
            empty.starts_with("a phrase of the label \"a\" is empty"),
            "{empty}"
        );
        let twice = refused(vec![label("a", &["a"]), label("a ", &["b"])], &[], &[]);
        assert!(twice.contains("label \"a\" is given twice"), "{twice}");
        let shared = refused(vec![label("a", &["x"]), label("b", &["x"])], &[], &[]);
        assert!(
            shared.contains("\"x\" is given for the label \"a\" and for the label \"b\""),
            "{shared}"
        );
        let absorbed = refused(vec![label("a", &["x"])], &["x"], &[]);
        assert!(absorbed.contains("and for the negatives"), "{absorbed}");
        let template = refused(vec![label("a", &["x"])], &[], &["a photo"]);
        assert!(template.contains("\"a photo\" must have {}"), "{template}");
        let none = refused(vec![label("a", &[])], &[], &[]);
        assert!(none.contains("phrases of \"a\" is empty"), "{none}");
    }

    #[test]
    fn examples_of_a_label_find_it_together() {
        let labels = ["logo", "cat", "logo"].map(str::to_owned);
        let vocabulary = Vocabulary::of_examples(&labels).unwrap();
        assert_eq!(vocabulary.names().collect::<Vec<_>>(), ["cat", "logo"]);
        let owners: Vec<Owner> = vocabulary
            .phrases()
            .iter()
            .map(|(_, owner)| *owner)
            .collect();
        assert_eq!(owners, [1, 0, 1].map(Owner::Label));
        assert_eq!(Vocabulary::of_examples(&[]), Err(VocabularyError::NoLabels));
    }

    #[test]
    fn a_phrase_repeated_within_its_label_counts_once() {
        let vocabulary = Vocabulary::new(vec![label("a", &["x", "x"])], &[], &[]).unwrap();
        assert_eq!(vocabulary.texts(), ["x"]);
    }
}

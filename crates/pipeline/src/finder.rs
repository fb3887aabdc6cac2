//! Boxes that a detector finds, as prompts: for labels, the same for all images or each image's own, or for
//! examples.

use std::sync::Mutex;

use maskmill_grounding::{
    Detection, DetectionOptions, KnownPhrases, Label, NotFinite, Overlong, Owl, OwlInput, Queries,
    Vocabulary, VocabularyError, detect,
};
use maskmill_job::{Labels, LabelsFrom};
use maskmill_masks::ImageSize;

use crate::given::Given;
use crate::stages::Carried;

/// A detector and what it looks for.
pub(crate) struct Finder {
    pub owl: Owl,
    pub options: DetectionOptions,
    pub wanted: WantedObjects,
}

/// What a detector looks for.
pub(crate) enum WantedObjects {
    /// The same in all images; encoded once.
    Same {
        vocabulary: Vocabulary,
        queries: Queries,
    },
    /// What the source says of each image.
    OfImage {
        from: LabelsFrom,
        negatives: Vec<String>,
        templates: Vec<String>,
        known: Mutex<KnownPhrases>,
    },
}

impl WantedObjects {
    /// The labels of the pipeline file, encoded; with the texts that were too long for the model.
    pub(crate) fn of_labels(
        owl: &Owl,
        labels: &Labels,
    ) -> Result<(Self, Vec<Overlong>), VocabularyError> {
        let vocabulary = vocabulary(labels)?;
        let (embeddings, overlong) = vocabulary.embed(owl.text_encoder());
        let queries = owl.queries(&embeddings);
        let same = Self::Same {
            vocabulary,
            queries,
        };
        Ok((same, overlong))
    }
}

/// The vocabulary of a pipeline file's labels.
pub(crate) fn vocabulary(labels: &Labels) -> Result<Vocabulary, VocabularyError> {
    let names = labels.names.iter().map(|label| Label {
        name: label.name.clone(),
        phrases: label.phrases.clone(),
        score_thresh: label.score_thresh.map(|thresh| thresh as f32),
    });
    Vocabulary::new(names.collect(), &labels.negatives, &labels.templates)
}

impl Finder {
    /// Finds the prompts of an image, best scores first. An image without labels of its own has none, and is not
    /// looked at.
    pub(crate) fn find(
        &self,
        input: &OwlInput,
        carried: &Carried,
        size: ImageSize,
    ) -> Result<Vec<Given>, NotFinite> {
        match &self.wanted {
            WantedObjects::Same {
                vocabulary,
                queries,
            } => self.look(input, size, vocabulary, queries),
            WantedObjects::OfImage {
                from,
                negatives,
                templates,
                known,
            } => {
                let names = labels_of_image(from, carried, negatives);
                if names.is_empty() {
                    return Ok(Vec::new());
                }
                let labels = names.into_iter().map(Label::plain).collect();
                let vocabulary = Vocabulary::new(labels, negatives, templates);
                let vocabulary = vocabulary.expect("each label is a word, once, and no negative");
                let mut known = known.lock().expect("no panic while it is held");
                let (embeddings, overlong) =
                    vocabulary.embed_with(self.owl.text_encoder(), &mut known);
                drop(known);
                for text in overlong {
                    tracing::warn!("a label is too long: {text}");
                }
                self.look(input, size, &vocabulary, &self.owl.queries(&embeddings))
            }
        }
    }

    fn look(
        &self,
        input: &OwlInput,
        size: ImageSize,
        vocabulary: &Vocabulary,
        queries: &Queries,
    ) -> Result<Vec<Given>, NotFinite> {
        let image = self.owl.embed(input);
        let found = detect(&self.owl, &image, size, queries, vocabulary, &self.options)?;
        let given = found.into_iter().map(|found| {
            let Detection {
                box_xyxy_px,
                label,
                score,
                ..
            } = found;
            let label = vocabulary.name(label).to_owned();
            Given::of_box(box_xyxy_px.map(f64::from), Some(label), Some(score))
        });
        Ok(given.collect())
    }
}

/// An image's labels: white space tidied, without repeats and negatives, sorted.
fn labels_of_image(from: &LabelsFrom, carried: &Carried, negatives: &[String]) -> Vec<String> {
    let texts: Vec<&str> = match from {
        LabelsFrom::Pipeline => Vec::new(),
        LabelsFrom::Caption { separator } => {
            let caption = carried.caption.as_deref().unwrap_or_default();
            match separator {
                Some(separator) => caption.split(separator.as_str()).collect(),
                None => vec![caption],
            }
        }
        LabelsFrom::Labels => {
            let labels = carried.labels.as_deref().unwrap_or_default();
            labels.iter().map(String::as_str).collect()
        }
    };
    let tidied = texts
        .iter()
        .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut labels: Vec<String> = tidied
        .filter(|label| !label.is_empty() && !negatives.contains(label))
        .collect();
    labels.sort();
    labels.dedup();
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_is_one_label_or_is_split() {
        let carried = Carried {
            caption: Some(" a cat;a  dog; ;a cat".to_owned()),
            ..Carried::default()
        };
        let of = |separator: Option<&str>, negatives: &[String]| {
            let separator = separator.map(str::to_owned);
            labels_of_image(&LabelsFrom::Caption { separator }, &carried, negatives)
        };
        assert_eq!(of(Some(";"), &[]), ["a cat", "a dog"]);
        assert_eq!(of(Some(";"), &["a cat".to_owned()]), ["a dog"]);
        assert_eq!(of(None, &[]), ["a cat;a dog; ;a cat"]);
    }

    #[test]
    fn labels_of_an_image_are_tidied() {
        let carried = Carried {
            labels: Some(vec!["dog".to_owned(), "  ".to_owned(), "cat ".to_owned()]),
            ..Carried::default()
        };
        assert_eq!(
            labels_of_image(&LabelsFrom::Labels, &carried, &[]),
            ["cat", "dog"]
        );
        let none = labels_of_image(&LabelsFrom::Labels, &Carried::default(), &[]);
        assert_eq!(none, [""; 0]);
    }
}

//! CLIP scores for masks: each mask's crop against the labels.

use crate::clip::Clip;
use crate::crops::CropOptions;
use crate::pixel_values::ClipInput;
use crate::texts::{Embeddings, Overlong, dot};
use crate::vocabulary::{Owner, Vocabulary};

/// When a label is given.
#[derive(Clone, Debug, PartialEq)]
pub struct LabellerOptions {
    /// How masks are cut out.
    pub crop: CropOptions,
    /// Least probability among all labels and negatives.
    pub min_probability: f32,
    /// Least cosine between crop and phrase, -1 to 1. CLIP's cosines of things that belong together are about
    /// 0.2 to 0.35.
    pub min_similarity: f32,
    /// The label of a mask to which none applies.
    pub other: String,
}

impl Default for LabellerOptions {
    /// The best label, whatever its score.
    fn default() -> Self {
        Self {
            crop: CropOptions::default(),
            min_probability: 0.0,
            min_similarity: -1.0,
            other: "other".to_owned(),
        }
    }
}

/// A mask's label.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskLabel {
    /// The label, or that of masks to which none applies.
    pub label: String,
    /// Its probability among all labels and negatives; none where no label applies.
    pub score: Option<f32>,
}

/// How well the labels and negatives fit one crop.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelScores {
    /// Per label, in the vocabulary's order: the best cosine of its phrases.
    pub similarities: Vec<f32>,
    /// Per label: its share in the softmax over all labels and negatives.
    pub probabilities: Vec<f32>,
    /// The greatest probability of a negative phrase; 0 without negatives.
    pub negative: f32,
}

/// CLIP with the labels to choose from, encoded once.
pub struct Labeller {
    clip: Clip,
    vocabulary: Vocabulary,
    phrases: Embeddings,
    options: LabellerOptions,
}

impl Labeller {
    /// Encodes the labels. With it come the texts that were longer than the model's context.
    pub fn new(
        clip: Clip,
        vocabulary: Vocabulary,
        options: LabellerOptions,
    ) -> (Self, Vec<Overlong>) {
        let (phrases, overlong) = vocabulary.embed(clip.text_encoder());
        let labeller = Self {
            clip,
            vocabulary,
            phrases,
            options,
        };
        (labeller, overlong)
    }

    /// The model.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// How masks are cut out, and when a label is given.
    pub fn options(&self) -> &LabellerOptions {
        &self.options
    }

    /// Labels for crops, in their order. Crops of several images may be labelled at once: a crop's label does
    /// not depend on the others.
    pub fn label(&self, crops: &[&ClipInput]) -> Vec<MaskLabel> {
        if crops.is_empty() {
            return Vec::new();
        }
        let images = self.clip.embed_images(crops).normalised();
        let labels = images.rows().map(|image| self.decide(&self.scores(image)));
        labels.collect()
    }

    /// Scores of one crop's normalised embedding.
    ///
    /// Follows `CLIPModel.forward` (transformers): the softmax of the cosines times the logit scale. A label
    /// stands in it with the best of its phrases.
    pub fn scores(&self, image: &[f32]) -> LabelScores {
        let labels = self.vocabulary.names().len();
        let mut similarities = vec![f32::NEG_INFINITY; labels];
        let mut negatives = Vec::new();
        for ((_, owner), phrase) in self.vocabulary.phrases().iter().zip(self.phrases.rows()) {
            let similarity = dot(image, phrase);
            match *owner {
                Owner::Label(label) => similarities[label] = similarities[label].max(similarity),
                Owner::Negative => negatives.push(similarity),
            }
        }
        let all = || similarities.iter().chain(&negatives);
        let best = all().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = self.clip.logit_scale();
        let weight = |similarity: f32| ((similarity - best) * scale).exp();
        // In f64, so that the sum of many labels does not depend on their order.
        let total: f64 = all().map(|&s| f64::from(weight(s))).sum();
        let probability = |&similarity: &f32| (f64::from(weight(similarity)) / total) as f32;
        LabelScores {
            probabilities: similarities.iter().map(probability).collect(),
            negative: negatives.iter().map(probability).fold(0.0, f32::max),
            similarities,
        }
    }

    fn decide(&self, scores: &LabelScores) -> MaskLabel {
        decide(scores, &self.vocabulary, &self.options)
    }
}

/// The most probable label, if it is good enough and no negative is better. Of equals the first in alphabetical
/// order.
fn decide(scores: &LabelScores, vocabulary: &Vocabulary, options: &LabellerOptions) -> MaskLabel {
    let best = (0..scores.probabilities.len()).reduce(|best, label| {
        match scores.probabilities[label] > scores.probabilities[best] {
            true => label,
            false => best,
        }
    });
    let passes = |label: &usize| {
        scores.probabilities[*label] >= options.min_probability
            && scores.probabilities[*label] >= scores.negative
            && scores.similarities[*label] >= options.min_similarity
    };
    match best.filter(passes) {
        Some(label) => MaskLabel {
            label: vocabulary.name(label).to_owned(),
            score: Some(scores.probabilities[label]),
        },
        None => MaskLabel {
            label: options.other.clone(),
            score: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::Label;

    fn decided(probabilities: &[f32], negative: f32, options: &LabellerOptions) -> MaskLabel {
        let names = ["bird", "cat", "dog"].map(Label::plain).to_vec();
        let vocabulary = Vocabulary::new(names, &[], &[]).unwrap();
        let scores = LabelScores {
            similarities: probabilities.iter().map(|p| p / 2.0).collect(),
            probabilities: probabilities.to_vec(),
            negative,
        };
        decide(&scores, &vocabulary, options)
    }

    #[test]
    fn the_best_label_is_given_if_it_passes() {
        let any = LabellerOptions::default();
        let cat = decided(&[0.2, 0.5, 0.3], 0.0, &any);
        assert_eq!((cat.label.as_str(), cat.score), ("cat", Some(0.5)));
        assert_eq!(decided(&[0.4, 0.2, 0.4], 0.0, &any).label, "bird");
        let other = MaskLabel {
            label: "other".to_owned(),
            score: None,
        };
        assert_eq!(
            decided(&[0.2, 0.3, 0.1], 0.4, &any),
            other,
            "a negative is better"
        );
        let sure = LabellerOptions {
            min_probability: 0.6,
            ..any.clone()
        };
        assert_eq!(decided(&[0.2, 0.5, 0.3], 0.0, &sure), other);
        let alike = LabellerOptions {
            min_similarity: 0.3,
            ..any
        };
        assert_eq!(decided(&[0.2, 0.5, 0.3], 0.0, &alike), other);
        assert_eq!(decided(&[0.2, 0.7, 0.1], 0.0, &alike).label, "cat");
        assert_eq!(
            decided(&[f32::NAN, f32::NAN, f32::NAN], 0.0, &alike),
            other,
            "of a damaged checkpoint"
        );
    }
}

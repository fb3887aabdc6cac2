//! Scores of candidate boxes to the detections that are kept. Pure arithmetic on the host.
//!
//! ```text
//! logits [boxes, phrases] -> each box's best label that passes its threshold, unless a negative is better
//!     -> objectness* -> NMS within each label -> NMS across labels* -> the best max_detections    (*: off by default)
//! ```

use maskmill_masks::{ImageSize, box_nms};

use crate::owl::{CandidateBoxes, Owl, OwlImage, Queries};
use crate::vocabulary::{Owner, Vocabulary};

/// Which detections are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectionOptions {
    /// A detection is kept when its score is above this; a label may have its own.
    pub score_thresh: f32,
    /// Boxes whose objectness is not above this are dropped; 0 keeps all. OWLv2 alone has it.
    pub objectness_thresh: f32,
    /// Box IoU above which the worse of two detections of one label is dropped; 1 keeps all.
    pub label_nms_thresh: f64,
    /// Box IoU above which the worse of two detections is dropped, whatever their labels.
    pub cross_label_nms_thresh: Option<f64>,
    /// Most detections of an image, the best ones.
    pub max_detections: usize,
}

impl Default for DetectionOptions {
    /// The threshold of `post_process_object_detection` (transformers), with duplicates within a label
    /// removed.
    fn default() -> Self {
        Self {
            score_thresh: 0.1,
            objectness_thresh: 0.0,
            label_nms_thresh: 0.5,
            cross_label_nms_thresh: None,
            max_detections: 100,
        }
    }
}

/// A box that shows what a label names.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// x0, y0, x1, y1 in pixels of the image; it may reach beyond the image.
    pub box_xyxy_px: [f32; 4],
    /// The label's number in the vocabulary.
    pub label: usize,
    /// Sigmoid of the class logit, 0 to 1.
    pub score: f32,
    /// The patch that found it.
    pub patch: usize,
}

/// The model gave values that are not numbers: its weights are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the detector gave scores or boxes that are not finite; is its checkpoint damaged?")]
pub struct NotFinite;

/// Finds what `vocabulary` names. `queries` are the embeddings of its phrases, in its order.
///
/// A box belongs to the label of the highest score among those that pass their thresholds; where a negative
/// phrase scores higher the box is dropped. With one threshold for all labels and no negatives that is
/// `post_process_object_detection` (transformers), and NMS follows, which it leaves to the caller. Boxes that lie
/// wholly in the padding beside the image are dropped too.
///
/// Detections are ordered by score, the best first.
///
/// # Errors
/// [`NotFinite`].
pub fn detect(
    owl: &Owl,
    image: &OwlImage,
    size: ImageSize,
    queries: &Queries,
    vocabulary: &Vocabulary,
    options: &DetectionOptions,
) -> Result<Vec<Detection>, NotFinite> {
    let mut best = BestLabels::new(owl.architecture().boxes());
    let boxes = owl.score(image, queries, |first, logits| {
        best.take(first, logits, vocabulary, options.score_thresh);
    });
    select(&boxes, best, size, options)
}

/// The best label of each box so far.
struct BestLabels {
    boxes: Vec<BestLabel>,
    finite: bool,
}

#[derive(Clone)]
struct BestLabel {
    /// The label and its logit.
    label: Option<(usize, f32)>,
    /// The best negative phrase's logit.
    negative: f32,
}

impl BestLabels {
    fn new(boxes: usize) -> Self {
        let none = BestLabel {
            label: None,
            negative: f32::NEG_INFINITY,
        };
        Self {
            boxes: vec![none; boxes],
            finite: true,
        }
    }

    /// `logits`: `[boxes, phrases]` for the phrases from `first` on. Of equal logits the first phrase's counts.
    fn take(&mut self, first: usize, logits: &[f32], vocabulary: &Vocabulary, threshold: f32) {
        let count = logits.len() / self.boxes.len();
        let owners = &vocabulary.phrases()[first..first + count];
        let thresholds: Vec<f32> = owners
            .iter()
            .map(|(_, owner)| match owner {
                Owner::Label(label) => vocabulary.score_thresh(*label).unwrap_or(threshold),
                Owner::Negative => threshold,
            })
            .collect();
        for (best, logits) in self.boxes.iter_mut().zip(logits.chunks_exact(count)) {
            for ((&logit, (_, owner)), &threshold) in logits.iter().zip(owners).zip(&thresholds) {
                self.finite &= logit.is_finite();
                match *owner {
                    Owner::Negative => best.negative = best.negative.max(logit),
                    Owner::Label(label) => {
                        let better = best.label.is_none_or(|(_, known)| logit > known);
                        if better && sigmoid(logit) > threshold {
                            best.label = Some((label, logit));
                        }
                    }
                }
            }
        }
    }
}

pub(crate) fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// A box with the label it belongs to, or with none where it absorbs.
struct Claimed {
    patch: usize,
    label: Option<usize>,
    score: f32,
}

fn select(
    boxes: &CandidateBoxes,
    best: BestLabels,
    size: ImageSize,
    options: &DetectionOptions,
) -> Result<Vec<Detection>, NotFinite> {
    let finite_boxes = boxes.xyxy_px.iter().flatten().all(|v| v.is_finite());
    if !(best.finite && finite_boxes) {
        return Err(NotFinite);
    }
    let is_object = |patch: usize| match &boxes.objectness {
        Some(logits) if options.objectness_thresh > 0.0 => {
            sigmoid(logits[patch]) > options.objectness_thresh
        }
        _ => true,
    };
    let claimed: Vec<Claimed> = best
        .boxes
        .iter()
        .enumerate()
        .filter(|(patch, _)| is_object(*patch) && touches(boxes.xyxy_px[*patch], size))
        .filter_map(|(patch, best)| {
            let label = best.label.filter(|(_, logit)| *logit >= best.negative);
            match label {
                Some((label, logit)) => Some(Claimed {
                    patch,
                    label: Some(label),
                    score: sigmoid(logit),
                }),
                None => {
                    let score = sigmoid(best.negative);
                    (score > options.score_thresh).then_some(Claimed {
                        patch,
                        label: None,
                        score,
                    })
                }
            }
        })
        .collect();
    let claimed = nms_within_labels(boxes, claimed, options.label_nms_thresh);
    let kept = match options.cross_label_nms_thresh {
        Some(threshold) => nms(boxes, &claimed, threshold),
        None => best_first(&claimed),
    };
    let detections = kept.into_iter().filter_map(|index| {
        let Claimed {
            patch,
            label,
            score,
        } = claimed[index];
        Some(Detection {
            box_xyxy_px: boxes.xyxy_px[patch],
            label: label?,
            score,
            patch,
        })
    });
    Ok(detections.take(options.max_detections).collect())
}

/// Whether a box and the image share an area.
fn touches([x0, y0, x1, y1]: [f32; 4], size: ImageSize) -> bool {
    x0 < size.width as f32 && y0 < size.height as f32 && x1 > 0.0 && y1 > 0.0
}

/// In the order of the patches. What absorbs is one group.
fn nms_within_labels(
    boxes: &CandidateBoxes,
    claimed: Vec<Claimed>,
    threshold: f64,
) -> Vec<Claimed> {
    if threshold >= 1.0 {
        return claimed;
    }
    let mut by_label: std::collections::BTreeMap<Option<usize>, Vec<Claimed>> =
        std::collections::BTreeMap::new();
    for one in claimed {
        by_label.entry(one.label).or_default().push(one);
    }
    let mut kept = Vec::new();
    for group in by_label.into_values() {
        let mut keep = nms(boxes, &group, threshold);
        keep.sort_unstable();
        let mut group: Vec<Option<Claimed>> = group.into_iter().map(Some).collect();
        kept.extend(keep.into_iter().filter_map(|index| group[index].take()));
    }
    kept.sort_by_key(|one| one.patch);
    kept
}

/// Indices kept, the best first; of equal scores the first patch's.
fn nms(boxes: &CandidateBoxes, claimed: &[Claimed], threshold: f64) -> Vec<usize> {
    let corners: Vec<[f32; 4]> = claimed.iter().map(|one| boxes.xyxy_px[one.patch]).collect();
    let scores: Vec<f32> = claimed.iter().map(|one| one.score).collect();
    box_nms(&corners, &scores, threshold)
}

fn best_first(claimed: &[Claimed]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..claimed.len()).collect();
    order.sort_by(|&a, &b| claimed[b].score.total_cmp(&claimed[a].score));
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vocabulary::Label;

    const SIZE: ImageSize = ImageSize {
        height: 60,
        width: 100,
    };

    fn vocabulary(labels: &[(&str, &[&str], Option<f32>)], negatives: &[&str]) -> Vocabulary {
        let labels = labels.iter().map(|(name, phrases, score_thresh)| Label {
            name: (*name).to_owned(),
            phrases: phrases.iter().map(|p| (*p).to_owned()).collect(),
            score_thresh: *score_thresh,
        });
        let negatives: Vec<String> = negatives.iter().map(|n| (*n).to_owned()).collect();
        Vocabulary::new(labels.collect(), &negatives, &[]).unwrap()
    }

    fn candidates(xyxy_px: &[[f32; 4]]) -> CandidateBoxes {
        CandidateBoxes {
            cxcywh_norm: vec![[0.0; 4]; xyxy_px.len()],
            xyxy_px: xyxy_px.to_vec(),
            objectness: None,
        }
    }

    fn logit(score: f32) -> f32 {
        (score / (1.0 - score)).ln()
    }

    /// `scores[box]` by phrase, in the vocabulary's order.
    fn found(
        boxes: &CandidateBoxes,
        vocabulary: &Vocabulary,
        scores: &[&[f32]],
        options: &DetectionOptions,
    ) -> Result<Vec<(usize, usize)>, NotFinite> {
        let logits: Vec<f32> = scores.concat().into_iter().map(logit).collect();
        let mut best = BestLabels::new(scores.len());
        best.take(0, &logits, vocabulary, options.score_thresh);
        let found = select(boxes, best, SIZE, options)?;
        Ok(found.iter().map(|d| (d.patch, d.label)).collect())
    }

    const APART: [[f32; 4]; 3] = [
        [0.0, 0.0, 10.0, 10.0],
        [20.0, 0.0, 40.0, 50.0],
        [50.0, 0.0, 90.0, 30.0],
    ];

    #[test]
    fn a_box_belongs_to_its_best_label() {
        let v = vocabulary(&[("cat", &["cat"], None), ("dog", &["dog"], None)], &[]);
        let scores: [&[f32]; 3] = [&[0.3, 0.2], &[0.05, 0.06], &[0.3, 0.9]];
        let options = DetectionOptions::default();
        let kept = found(&candidates(&APART), &v, &scores, &options).unwrap();
        assert_eq!(kept, [(2, 1), (0, 0)]);
    }

    #[test]
    fn synonyms_merge_under_their_label() {
        let v = vocabulary(&[("car", &["auto", "car"], None)], &[]);
        let near = [APART[1], [20.0, 0.0, 40.0, 51.0], APART[2]];
        let scores: [&[f32]; 3] = [&[0.3, 0.2], &[0.2, 0.6], &[0.01, 0.02]];
        let options = DetectionOptions::default();
        let kept = found(&candidates(&near), &v, &scores, &options).unwrap();
        assert_eq!(kept, [(1, 0)], "one car, found by both phrases");
    }

    #[test]
    fn a_label_below_its_own_threshold_leaves_the_box_to_the_next() {
        let v = vocabulary(
            &[
                ("car", &["car"], Some(0.2)),
                ("vehicle", &["vehicle"], Some(0.5)),
            ],
            &[],
        );
        let scores: [&[f32]; 3] = [&[0.35, 0.4], &[0.35, 0.6], &[0.1, 0.4]];
        let options = DetectionOptions::default();
        let kept = found(&candidates(&APART), &v, &scores, &options).unwrap();
        assert_eq!(kept, [(1, 1), (0, 0)]);
    }

    #[test]
    fn negatives_absorb() {
        // Phrases in order: apple, leaf (negative).
        let v = vocabulary(&[("apple", &["apple"], None)], &["leaf"]);
        let scores: [&[f32]; 3] = [&[0.3, 0.4], &[0.5, 0.2], &[0.3, 0.05]];
        let options = DetectionOptions::default();
        let kept = found(&candidates(&APART), &v, &scores, &options).unwrap();
        assert_eq!(kept, [(1, 0), (2, 0)]);
        // Across labels an absorbed box takes weaker ones of the same place with it.
        let same = [APART[0], APART[0], APART[2]];
        let scores: [&[f32]; 3] = [&[0.3, 0.6], &[0.5, 0.2], &[0.3, 0.05]];
        let across = DetectionOptions {
            cross_label_nms_thresh: Some(0.5),
            ..options
        };
        assert_eq!(
            found(&candidates(&same), &v, &scores, &across).unwrap(),
            [(2, 0)]
        );
    }

    #[test]
    fn duplicates_go_within_a_label_and_across_labels_where_asked() {
        let v = vocabulary(&[("cat", &["cat"], None), ("dog", &["dog"], None)], &[]);
        let same = [APART[1], APART[1], APART[1]];
        let scores: [&[f32]; 3] = [&[0.3, 0.2], &[0.4, 0.2], &[0.2, 0.35]];
        let options = DetectionOptions::default();
        let boxes = candidates(&same);
        assert_eq!(
            found(&boxes, &v, &scores, &options).unwrap(),
            [(1, 0), (2, 1)]
        );
        let across = DetectionOptions {
            cross_label_nms_thresh: Some(0.5),
            ..options.clone()
        };
        assert_eq!(found(&boxes, &v, &scores, &across).unwrap(), [(1, 0)]);
        let all = DetectionOptions {
            label_nms_thresh: 1.0,
            ..options.clone()
        };
        assert_eq!(found(&boxes, &v, &scores, &all).unwrap().len(), 3);
        let one = DetectionOptions {
            max_detections: 1,
            ..all
        };
        assert_eq!(found(&boxes, &v, &scores, &one).unwrap(), [(1, 0)]);
    }

    #[test]
    fn boxes_in_the_padding_and_without_an_object_go() {
        let v = vocabulary(&[("cat", &["cat"], None)], &[]);
        let mut boxes = candidates(&[APART[0], [0.0, 61.0, 30.0, 90.0], APART[2]]);
        let scores: [&[f32]; 3] = [&[0.9], &[0.9], &[0.9]];
        let options = DetectionOptions::default();
        let kept = |boxes: &CandidateBoxes, options: &DetectionOptions| {
            found(boxes, &v, &scores, options).unwrap()
        };
        assert_eq!(kept(&boxes, &options), [(0, 0), (2, 0)]);
        boxes.objectness = Some(vec![logit(0.2), logit(0.9), logit(0.6)]);
        assert_eq!(kept(&boxes, &options).len(), 2);
        let objects = DetectionOptions {
            objectness_thresh: 0.5,
            ..options
        };
        assert_eq!(kept(&boxes, &objects), [(2, 0)]);
    }

    #[test]
    fn values_that_are_no_numbers_are_told() {
        let v = vocabulary(&[("cat", &["cat"], None)], &[]);
        let options = DetectionOptions::default();
        let boxes = candidates(&APART);
        let scores: [&[f32]; 3] = [&[0.9], &[f32::NAN], &[0.2]];
        assert_eq!(found(&boxes, &v, &scores, &options), Err(NotFinite));
        let boxes = candidates(&[APART[0], [f32::NAN, 0.0, 1.0, 1.0], APART[2]]);
        let scores: [&[f32]; 3] = [&[0.9], &[0.9], &[0.2]];
        assert_eq!(found(&boxes, &v, &scores, &options), Err(NotFinite));
    }

    proptest! {
        /// Queries in batches of any size give what all at once give.
        #[test]
        fn batches_of_queries_do_not_matter(
            scores in proptest::collection::vec(0.01_f32..0.99, 3 * 5),
            cut in 1_usize..5,
        ) {
            let names = ["a", "b", "c", "d"].map(|name| (name, [name]));
            let labels: Vec<(&str, &[&str], Option<f32>)> =
                names.iter().map(|(name, phrases)| (*name, &phrases[..], None)).collect();
            let v = vocabulary(&labels, &["e"]);
            let options = DetectionOptions::default();
            let rows: Vec<Vec<f32>> =
                scores.chunks(5).map(|row| row.iter().map(|&s| logit(s)).collect()).collect();
            let mut whole = BestLabels::new(3);
            whole.take(0, &rows.concat(), &v, options.score_thresh);
            let mut parts = BestLabels::new(3);
            let part = |range: std::ops::Range<usize>| -> Vec<f32> {
                rows.iter().flat_map(|row| row[range.clone()].to_vec()).collect()
            };
            parts.take(0, &part(0..cut), &v, options.score_thresh);
            parts.take(cut, &part(cut..5), &v, options.score_thresh);
            let boxes = candidates(&APART);
            prop_assert_eq!(
                select(&boxes, whole, SIZE, &options),
                select(&boxes, parts, SIZE, &options)
            );
        }
    }
}

//! How good a grounder is: AP50 of every phrase of the images, asked about all of them.

use std::collections::BTreeMap;
use std::path::Path;

use maskmill_grounding::{CandidateBoxes, NotFinite, Owl, Queries};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::ap50::{IOU, PhraseSums, Wanted, iou};
use super::data::{GroundedImage, GroundedObject, SceneData};
use super::held_out::is_held_out;
use crate::error::TrainError;

/// Boxes of an image that count for a phrase, the best ones, before those that show the same are removed.
const CANDIDATES: usize = 30;

/// How good a grounder is.
///
/// AP50: the average precision of a phrase (101 levels of recall, as COCO) at a box IoU of 0.5, pooled over all images; the mean
/// over phrases of which at least one object is to be found. Of the boxes of a phrase that overlap by more than 0.5 the best
/// counts, as in jobs. 0 where there is no phrase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GrounderReport {
    /// Images looked at.
    pub images: usize,
    /// Scenes without an object to find.
    pub skipped: usize,
    /// Objects to find.
    pub objects: usize,
    /// Phrases that are true of any.
    pub phrases: usize,
    /// Phrases that name a pair of colour and shape that is held out.
    pub held_out_phrases: usize,
    /// Of phrases that name a held-out pair.
    pub ap50_held_out: f64,
    /// Of all other phrases.
    pub ap50_others: f64,
    /// By what phrases say.
    pub by_form: Vec<FormReport>,
}

/// Phrases that say the same kinds of things.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FormReport {
    /// What they say: `colour, texture, shape`.
    pub form: String,
    /// Phrases that name a held-out pair.
    pub held_out_phrases: usize,
    /// Of those.
    pub ap50_held_out: f64,
    /// Other phrases.
    pub other_phrases: usize,
    /// Of those.
    pub ap50_others: f64,
}

impl GrounderReport {
    /// One number to choose between checkpoints. Phrases that are held out have no say.
    pub fn score(&self) -> f64 {
        self.ap50_others
    }
}

/// A phrase that is asked.
struct Asked {
    form: String,
    names_held_out: bool,
    sums: PhraseSums,
}

/// Evaluates a loaded model on the scenes of a training file; `held_out` is the part of the pairs that its training never
/// named.
///
/// # Errors
/// [`TrainError::NoExamples`] where no scene has an object to find; `checkpoint`, for messages, that says what is no number.
pub fn evaluate_on(
    owl: &Owl,
    checkpoint: &Path,
    data: &SceneData,
    images: usize,
    held_out: f64,
    skipped: &mut dyn FnMut(String),
) -> Result<GrounderReport, TrainError> {
    let scenes: Vec<_> = data
        .first(images)
        .into_par_iter()
        .map(|place| data.at(place))
        .collect();
    let mut report = GrounderReport::default();
    let mut kept: Vec<GroundedImage> = Vec::new();
    let mut last = String::new();
    for scene in scenes {
        match scene {
            Ok(scene) => kept.push(scene),
            Err(problem) => {
                report.skipped += 1;
                last.clone_from(&problem);
                skipped(problem);
            }
        }
    }
    if kept.is_empty() {
        return Err(TrainError::NoExamples {
            tries: report.skipped,
            last,
        });
    }
    let mut asked = phrases_of(&kept, held_out);
    let texts: Vec<String> = asked.keys().cloned().collect();
    let (embeddings, _) = owl.text_encoder().embed(&texts);
    let queries = owl.queries(&embeddings);
    for scene in &kept {
        let found = found(owl, &queries, scene).map_err(|source| TrainError::Detections {
            checkpoint: checkpoint.to_owned(),
            source,
        })?;
        for ((phrase, asked), boxes) in asked.iter_mut().zip(found) {
            asked.sums.add(boxes.into_iter(), &wanted(scene, phrase));
        }
    }
    report.images = kept.len();
    let objects = kept.iter().flat_map(|scene| &scene.objects);
    report.objects = objects.filter(|object| object.is_target).count();
    Ok(summed(report, asked.into_values()))
}

/// Evaluates a checkpoint, a file with its configuration and tokenizer beside it or the folder that holds them: see
/// [`evaluate_on`].
///
/// # Errors
/// As [`evaluate_on`]; the checkpoint's.
pub fn evaluate(
    checkpoint: &Path,
    device: &maskmill_sam::Device,
    data: &SceneData,
    images: usize,
    held_out: f64,
    skipped: &mut dyn FnMut(String),
) -> Result<GrounderReport, TrainError> {
    let owl = Owl::load(checkpoint, None, device)?;
    evaluate_on(&owl, checkpoint, data, images, held_out, skipped)
}

/// Every phrase that is true of an object to find, in their order.
fn phrases_of(scenes: &[GroundedImage], held_out: f64) -> BTreeMap<String, Asked> {
    let objects = scenes.iter().flat_map(|scene| &scene.objects);
    let mut asked = BTreeMap::new();
    for object in objects.filter(|object| object.is_target) {
        for phrase in &object.phrases {
            asked.entry(phrase.clone()).or_insert_with(|| Asked {
                form: form(object, phrase),
                names_held_out: object.says_colour(phrase)
                    && is_held_out(object.colour, object.shape, held_out),
                sums: PhraseSums::default(),
            });
        }
    }
    asked
}

/// What a phrase of an object says of it.
fn form(object: &GroundedObject, phrase: &str) -> String {
    let says = |word: Option<&str>| word.is_some_and(|word| phrase.split(' ').any(|w| w == word));
    let said = [
        (says(object.size.word()), "size"),
        (object.says_colour(phrase), "colour"),
        (says(object.texture.word()), "texture"),
        (true, "shape"),
    ];
    let said: Vec<&str> = said
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, of)| *of)
        .collect();
    said.join(", ")
}

/// The objects of which a phrase is true.
fn wanted(scene: &GroundedImage, phrase: &str) -> Vec<Wanted> {
    let of = scene.objects.iter();
    of.filter(|object| object.phrases.iter().any(|of| of == phrase))
        .map(|object| Wanted {
            xyxy: corners(object.cxcywh_norm),
            counts: object.is_target,
        })
        .collect()
}

fn corners([cx, cy, width, height]: [f32; 4]) -> [f32; 4] {
    [
        cx - 0.5 * width,
        cy - 0.5 * height,
        cx + 0.5 * width,
        cy + 0.5 * height,
    ]
}

/// A box and its class logit.
type Scored = (f32, [f32; 4]);

/// The boxes of an image for each query, the best first; of those that show the same the best.
fn found(
    owl: &Owl,
    queries: &Queries,
    scene: &GroundedImage,
) -> Result<Vec<Vec<Scored>>, NotFinite> {
    let image = owl.embed(&owl.input(&scene.image));
    let boxes = owl.architecture().boxes();
    let mut candidates: Vec<Vec<(f32, usize)>> = Vec::with_capacity(queries.count());
    let mut finite = true;
    let located = owl.score(&image, queries, |_, logits| {
        finite &= logits.iter().all(|logit| logit.is_finite());
        let count = logits.len() / boxes;
        let of_query = (0..count).into_par_iter().map(|query| {
            let mut of: Vec<(f32, usize)> = (0..boxes)
                .map(|patch| (logits[patch * count + query], patch))
                .collect();
            let best_first =
                |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
            if of.len() > CANDIDATES {
                of.select_nth_unstable_by(CANDIDATES - 1, best_first);
                of.truncate(CANDIDATES);
            }
            of.sort_by(best_first);
            of
        });
        candidates.par_extend(of_query);
    });
    let CandidateBoxes { cxcywh_norm, .. } = located;
    if !finite || !cxcywh_norm.iter().flatten().all(|v| v.is_finite()) {
        return Err(NotFinite);
    }
    let boxes: Vec<[f32; 4]> = cxcywh_norm.into_iter().map(corners).collect();
    let of_query = candidates.into_par_iter().map(|candidates| {
        let mut kept: Vec<Scored> = Vec::new();
        for (logit, patch) in candidates {
            if kept
                .iter()
                .all(|(_, other)| iou(*other, boxes[patch]) <= IOU)
            {
                kept.push((logit, boxes[patch]));
            }
        }
        kept
    });
    Ok(of_query.collect())
}

/// Sums of average precisions.
#[derive(Default)]
struct Mean {
    count: usize,
    sum: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
    }

    fn value(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

fn summed(mut report: GrounderReport, asked: impl Iterator<Item = Asked>) -> GrounderReport {
    let mut forms: BTreeMap<String, [Mean; 2]> = BTreeMap::new();
    let mut all: [Mean; 2] = Default::default();
    for mut asked in asked {
        let precision = asked.sums.average_precision();
        let precision = precision.expect("phrases of objects to find");
        let which = usize::from(asked.names_held_out);
        all[which].add(precision);
        forms.entry(asked.form).or_default()[which].add(precision);
    }
    let [others, held_out] = &all;
    report.phrases = others.count + held_out.count;
    report.held_out_phrases = held_out.count;
    report.ap50_others = others.value();
    report.ap50_held_out = held_out.value();
    report.by_form = forms
        .into_iter()
        .map(|(form, [others, held_out])| FormReport {
            form,
            held_out_phrases: held_out.count,
            ap50_held_out: held_out.value(),
            other_phrases: others.count,
            ap50_others: others.value(),
        })
        .collect();
    report
}

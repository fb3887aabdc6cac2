//! Reads `[prompts]`: first the mode, which decides what the other settings mean.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{
    AutomaticPrompts, BoxPrompts, BoxesFrom, DetectionSettings, Example, ExamplePrompts,
    LabelsFrom, PointGrid, PointGroups, PointPrompts, PointsFrom, PromptedMasks, Prompts,
    TextPrompts,
};
use crate::choice::Choice;
use crate::document::Node;
use crate::labels::{duplicate, folded, tidy};
use crate::location;
use crate::problem::Origin;
use crate::schema;
use crate::section::Section;

/// The word for each way to prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Automatic,
    Text,
    Examples,
    Boxes,
    Points,
}

pub(crate) const MODE: Choice<Mode> = Choice {
    key: "mode",
    words: &[
        ("automatic", Mode::Automatic),
        ("text", Mode::Text),
        ("examples", Mode::Examples),
        ("boxes", Mode::Boxes),
        ("points", Mode::Points),
    ],
    settings: &[
        ("points_per_side", &[Mode::Automatic]),
        ("point_grids", &[Mode::Automatic]),
        ("crop_n_layers", &[Mode::Automatic]),
        ("crop_overlap_ratio", &[Mode::Automatic]),
        ("crop_n_points_downscale_factor", &[Mode::Automatic]),
        (
            "refine",
            &[Mode::Text, Mode::Examples, Mode::Boxes, Mode::Points],
        ),
        ("labels_from", &[Mode::Text]),
        ("caption_separator", &[Mode::Text]),
        ("score_thresh", DETECTED),
        ("objectness_thresh", DETECTED),
        ("label_nms_thresh", DETECTED),
        ("cross_label_nms_thresh", DETECTED),
        ("max_detections", DETECTED),
        ("examples", &[Mode::Examples]),
        ("boxes_from", &[Mode::Boxes]),
        ("boxes_path", &[Mode::Boxes]),
        ("coco_images", &[Mode::Boxes]),
        ("yolo_names", &[Mode::Boxes]),
        ("yolo_scores", &[Mode::Boxes]),
        ("min_box_score", &[Mode::Boxes]),
        ("points_from", &[Mode::Points]),
        ("fixed_points", &[Mode::Points]),
        ("point_groups", &[Mode::Points]),
    ],
};
/// The modes in which a detector finds the boxes.
const DETECTED: &[Mode] = &[Mode::Text, Mode::Examples];

/// The word for each place that labels come from.
#[derive(Clone, Copy, PartialEq)]
enum LabelsWord {
    Pipeline,
    Caption,
    Labels,
}

const LABELS_FROM: Choice<LabelsWord> = Choice {
    key: "labels_from",
    words: &[
        ("pipeline", LabelsWord::Pipeline),
        ("caption", LabelsWord::Caption),
        ("labels", LabelsWord::Labels),
    ],
    settings: &[("caption_separator", &[LabelsWord::Caption])],
};

/// The word for each place that boxes come from.
#[derive(Clone, Copy, PartialEq)]
enum BoxesWord {
    Columns,
    Coco,
    Yolo,
}

const BOXES_FROM: Choice<BoxesWord> = Choice {
    key: "boxes_from",
    words: &[
        ("columns", BoxesWord::Columns),
        ("coco", BoxesWord::Coco),
        ("yolo", BoxesWord::Yolo),
    ],
    settings: &[
        ("boxes_path", &[BoxesWord::Coco, BoxesWord::Yolo]),
        ("coco_images", &[BoxesWord::Coco]),
        ("yolo_names", &[BoxesWord::Yolo]),
        ("yolo_scores", &[BoxesWord::Yolo]),
    ],
};

/// The word for each place that points come from.
#[derive(Clone, Copy, PartialEq)]
enum PointsWord {
    Columns,
    Fixed,
}

const POINTS_FROM: Choice<PointsWord> = Choice {
    key: "points_from",
    words: &[
        ("columns", PointsWord::Columns),
        ("fixed", PointsWord::Fixed),
    ],
    settings: &[("fixed_points", &[PointsWord::Fixed])],
};

/// Crop layer i has 4^i crops, each a run of the image encoder: 4 layers are 341 of them.
const MAX_CROP_LAYERS: u32 = 4;
/// 1024 x 1024 points are one per pixel of the model's input.
const MAX_POINTS_PER_SIDE: u32 = 1024;
/// More boxes than any detector's output has for an image: OWLv2 large has 5,184 patches.
const MAX_DETECTIONS: u32 = 10_000;

/// Reads `[prompts]`. The mode is `None` where the word for it is wrong: what other sections owe
/// to the mode is not known then.
pub(crate) fn read_prompts(mut section: Section<'_>) -> (Prompts, Option<Mode>) {
    let mode = match section.origin_of(MODE.key) {
        None => Some(Mode::Automatic),
        Some(_) => section.one_of(MODE.key, MODE.words),
    };
    if let Some(mode) = mode {
        MODE.refuse_others(&mut section, mode, |_| "");
    }
    let prompts = match mode {
        Some(Mode::Automatic) | None => Prompts::Automatic(read_automatic(&mut section)),
        Some(Mode::Text) => Prompts::Text(TextPrompts {
            labels_from: read_labels_from(&mut section),
            detection: read_detection(&mut section),
            masks: read_prompted_masks(&mut section),
        }),
        Some(Mode::Examples) => Prompts::Examples(ExamplePrompts {
            examples: read_examples(&mut section),
            detection: read_detection(&mut section),
            masks: read_prompted_masks(&mut section),
        }),
        Some(Mode::Boxes) => Prompts::Boxes(BoxPrompts {
            boxes_from: read_boxes_from(&mut section),
            min_box_score: section.number("min_box_score", 0.0, 0.0..=1.0),
            masks: read_prompted_masks(&mut section),
        }),
        Some(Mode::Points) => Prompts::Points(PointPrompts {
            points_from: read_points_from(&mut section),
            point_groups: read_point_groups(&mut section),
            masks: read_prompted_masks(&mut section),
        }),
    };
    if mode.is_none() {
        MODE.ignore_all(&mut section);
    }
    section.finish();
    (prompts, mode)
}

fn read_automatic(section: &mut Section<'_>) -> AutomaticPrompts {
    let per_side_origin = section.origin_of("points_per_side");
    let grids_origin = section.origin_of("point_grids");
    let layers_origin = section.origin_of("crop_n_layers");
    let points_per_side = section.integer_u32("points_per_side", 32, 1..=MAX_POINTS_PER_SIDE);
    let point_grids = section.point_grids("point_grids");
    let crop_n_layers = section.integer_u32("crop_n_layers", 0, 0..=MAX_CROP_LAYERS);
    let downscale = section.integer_u32("crop_n_points_downscale_factor", 1, 1..=1024);

    if grids_origin.is_some() && per_side_origin.is_some() {
        let what = " and prompts.points_per_side are both given; keep one of them";
        section.note(grids_origin.clone(), "point_grids", what);
    }
    let grid = match point_grids {
        Some(grids) => {
            if grids.len() != crop_n_layers as usize + 1 {
                let what = format!(
                    " has {} grids, but crop_n_layers = {crop_n_layers} needs {}: one for the \
                     whole image and one per layer",
                    grids.len(),
                    crop_n_layers + 1
                );
                section.note(grids_origin, "point_grids", &what);
            }
            PointGrid::Explicit(grids)
        }
        None => {
            if points_per_side / downscale.saturating_pow(crop_n_layers) == 0 {
                let what = format!(
                    " = {crop_n_layers} leaves the last layer without points: points_per_side = \
                     {points_per_side} divided by {downscale} (crop_n_points_downscale_factor) \
                     per layer is below 1"
                );
                section.note(layers_origin, "crop_n_layers", &what);
            }
            PointGrid::PerSide(points_per_side)
        }
    };
    AutomaticPrompts {
        grid,
        crop_n_layers,
        crop_overlap_ratio: section.number("crop_overlap_ratio", 512.0 / 1500.0, 0.0..=1.0),
        crop_n_points_downscale_factor: downscale,
        single_mask: section.boolean("single_mask", false),
    }
}

fn read_labels_from(section: &mut Section<'_>) -> LabelsFrom {
    let chosen = match section.origin_of(LABELS_FROM.key) {
        None => Some(LabelsWord::Pipeline),
        Some(_) => section.one_of(LABELS_FROM.key, LABELS_FROM.words),
    };
    match chosen {
        Some(chosen) => LABELS_FROM.refuse_others(section, chosen, |_| ""),
        None => LABELS_FROM.ignore_all(section),
    }
    match chosen {
        Some(LabelsWord::Pipeline) | None => LabelsFrom::Pipeline,
        Some(LabelsWord::Labels) => LabelsFrom::Labels,
        Some(LabelsWord::Caption) => LabelsFrom::Caption {
            // Not tidied: it may be a line break.
            separator: section.string("caption_separator").map(|(text, _)| text),
        },
    }
}

fn read_detection(section: &mut Section<'_>) -> DetectionSettings {
    DetectionSettings {
        score_thresh: section.number("score_thresh", 0.1, 0.0..=1.0),
        objectness_thresh: section.number("objectness_thresh", 0.0, 0.0..=1.0),
        label_nms_thresh: section.number("label_nms_thresh", 0.5, 0.0..=1.0),
        cross_label_nms_thresh: section.optional_number("cross_label_nms_thresh", 0.0..=1.0),
        max_detections: section.integer_u32("max_detections", 100, 1..=MAX_DETECTIONS),
    }
}

fn read_prompted_masks(section: &mut Section<'_>) -> PromptedMasks {
    PromptedMasks {
        single_mask: section.boolean("single_mask", true),
        refine: section.boolean("refine", false),
    }
}

fn read_examples(section: &mut Section<'_>) -> Vec<Example> {
    const WHAT: &str = "an array of images of what to look for, such as \
                        [{ image = \"examples/logo.png\", label = \"logo\" }]";
    let Some(origin) = section.origin_of("examples") else {
        section.note(None, "examples", &format!(" is missing: {WHAT}"));
        return Vec::new();
    };
    let nodes = section.array("examples", WHAT);
    if nodes.as_ref().is_some_and(Vec::is_empty) {
        section.note(Some(origin), "examples", &format!(" is empty: {WHAT}"));
    }
    let mut labels: HashMap<String, String> = HashMap::new();
    let mut examples = Vec::new();
    for (at, node) in nodes.unwrap_or_default().into_iter().enumerate() {
        let Some((example, label_origin)) = read_example(section, at, node) else {
            continue;
        };
        // Several examples of a label are meant; two spellings of it are not.
        match labels.entry(folded(&example.label)) {
            Entry::Vacant(place) => {
                place.insert(example.label.clone());
            }
            Entry::Occupied(first) if *first.get() == example.label => {}
            Entry::Occupied(first) => {
                let what = duplicate(&example.label, first.get());
                section.note(Some(label_origin), &format!("examples[{at}].label"), &what);
            }
        }
        examples.push(example);
    }
    examples.sort_by(compare_examples);
    examples.dedup();
    examples
}

fn read_example(section: &mut Section<'_>, at: usize, node: Node) -> Option<(Example, Origin)> {
    const SHAPE: &str = "a table such as { image = \"examples/logo.png\", label = \"logo\" }";
    let key = format!("examples[{at}]");
    let mut table = section.table(&key, node, &schema::EXAMPLE, SHAPE)?;
    let image = table.required_location("image", location::LOCAL, "an image file");
    let box_xyxy_px = table.optional_box_xyxy_px("box");
    let label = table.required_text("label", "what is found is called");
    table.finish();
    let (label, label_origin) = label?;
    let example = Example {
        label: tidy(&label),
        image,
        box_xyxy_px,
    };
    Some((example, label_origin))
}

/// By label, then image, then box, where the whole image comes first.
fn compare_examples(a: &Example, b: &Example) -> Ordering {
    let names = (&a.label, &a.image).cmp(&(&b.label, &b.image));
    names.then_with(|| match (a.box_xyxy_px, b.box_xyxy_px) {
        (Some(a), Some(b)) => {
            let mut sides = a.iter().zip(&b).map(|(a, b)| a.total_cmp(b));
            sides.find(|side| side.is_ne()).unwrap_or(Ordering::Equal)
        }
        (a, b) => a.is_some().cmp(&b.is_some()),
    })
}

fn read_boxes_from(section: &mut Section<'_>) -> BoxesFrom {
    let chosen = BOXES_FROM.required(section);
    match chosen {
        Some(chosen) => BOXES_FROM.refuse_others(section, chosen, |_| ""),
        None => BOXES_FROM.ignore_all(section),
    }
    match chosen {
        Some(BoxesWord::Columns) | None => BoxesFrom::Columns,
        Some(BoxesWord::Coco) => {
            let what = "the COCO JSON file with the boxes";
            BoxesFrom::Coco {
                path: section.required_location("boxes_path", location::SOURCES, what),
                images: section.location("coco_images", location::SOURCES),
            }
        }
        Some(BoxesWord::Yolo) => {
            let what = "the folder of YOLO label files";
            BoxesFrom::Yolo {
                path: section.required_location("boxes_path", location::SOURCES, what),
                names: section.location("yolo_names", location::SOURCES),
                scores: section.optional_boolean("yolo_scores"),
            }
        }
    }
}

fn read_points_from(section: &mut Section<'_>) -> PointsFrom {
    let chosen = POINTS_FROM.required(section);
    match chosen {
        Some(chosen) => POINTS_FROM.refuse_others(section, chosen, |_| ""),
        None => POINTS_FROM.ignore_all(section),
    }
    match chosen {
        Some(PointsWord::Columns) | None => PointsFrom::Columns,
        Some(PointsWord::Fixed) => {
            if section.origin_of("fixed_points").is_none() {
                let what = " is missing: [x, y] points as fractions of the image, such as \
                            [[0.5, 0.5]]";
                section.note(None, "fixed_points", what);
            }
            PointsFrom::Fixed {
                points: section.points("fixed_points").unwrap_or_default(),
            }
        }
    }
}

fn read_point_groups(section: &mut Section<'_>) -> PointGroups {
    let groups = [
        ("each", PointGroups::Each),
        ("together", PointGroups::Together),
    ];
    section
        .one_of("point_groups", &groups)
        .unwrap_or(PointGroups::Each)
}

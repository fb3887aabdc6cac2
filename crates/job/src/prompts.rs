//! What the model is asked, per image: the `[prompts]` section as values.

use serde::{Deserialize, Serialize};

mod read;

pub(crate) use read::{MODE, Mode, read_prompts};

/// What the model is asked, per image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Prompts {
    /// Points all over the image, as `SamAutomaticMaskGenerator` asks them.
    Automatic(AutomaticPrompts),
    /// Boxes that a detector finds for labels.
    Text(TextPrompts),
    /// Boxes that a detector finds for crops of other images.
    Examples(ExamplePrompts),
    /// Boxes that are known already.
    Boxes(BoxPrompts),
    /// Points that are known already.
    Points(PointPrompts),
}

/// The prompts of `SamAutomaticMaskGenerator` (segment-anything), under its option names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutomaticPrompts {
    /// The points of the whole image and of each crop layer.
    #[serde(flatten)]
    pub grid: PointGrid,
    /// How many times the image is also run on crops: layer i has 4^i of them.
    pub crop_n_layers: u32,
    /// How far crops overlap, as a fraction of the image's shorter side in the first layer.
    pub crop_overlap_ratio: f64,
    /// Crop layer i has `points_per_side / factor^i` points per side.
    pub crop_n_points_downscale_factor: u32,
    /// One mask per point instead of three.
    pub single_mask: bool,
}

/// The points to ask at: a square grid or a list. Exactly one of the two keys is in a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PointGrid {
    /// This many points along each side, evenly spaced.
    #[serde(rename = "points_per_side")]
    PerSide(u32),
    /// Per crop layer (layer 0 is the whole image) its points, `[x, y]` as fractions of the crop
    /// in [0, 1]; `crop_n_layers + 1` lists.
    #[serde(rename = "point_grids")]
    Explicit(Vec<Vec<[f64; 2]>>),
}

/// Boxes that a detector finds for labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextPrompts {
    /// Where an image's labels come from.
    #[serde(flatten)]
    pub labels_from: LabelsFrom,
    /// Which detections are prompts.
    #[serde(flatten)]
    pub detection: DetectionSettings,
    /// How a prompt becomes a mask.
    #[serde(flatten)]
    pub masks: PromptedMasks,
}

/// Where an image's labels come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "labels_from", rename_all = "lowercase")]
pub enum LabelsFrom {
    /// From `[labels]`, the same for all images.
    Pipeline,
    /// From the text in the source's caption column.
    Caption {
        /// Splits a text into labels; without it a text is one label.
        #[serde(
            rename = "caption_separator",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        separator: Option<String>,
    },
    /// From the list in the source's labels column.
    Labels,
}

/// Boxes that a detector finds for crops of other images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExamplePrompts {
    /// What to look for, at least one; sorted, without repeats. Several may have one label.
    pub examples: Vec<Example>,
    /// Which detections are prompts.
    #[serde(flatten)]
    pub detection: DetectionSettings,
    /// How a prompt becomes a mask.
    #[serde(flatten)]
    pub masks: PromptedMasks,
}

/// An image of what to look for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// What is found is called.
    pub label: String,
    /// The image file, on this machine.
    pub image: String,
    /// Where in the image it is, `[x0, y0, x1, y1]` in pixels; the whole image without it.
    #[serde(rename = "box", default, skip_serializing_if = "Option::is_none")]
    pub box_xyxy_px: Option<[f64; 4]>,
}

/// Which of a detector's boxes are prompts, in the order in which they are applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetectionSettings {
    /// A box is kept when its score is above this.
    pub score_thresh: f64,
    /// A box is kept when its objectness is above this; 0 keeps all. For OWLv2 only.
    pub objectness_thresh: f64,
    /// Of two boxes of a label with a larger IoU the worse one is dropped; 1 keeps all.
    pub label_nms_thresh: f64,
    /// The same for boxes of any labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_label_nms_thresh: Option<f64>,
    /// Boxes of an image beyond this many are dropped, the best are kept.
    pub max_detections: u32,
}

/// Boxes that are known already, from any detector or from people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxPrompts {
    /// Where they are written.
    #[serde(flatten)]
    pub boxes_from: BoxesFrom,
    /// Boxes with a lower score are no prompts; one without a score is.
    pub min_box_score: f64,
    /// How a prompt becomes a mask.
    #[serde(flatten)]
    pub masks: PromptedMasks,
}

/// Where boxes are written. A `path` is a location like the source's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "boxes_from", rename_all = "lowercase")]
pub enum BoxesFrom {
    /// In the source's boxes column.
    Columns,
    /// In a COCO JSON file.
    Coco {
        /// The file: a data set with annotations, or a list of results.
        #[serde(rename = "boxes_path")]
        path: String,
        /// Another COCO file with the images and categories, where the first has results alone.
        #[serde(
            rename = "coco_images",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        images: Option<String>,
    },
    /// In YOLO label files, one per image.
    Yolo {
        /// The folder of them.
        #[serde(rename = "boxes_path")]
        path: String,
        /// A file with the name of each class, one a line.
        #[serde(
            rename = "yolo_names",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        names: Option<String>,
        /// Whether lines end with a score; without it each file decides.
        #[serde(
            rename = "yolo_scores",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        scores: Option<bool>,
    },
}

/// Points that are known already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PointPrompts {
    /// Where they are written.
    #[serde(flatten)]
    pub points_from: PointsFrom,
    /// What one prompt is.
    pub point_groups: PointGroups,
    /// How a prompt becomes a mask.
    #[serde(flatten)]
    pub masks: PromptedMasks,
}

/// Where points are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "points_from", rename_all = "lowercase")]
pub enum PointsFrom {
    /// In the source's points column.
    Columns,
    /// In the pipeline, the same for all images.
    Fixed {
        /// `[x, y]` as fractions of the image in [0, 1], at least one.
        #[serde(rename = "fixed_points")]
        points: Vec<[f64; 2]>,
    },
}

/// What one prompt of points is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PointGroups {
    /// Each point alone.
    Each,
    /// All points of an image.
    Together,
}

/// How a prompt that names one object becomes its mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptedMasks {
    /// The model is asked for one mask; else for three, of which the best is kept.
    pub single_mask: bool,
    /// The model is asked once more, with its own low-resolution mask as part of the prompt.
    pub refine: bool,
}

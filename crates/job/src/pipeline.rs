//! The pipeline file: WHAT is computed. Every value here enters the fingerprint.

use serde::{Deserialize, Serialize};

use crate::choice::Choice;
use crate::document::Document;
use crate::labels::{LabellerSettings, Labels, read_labeller, read_labels};
use crate::location;
use crate::needs;
use crate::precision::{PRECISIONS, Precision};
use crate::problem::Problems;
use crate::prompts::{MODE, Mode, Prompts, read_prompts};
use crate::scenes::SceneSettings;
use crate::schema::FileKind;
use crate::section::Section;
use crate::shard::ShardLimits;

/// What a job computes, with every default filled in and every value in range.
///
/// Its JSON has the section and key names of the file, so that two pipelines can be compared by
/// the paths that people typed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    /// Names the job and its directory under the output root: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// Where the images come from.
    pub source: Source,
    /// Images beyond these are rejected before they are decoded.
    pub limits: Limits,
    /// The weights.
    pub model: ModelSource,
    /// What the model is asked, per image.
    pub prompts: Prompts,
    /// Which masks are kept.
    pub masks: MaskSettings,
    /// What masks are called; there when text prompts or a labeller use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// How masks are labelled by their crops; there when `model.labeller` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labeller: Option<LabellerSettings>,
}

/// Where the images come from.
///
/// Every `path` is a local path, which starts at the working directory if it is relative, or a
/// `file://`, `s3://bucket/prefix`, `gs://`, `az://`, `http://` or `https://` location; it has no
/// credentials in it. A column that is not named is found by its usual names,
/// if it has any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Source {
    /// A folder or prefix of image files, read recursively.
    Images {
        /// The folder or prefix.
        path: String,
        /// How many images make a shard, the unit of work and of commit, at most.
        images_per_shard: u32,
        /// How many bytes make a shard, at most.
        bytes_per_shard: u64,
    },
    /// A folder or prefix of WebDataset tar files, or one tar file; each tar is a shard.
    Webdataset {
        /// The folder, the prefix or the tar file.
        path: String,
    },
    /// A folder or prefix of Parquet files with image bytes, or one file, read by row groups.
    Parquet {
        /// The folder, the prefix or the file.
        path: String,
        /// The column with the bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image_column: Option<String>,
        /// The column that names the images.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_column: Option<String>,
        /// The column with a text about each image, carried into the output.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        caption_column: Option<String>,
        /// The column with boxes on each image, carried into the output.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boxes_column: Option<String>,
        /// The column with labels: what to look for on each image, or one for each of its boxes.
        /// It has no usual name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        labels_column: Option<String>,
        /// The column with a score for each box. It has no usual name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scores_column: Option<String>,
        /// The column with points on each image. It has no usual name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        points_column: Option<String>,
        /// How many images make a shard, at most; a row group is never split.
        images_per_shard: u32,
        /// How many bytes make a shard, at most.
        bytes_per_shard: u64,
    },
    /// A list of images: a Parquet, CSV or JSON lines file with their locations.
    Manifest {
        /// The file.
        path: String,
        /// The column with the locations.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uri_column: Option<String>,
        /// The column that names the images.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_column: Option<String>,
        /// The column with a text about each image, carried into the output.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        caption_column: Option<String>,
        /// The column with boxes on each image, carried into the output.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boxes_column: Option<String>,
        /// The column with labels: what to look for on each image, or one for each of its boxes.
        /// It has no usual name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        labels_column: Option<String>,
        /// The column with a score for each box. It has no usual name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scores_column: Option<String>,
        /// The column with points on each image. It has no usual name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        points_column: Option<String>,
        /// How many images make a shard, at most.
        images_per_shard: u32,
        /// How many bytes make a shard, at most.
        bytes_per_shard: u64,
    },
    /// Generated scenes, which are read nowhere: one for each seed of `seed..seed + count`.
    Scenes {
        /// The first seed.
        seed: u64,
        /// How many scenes there are.
        count: u32,
        /// Their sizes and contents.
        #[serde(flatten)]
        scenes: SceneSettings,
        /// How many scenes make a shard, at most.
        images_per_shard: u32,
    },
}

impl Source {
    /// The folder, prefix or file to read; `scenes` where there is none.
    pub fn path(&self) -> &str {
        match self {
            Source::Images { path, .. }
            | Source::Webdataset { path }
            | Source::Parquet { path, .. }
            | Source::Manifest { path, .. } => path,
            Source::Scenes { .. } => "scenes",
        }
    }

    /// How much goes into a shard. Of tars each is a shard; all that was rejected is one more.
    pub fn shard_limits(&self) -> ShardLimits {
        match *self {
            Source::Webdataset { .. } => ShardLimits {
                images_per_shard: u32::MAX,
                bytes_per_shard: u64::MAX,
            },
            Source::Scenes {
                images_per_shard, ..
            } => ShardLimits {
                images_per_shard,
                bytes_per_shard: u64::MAX,
            },
            Source::Images {
                images_per_shard,
                bytes_per_shard,
                ..
            }
            | Source::Parquet {
                images_per_shard,
                bytes_per_shard,
                ..
            }
            | Source::Manifest {
                images_per_shard,
                bytes_per_shard,
                ..
            } => ShardLimits {
                images_per_shard,
                bytes_per_shard,
            },
        }
    }
}

/// Images beyond these limits become rejected rows; nothing is allocated for their pixels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Width times height.
    pub max_pixels: u64,
    /// The longer side, in pixels.
    pub max_side: u32,
    /// The encoded file, in bytes.
    pub max_file_bytes: u64,
}

/// The weights. A detector or labeller is a file, or a folder with `model.safetensors` and what
/// was published beside it; a tokenizer is a `tokenizer.json` or the folder with one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSource {
    /// A SAM checkpoint, `.pth` or `.safetensors`, with the official key names.
    pub checkpoint: String,
    /// In which numbers SAM computes. It is written only where it is not the default, so that
    /// other pipelines have the fingerprint they had before there was a choice.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// An OWLv2 or OWL-ViT checkpoint, which finds boxes for labels or examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector: Option<String>,
    /// The detector's tokenizer; without it the one beside the detector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detector_tokenizer: Option<String>,
    /// A CLIP checkpoint, which labels masks by their crops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labeller: Option<String>,
    /// The labeller's tokenizer; without it the one beside the labeller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labeller_tokenizer: Option<String>,
}

/// Which masks are kept, under the option names of `SamAutomaticMaskGenerator`, plus the filters
/// that SA-1B applied. What is off by default is off in the reference too.
///
/// `box_nms_thresh` and `crop_nms_thresh` are for automatic prompts; a pipeline of another mode has
/// them at their defaults, unused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaskSettings {
    /// Masks whose predicted IoU is not above this are dropped; 0 keeps all.
    pub pred_iou_thresh: f64,
    /// Masks whose stability score is below this are dropped; 0 keeps all.
    pub stability_score_thresh: f64,
    /// Logits are cut at plus and minus this around the mask threshold to measure stability.
    pub stability_score_offset: f64,
    /// Logits above this are mask.
    pub mask_threshold: f64,
    /// Within a crop, of two masks whose boxes have a larger IoU the worse one is dropped.
    pub box_nms_thresh: f64,
    /// The same between crops, where the smaller crop's mask is kept.
    pub crop_nms_thresh: f64,
    /// Holes and islands smaller than this, in pixels, are removed; 0 leaves masks as they are.
    pub min_mask_region_area: u32,
    /// Masks of fewer pixels are dropped.
    pub min_area: u64,
    /// Masks that cover at least this fraction of the image are dropped (SA-1B: 0.95).
    pub max_coverage: Option<f64>,
    /// Of two masks with a larger IoU of their pixels the worse one is dropped.
    pub mask_nms_thresh: Option<f64>,
    /// A mask of which a larger fraction lies inside a better one is dropped.
    pub containment_nms_thresh: Option<f64>,
}

impl Pipeline {
    /// Reads a parsed pipeline file. What is returned counts only if no problem was noted.
    pub(crate) fn read(mut document: Document, problems: &mut Problems) -> Self {
        const KIND: FileKind = FileKind::Pipeline;
        let written = document.clone();
        let document = &mut document;
        let source = read_source(Section::take(document, KIND, "source", problems));
        let limits = read_limits(Section::take(document, KIND, "limits", problems));
        let model = read_model(Section::take(document, KIND, "model", problems));
        let (prompts, mode) = read_prompts(Section::take(document, KIND, "prompts", problems));
        let masks = read_masks(Section::take(document, KIND, "masks", problems), mode);
        let labels = read_labels(Section::take(document, KIND, "labels", problems));
        let labeller = read_labeller(Section::take(document, KIND, "labeller", problems));
        let name = read_name(Section::take(document, KIND, "", problems));
        // What nothing uses is refused below; its defaults must not get into the fingerprint.
        let has_labeller = model.labeller.is_some();
        let has_labels = has_labeller || matches!(prompts, Prompts::Text(_));
        let pipeline = Pipeline {
            name,
            source,
            limits,
            model,
            prompts,
            masks,
            labels: has_labels.then_some(labels),
            labeller: has_labeller.then_some(labeller),
        };
        needs::check(&pipeline, mode, &written, problems);
        pipeline
    }
}

fn read_name(mut section: Section<'_>) -> String {
    let what = "a name for the job, which also names its output directory";
    let name = required_name(&mut section, what);
    section.finish();
    name
}

/// Reads `name`, which must be there and be the name of a directory; `what` says what it is.
pub(crate) fn required_name(section: &mut Section<'_>, what: &str) -> String {
    let name = section.required_text("name", what);
    if let Some((name, origin)) = &name {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !name.chars().all(plain) || name.starts_with(['.', '-']) || name.len() > 100 {
            let what = format!(
                " = {name:?} names a directory: at most 100 letters, digits, `.`, `_` and `-`, \
                 beginning with a letter, digit or `_`"
            );
            section.note(Some(origin.clone()), "name", &what);
        }
    }
    name.map_or(String::new(), |(name, _)| name)
}

/// The word for each kind of source.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Images,
    Webdataset,
    Parquet,
    Manifest,
    Scenes,
}

const KIND: Choice<Kind> = Choice {
    key: "kind",
    words: &[
        ("images", Kind::Images),
        ("webdataset", Kind::Webdataset),
        ("parquet", Kind::Parquet),
        ("manifest", Kind::Manifest),
        ("scenes", Kind::Scenes),
    ],
    settings: &[
        ("path", READ),
        ("images_per_shard", CUT_BY_IMAGES),
        ("bytes_per_shard", CUT_BY_BYTES),
        ("image_column", &[Kind::Parquet]),
        ("uri_column", &[Kind::Manifest]),
        ("key_column", TABLES),
        ("caption_column", TABLES),
        ("boxes_column", TABLES),
        ("labels_column", TABLES),
        ("scores_column", TABLES),
        ("points_column", TABLES),
        ("seed", &[Kind::Scenes]),
        ("count", &[Kind::Scenes]),
        ("width", &[Kind::Scenes]),
        ("height", &[Kind::Scenes]),
        ("objects", &[Kind::Scenes]),
        ("shapes", &[Kind::Scenes]),
        ("textures", &[Kind::Scenes]),
        ("radius", &[Kind::Scenes]),
        ("parts", &[Kind::Scenes]),
    ],
};
const READ: &[Kind] = &[
    Kind::Images,
    Kind::Webdataset,
    Kind::Parquet,
    Kind::Manifest,
];
const CUT_BY_IMAGES: &[Kind] = &[Kind::Images, Kind::Parquet, Kind::Manifest, Kind::Scenes];
const CUT_BY_BYTES: &[Kind] = &[Kind::Images, Kind::Parquet, Kind::Manifest];
const TABLES: &[Kind] = &[Kind::Parquet, Kind::Manifest];

fn read_source(mut section: Section<'_>) -> Source {
    let kind = KIND.required(&mut section);
    if let Some(kind) = kind {
        refuse_settings_of_other_kinds(&mut section, kind);
    }
    if kind == Some(Kind::Scenes) {
        return read_scenes(section);
    }
    let what = "the folder, prefix or file to read";
    let path = section.required_location("path", location::SOURCES, what);
    let images_per_shard = read_images_per_shard(&mut section);
    let bytes_per_shard = section.bytes("bytes_per_shard", 1 << 30, (1 << 20)..=(1 << 40));
    let image_column = section.optional_text("image_column");
    let uri_column = section.optional_text("uri_column");
    let key_column = section.optional_text("key_column");
    let caption_column = section.optional_text("caption_column");
    let boxes_column = section.optional_text("boxes_column");
    let labels_column = section.optional_text("labels_column");
    let scores_column = section.optional_text("scores_column");
    let points_column = section.optional_text("points_column");
    if kind.is_none() {
        KIND.ignore_all(&mut section);
    }
    section.finish();
    match kind {
        Some(Kind::Webdataset) => Source::Webdataset { path },
        Some(Kind::Parquet) => Source::Parquet {
            path,
            image_column,
            key_column,
            caption_column,
            boxes_column,
            labels_column,
            scores_column,
            points_column,
            images_per_shard,
            bytes_per_shard,
        },
        Some(Kind::Manifest) => Source::Manifest {
            path,
            uri_column,
            key_column,
            caption_column,
            boxes_column,
            labels_column,
            scores_column,
            points_column,
            images_per_shard,
            bytes_per_shard,
        },
        Some(Kind::Images | Kind::Scenes) | None => Source::Images {
            path,
            images_per_shard,
            bytes_per_shard,
        },
    }
}

fn read_images_per_shard(section: &mut Section<'_>) -> u32 {
    section.integer_u32("images_per_shard", 256, 1..=1_000_000)
}

fn read_scenes(mut section: Section<'_>) -> Source {
    if section.origin_of("count").is_none() {
        section.note(None, "count", " is missing: how many scenes to generate");
    }
    let source = Source::Scenes {
        // TOML's integers end there.
        seed: section.integer("seed", 0, 0..=i64::MAX as u64),
        count: section.integer_u32("count", 1, 1..=u32::MAX),
        scenes: SceneSettings::read(&mut section, 0),
        images_per_shard: read_images_per_shard(&mut section),
    };
    section.finish();
    source
}

fn refuse_settings_of_other_kinds(section: &mut Section<'_>, kind: Kind) {
    KIND.refuse_others(section, kind, |kinds| match kind {
        Kind::Webdataset if kinds == CUT_BY_IMAGES || kinds == CUT_BY_BYTES => {
            ", where each tar is a shard"
        }
        Kind::Scenes if kinds == READ => ", which are generated",
        _ => "",
    });
}

fn read_limits(mut section: Section<'_>) -> Limits {
    let limits = Limits {
        // 300 MB of pixels; cameras end near 150 MP, and a header may claim anything. Run lengths
        // are 32 bits wide: no mask has more pixels than that.
        max_pixels: section.integer("max_pixels", 100_000_000, 1..=4_000_000_000),
        // What JPEG can state.
        max_side: section.integer_u32("max_side", 65_535, 1..=1_000_000),
        max_file_bytes: section.bytes("max_file_bytes", 256 << 20, 1..=(16 << 30)),
    };
    section.finish();
    limits
}

fn read_model(mut section: Section<'_>) -> ModelSource {
    let what = "a SAM checkpoint, .pth or .safetensors";
    let model = ModelSource {
        checkpoint: section.required_location("checkpoint", location::LOCAL, what),
        precision: section.one_of("precision", &PRECISIONS).unwrap_or_default(),
        detector: section.location("detector", location::LOCAL),
        detector_tokenizer: section.location("detector_tokenizer", location::LOCAL),
        labeller: section.location("labeller", location::LOCAL),
        labeller_tokenizer: section.location("labeller_tokenizer", location::LOCAL),
    };
    section.finish();
    model
}

/// The settings of `[masks]` that only some modes have.
const MASKS_OF_MODES: Choice<Mode> = Choice {
    key: MODE.key,
    words: MODE.words,
    settings: &[
        ("box_nms_thresh", &[Mode::Automatic]),
        ("crop_nms_thresh", &[Mode::Automatic]),
    ],
};

fn read_masks(mut section: Section<'_>, mode: Option<Mode>) -> MaskSettings {
    if let Some(mode) = mode {
        let why = ", where duplicates are told by mask_nms_thresh";
        MASKS_OF_MODES.refuse_others(&mut section, mode, |_| why);
    }
    let coverage_origin = section.origin_of("max_coverage");
    let masks = MaskSettings {
        // The IoU head is a regression without a bound: predictions somewhat above 1 happen.
        pred_iou_thresh: section.number("pred_iou_thresh", 0.88, 0.0..=2.0),
        stability_score_thresh: section.number("stability_score_thresh", 0.95, 0.0..=1.0),
        // Logits of trained models lie within a few tens.
        stability_score_offset: section.number("stability_score_offset", 1.0, 0.0..=100.0),
        mask_threshold: section.number("mask_threshold", 0.0, -100.0..=100.0),
        box_nms_thresh: section.number("box_nms_thresh", 0.7, 0.0..=1.0),
        crop_nms_thresh: section.number("crop_nms_thresh", 0.7, 0.0..=1.0),
        min_mask_region_area: section.integer_u32("min_mask_region_area", 0, 0..=u32::MAX),
        min_area: section.integer("min_area", 0, 0..=10_000_000_000),
        max_coverage: section.optional_number("max_coverage", 0.0..=1.0),
        mask_nms_thresh: section.optional_number("mask_nms_thresh", 0.0..=1.0),
        containment_nms_thresh: section.optional_number("containment_nms_thresh", 0.0..=1.0),
    };
    if masks.max_coverage == Some(0.0) {
        let what = " = 0 would drop every mask; leave the key out to keep masks of any size";
        section.note(coverage_origin, "max_coverage", what);
    }
    section.finish();
    masks
}

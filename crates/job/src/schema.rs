//! The names of all settings, and what to say about a name that is none.

use strsim::normalized_damerau_levenshtein;

/// A section of a file and its keys; the section `""` holds the keys before the first `[section]`.
pub(crate) type SectionKeys = (&'static str, &'static [&'static str]);

/// Which file: a job has a pipeline and a config file, a training run a training and a config file. A training file has other
/// sections for each task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// What is computed; enters the fingerprint.
    Pipeline,
    /// What is learned; enters the fingerprint.
    Training,
    Grounder,
    /// Where and how fast; never changes a row.
    Config,
}

impl FileKind {
    pub(crate) fn sections(self) -> &'static [SectionKeys] {
        match self {
            FileKind::Pipeline => PIPELINE,
            FileKind::Training => TRAINING,
            FileKind::Grounder => GROUNDER,
            FileKind::Config => CONFIG,
        }
    }

    /// The files in which a key may belong that this one does not have.
    fn others(self) -> &'static [FileKind] {
        match self {
            FileKind::Pipeline | FileKind::Training | FileKind::Grounder => &[FileKind::Config],
            FileKind::Config => &[FileKind::Pipeline, FileKind::Training, FileKind::Grounder],
        }
    }

    pub(crate) fn noun(self) -> &'static str {
        match self {
            FileKind::Pipeline => "pipeline file",
            FileKind::Training => "training file",
            FileKind::Grounder => "training file of a grounder",
            FileKind::Config => "config file",
        }
    }

    /// The keys of `section`; `None` when this file has no such section.
    pub(crate) fn keys(self, section: &str) -> Option<&'static [&'static str]> {
        let mut sections = self.sections().iter();
        sections.find(|(name, _)| *name == section).map(|s| s.1)
    }

    /// Where `key` belongs in this file: `[masks]`.
    fn place_of(self, key: &str) -> Option<String> {
        let with_key = self
            .sections()
            .iter()
            .filter(|(_, keys)| keys.contains(&key));
        let places: Vec<String> = with_key.map(|(section, _)| place(section)).collect();
        (!places.is_empty()).then(|| places.join(" or "))
    }
}

const PIPELINE: &[SectionKeys] = &[
    ("", &["name"]),
    (
        "source",
        &[
            "kind",
            "path",
            "images_per_shard",
            "bytes_per_shard",
            "image_column",
            "uri_column",
            "key_column",
            "caption_column",
            "boxes_column",
            "labels_column",
            "scores_column",
            "points_column",
            "seed",
            "count",
            "width",
            "height",
            "objects",
            "shapes",
            "textures",
            "radius",
            "parts",
        ],
    ),
    ("limits", &["max_pixels", "max_side", "max_file_bytes"]),
    (
        "model",
        &[
            "checkpoint",
            "precision",
            "detector",
            "detector_tokenizer",
            "labeller",
            "labeller_tokenizer",
        ],
    ),
    (
        "prompts",
        &[
            "mode",
            "points_per_side",
            "point_grids",
            "crop_n_layers",
            "crop_overlap_ratio",
            "crop_n_points_downscale_factor",
            "single_mask",
            "refine",
            "labels_from",
            "caption_separator",
            "score_thresh",
            "objectness_thresh",
            "label_nms_thresh",
            "cross_label_nms_thresh",
            "max_detections",
            "examples",
            "boxes_from",
            "boxes_path",
            "coco_images",
            "yolo_names",
            "yolo_scores",
            "min_box_score",
            "points_from",
            "fixed_points",
            "point_groups",
        ],
    ),
    (
        "masks",
        &[
            "pred_iou_thresh",
            "stability_score_thresh",
            "stability_score_offset",
            "mask_threshold",
            "box_nms_thresh",
            "crop_nms_thresh",
            "min_mask_region_area",
            "min_area",
            "max_coverage",
            "mask_nms_thresh",
            "containment_nms_thresh",
        ],
    ),
    ("labels", &["names", "templates", "negatives"]),
    (
        "labeller",
        &[
            "crop_padding",
            "crop_background",
            "min_probability",
            "min_similarity",
            "other_label",
        ],
    ),
];

/// A table inside a section: what one of its kind is called in messages, and its keys.
pub(crate) struct TableKeys {
    pub(crate) noun: &'static str,
    pub(crate) keys: &'static [&'static str],
}

/// One of `prompts.examples`.
pub(crate) const EXAMPLE: TableKeys = TableKeys {
    noun: "an example",
    keys: &["image", "box", "label"],
};

/// One of `labels.names`, where it is more than its phrases.
pub(crate) const LABEL: TableKeys = TableKeys {
    noun: "a label",
    keys: &["phrases", "score_thresh"],
};

const TRAINING: &[SectionKeys] = &[
    ("", &["name", "task", "seed", "data"]),
    ("model", &["checkpoint", "image_size"]),
    (
        "architecture",
        &[
            "image_size",
            "patch_size",
            "encoder_dim",
            "encoder_depth",
            "encoder_heads",
            "encoder_mlp_dim",
            "window",
            "global_blocks",
            "embed_dim",
            "mask_in_channels",
            "decoder_depth",
            "decoder_mlp_dim",
            "cross_attention_dim",
            "mask_tokens",
            "iou_head_depth",
            "iou_head_dim",
        ],
    ),
    (
        "augmentation",
        &["scale", "flip", "vertical_flip", "colour", "grayscale"],
    ),
    (
        "prompts",
        &[
            "masks_per_image",
            "rounds",
            "box_probability",
            "box_noise",
            "multimask",
            "pixels_per_image",
        ],
    ),
    (
        "loss",
        &[
            "focal",
            "dice",
            "iou",
            "focal_alpha",
            "focal_gamma",
            "pixels",
        ],
    ),
    (
        "optimiser",
        &[
            "name",
            "learning_rate",
            "betas",
            "weight_decay",
            "warmup_steps",
            "steps",
            "schedule",
            "final_fraction",
            "step_at",
            "step_factor",
            "layer_decay",
            "clip_norm",
            "precision",
            "batch_images",
            "accumulate",
            "encoder",
        ],
    ),
    (
        "validation",
        &["data", "images", "every_steps", "masks_per_image"],
    ),
    ("export", &["precision"]),
];

/// A training file of `task = "grounder"`.
const GROUNDER: &[SectionKeys] = &[
    ("", &["name", "task", "seed", "data"]),
    (
        "architecture",
        &[
            "image_size",
            "patch_size",
            "image_dim",
            "image_depth",
            "image_heads",
            "image_mlp_dim",
            "text_dim",
            "text_depth",
            "text_heads",
            "text_mlp_dim",
            "context",
        ],
    ),
    ("model", &["checkpoint", "image_encoder"]),
    ("augmentation", &["flip", "vertical_flip", "colour"]),
    ("queries", &["per_image", "positives", "held_out"]),
    (
        "loss",
        &[
            "class",
            "l1",
            "giou",
            "objectness",
            "focal_alpha",
            "focal_gamma",
            "boxes_per_object",
            "dense",
        ],
    ),
    (
        "optimiser",
        &[
            "name",
            "learning_rate",
            "betas",
            "weight_decay",
            "warmup_steps",
            "steps",
            "schedule",
            "final_fraction",
            "step_at",
            "step_factor",
            "clip_norm",
            "precision",
            "batch_images",
            "accumulate",
        ],
    ),
    ("validation", &["data", "images", "every_steps"]),
    ("export", &["precision"]),
];

/// One of `data` and `validation.data`.
pub(crate) const TRAINING_DATA: TableKeys = TableKeys {
    noun: "the data of a training file",
    keys: &[
        "kind",
        "weight",
        "min_area",
        "seed",
        "count",
        "width",
        "height",
        "objects",
        "shapes",
        "textures",
        "radius",
        "parts",
        "path",
        "annotations",
        "images",
        "output",
    ],
};

const CONFIG: &[SectionKeys] = &[
    ("output", &["root", "max_put_bytes"]),
    (
        "store",
        &[
            "s3_endpoint",
            "s3_region",
            "s3_path_style",
            "s3_anonymous",
            "source_s3_endpoint",
            "source_s3_region",
            "source_s3_path_style",
            "source_s3_anonymous",
            "request_timeout_seconds",
            "connect_timeout_seconds",
            "max_retries",
            "retry_timeout_seconds",
            "first_backoff_seconds",
            "longest_backoff_seconds",
        ],
    ),
    (
        "run",
        &[
            "device",
            "points_per_batch",
            "prompt_memory",
            "crops_per_batch",
            "decode_threads",
            "fetch_concurrency",
            "images_in_flight",
            "max_bytes_in_flight",
            "shard_attempts",
        ],
    ),
    (
        "train",
        &[
            "checkpoint_minutes",
            "log_steps",
            "loader_threads",
            "cache_memory",
        ],
    ),
    ("log", &["level", "format", "progress", "metrics_addr"]),
];

/// `masks.min_area`, or `name` for a key before the first section.
pub(crate) fn path(section: &str, key: &str) -> String {
    if section.is_empty() {
        key.to_string()
    } else {
        format!("{section}.{key}")
    }
}

/// Says what is wrong with the key `key` of `[section]`, a section that `kind` has.
pub(crate) fn unknown_key(kind: FileKind, section: &str, key: &str) -> String {
    let path = path(section, key);
    if let Some(right) = kind.place_of(key) {
        return format!("{path} is not a setting; `{key}` belongs in {right}");
    }
    for other in kind.others() {
        if let Some(right) = other.place_of(key) {
            let file = other.noun();
            return format!("{path}: `{key}` belongs in {right} of the {file}");
        }
    }
    if names_a_secret(key) {
        return format!(
            "{path} is not a setting; credentials come from the environment (such as \
             AWS_ACCESS_KEY_ID), never from a file or the command line"
        );
    }
    let keys = kind.keys(section).unwrap_or_default();
    let what = if section.is_empty() {
        format!("{path} is not a key before the first section")
    } else {
        format!("{path} is not a key of [{section}]")
    };
    format!("{what}; {}", suggestion(key, keys))
}

/// Says what is wrong with `key` in the table at `path`, which is one of `table`.
pub(crate) fn unknown_table_key(path: &str, table: &TableKeys, key: &str) -> String {
    let hint = suggestion(key, table.keys);
    let (noun, key) = (table.noun, quoted_key(key));
    format!("{path}.{key} is not a key of {noun}; {hint}")
}

/// A key as TOML writes it: in quotes unless it is bare.
pub(crate) fn quoted_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !key.is_empty() && key.chars().all(bare) {
        true => key.to_string(),
        false => format!("{key:?}"),
    }
}

/// Whether somebody would put a secret under this key.
pub(crate) fn names_a_secret(key: &str) -> bool {
    const SECRETS: [&str; 6] = [
        "access_key",
        "credential",
        "key_id",
        "passw",
        "secret",
        "token",
    ];
    let key = key.to_ascii_lowercase().replace('-', "_");
    // `detector_tokenizer` is a file, `mask_tokens` a number.
    let key = key.replace("tokenize", "").replace("mask_tokens", "");
    SECRETS.iter().any(|secret| key.contains(secret))
}

/// Says what is wrong with the section `[section]`, which `kind` does not have.
pub(crate) fn unknown_section(kind: FileKind, section: &str) -> String {
    let mut others = kind.others().iter();
    if let Some(other) = others.find(|other| other.keys(section).is_some()) {
        return format!("[{section}] belongs in the {}", other.noun());
    }
    // Whole files are mixed up, too, and tasks.
    let of_task = |kind: FileKind| kind.keys(section).is_some();
    for (here, there, task) in [
        (FileKind::Training, FileKind::Grounder, "grounder"),
        (FileKind::Grounder, FileKind::Training, "segmenter"),
    ] {
        if kind == here && of_task(there) {
            return format!("[{section}] is for task = {task:?}, which this file does not have");
        }
    }
    if kind == FileKind::Pipeline && (of_task(FileKind::Training) || of_task(FileKind::Grounder)) {
        return format!("[{section}] belongs in a training file, which `maskmill train` takes");
    }
    let trains = matches!(kind, FileKind::Training | FileKind::Grounder);
    if trains && FileKind::Pipeline.keys(section).is_some() {
        return format!("[{section}] belongs in a pipeline file, which `maskmill run` takes");
    }
    let names: Vec<&str> = kind.sections().iter().map(|s| s.0).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let what = format!("[{section}] is not a section of a {}", kind.noun());
    format!("{what}; {}", suggestion(section, &names))
}

/// `did you mean ...?` where something is near enough, else all there is.
pub(crate) fn suggestion(typed: &str, valid: &[&str]) -> String {
    match nearest(typed, valid) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("it can be `{}`", valid.join("`, `")),
    }
}

fn place(section: &str) -> String {
    if section.is_empty() {
        "front of the first section".to_string()
    } else {
        format!("[{section}]")
    }
}

/// The valid name nearest to `typed`, if any is near.
///
/// Two measures, for two kinds of mistake: the edit distance finds slips of the finger
/// (`box_nms_tresh`), shared words find names remembered wrongly (`nms_iou`, `iou_threshold`).
fn nearest<'v>(typed: &str, valid: &[&'v str]) -> Option<&'v str> {
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    let score = |name: &str| {
        let edit = normalized_damerau_levenshtein(&typed, name);
        // Below this, one wrong letter in three or so, likeness is chance.
        let edit = if edit < 0.6 { 0.0 } else { edit };
        edit.max(shared_words(&typed, name))
    };
    let scored = valid.iter().map(|&name| (score(name), name));
    // `>` keeps the first of equals: the order of the schema, main settings before optional ones.
    let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.filter(|(score, _)| *score > 0.0).map(|(_, name)| name)
}

/// How many of the words of both names are shared, 0 to 1, where the first word typed counts twice.
///
/// Words that say nothing by themselves (`thresh`, `max`) do not count.
fn shared_words(typed: &str, name: &str) -> f64 {
    const EMPTY: [&str; 9] = [
        "",
        "in",
        "max",
        "min",
        "n",
        "per",
        "score",
        "thresh",
        "threshold",
    ];
    let split = |name: &str| -> Vec<String> {
        let words = name.split('_').filter(|word| !EMPTY.contains(word));
        words
            .map(|word| word.trim_end_matches('s').to_string())
            .collect()
    };
    let (typed, name) = (split(typed), split(name));
    let weight = |at: usize| if at == 0 { 2.0 } else { 1.0 };
    let shared = typed
        .iter()
        .enumerate()
        .filter(|(_, word)| name.contains(word));
    let shared: f64 = shared.map(|(at, _)| weight(at)).sum();
    let all = typed.len() + name.len() + 1;
    2.0 * shared / all as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_misremembered_names_find_their_key() {
        let masks = FileKind::Pipeline.keys("masks").unwrap();
        for (typed, meant) in [
            ("box_nms_tresh", "box_nms_thresh"),
            ("nms_iou", "box_nms_thresh"),
            ("nms_iuo", "box_nms_thresh"),
            ("pred_iou_threshold", "pred_iou_thresh"),
            ("iou_threshold", "pred_iou_thresh"),
            ("stability-score-offset", "stability_score_offset"),
            ("maskThreshold", "mask_threshold"),
        ] {
            assert_eq!(nearest(typed, masks), Some(meant), "for {typed}");
        }
        assert_eq!(nearest("colour", masks), None);
    }

    #[test]
    fn a_key_of_another_section_or_file_is_sent_there() {
        assert_eq!(
            unknown_key(FileKind::Pipeline, "masks", "points_per_side"),
            "masks.points_per_side is not a setting; `points_per_side` belongs in [prompts]"
        );
        assert_eq!(
            unknown_key(FileKind::Pipeline, "prompts", "points_per_batch"),
            "prompts.points_per_batch: `points_per_batch` belongs in [run] of the config file"
        );
        assert_eq!(
            unknown_section(FileKind::Config, "masks"),
            "[masks] belongs in the pipeline file"
        );
    }

    #[test]
    fn a_tokenizer_is_no_secret_and_a_token_is() {
        assert!(!names_a_secret("model.detector_tokenizer"));
        assert!(names_a_secret("model.hub_token") && names_a_secret("tokenizer_token"));
    }

    #[test]
    fn no_key_is_in_two_sections() {
        let mut seen = Vec::new();
        for kind in [FileKind::Pipeline, FileKind::Config] {
            for (_, keys) in kind.sections() {
                for key in *keys {
                    assert!(!seen.contains(key), "{key} twice: hints would be ambiguous");
                    seen.push(key);
                }
            }
        }
    }
}

//! The models of a job, loaded, with everything that is encoded once.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_grounding::{
    Clip, CropBackground, CropOptions, DetectionOptions, Embeddings, Labeller, LabellerOptions,
    LoadError, Overlong, Owl, Vocabulary, VocabularyError,
};
use maskmill_job::{
    self as job, DetectionSettings, Example, LabellerSettings, LabelsFrom, Pipeline, Prompts,
};
use maskmill_masks::{BoxPx, ImageSize};
use maskmill_sam::{
    AutomaticOptions, Device, DeviceError, DeviceName, Precision, PromptedOptions, Sam,
};
use maskmill_weights::CheckpointError;

use crate::describe::describe;
use crate::finder::{Finder, WantedObjects, vocabulary};
use crate::options::{automatic_options, prompted_options};

/// A model of a job cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device lacks the numbers that the model is to compute in.
    #[error(
        "model.precision = \"{precision}\": device `{device}` does not compute in it; set run.device to one that does, such as \"cpu\", or model.precision = \"f32\", whose rows are other ones"
    )]
    Precision {
        /// The setting.
        precision: Precision,
        /// The device asked for.
        device: String,
    },
    /// The SAM checkpoint cannot be used.
    #[error(transparent)]
    Sam(#[from] CheckpointError),
    /// The detector or the labeller cannot be used.
    #[error("{setting}")]
    Grounding {
        /// The setting that names it.
        setting: &'static str,
        /// Why.
        source: LoadError,
    },
    /// The labels cannot be used.
    #[error("labels: {0}")]
    Labels(#[from] VocabularyError),
    /// An example image cannot be used.
    #[error("prompts.examples: {image}: {detail}")]
    Example {
        /// The image file.
        image: String,
        /// Why.
        detail: String,
    },
}

/// The models of a job.
pub(crate) struct Models {
    pub sam: Sam,
    pub asked: Asked,
    pub labeller: Option<Labeller>,
    /// Labels that are longer than their model reads.
    pub overlong: Vec<Overlong>,
}

/// What SAM is asked, per image.
pub(crate) enum Asked {
    /// Points all over it.
    Grid(AutomaticOptions),
    /// Prompts: those a detector finds, or else those that are known.
    Prompts {
        options: PromptedOptions,
        finder: Option<Box<Finder>>,
    },
}

impl Models {
    pub(crate) fn load(pipeline: &Pipeline, device: &str) -> Result<Self, ModelsError> {
        let name = device;
        let device = open_device(pipeline, name)?;
        let precision = precision(pipeline.model.precision);
        let sam = Sam::load(Path::new(&pipeline.model.checkpoint), &device, precision)?;
        tracing::info!(architecture = %sam.architecture(), %precision, device = name, "model loaded");
        let mut overlong = Vec::new();
        let model = &pipeline.model;
        let path = |path: &Option<String>| path.as_ref().map(std::path::PathBuf::from);
        let load_detector = || {
            let weights = path(&model.detector).expect("checked with the pipeline file");
            let owl = Owl::load(
                &weights,
                path(&model.detector_tokenizer).as_deref(),
                &device,
            );
            let owl = owl.map_err(|source| ModelsError::Grounding {
                setting: "model.detector",
                source,
            })?;
            tracing::info!(architecture = %owl.architecture(), "detector loaded");
            Ok::<Owl, ModelsError>(owl)
        };
        let finder = match &pipeline.prompts {
            Prompts::Text(prompts) => {
                let owl = load_detector()?;
                let labels = pipeline.labels.as_ref();
                let wanted = match &prompts.labels_from {
                    LabelsFrom::Pipeline => {
                        let labels = labels.expect("checked with the pipeline file");
                        let (wanted, too_long) = WantedObjects::of_labels(&owl, labels)?;
                        overlong.extend(too_long);
                        wanted
                    }
                    from => WantedObjects::OfImage {
                        from: from.clone(),
                        negatives: labels.map_or(Vec::new(), |labels| labels.negatives.clone()),
                        templates: labels.map_or(Vec::new(), |labels| labels.templates.clone()),
                        known: Mutex::default(),
                    },
                };
                let options = detection_options(&prompts.detection);
                Some(Box::new(Finder {
                    owl,
                    options,
                    wanted,
                }))
            }
            Prompts::Examples(prompts) => {
                let owl = load_detector()?;
                let wanted = encode_examples(&owl, &prompts.examples, pipeline)?;
                let options = detection_options(&prompts.detection);
                Some(Box::new(Finder {
                    owl,
                    options,
                    wanted,
                }))
            }
            Prompts::Automatic(_) | Prompts::Boxes(_) | Prompts::Points(_) => None,
        };
        let labeller = match (path(&model.labeller), &pipeline.labeller) {
            (Some(weights), Some(settings)) => {
                let clip = Clip::load(
                    &weights,
                    path(&model.labeller_tokenizer).as_deref(),
                    &device,
                );
                let clip = clip.map_err(|source| ModelsError::Grounding {
                    setting: "model.labeller",
                    source,
                })?;
                tracing::info!(architecture = %clip.architecture(), "labeller loaded");
                let labels = pipeline.labels.as_ref();
                let labels = vocabulary(labels.expect("checked with the pipeline file"))?;
                let (labeller, too_long) = Labeller::new(clip, labels, labeller_options(settings));
                overlong.extend(too_long);
                Some(labeller)
            }
            _ => None,
        };
        let asked = match &pipeline.prompts {
            Prompts::Automatic(prompts) => Asked::Grid(automatic_options(prompts, &pipeline.masks)),
            Prompts::Text(job::TextPrompts { masks, .. })
            | Prompts::Examples(job::ExamplePrompts { masks, .. })
            | Prompts::Boxes(job::BoxPrompts { masks, .. })
            | Prompts::Points(job::PointPrompts { masks, .. }) => Asked::Prompts {
                options: prompted_options(*masks, &pipeline.masks),
                finder,
            },
        };
        for text in &overlong {
            tracing::warn!("a label is too long: {text}");
        }
        Ok(Self {
            sam,
            asked,
            labeller,
            overlong,
        })
    }
}

/// The device of a job, once it is known to compute in the numbers of the job's model.
pub(crate) fn open_device(pipeline: &Pipeline, name: &str) -> Result<Device, ModelsError> {
    let device = name.parse::<DeviceName>()?.open()?;
    let precision = precision(pipeline.model.precision);
    require_precision(name, precision, Sam::supports(&device, precision))?;
    Ok(device)
}

fn require_precision(
    device: &str,
    precision: Precision,
    is_supported: bool,
) -> Result<(), ModelsError> {
    match is_supported {
        true => Ok(()),
        false => Err(ModelsError::Precision {
            precision,
            device: device.to_owned(),
        }),
    }
}

fn precision(precision: job::Precision) -> Precision {
    match precision {
        job::Precision::F32 => Precision::F32,
        job::Precision::High => Precision::High,
        job::Precision::Bf16 => Precision::Bf16,
    }
}

fn detection_options(settings: &DetectionSettings) -> DetectionOptions {
    DetectionOptions {
        score_thresh: settings.score_thresh as f32,
        objectness_thresh: settings.objectness_thresh as f32,
        label_nms_thresh: settings.label_nms_thresh,
        cross_label_nms_thresh: settings.cross_label_nms_thresh,
        max_detections: settings.max_detections as usize,
    }
}

fn labeller_options(settings: &LabellerSettings) -> LabellerOptions {
    LabellerOptions {
        crop: CropOptions {
            padding: settings.crop_padding,
            background: match settings.crop_background {
                job::CropBackground::Keep => CropBackground::Keep,
                job::CropBackground::Blur => CropBackground::Blur,
                job::CropBackground::Remove => CropBackground::Remove,
            },
        },
        min_probability: settings.min_probability as f32,
        min_similarity: settings.min_similarity as f32,
        other: settings.other_label.clone(),
    }
}

/// Example images to queries, under the limits of the job's images.
fn encode_examples(
    owl: &Owl,
    examples: &[Example],
    pipeline: &Pipeline,
) -> Result<WantedObjects, ModelsError> {
    let limits = crate::reader::decode_limits(&pipeline.limits);
    let mut values = Vec::new();
    let mut labels = Vec::new();
    let mut dim = 1;
    for example in examples {
        let bad = |detail: String| ModelsError::Example {
            image: example.image.clone(),
            detail,
        };
        let image = read_example(example, &limits).map_err(bad)?;
        let (query, _) = owl.example_query(&owl.input(&image));
        dim = query.len();
        values.extend(query);
        labels.push(example.label.clone());
    }
    let vocabulary = Vocabulary::of_examples(&labels)?;
    let queries = owl.queries(&Embeddings::new(values, dim));
    Ok(WantedObjects::Same {
        vocabulary,
        queries,
    })
}

fn read_example(
    example: &Example,
    limits: &DecodeLimits,
) -> Result<maskmill_pixels::RgbImage, String> {
    let bytes = fs::read(&example.image).map_err(|error| format!("cannot be read: {error}"))?;
    let image = decode(&bytes, limits)
        .map_err(|error| describe(&error))?
        .image;
    match example.box_xyxy_px {
        None => Ok(image),
        Some(corners) => Ok(image.crop(box_within(corners, image.size())?)),
    }
}

/// The whole pixels that a box touches.
fn box_within(corners: [f64; 4], size: ImageSize) -> Result<BoxPx, String> {
    let [x0, y0, x1, y1] = corners;
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let bounds = BoxPx {
        x0: x0.floor().clamp(0.0, width) as u32,
        y0: y0.floor().clamp(0.0, height) as u32,
        x1: x1.ceil().clamp(0.0, width) as u32,
        y1: y1.ceil().clamp(0.0, height) as u32,
    };
    match bounds.is_empty() {
        true => Err(format!("the box {corners:?} is not on the image of {size}")),
        false => Ok(bounds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_the_precision_is_an_error_that_names_both_settings() {
        require_precision("cuda:0", Precision::Bf16, true).unwrap();
        let error = require_precision("cuda:1", Precision::Bf16, false).unwrap_err();
        assert!(matches!(error, ModelsError::Precision { .. }));
        let error = error.to_string();
        for part in ["model.precision = \"bf16\"", "`cuda:1`", "run.device"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_box_of_an_example_is_cut_at_the_image() {
        let size = ImageSize::new(60, 80);
        let inside = box_within([10.5, 20.0, 90.0, 40.2], size).unwrap();
        assert_eq!(
            (inside.x0, inside.y0, inside.x1, inside.y1),
            (10, 20, 80, 41)
        );
        let error = box_within([80.0, 0.0, 90.0, 10.0], size).unwrap_err();
        assert!(error.contains("not on the image of 60x80"), "{error}");
    }
}

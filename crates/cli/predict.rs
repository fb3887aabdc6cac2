//! `maskmill predict`: masks of points, boxes or texts on one image, as a PNG and JSON.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_formats::overlay::{OverlayOptions, PointMark, encode_png, overlay};
use maskmill_grounding::{DetectionOptions, Label, Owl, Vocabulary, detect};
use maskmill_masks::Rle;
use maskmill_pixels::RgbImage;
use maskmill_sam::{
    Device, DeviceName, MaskOutput, PointPrompt, Precision, Predictor, Prompt, Sam,
};
use serde::Serialize;

use crate::args::{PrecisionArgument, PredictArguments};
use crate::failure::Failure;

/// The JSON file.
#[derive(Serialize)]
struct Prediction {
    image: String,
    height: u32,
    width: u32,
    checkpoint: String,
    /// In which numbers it computed: `f32` or `bf16`.
    precision: String,
    prompts: Vec<PromptMasks>,
}

#[derive(Serialize)]
struct PromptMasks {
    /// What a text prompt found.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    /// The detector's score for it, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    label_score: Option<f32>,
    /// `[x, y, label]`
    points: Vec<[f64; 3]>,
    /// `[x0, y0, x1, y1]`
    #[serde(rename = "box")]
    box_xyxy: Option<[f64; 4]>,
    masks: Vec<MaskJson>,
}

#[derive(Serialize)]
struct MaskJson {
    segmentation: Segmentation,
    /// `[x, y, width - 1, height - 1]`, as segment-anything writes boxes.
    bbox: [u32; 4],
    area: u64,
    predicted_iou: f32,
    /// Drawn in the PNG: the mask of highest predicted IoU of its prompt.
    best: bool,
}

#[derive(Serialize)]
struct Segmentation {
    /// `[height, width]`
    size: [u32; 2],
    counts: String,
}

pub(crate) fn predict(arguments: &PredictArguments) -> Result<(), Failure> {
    if arguments.points.is_empty() && arguments.boxes.is_empty() && arguments.texts.is_empty() {
        let error = anyhow::anyhow!(
            "nothing to look for: give --point x,y, --box x0,y0,x1,y1 or --text \"a cat\" --detector PATH"
        );
        return Err(error.into());
    }
    let name = arguments.image.display();
    let bytes = fs::read(&arguments.image).with_context(|| format!("{name} cannot be read"))?;
    let image = decode(&bytes, &DecodeLimits::default())
        .with_context(|| format!("{name} cannot be decoded"))?
        .image;
    let device = arguments.device.parse::<DeviceName>()?.open()?;
    let precision = match arguments.precision {
        PrecisionArgument::F32 => Precision::F32,
        PrecisionArgument::High => Precision::High,
        PrecisionArgument::Bf16 => Precision::Bf16,
    };
    if !Sam::supports(&device, precision) {
        let error = anyhow::anyhow!(
            "--precision {precision}: device `{}` does not compute in it; use one that does, such as --device cpu, or --precision f32",
            arguments.device
        );
        return Err(error.into());
    }
    let found = match &arguments.detector {
        Some(detector) => Some(find(arguments, detector, &image, &device)?),
        None => None,
    };
    let sam = Sam::load(&arguments.checkpoint, &device, precision)?;
    let mut predictor = Predictor::new(&sam);
    let (prompts, output) = match &found {
        Some(found) => (
            found.iter().map(Found::prompt).collect(),
            MaskOutput::Single,
        ),
        None if arguments.single => (prompts(arguments), MaskOutput::Single),
        None => (prompts(arguments), MaskOutput::Multi),
    };
    if !prompts.is_empty() {
        predictor.set_image(&image);
    }
    let predicted = match prompts.is_empty() {
        true => Vec::new(),
        false => predictor.predict(&prompts, output)?,
    };
    let mut best_masks: Vec<Rle> = Vec::new();
    let mut answers = Vec::new();
    for (index, (prompt, masks)) in prompts.iter().zip(&predicted).enumerate() {
        let found = found.as_ref().map(|found| &found[index]);
        let best = (0..masks.len())
            .max_by(|&a, &b| masks[a].predicted_iou.total_cmp(&masks[b].predicted_iou));
        let mut answer = PromptMasks {
            label: found.map(|found| found.label.clone()),
            label_score: found.map(|found| found.score),
            points: prompt.points.iter().map(point_json).collect(),
            box_xyxy: prompt.box_xyxy_px,
            masks: Vec::new(),
        };
        for (index, mask) in masks.iter().enumerate() {
            let rle = predictor.mask(mask);
            answer.masks.push(MaskJson {
                segmentation: Segmentation {
                    size: [rle.size().height, rle.size().width],
                    counts: rle.to_coco_string(),
                },
                bbox: rle.bounds().sa_xywh(),
                area: rle.area(),
                predicted_iou: mask.predicted_iou,
                best: best == Some(index),
            });
            if best == Some(index) {
                best_masks.push(rle);
            }
        }
        answers.push(answer);
    }

    let options = OverlayOptions {
        points: marks(arguments),
        boxes: prompts
            .iter()
            .filter_map(|prompt| prompt.box_xyxy_px)
            .collect(),
        ..OverlayOptions::default()
    };
    let drawn: Vec<&Rle> = best_masks.iter().collect();
    let picture = encode_png(&overlay(&image, &drawn, &options)?)?;
    let prediction = Prediction {
        image: name.to_string(),
        height: image.size().height,
        width: image.size().width,
        checkpoint: arguments.checkpoint.display().to_string(),
        precision: precision.to_string(),
        prompts: answers,
    };
    let json = serde_json::to_string_pretty(&prediction)?;
    let prefix = prefix(arguments)?;
    for (extension, bytes) in [("masks.png", picture), ("masks.json", json.into_bytes())] {
        let path = PathBuf::from(format!("{}.{extension}", prefix.display()));
        fs::write(&path, bytes).with_context(|| format!("{} cannot be written", path.display()))?;
        println!("{}", path.display());
    }
    if prediction.prompts.is_empty() {
        println!(
            "nothing found with a score above {}; a lower --score-thresh finds more",
            arguments.score_thresh
        );
    }
    for (number, answer) in prediction.prompts.iter().enumerate() {
        let name = match (&answer.label, answer.label_score) {
            (Some(label), Some(score)) => format!("{label} ({score:.3})"),
            _ => format!("prompt {number}"),
        };
        for mask in answer.masks.iter().filter(|mask| mask.best) {
            println!(
                "{name}: {} pixels, predicted IoU {:.3}",
                mask.area, mask.predicted_iou
            );
        }
    }
    Ok(())
}

/// What a text found.
struct Found {
    box_xyxy_px: [f64; 4],
    label: String,
    score: f32,
}

impl Found {
    fn prompt(&self) -> Prompt {
        Prompt {
            box_xyxy_px: Some(self.box_xyxy_px),
            ..Prompt::default()
        }
    }
}

/// Detections of the texts, the best first.
fn find(
    arguments: &PredictArguments,
    detector: &Path,
    image: &RgbImage,
    device: &Device,
) -> anyhow::Result<Vec<Found>> {
    let labels = arguments.texts.iter().map(|text| label(text)).collect();
    let vocabulary = Vocabulary::new(labels, &[], &[]).context("--text")?;
    let owl = Owl::load(detector, None, device).context("--detector")?;
    let (embeddings, overlong) = vocabulary.embed(owl.text_encoder());
    for text in overlong {
        eprintln!("warning: --text {text}");
    }
    let options = DetectionOptions {
        score_thresh: arguments.score_thresh,
        ..DetectionOptions::default()
    };
    let embedded = owl.embed(&owl.input(image));
    let queries = owl.queries(&embeddings);
    let found = detect(
        &owl,
        &embedded,
        image.size(),
        &queries,
        &vocabulary,
        &options,
    )?;
    let found = found.into_iter().map(|found| Found {
        box_xyxy_px: found.box_xyxy_px.map(f64::from),
        label: vocabulary.name(found.label).to_owned(),
        score: found.score,
    });
    Ok(found.collect())
}

/// `a cat`, or `cat=a cat|a kitten`.
fn label(text: &str) -> Label {
    match text.split_once('=') {
        None => Label::plain(text),
        Some((name, phrases)) => Label {
            name: name.to_owned(),
            phrases: phrases.split('|').map(str::to_owned).collect(),
            score_thresh: None,
        },
    }
}

/// All points are one prompt; with boxes, each box is a prompt that has all points.
fn prompts(arguments: &PredictArguments) -> Vec<Prompt> {
    let points: Vec<PointPrompt> = arguments
        .points
        .iter()
        .map(|point| PointPrompt {
            xy_px: point.xy,
            foreground: point.foreground,
        })
        .collect();
    let with_box = |corners: Option<[f64; 4]>| Prompt {
        points: points.clone(),
        box_xyxy_px: corners,
        mask_logits: None,
    };
    if arguments.boxes.is_empty() {
        return vec![with_box(None)];
    }
    let boxes = arguments.boxes.iter();
    boxes.map(|corners| with_box(Some(corners.0))).collect()
}

fn marks(arguments: &PredictArguments) -> Vec<PointMark> {
    let points = arguments.points.iter();
    points
        .map(|point| PointMark {
            point: point.xy,
            is_foreground: point.foreground,
        })
        .collect()
}

fn point_json(point: &PointPrompt) -> [f64; 3] {
    let [x, y] = point.xy_px;
    [x, y, f64::from(u8::from(point.foreground))]
}

/// Outputs go to the working directory unless told otherwise: the image's folder may not be ours.
fn prefix(arguments: &PredictArguments) -> anyhow::Result<PathBuf> {
    if let Some(prefix) = &arguments.out {
        return Ok(prefix.clone());
    }
    let stem = Path::new(&arguments.image).file_stem();
    let stem = stem.with_context(|| format!("{} names no file", arguments.image.display()))?;
    Ok(PathBuf::from(stem))
}

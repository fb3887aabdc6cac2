//! `maskmill predict`: masks of points and boxes on one image, as a PNG and JSON.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_formats::overlay::{OverlayOptions, PointMark, encode_png, overlay};
use maskmill_masks::Rle;
use maskmill_sam::{DeviceName, MaskOutput, PointPrompt, Predictor, Prompt, Sam};
use serde::Serialize;

use crate::args::PredictArguments;
use crate::failure::Failure;

/// The JSON file.
#[derive(Serialize)]
struct Prediction {
    image: String,
    height: u32,
    width: u32,
    checkpoint: String,
    prompts: Vec<PromptMasks>,
}

#[derive(Serialize)]
struct PromptMasks {
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
    if arguments.points.is_empty() && arguments.boxes.is_empty() {
        let error = anyhow::anyhow!("nothing to look for: give --point x,y or --box x0,y0,x1,y1");
        return Err(error.into());
    }
    let name = arguments.image.display();
    let bytes = fs::read(&arguments.image).with_context(|| format!("{name} cannot be read"))?;
    let image = decode(&bytes, &DecodeLimits::default())
        .with_context(|| format!("{name} cannot be decoded"))?
        .image;
    let device = arguments.device.parse::<DeviceName>()?.open()?;
    let sam = Sam::load(&arguments.checkpoint, &device)?;
    let mut predictor = Predictor::new(&sam);
    predictor.set_image(&image);

    let prompts = prompts(arguments);
    let output = match arguments.single {
        true => MaskOutput::Single,
        false => MaskOutput::Multi,
    };
    let predicted = predictor.predict(&prompts, output)?;
    let mut best_masks: Vec<Rle> = Vec::new();
    let mut answers = Vec::new();
    for (prompt, masks) in prompts.iter().zip(&predicted) {
        let best = (0..masks.len())
            .max_by(|&a, &b| masks[a].predicted_iou.total_cmp(&masks[b].predicted_iou));
        let mut answer = PromptMasks {
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
        boxes: arguments.boxes.iter().map(|corners| corners.0).collect(),
        ..OverlayOptions::default()
    };
    let drawn: Vec<&Rle> = best_masks.iter().collect();
    let picture = encode_png(&overlay(&image, &drawn, &options)?)?;
    let prediction = Prediction {
        image: name.to_string(),
        height: image.size().height,
        width: image.size().width,
        checkpoint: arguments.checkpoint.display().to_string(),
        prompts: answers,
    };
    let json = serde_json::to_string_pretty(&prediction)?;
    let prefix = prefix(arguments)?;
    for (extension, bytes) in [("masks.png", picture), ("masks.json", json.into_bytes())] {
        let path = PathBuf::from(format!("{}.{extension}", prefix.display()));
        fs::write(&path, bytes).with_context(|| format!("{} cannot be written", path.display()))?;
        println!("{}", path.display());
    }
    for (number, answer) in prediction.prompts.iter().enumerate() {
        for mask in answer.masks.iter().filter(|mask| mask.best) {
            println!(
                "prompt {number}: {} pixels, predicted IoU {:.3}",
                mask.area, mask.predicted_iou
            );
        }
    }
    Ok(())
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

//! Masks of given prompts: the second half of the whole path from texts to masks, against segment-anything's
//! `SamPredictor`, and what batches and prompts of several forms must not change.

mod support;

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use maskmill_masks::{ImageSize, Rle};
use maskmill_pixels::RgbImage;
use maskmill_sam::{
    GeneratedMask, MaskFilters, MaskOutput, PointPrompt, PreparedImage, Prompt, PromptError,
    PromptedBy, PromptedOptions, PromptedSelector, Sam, propose_prompted,
};
use serde::Deserialize;

use support::{fixture, json, photo, root};

/// `whole_path.json`: boxes that OWLv2 found, and the masks that they prompt.
#[derive(Deserialize)]
struct WholePath {
    sam_checkpoint: String,
    pred_iou_threshold: f64,
    stability_threshold: f64,
    stability_offset: f64,
    photos: Vec<Photo>,
}

#[derive(Deserialize)]
struct Photo {
    image: String,
    height: u32,
    width: u32,
    detections: Vec<Detection>,
    masks: Vec<Mask>,
    masks_refined: Vec<Mask>,
    near_thresholds: Vec<Near>,
}

#[derive(Deserialize)]
struct Detection {
    patch: usize,
    score: f32,
    box_xyxy_px: [f64; 4],
}

#[derive(Deserialize)]
struct Mask {
    patch: usize,
    predicted_iou: f32,
    stability_score: f32,
    kept: bool,
    area: u64,
    segmentation: Segmentation,
}

#[derive(Deserialize)]
struct Segmentation {
    size: [u32; 2],
    counts: String,
}

/// A decision of the reference that lay within 1e-3 of its threshold.
#[derive(Deserialize)]
struct Near {
    variant: Option<String>,
    patch: Option<usize>,
}

fn tiny() -> Sam {
    support::load(&root().join("models/sam-seeded-tiny.safetensors"))
}

fn cat() -> RgbImage {
    photo(&root().join("samples/cat.png"))
}

/// Filters that keep every mask.
fn everything() -> MaskFilters {
    MaskFilters {
        pred_iou_thresh: 0.0,
        stability_score_thresh: 0.0,
        ..MaskFilters::default()
    }
}

fn run(
    sam: &Sam,
    image: &RgbImage,
    prompts: &[Prompt],
    options: &PromptedOptions,
    prompts_per_batch: usize,
    scores: &[f32],
) -> Vec<GeneratedMask> {
    let prepared = PreparedImage::whole(image, sam.architecture().image_size);
    let mut selector = PromptedSelector::new(sam.architecture(), &options.filters, image.size());
    let flow = propose_prompted(
        sam,
        prompts,
        options,
        prompts_per_batch,
        &prepared,
        |batch| {
            assert!((1..=prompts_per_batch).contains(&batch.candidates.len()));
            selector.push(batch);
            ControlFlow::Continue(())
        },
    );
    assert_eq!(flow.unwrap(), ControlFlow::Continue(()));
    selector.finish(scores)
}

fn prompt_of(mask: &GeneratedMask) -> usize {
    match mask.prompted_by {
        PromptedBy::Given(prompt) => prompt,
        PromptedBy::GridPoint(_) => panic!("no grid was asked for"),
    }
}

fn boxed(box_xyxy_px: [f64; 4]) -> Prompt {
    Prompt {
        box_xyxy_px: Some(box_xyxy_px),
        ..Prompt::default()
    }
}

/// One variant of the path: all masks against the reference's, and those that the filters keep.
fn check_variant(sam: &Sam, path: &WholePath, photo: &Photo, image: &RgbImage, refine: bool) {
    let (variant, expected) = match refine {
        false => ("once", &photo.masks),
        true => ("refined", &photo.masks_refined),
    };
    let prompts: Vec<Prompt> = photo
        .detections
        .iter()
        .map(|d| boxed(d.box_xyxy_px))
        .collect();
    let scores: Vec<f32> = photo.detections.iter().map(|d| d.score).collect();
    let all = PromptedOptions {
        refine,
        filters: MaskFilters {
            stability_score_offset: path.stability_offset,
            ..everything()
        },
        ..PromptedOptions::default()
    };
    let masks = run(sam, image, &prompts, &all, 64, &scores);
    assert_eq!(masks.len(), expected.len());
    for (place, (mask, reference)) in masks.iter().zip(expected).enumerate() {
        let what = format!("{}, {variant}, patch {}", photo.image, reference.patch);
        assert_eq!(reference.patch, photo.detections[place].patch);
        assert_eq!(prompt_of(mask), place);
        let [height, width] = reference.segmentation.size;
        let size = ImageSize::new(height, width);
        let rle = Rle::from_coco_string(size, &reference.segmentation.counts).unwrap();
        assert_eq!(rle.area(), reference.area);
        let iou = mask.rle.iou(&rle).unwrap();
        assert!(iou >= 0.999, "{what}: IoU {iou}");
        let predicted = (mask.predicted_iou - reference.predicted_iou).abs();
        assert!(
            predicted <= 1e-3,
            "{what}: predicted IoU differs by {predicted}"
        );
        let stability = (mask.stability_score - reference.stability_score).abs();
        assert!(
            stability <= 1e-3,
            "{what}: stability differs by {stability}"
        );
    }

    let filtered = PromptedOptions {
        filters: MaskFilters {
            pred_iou_thresh: path.pred_iou_threshold,
            stability_score_thresh: path.stability_threshold,
            ..all.filters.clone()
        },
        ..all
    };
    let kept = run(sam, image, &prompts, &filtered, 64, &scores);
    let kept: Vec<usize> = kept.iter().map(prompt_of).collect();
    for (place, reference) in expected.iter().enumerate() {
        let near = photo.near_thresholds.iter().any(|near| {
            near.variant.as_deref() == Some(variant) && near.patch == Some(reference.patch)
        });
        assert!(
            near || kept.contains(&place) == reference.kept,
            "{}, {variant}, patch {}: kept is {}",
            photo.image,
            reference.patch,
            !reference.kept
        );
    }
}

#[test]
fn masks_of_the_whole_path() {
    let path: WholePath = json(&fixture("grounding/whole_path.json"));
    let sam = support::load(&root().join(&path.sam_checkpoint));
    for photo in &path.photos {
        let image = support::photo(&root().join(&photo.image));
        assert_eq!(image.size(), ImageSize::new(photo.height, photo.width));
        assert!(photo.masks.len() >= 8);
        for refine in [false, true] {
            check_variant(&sam, &path, photo, &image, refine);
        }
    }
    assert_eq!(path.photos.len(), 3);
}

fn points(foreground: &[[f64; 2]], background: &[[f64; 2]]) -> Vec<PointPrompt> {
    let of = |points: &[[f64; 2]], foreground: bool| -> Vec<PointPrompt> {
        let points = points
            .iter()
            .map(|&xy_px| PointPrompt { xy_px, foreground });
        points.collect()
    };
    [of(foreground, true), of(background, false)].concat()
}

/// Boxes, points and both, in no order: five forms.
fn mixed() -> Vec<Prompt> {
    let with = |points: Vec<PointPrompt>, box_xyxy_px| Prompt {
        points,
        box_xyxy_px,
        ..Prompt::default()
    };
    let mut prompts = Vec::new();
    for shift in [0.0, 31.0, 75.5] {
        let box_xyxy_px = [20.0 + shift, 30.0, 260.0 + shift, 200.0 + shift];
        prompts.push(with(points(&[[100.0 + shift, 90.0]], &[]), None));
        prompts.push(boxed(box_xyxy_px));
        prompts.push(with(
            points(&[[150.0, 60.0 + shift]], &[[10.0, 290.0]]),
            None,
        ));
        prompts.push(with(
            points(&[[120.0 + shift, 100.0]], &[]),
            Some(box_xyxy_px),
        ));
        prompts.push(boxed([150.0, 10.0 + shift, 440.5, 290.0]));
        prompts.push(with(
            points(&[[5.0, 5.0], [400.0, 250.0 - shift]], &[[0.0, shift]]),
            None,
        ));
    }
    prompts
}

/// Every value of the masks, floats in full; the stability of an empty mask, NaN, equals itself here.
fn in_full(masks: &[GeneratedMask]) -> Vec<String> {
    masks.iter().map(|mask| format!("{mask:?}")).collect()
}

/// Bit for bit, in the order of the prompts, whatever their forms: a prompt's mask does not know the others.
#[test]
fn batches_and_other_prompts_change_nothing() {
    let (sam, image, prompts) = (tiny(), cat(), mixed());
    let scores = vec![0.5; prompts.len()];
    for output in [MaskOutput::Single, MaskOutput::Multi] {
        for refine in [false, true] {
            let options = PromptedOptions {
                output,
                refine,
                filters: everything(),
            };
            let all = run(&sam, &image, &prompts, &options, 64, &scores);
            let order: Vec<usize> = all.iter().map(prompt_of).collect();
            assert_eq!(order, (0..prompts.len()).collect::<Vec<_>>());
            for prompts_per_batch in [1, 2, 3, 5] {
                let batched = run(&sam, &image, &prompts, &options, prompts_per_batch, &scores);
                assert!(
                    in_full(&batched) == in_full(&all),
                    "batches of {prompts_per_batch}, refine {refine}"
                );
            }
            for index in [0, 3, 7] {
                let one = std::slice::from_ref(&prompts[index]);
                let alone = run(&sam, &image, one, &options, 64, &[0.5]);
                let mut expected = all[index].clone();
                expected.prompted_by = PromptedBy::Given(0);
                assert_eq!(in_full(&alone), in_full(&[expected]));
            }
        }
    }
}

/// A prompt of which three masks are asked gets the best of them, and a second pass changes it.
#[test]
fn of_three_masks_the_best_is_given() {
    let (sam, image, prompts) = (tiny(), cat(), mixed());
    let scores = vec![0.5; prompts.len()];
    let with = |output, refine| PromptedOptions {
        output,
        refine,
        filters: everything(),
    };
    let mut predictor = maskmill_sam::Predictor::new(&sam);
    predictor.set_image(&image);
    let three = predictor.predict(&prompts, MaskOutput::Multi).unwrap();
    let best = run(
        &sam,
        &image,
        &prompts,
        &with(MaskOutput::Multi, false),
        64,
        &scores,
    );
    for (mask, three) in best.iter().zip(&three) {
        let greatest = three
            .iter()
            .map(|m| m.predicted_iou)
            .fold(f32::MIN, f32::max);
        assert_eq!(mask.predicted_iou, greatest);
        let of_best = three.iter().find(|m| m.predicted_iou == greatest).unwrap();
        assert_eq!(mask.rle, predictor.mask(of_best));
    }
    // Given the best mask as a prompt beside it, the predictor gives what `refine` gives.
    let again: Vec<Prompt> = prompts
        .iter()
        .zip(&three)
        .map(|(prompt, three)| {
            let best = three.iter().reduce(|a, b| {
                if b.predicted_iou > a.predicted_iou {
                    b
                } else {
                    a
                }
            });
            Prompt {
                mask_logits: best.map(|mask| mask.low_res_logits.clone()),
                ..prompt.clone()
            }
        })
        .collect();
    let again = predictor.predict(&again, MaskOutput::Single).unwrap();
    let refined = run(
        &sam,
        &image,
        &prompts,
        &with(MaskOutput::Multi, true),
        64,
        &scores,
    );
    for (mask, again) in refined.iter().zip(&again) {
        assert_eq!(mask.predicted_iou, again[0].predicted_iou);
        assert_eq!(mask.rle, predictor.mask(&again[0]));
    }
}

/// An image without detections costs no encoder pass: one prepared for another model's size, which would panic,
/// is not looked at.
#[test]
fn without_prompts_the_image_is_not_encoded() {
    let (sam, image) = (tiny(), cat());
    let other_size = PreparedImage::whole(&image, 2 * sam.architecture().image_size);
    let options = PromptedOptions::default();
    let propose = |prompts: &[Prompt]| {
        let sink = |_| -> ControlFlow<()> { panic!("there are no candidates") };
        propose_prompted(&sam, prompts, &options, 64, &other_size, sink)
    };
    assert_eq!(propose(&[]), Ok(ControlFlow::Continue(())));
    let encoded = catch_unwind(AssertUnwindSafe(|| propose(&[boxed([1.0, 1.0, 9.0, 9.0])])));
    assert!(
        encoded.is_err(),
        "the wrong size was encoded: this test sees nothing"
    );
    let selector = PromptedSelector::new(sam.architecture(), &options.filters, image.size());
    assert_eq!(selector.finish(&[]), []);
}

/// Before anything is computed.
#[test]
fn a_prompt_at_fault_is_refused() {
    let (sam, image) = (tiny(), cat());
    let prepared = PreparedImage::whole(&image, sam.architecture().image_size);
    let refused = |prompt: Prompt| {
        let prompts = [boxed([10.0, 10.0, 50.0, 40.0]), prompt];
        let sink = |_| -> ControlFlow<()> { panic!("nothing is to be computed") };
        let options = PromptedOptions::default();
        propose_prompted(&sam, &prompts, &options, 64, &prepared, sink).unwrap_err()
    };
    let nan = refused(boxed([10.0, f64::NAN, 50.0, 40.0]));
    assert!(
        matches!(nan, PromptError::NotFinite { index: 1, .. }),
        "{nan}"
    );
    assert_eq!(
        nan.to_string(),
        "prompt 1 has a coordinate that is not finite: NaN"
    );
    let infinite = Prompt {
        points: points(&[], &[[f64::INFINITY, 3.0]]),
        ..Prompt::default()
    };
    assert!(matches!(
        refused(infinite),
        PromptError::NotFinite { index: 1, .. }
    ));
    assert_eq!(refused(Prompt::default()), PromptError::Empty { index: 1 });
}

#[test]
fn a_sink_may_stop_the_run() {
    let (sam, image, prompts) = (tiny(), cat(), mixed());
    let prepared = PreparedImage::whole(&image, sam.architecture().image_size);
    let options = PromptedOptions {
        filters: everything(),
        ..PromptedOptions::default()
    };
    let mut batches = 0;
    let flow = propose_prompted(&sam, &prompts, &options, 2, &prepared, |_| {
        batches += 1;
        match batches {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert_eq!((flow, batches), (Ok(ControlFlow::Break(())), 2));
}

/// Of masks alike that of the prompt with the higher score stays, whatever the predicted IoUs.
#[test]
fn mask_nms_follows_the_prompts_scores() {
    let (sam, image) = (tiny(), cat());
    let one = [60.0, 40.0, 300.0, 250.0];
    let nearly = [60.5, 40.5, 300.5, 250.5];
    let apart = [330.0, 200.0, 440.0, 290.0];
    let prompts = [boxed(one), boxed(apart), boxed(nearly), boxed(one)];
    let options = PromptedOptions {
        filters: MaskFilters {
            mask_nms_thresh: Some(0.8),
            ..everything()
        },
        ..PromptedOptions::default()
    };
    let kept = |scores: [f32; 4]| -> Vec<usize> {
        let masks = run(&sam, &image, &prompts, &options, 64, &scores);
        masks.iter().map(prompt_of).collect()
    };
    assert_eq!(kept([0.9, 0.2, 0.5, 0.4]), [0, 1]);
    assert_eq!(kept([0.5, 0.2, 0.9, 0.4]), [1, 2]);
    assert_eq!(kept([0.5, 0.2, 0.4, 0.9]), [1, 3]);
    // Of equal scores the higher predicted IoU counts, and then the first.
    let all = PromptedOptions {
        filters: everything(),
        ..options.clone()
    };
    let masks = run(&sam, &image, &prompts, &all, 64, &[0.5; 4]);
    assert_eq!(masks[0].predicted_iou, masks[3].predicted_iou);
    let better = match masks[2].predicted_iou > masks[0].predicted_iou {
        true => [1, 2],
        false => [0, 1],
    };
    assert_eq!(kept([0.5; 4]), better);
}

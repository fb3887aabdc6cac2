//! Answers that are read together equal those that are read batch by batch, bit for bit, in few reads.

mod support;

use std::ops::ControlFlow;

use maskmill_masks::passes_iou;
use maskmill_sam::{
    AutomaticOptions, CandidateBatch, Device, MaskFilters, MaskOutput, PointPrompt, Precision,
    PreparedImage, Prompt, PromptedOptions, Reading, Sam, propose_prompted_reading,
    propose_reading,
};
use maskmill_weights::reads;

use support::{photo, root};

/// What is kept of the prompts of the tiny model, of 66 kB each: nothing, 15 prompts, 158, all.
const KEPT_BYTES: [usize; 4] = [0, 1 << 20, 10 << 20, usize::MAX];
/// For fewer prompts: nothing, four, all.
const KEPT_BYTES_OF_FEW: [usize; 3] = [0, 300 << 10, usize::MAX];

/// The CPU, where batches change no bit.
fn tiny(precision: Precision) -> Sam {
    let checkpoint = root().join("models/sam-seeded-tiny.safetensors");
    Sam::load_burn(&checkpoint, &Device::flex(), precision).unwrap()
}

/// Everything that a sink sees, in order, and the reads that it took.
type Seen = (Vec<CandidateBatch>, u64);

fn same(a: &[CandidateBatch], b: &[CandidateBatch]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            (a.crop_index, a.crop, a.input) == (b.crop_index, b.crop, b.input)
                && a.candidates == b.candidates
        })
}

fn automatic(
    sam: &Sam,
    options: &AutomaticOptions,
    image: &PreparedImage,
    per_batch: usize,
    reading: Reading,
) -> Seen {
    let (mut seen, before) = (Vec::new(), reads());
    let flow = propose_reading(sam, options, per_batch, reading, image, |batch| {
        seen.push(batch);
        ControlFlow::Continue(())
    });
    assert!(flow.is_continue());
    (seen, reads() - before)
}

/// A grid of `columns * rows` points.
fn grid(columns: usize, rows: usize) -> Vec<[f64; 2]> {
    let at = |i: usize, n: usize| (i as f64 + 0.5) / n as f64;
    let row = |y| (0..columns).map(move |x| [at(x, columns), at(y, rows)]);
    (0..rows).flat_map(row).collect()
}

fn with_threshold(options: &AutomaticOptions, pred_iou_thresh: f64) -> AutomaticOptions {
    AutomaticOptions {
        filters: MaskFilters {
            pred_iou_thresh,
            ..options.filters.clone()
        },
        ..options.clone()
    }
}

/// Thresholds that keep all masks, about half, one in ten, and none.
fn thresholds(batches: &[CandidateBatch]) -> [f64; 4] {
    let candidates = batches.iter().flat_map(|batch| &batch.candidates);
    let mut iou: Vec<f32> = candidates.map(|c| c.predicted_iou).collect();
    iou.sort_by(f32::total_cmp);
    let quantile = |part: f64| f64::from(iou[(iou.len() as f64 * part) as usize]);
    [0.0, quantile(0.5), quantile(0.9), quantile(0.999) + 1.0]
}

fn check_automatic(sam: &Sam, options: &AutomaticOptions, per_batch: usize, crops: u64) {
    let image = photo(&root().join("samples/cat.png"));
    let image = PreparedImage::new(&image, options, sam.architecture().image_size);
    let all = with_threshold(options, 0.0);
    let (all, _) = automatic(sam, &all, &image, per_batch, Reading::Streaming);
    let mut found = Vec::new();
    for threshold in thresholds(&all) {
        let options = with_threshold(options, threshold);
        let streamed = automatic(sam, &options, &image, per_batch, Reading::Streaming);
        found.push(streamed.0.iter().map(|b| b.candidates.len()).sum::<usize>());
        for kept_bytes in KEPT_BYTES {
            let reading = Reading::Deferred { kept_bytes };
            let (batches, reads) = automatic(sam, &options, &image, per_batch, reading);
            let what = format!("batches of {per_batch}, {kept_bytes} bytes, above {threshold}");
            assert!(same(&batches, &streamed.0), "{what}");
            assert!((crops..=3 * crops).contains(&reads), "{what}: {reads}");
            let candidates = batches.iter().flat_map(|batch| &batch.candidates);
            let mut iou = candidates.map(|c| c.predicted_iou);
            assert!(iou.all(|iou| passes_iou(iou, threshold)), "{what}");
        }
    }
    println!("batches of {per_batch}: {found:?} candidates");
    assert!(found[0] > found[1] && found[1] > found[2] && found[2] > 0 && found[3] == 0);
}

#[test]
fn an_image_takes_three_reads_at_most() {
    let sam = tiny(Precision::F32);
    for (columns, rows) in [(2, 2), (8, 8), (20, 15)] {
        let options = AutomaticOptions {
            point_grids: vec![grid(columns, rows)],
            ..AutomaticOptions::default()
        };
        check_automatic(&sam, &options, 64, 1);
    }
}

/// Batches of one, batches that end within the points, one mask a point, and crops.
#[test]
fn batches_outputs_and_crops_change_nothing() {
    let sam = tiny(Precision::F32);
    let options = AutomaticOptions {
        point_grids: vec![grid(5, 7)],
        ..AutomaticOptions::default()
    };
    for per_batch in [1, 8, 1000] {
        check_automatic(&sam, &options, per_batch, 1);
    }
    let single = AutomaticOptions {
        output: MaskOutput::Single,
        ..options.clone()
    };
    check_automatic(&sam, &single, 8, 1);
    let crops = AutomaticOptions {
        point_grids: vec![grid(5, 7), grid(4, 3)],
        crop_n_layers: 1,
        ..options
    };
    check_automatic(&sam, &crops, 8, 5);
}

#[test]
fn a_sink_can_stop() {
    let sam = tiny(Precision::F32);
    let options = AutomaticOptions {
        point_grids: vec![grid(4, 4)],
        filters: MaskFilters {
            pred_iou_thresh: 0.0,
            ..MaskFilters::default()
        },
        ..AutomaticOptions::default()
    };
    let image = photo(&root().join("samples/cat.png"));
    let image = PreparedImage::new(&image, &options, sam.architecture().image_size);
    let reading = Reading::Deferred {
        kept_bytes: usize::MAX,
    };
    let mut seen = 0;
    let flow = propose_reading(&sam, &options, 4, reading, &image, |_| {
        seen += 1;
        match seen {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(flow.is_break() && seen == 2);
}

/// Points and boxes, of which some have masks of an earlier answer.
fn prompts(side: usize) -> Vec<Prompt> {
    let mask = (0..side * side).map(|i| ((i % side) as f32 - 12.0) * 0.3);
    let mask: Vec<f32> = mask.collect();
    let prompt = |i: usize| {
        let [x, y] = [20.0 + 4.0 * i as f64, 15.0 + 3.0 * i as f64];
        Prompt {
            points: match i % 3 {
                0 => vec![],
                _ => vec![PointPrompt {
                    xy_px: [x, y],
                    foreground: true,
                }],
            },
            box_xyxy_px: (i % 3 != 1).then_some([x - 9.0, y - 7.0, x + 30.0, y + 25.0]),
            mask_logits: i.is_multiple_of(7).then(|| mask.clone()),
        }
    };
    (0..40).map(prompt).collect()
}

#[test]
fn given_prompts_take_three_reads_at_most() {
    let sam = tiny(Precision::F32);
    let prompts = prompts(sam.architecture().low_res_side());
    let mut forms: Vec<_> = prompts
        .iter()
        .map(|p| {
            (
                p.points.len(),
                p.box_xyxy_px.is_some(),
                p.mask_logits.is_some(),
            )
        })
        .collect();
    forms.sort_unstable();
    forms.dedup();
    assert_eq!(forms.len(), 6);
    let image = photo(&root().join("samples/cat.png"));
    let image = PreparedImage::whole(&image, sam.architecture().image_size);
    let ask = |options: &PromptedOptions, per_batch, reading| -> Seen {
        let (mut seen, before) = (Vec::new(), reads());
        let sink = |batch| {
            seen.push(batch);
            ControlFlow::Continue(())
        };
        let flow =
            propose_prompted_reading(&sam, &prompts, options, per_batch, reading, &image, sink);
        assert!(flow.unwrap().is_continue());
        (seen, reads() - before)
    };
    for (output, refine) in [
        (MaskOutput::Single, false),
        (MaskOutput::Multi, false),
        (MaskOutput::Multi, true),
    ] {
        let with = |pred_iou_thresh| PromptedOptions {
            output,
            refine,
            filters: MaskFilters {
                pred_iou_thresh,
                ..MaskFilters::default()
            },
        };
        let (all, _) = ask(&with(0.0), 5, Reading::Streaming);
        let rounds = if refine { 2 } else { 1 };
        for threshold in thresholds(&all) {
            for per_batch in [1, 3, 1000] {
                let (streamed, _) = ask(&with(threshold), per_batch, Reading::Streaming);
                for kept_bytes in KEPT_BYTES_OF_FEW {
                    let reading = Reading::Deferred { kept_bytes };
                    let (batches, reads) = ask(&with(threshold), per_batch, reading);
                    let what = format!("{output:?}, {refine}, {per_batch}, {kept_bytes} bytes");
                    assert!(same(&batches, &streamed), "{what}, above {threshold}");
                    assert!(reads <= 3 * rounds * forms.len() as u64, "{what}: {reads}");
                }
            }
        }
    }
}

/// What is kept is counted in the numbers that are kept.
#[test]
fn bf16_is_deferred_alike() {
    let sam = tiny(Precision::Bf16);
    let options = AutomaticOptions {
        point_grids: vec![grid(6, 4)],
        ..AutomaticOptions::default()
    };
    check_automatic(&sam, &options, 7, 1);
}

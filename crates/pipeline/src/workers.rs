//! The stages between reading and assembling: decode, device, select.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_sam::{AutomaticOptions, MaskSelector, PreparedImage, Sam, propose};

use crate::meter::{Meter, Stage};
use crate::stages::{Assembled, FinishedImage, ImageFacts, Prepared, Proposal, Rejection, Sample};

/// Decodes, turns upright, crops and resizes. Several run at once; images may overtake each other.
pub(crate) fn decode_images(
    samples: &Receiver<Sample>,
    limits: &DecodeLimits,
    options: &AutomaticOptions,
    image_size: usize,
    device: &Sender<Prepared>,
    assembler: &Sender<Assembled>,
    meter: &Meter,
) {
    for sample in samples {
        let Sample {
            id,
            bytes,
            fetched_in,
            fetch,
            ticket,
        } = sample;
        meter.queue(Stage::Decode, samples.len());
        let _span =
            tracing::debug_span!("decode", shard = %id.attempt.shard, image = %id.key).entered();
        let start = Instant::now();
        let mut facts = ImageFacts::of(id, &bytes);
        facts.times.add(Stage::Fetch, fetched_in);
        let sent = match decode(&bytes, limits) {
            Err(error) => {
                meter.busy(Stage::Decode, facts.spend(Stage::Decode, start));
                let rejection = Rejection {
                    reason: error.reason().to_owned(),
                    detail: error.to_string(),
                };
                send_finished(assembler, facts.reject(rejection))
            }
            Ok(decoded) => {
                drop((bytes, fetch));
                facts.format = Some(decoded.format.as_str().to_owned());
                facts.exif_orientation = decoded.exif_orientation;
                facts.size = decoded.image.size();
                let image = PreparedImage::new(&decoded.image, options, image_size);
                drop(decoded);
                meter.busy(Stage::Decode, facts.spend(Stage::Decode, start));
                let prepared = Prepared {
                    facts,
                    image,
                    ticket,
                };
                device.send(prepared).is_ok()
            }
        };
        if !sent {
            return;
        }
    }
}

/// Owns the model. One runs: the device does one image at a time.
pub(crate) fn run_model(
    prepared: &Receiver<Prepared>,
    sam: &Sam,
    options: &AutomaticOptions,
    points_per_batch: usize,
    selector: &Sender<Proposal>,
    meter: &Meter,
) {
    let send = |proposal| match selector.send(proposal) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    let mut is_warm = false;
    loop {
        let asked = Instant::now();
        let Ok(Prepared {
            mut facts,
            image,
            ticket,
        }) = prepared.recv()
        else {
            return;
        };
        let start = Instant::now();
        meter.queue(Stage::Device, prepared.len());
        let _span =
            tracing::debug_span!("device", shard = %facts.id.attempt.shard, image = %facts.id.key)
                .entered();
        let size = facts.size;
        let proposed = send(Proposal::Begin { size }).is_continue()
            && propose(sam, options, points_per_batch, &image, |batch| {
                send(Proposal::Batch(batch))
            })
            .is_continue();
        let worked = facts.spend(Stage::Device, start);
        meter.busy(Stage::Device, worked);
        if is_warm {
            meter.device_turn(start - asked, worked);
        }
        is_warm = true;
        let facts = Box::new(facts);
        if !proposed || send(Proposal::End { facts, ticket }).is_break() {
            return;
        }
    }
}

/// Turns candidates into masks while the device works on the next ones.
pub(crate) fn select_masks(
    proposals: &Receiver<Proposal>,
    sam: &Sam,
    options: &AutomaticOptions,
    assembler: &Sender<Assembled>,
    meter: &Meter,
) {
    let new_selector = |size| MaskSelector::new(sam.architecture(), &options.filters, size);
    let mut current = None;
    let mut spent = Duration::ZERO;
    for proposal in proposals {
        meter.queue(Stage::Select, proposals.len());
        let start = Instant::now();
        match proposal {
            Proposal::Begin { size } => {
                current = Some(new_selector(size));
                spent = Duration::ZERO;
            }
            Proposal::Batch(batch) => {
                let selector = current.as_mut();
                selector
                    .expect("a batch follows its image's beginning")
                    .push(batch);
                spent += start.elapsed();
            }
            Proposal::End { mut facts, ticket } => {
                let _span =
                    tracing::debug_span!("select", shard = %facts.id.attempt.shard, image = %facts.id.key).entered();
                let selector = current.take().expect("an end follows its beginning");
                let masks = selector.finish();
                spent += start.elapsed();
                facts.times.add(Stage::Select, spent);
                meter.busy(Stage::Select, spent);
                let finished = facts.accept(masks);
                drop(ticket);
                if !send_finished(assembler, finished) {
                    return;
                }
            }
        }
    }
}

/// Whether the assembler is still there.
fn send_finished(assembler: &Sender<Assembled>, finished: FinishedImage) -> bool {
    assembler.send(Assembled::Image(Box::new(finished))).is_ok()
}

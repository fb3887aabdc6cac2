//! The stages between reading and assembling: decode, device, select.

use std::ops::ControlFlow;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use maskmill_formats::decode::{DecodeLimits, decode};
use maskmill_sam::{AutomaticOptions, MaskSelector, PreparedImage, Sam, propose};

use crate::stages::{Assembled, FinishedImage, ImageFacts, Prepared, Proposal, Rejection, Sample};

/// Decodes, turns upright, crops and resizes. Several run at once; images may overtake each other.
pub(crate) fn decode_images(
    samples: &Receiver<Sample>,
    limits: &DecodeLimits,
    options: &AutomaticOptions,
    image_size: usize,
    device: &Sender<Prepared>,
    assembler: &Sender<Assembled>,
) {
    for Sample { id, bytes, ticket } in samples {
        let start = Instant::now();
        let mut facts = ImageFacts::of(id, &bytes);
        let sent = match decode(&bytes, limits) {
            Err(error) => {
                facts.spend(start);
                let rejection = Rejection {
                    reason: error.reason().to_owned(),
                    detail: error.to_string(),
                };
                send_finished(assembler, facts.reject(rejection))
            }
            Ok(decoded) => {
                drop(bytes);
                facts.format = Some(decoded.format.as_str().to_owned());
                facts.exif_orientation = decoded.exif_orientation;
                facts.size = decoded.image.size();
                let image = PreparedImage::new(&decoded.image, options, image_size);
                drop(decoded);
                facts.spend(start);
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
) {
    let send = |proposal| match selector.send(proposal) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    for Prepared {
        mut facts,
        image,
        ticket,
    } in prepared
    {
        let start = Instant::now();
        let size = facts.size;
        let proposed = send(Proposal::Begin { size }).is_continue()
            && propose(sam, options, points_per_batch, &image, |batch| {
                send(Proposal::Batch(batch))
            })
            .is_continue();
        facts.spend(start);
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
) {
    let new_selector = |size| MaskSelector::new(sam.architecture(), &options.filters, size);
    let mut current = None;
    for proposal in proposals {
        match proposal {
            Proposal::Begin { size } => current = Some(new_selector(size)),
            Proposal::Batch(batch) => current
                .as_mut()
                .expect("a batch follows its image's beginning")
                .push(batch),
            Proposal::End { mut facts, ticket } => {
                let start = Instant::now();
                let selector = current.take().expect("an end follows its beginning");
                let masks = selector.finish();
                facts.spend(start);
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

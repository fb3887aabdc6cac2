//! The stages between reading and assembling: decode, device, select.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, select};
use maskmill_formats::decode::{DecodeLimits, Decoded, decode};
use maskmill_grounding::{ClipInput, OwlInput, crop_mask};
use maskmill_masks::ImageSize;
use maskmill_pixels::RgbImage;
use maskmill_sam::{
    CandidateBatch, GeneratedMask, MaskSelector, PreparedImage, PromptBudget, PromptedSelector,
    propose, propose_prompted,
};
use rayon::prelude::*;

use crate::given::{Given, scores};
use crate::known_prompts::KnownPrompts;
use crate::label_queue::{LabelQueue, LabelRequest};
use crate::meter::{Meter, Stage};
use crate::models::{Asked, Models};
use crate::pool::in_pool;
use crate::stages::{
    Assembled, Carried, FinishedImage, ImageFacts, Prepared, Proposal, Rejection, Sample,
    given_label,
};

/// Decodes, turns upright, crops and resizes. Several run at once; images may overtake each other.
pub(crate) fn decode_images(
    samples: &Receiver<Sample>,
    limits: &DecodeLimits,
    models: &Models,
    known: &KnownPrompts,
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
        let (facts, prepared) = in_pool(|| {
            let _span = tracing::debug_span!("decode", shard = %id.attempt.shard, image = %id.key)
                .entered();
            // Waiting for the pool is not counted.
            let start = Instant::now();
            let mut facts = ImageFacts::of(id, &bytes);
            facts.times.add(Stage::Fetch, fetched_in);
            let decoded = decode(&bytes, limits).map_err(|error| Rejection {
                reason: error.reason().to_owned(),
                detail: error.to_string(),
            });
            drop((bytes, fetch));
            let prepared = decoded.and_then(|decoded| {
                facts.format = Some(decoded.format.as_str().to_owned());
                facts.exif_orientation = decoded.exif_orientation;
                facts.size = decoded.image.size();
                let given = known.of(&facts.id, facts.size)?;
                Ok((prepare(decoded, models), given))
            });
            meter.busy(Stage::Decode, facts.spend(Stage::Decode, start));
            (facts, prepared)
        });
        let sent = match prepared {
            Err(rejection) => send_finished(assembler, facts.reject(rejection)),
            Ok((inputs, given)) => {
                let prepared = Prepared {
                    facts,
                    image: inputs.image,
                    given,
                    for_detector: inputs.for_detector,
                    pixels: inputs.pixels,
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

/// An image as the models take it.
pub(crate) struct Inputs {
    pub image: PreparedImage,
    pub for_detector: Option<OwlInput>,
    pub pixels: Option<Arc<RgbImage>>,
}

/// Resizes an image once for each model.
pub(crate) fn prepare(decoded: Decoded, models: &Models) -> Inputs {
    let image_size = models.sam.architecture().image_size;
    let image = match &models.asked {
        Asked::Grid(options) => PreparedImage::new(&decoded.image, options, image_size),
        Asked::Prompts { .. } => PreparedImage::whole(&decoded.image, image_size),
    };
    let for_detector = match &models.asked {
        Asked::Prompts {
            finder: Some(finder),
            ..
        } => Some(finder.owl.input(&decoded.image)),
        _ => None,
    };
    let pixels = models.labeller.as_ref().map(|_| Arc::new(decoded.image));
    Inputs {
        image,
        for_detector,
        pixels,
    }
}

/// What the models need of an image.
pub(crate) struct Question<'a> {
    pub image: &'a PreparedImage,
    pub for_detector: Option<&'a OwlInput>,
    /// Prompts that are known.
    pub given: Vec<Given>,
    pub carried: &'a Carried,
    pub size: ImageSize,
}

/// Runs detector and SAM over an image and hands out candidates; returns the prompts that were not of a grid.
///
/// # Errors
/// The detector's values are not finite.
pub(crate) fn ask(
    models: &Models,
    question: Question<'_>,
    budget: PromptBudget,
    sink: impl FnMut(CandidateBatch) -> ControlFlow<()>,
) -> Result<(Vec<Given>, ControlFlow<()>), Rejection> {
    let Question {
        image,
        for_detector,
        given,
        carried,
        size,
    } = question;
    match &models.asked {
        Asked::Grid(options) => {
            let flow = propose(&models.sam, options, budget, image, sink);
            Ok((Vec::new(), flow))
        }
        Asked::Prompts { options, finder } => {
            let given = match (finder, for_detector) {
                (Some(finder), Some(input)) => {
                    let found = finder.find(input, carried, size);
                    found.map_err(|error| Rejection {
                        reason: "not_finite".to_owned(),
                        detail: error.to_string(),
                    })?
                }
                _ => given,
            };
            let prompts: Vec<_> = given.iter().map(|one| one.prompt.clone()).collect();
            let flow = propose_prompted(&models.sam, &prompts, options, budget, image, sink);
            Ok((
                given,
                flow.expect("prompts are checked where they come from"),
            ))
        }
    }
}

/// The stage that owns the models. One runs: the device does one thing at a time.
///
/// Crops for the labeller come back to it from the selector. They are labelled when they fill a batch or no image is
/// ready: an image that waits for others to fill its batch would hold memory that they need.
pub(crate) struct DeviceStage<'a> {
    pub models: &'a Models,
    pub budget: PromptBudget,
    pub crops_per_batch: usize,
    pub images: &'a Receiver<Prepared>,
    pub crops: &'a Receiver<LabelRequest>,
    pub assembler: &'a Sender<Assembled>,
    pub meter: &'a Meter,
}

/// What the device does next.
enum Work {
    Image(Box<Prepared>),
    Crops(Box<LabelRequest>),
    NoMoreImages,
    NoMoreCrops,
}

impl DeviceStage<'_> {
    /// Works until there are no more images, and nothing more to label. `selector` is dropped when the last image
    /// is through, so that the selector ends, which ends the crops.
    pub(crate) fn run(self, selector: Sender<Proposal>) {
        let mut selector = Some(selector);
        let mut queue = LabelQueue::default();
        let mut is_warm = false;
        let mut crops_end = false;
        loop {
            while queue.crops() >= self.crops_per_batch {
                if !self.label(&mut queue) {
                    return;
                }
            }
            let asked = Instant::now();
            let work = match self.next(selector.is_some(), crops_end, queue.is_empty()) {
                Some(work) => work,
                None if queue.is_empty() => return,
                None => {
                    if !self.label(&mut queue) {
                        return;
                    }
                    continue;
                }
            };
            match work {
                Work::NoMoreImages => selector = None,
                Work::NoMoreCrops => crops_end = true,
                Work::Crops(request) => queue.push(*request),
                Work::Image(prepared) => {
                    let start = Instant::now();
                    let sender = selector.as_ref().expect("images come while it is there");
                    let Some(worked) = self.image(*prepared, start, sender) else {
                        return;
                    };
                    if is_warm {
                        self.meter.device_turn(start - asked, worked);
                    }
                    is_warm = true;
                }
            }
        }
    }

    /// The next thing to do; `None` where nothing is ready, or nothing will come any more.
    fn next(&self, images_come: bool, crops_end: bool, may_wait: bool) -> Option<Work> {
        if let Ok(request) = self.crops.try_recv() {
            return Some(Work::Crops(Box::new(request)));
        }
        if images_come {
            match self.images.try_recv() {
                Ok(prepared) => return Some(Work::Image(Box::new(prepared))),
                Err(TryRecvError::Disconnected) => return Some(Work::NoMoreImages),
                Err(TryRecvError::Empty) if !may_wait => return None,
                Err(TryRecvError::Empty) => {}
            }
        }
        let image = |message: Result<Prepared, _>| match message {
            Ok(prepared) => Work::Image(Box::new(prepared)),
            Err(_) => Work::NoMoreImages,
        };
        let request = |message: Result<LabelRequest, _>| match message {
            Ok(request) => Work::Crops(Box::new(request)),
            Err(_) => Work::NoMoreCrops,
        };
        match (images_come, crops_end) {
            (true, true) => Some(image(self.images.recv())),
            (true, false) => Some(select! {
                recv(self.images) -> message => image(message),
                recv(self.crops) -> message => request(message),
            }),
            // The selector works on the last images; what waits already need not wait for them.
            (false, false) if may_wait => Some(request(self.crops.recv())),
            (false, _) => None,
        }
    }

    /// How long it took; `None` where nobody takes the results any more.
    fn image(
        &self,
        prepared: Prepared,
        start: Instant,
        selector: &Sender<Proposal>,
    ) -> Option<Duration> {
        self.meter.queue(Stage::Device, self.images.len());
        let id = &prepared.facts.id;
        let _span =
            tracing::debug_span!("device", shard = %id.attempt.shard, image = %id.key).entered();
        let send = |proposal| match selector.send(proposal) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        let size = prepared.facts.size;
        if send(Proposal::Begin { size }).is_break() {
            return None;
        }
        let Prepared {
            mut facts,
            image,
            given,
            for_detector,
            pixels,
            ticket,
        } = prepared;
        let question = Question {
            image: &image,
            for_detector: for_detector.as_ref(),
            given,
            carried: &facts.id.carried,
            size,
        };
        let asked = ask(self.models, question, self.budget, |batch| {
            send(Proposal::Batch(batch))
        });
        drop((image, for_detector));
        let worked = facts.spend(Stage::Device, start);
        self.meter.busy(Stage::Device, worked);
        let taken = match asked {
            Err(rejection) => send_finished(self.assembler, facts.reject(rejection)),
            Ok((given, flow)) => {
                let facts = Box::new(facts);
                flow.is_continue()
                    && send(Proposal::End {
                        facts,
                        given,
                        pixels,
                        ticket,
                    })
                    .is_continue()
            }
        };
        taken.then_some(worked)
    }

    /// Labels a batch; whether the assembler still takes results.
    fn label(&self, queue: &mut LabelQueue) -> bool {
        let start = Instant::now();
        let labeller = self.models.labeller.as_ref();
        let labeller = labeller.expect("crops are made for a labeller");
        let finished = queue.turn(self.crops_per_batch, |crops| labeller.label(crops));
        self.meter.busy(Stage::Device, start.elapsed());
        finished
            .into_iter()
            .all(|image| send_finished(self.assembler, image))
    }
}

/// Keeps the masks of one image that pass.
pub(crate) enum Selector {
    Grid(MaskSelector),
    Prompts(PromptedSelector),
}

impl Selector {
    pub(crate) fn new(models: &Models, size: ImageSize) -> Self {
        let architecture = models.sam.architecture();
        match &models.asked {
            Asked::Grid(options) => {
                Self::Grid(MaskSelector::new(architecture, &options.filters, size))
            }
            Asked::Prompts { options, .. } => {
                Self::Prompts(PromptedSelector::new(architecture, &options.filters, size))
            }
        }
    }

    pub(crate) fn push(&mut self, batch: CandidateBatch) {
        match self {
            Self::Grid(selector) => selector.push(batch),
            Self::Prompts(selector) => selector.push(batch),
        }
    }

    pub(crate) fn finish(self, given: &[Given]) -> Vec<GeneratedMask> {
        match self {
            Self::Grid(selector) => selector.finish(),
            Self::Prompts(selector) => selector.finish(&scores(given)),
        }
    }
}

/// Turns candidates into masks while the device works on the next ones.
pub(crate) fn select_masks(
    proposals: &Receiver<Proposal>,
    models: &Models,
    crops: &Sender<LabelRequest>,
    assembler: &Sender<Assembled>,
    meter: &Meter,
) {
    let mut current = None;
    let mut spent = Duration::ZERO;
    for proposal in proposals {
        meter.queue(Stage::Select, proposals.len());
        let start = Instant::now();
        match proposal {
            Proposal::Begin { size } => {
                // An image that was rejected on the device has no end.
                current = Some(Selector::new(models, size));
                spent = Duration::ZERO;
            }
            Proposal::Batch(batch) => {
                let selector = current.as_mut();
                selector
                    .expect("a batch follows its image's beginning")
                    .push(batch);
                spent += start.elapsed();
            }
            Proposal::End {
                mut facts,
                given,
                pixels,
                ticket,
            } => {
                let _span =
                    tracing::debug_span!("select", shard = %facts.id.attempt.shard, image = %facts.id.key).entered();
                let selector = current.take().expect("an end follows its beginning");
                let masks = selector.finish(&given);
                let cut = match &pixels {
                    Some(pixels) => cut_out(models, pixels, &masks, &given),
                    None => Vec::new(),
                };
                drop(pixels);
                spent += start.elapsed();
                facts.times.add(Stage::Select, spent);
                meter.busy(Stage::Select, spent);
                let sent = if cut.is_empty() {
                    let finished = facts.accept(masks, &given, Vec::new());
                    drop(ticket);
                    send_finished(assembler, finished)
                } else {
                    let request = LabelRequest {
                        facts,
                        masks,
                        given,
                        crops: cut,
                        ticket: Some(ticket),
                    };
                    crops.send(request).is_ok()
                };
                if !sent {
                    return;
                }
            }
        }
    }
}

/// The crops of masks that have no label yet, in their order; none without a labeller.
pub(crate) fn cut_out(
    models: &Models,
    image: &RgbImage,
    masks: &[GeneratedMask],
    given: &[Given],
) -> Vec<ClipInput> {
    let Some(labeller) = &models.labeller else {
        return Vec::new();
    };
    let side = labeller.clip().architecture().image.image_size;
    let options = &labeller.options().crop;
    let unnamed: Vec<&GeneratedMask> = masks
        .iter()
        .filter(|mask| given_label(mask, given).is_none())
        .collect();
    unnamed
        .par_iter()
        .map(|mask| crop_mask(image, &mask.rle, options, side))
        .collect()
}

/// Whether the assembler is still there.
fn send_finished(assembler: &Sender<Assembled>, finished: FinishedImage) -> bool {
    assembler.send(Assembled::Image(Box::new(finished))).is_ok()
}

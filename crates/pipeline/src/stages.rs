//! What travels between the stages of a running job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use maskmill_formats::rows::{ImageRow, ImageStatus, MaskRow};
use maskmill_grounding::{MaskLabel, OwlInput};
use maskmill_job::ShardId;
use maskmill_masks::ImageSize;
use maskmill_pixels::RgbImage;
use maskmill_sam::{CandidateBatch, GeneratedMask, PreparedImage, PromptedBy};
use sha2::{Digest, Sha256};

use crate::given::Given;
use crate::in_flight::{FetchPermit, Ticket};
use crate::meter::{Stage, StageTimes};

/// One attempt at a shard. What an attempt that was given up still sends is told apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Attempt {
    pub shard: ShardId,
    /// From 1.
    pub number: u32,
}

/// Which image: its shard and its place there. Rows are written in this order, whatever order images
/// finish in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ImageId {
    pub attempt: Attempt,
    pub index: usize,
    pub key: String,
    pub carried: Carried,
}

/// What the source says of an image: its row repeats the caption and the boxes, and all of it may
/// be asked of the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Carried {
    pub caption: Option<String>,
    /// `[x0, y0, x1, y1]`, in pixels.
    pub boxes: Option<Vec<[f64; 4]>>,
    /// What to look for, or one for each box.
    pub labels: Option<Vec<String>>,
    /// One for each box.
    pub scores: Option<Vec<f32>>,
    /// `[x, y, label]`, in pixels; the label is 1 on the object and 0 beside it.
    pub points: Option<Vec<[f64; 3]>>,
    /// What a table calls the image, where the image's key has the number of its row as well.
    pub own_name: Option<String>,
}

/// Why an image has no masks; becomes its row's `reason` and `detail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub reason: String,
    pub detail: String,
}

/// reader -> decoders
pub(crate) struct Sample {
    pub id: ImageId,
    pub bytes: Bytes,
    /// How long its bytes took to come.
    pub fetched_in: Duration,
    pub fetch: FetchPermit,
    pub ticket: Ticket,
}

/// decoders -> device
pub(crate) struct Prepared {
    pub facts: ImageFacts,
    pub image: PreparedImage,
    /// Prompts that are known.
    pub given: Vec<Given>,
    /// The image as the detector takes it, where there is one.
    pub for_detector: Option<OwlInput>,
    /// The image itself, where masks are cut out of it for the labeller.
    pub pixels: Option<Arc<RgbImage>>,
    pub ticket: Ticket,
}

/// device -> selector: an image's candidates in order, then its end.
pub(crate) enum Proposal {
    Begin {
        size: ImageSize,
    },
    Batch(CandidateBatch),
    End {
        facts: Box<ImageFacts>,
        /// The prompts, where they are not a grid.
        given: Vec<Given>,
        pixels: Option<Arc<RgbImage>>,
        ticket: Ticket,
    },
}

/// reader, decoders, selector -> assembler
pub(crate) enum Assembled {
    /// An image is done, well or not.
    Image(Box<FinishedImage>),
    /// A shard was read to its end and has this many images.
    ShardRead { attempt: Attempt, images: usize },
    /// Another worker committed the shard: nothing to do.
    ShardDone { shard: ShardId },
    /// An attempt was given up; the shard is begun again.
    ShardAgain { attempt: Attempt, cause: String },
    /// The last attempt was given up; nothing of the shard is committed.
    ShardFailed { attempt: Attempt, cause: String },
    /// No shard could be read any more: the credentials are not accepted.
    JobFailed { cause: String },
}

/// One image's rows.
pub(crate) struct FinishedImage {
    pub attempt: Attempt,
    pub index: usize,
    pub image: ImageRow,
    pub masks: Vec<MaskRow>,
    pub times: StageTimes,
}

/// What is known of an image before its masks.
pub(crate) struct ImageFacts {
    pub id: ImageId,
    pub sha256: String,
    pub bytes: u64,
    pub format: Option<String>,
    pub exif_orientation: u8,
    pub size: ImageSize,
    /// Time spent on it so far, waiting not counted.
    pub times: StageTimes,
}

impl ImageFacts {
    /// Facts of bytes that are not decoded yet.
    pub(crate) fn of(id: ImageId, bytes: &[u8]) -> Self {
        Self {
            id,
            sha256: hex(&Sha256::digest(bytes)),
            bytes: bytes.len() as u64,
            format: None,
            exif_orientation: 1,
            size: ImageSize::new(0, 0),
            times: StageTimes::default(),
        }
    }

    /// Facts of an image whose bytes could not be read.
    pub(crate) fn unread(id: ImageId, bytes: u64) -> Self {
        let mut facts = Self::of(id, &[]);
        facts.sha256.clear();
        facts.bytes = bytes;
        facts
    }

    /// Counts the time since `start` and returns it.
    pub(crate) fn spend(&mut self, stage: Stage, start: Instant) -> Duration {
        let spent = start.elapsed();
        self.times.add(stage, spent);
        spent
    }

    /// The rows of an image without masks.
    pub(crate) fn reject(self, rejection: Rejection) -> FinishedImage {
        let (attempt, index, times) = (self.id.attempt, self.id.index, self.times);
        let image = ImageRow {
            status: ImageStatus::Rejected,
            reason: Some(rejection.reason),
            detail: Some(rejection.detail),
            ..self.row(0)
        };
        FinishedImage {
            attempt,
            index,
            image,
            masks: Vec::new(),
            times,
        }
    }

    /// The rows of an image with its masks. `given` are the prompts that were not of a grid; `labels` are those of
    /// masks whose prompt has none, in order, where there is a labeller.
    pub(crate) fn accept(
        self,
        masks: Vec<GeneratedMask>,
        given: &[Given],
        labels: Vec<MaskLabel>,
    ) -> FinishedImage {
        let (attempt, index, times) = (self.id.attempt, self.id.index, self.times);
        let mut labels = labels.into_iter();
        let masks: Vec<MaskRow> = masks
            .into_iter()
            .enumerate()
            .map(|(mask_id, mask)| {
                let mut row = mask_row(&self.id.key, mask_id as u32, mask, given);
                if row.label.is_none()
                    && let Some(MaskLabel { label, score }) = labels.next()
                {
                    row.label = Some(label);
                    row.label_score = score;
                }
                row
            })
            .collect();
        FinishedImage {
            attempt,
            index,
            image: self.row(masks.len() as u32),
            masks,
            times,
        }
    }

    fn row(self, masks: u32) -> ImageRow {
        ImageRow {
            image_key: self.id.key,
            shard: self.id.attempt.shard.0,
            width: self.size.width,
            height: self.size.height,
            sha256: self.sha256,
            bytes: self.bytes,
            format: self.format,
            exif_orientation: self.exif_orientation,
            masks,
            status: ImageStatus::Ok,
            reason: None,
            detail: None,
            milliseconds: self.times.on_image().as_secs_f32() * 1e3,
            caption: self.id.carried.caption,
            boxes: self.id.carried.boxes,
        }
    }
}

/// What a mask is called before the labeller is asked.
pub(crate) fn given_label(mask: &GeneratedMask, given: &[Given]) -> Option<String> {
    match mask.prompted_by {
        PromptedBy::GridPoint(_) => None,
        PromptedBy::Given(index) => given[index].label.clone(),
    }
}

fn mask_row(image_key: &str, mask_id: u32, mask: GeneratedMask, given: &[Given]) -> MaskRow {
    let label = given_label(&mask, given);
    let (point_coords, label_score, prompt_box) = match mask.prompted_by {
        PromptedBy::GridPoint(point_px) => (vec![point_px], None, None),
        PromptedBy::Given(index) => {
            let given = &given[index];
            (given.point_coords(), given.score, given.prompt_box())
        }
    };
    MaskRow {
        image_key: image_key.to_owned(),
        mask_id,
        bbox: mask.bounds.sa_xywh(),
        area: mask.area,
        predicted_iou: mask.predicted_iou,
        stability_score: mask.stability_score,
        crop_box: mask.crop.xywh(),
        point_coords,
        label,
        label_score,
        prompt_box,
        rle: mask.rle,
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

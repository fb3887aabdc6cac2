//! What travels between the stages of a running job.

use std::time::{Duration, Instant};

use maskmill_formats::rows::{ImageRow, ImageStatus, MaskRow};
use maskmill_job::ShardId;
use maskmill_masks::ImageSize;
use maskmill_sam::{CandidateBatch, GeneratedMask, PreparedImage};
use sha2::{Digest, Sha256};

use crate::in_flight::Ticket;

/// Which image: its shard and its place there. Rows are written in this order, whatever order images
/// finish in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageId {
    pub shard: ShardId,
    pub index: usize,
    pub key: String,
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
    pub bytes: Vec<u8>,
    pub ticket: Ticket,
}

/// decoders -> device
pub(crate) struct Prepared {
    pub facts: ImageFacts,
    pub image: PreparedImage,
    pub ticket: Ticket,
}

/// device -> selector: an image's candidates in order, then its end.
pub(crate) enum Proposal {
    Begin { size: ImageSize },
    Batch(CandidateBatch),
    End { facts: ImageFacts, ticket: Ticket },
}

/// reader, decoders, selector -> assembler
pub(crate) enum Assembled {
    /// An image is done, well or not.
    Image(Box<FinishedImage>),
    /// A shard was read to its end and has this many images.
    ShardRead { shard: ShardId, images: usize },
    /// A shard could not be read; nothing of it is committed.
    ShardFailed { shard: ShardId, detail: String },
}

/// One image's rows.
pub(crate) struct FinishedImage {
    pub shard: ShardId,
    pub index: usize,
    pub image: ImageRow,
    pub masks: Vec<MaskRow>,
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
    pub spent: Duration,
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
            spent: Duration::ZERO,
        }
    }

    /// Facts of an image whose bytes could not be read.
    pub(crate) fn unread(id: ImageId, bytes: u64) -> Self {
        let mut facts = Self::of(id, &[]);
        facts.sha256.clear();
        facts.bytes = bytes;
        facts
    }

    /// Counts the time since `start`.
    pub(crate) fn spend(&mut self, start: Instant) {
        self.spent += start.elapsed();
    }

    /// The rows of an image without masks.
    pub(crate) fn reject(self, rejection: Rejection) -> FinishedImage {
        let (shard, index) = (self.id.shard, self.id.index);
        let image = ImageRow {
            status: ImageStatus::Rejected,
            reason: Some(rejection.reason),
            detail: Some(rejection.detail),
            ..self.row(0)
        };
        FinishedImage {
            shard,
            index,
            image,
            masks: Vec::new(),
        }
    }

    /// The rows of an image with its masks.
    pub(crate) fn accept(self, masks: Vec<GeneratedMask>) -> FinishedImage {
        let (shard, index) = (self.id.shard, self.id.index);
        let masks: Vec<MaskRow> = masks
            .into_iter()
            .enumerate()
            .map(|(mask_id, mask)| mask_row(&self.id.key, mask_id as u32, mask))
            .collect();
        FinishedImage {
            shard,
            index,
            image: self.row(masks.len() as u32),
            masks,
        }
    }

    fn row(self, masks: u32) -> ImageRow {
        ImageRow {
            image_key: self.id.key,
            shard: self.id.shard.0,
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
            milliseconds: self.spent.as_secs_f32() * 1e3,
        }
    }
}

fn mask_row(image_key: &str, mask_id: u32, mask: GeneratedMask) -> MaskRow {
    MaskRow {
        image_key: image_key.to_owned(),
        mask_id,
        bbox: mask.bounds.sa_xywh(),
        area: mask.area,
        predicted_iou: mask.predicted_iou,
        stability_score: mask.stability_score,
        crop_box: mask.crop.xywh(),
        point_coords: vec![mask.point_px],
        label: None,
        label_score: None,
        prompt_box: None,
        rle: mask.rle,
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Re-reads an output and says everything that is wrong with it.

use std::collections::HashSet;

use maskmill_formats::rows::{ImageStatus, MaskRow};
use maskmill_masks::ImageSize;
use maskmill_storage::Marker;

use crate::describe::describe;
use crate::output::{ImageRows, JobOutput, OutputError};

/// What was read, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Shards in the plan.
    pub shards: u64,
    /// Shards with a marker.
    pub committed: u64,
    /// Image rows.
    pub images: u64,
    /// Mask rows.
    pub masks: u64,
    /// Everything wrong, one sentence each.
    pub problems: Vec<String>,
}

impl JobOutput {
    /// Reads every part of every committed shard: digests and counts agree with the markers, every mask
    /// decodes to its own area and box and to its image's size, no image is there twice, and no shard of
    /// the plan is missing.
    ///
    /// # Errors
    /// The markers cannot be listed. Everything else is a [problem](Verification::problems).
    pub fn verify(&self) -> Result<Verification, OutputError> {
        let planned = self.record().plan.shards;
        let committed = self.committed_shards()?;
        let mut found = Verification {
            shards: planned,
            committed: committed.len() as u64,
            ..Verification::default()
        };
        let is_committed = |id: u64| u32::try_from(id).is_ok_and(|id| committed.contains(&id));
        for shard in (0..planned).filter(|id| !is_committed(*id)) {
            let problem = format!("shard {shard:06} is not committed: run the job again to do it");
            found.problems.push(problem);
        }
        let mut keys = HashSet::new();
        for shard in committed {
            if u64::from(shard) >= planned {
                let problem =
                    format!("shard {shard:06} is committed, the plan has {planned} shards");
                found.problems.push(problem);
            }
            let read = self.marker(shard).and_then(|marker| {
                let rows = self.shard(&marker)?;
                Ok((marker, rows))
            });
            match read {
                Ok((marker, rows)) => found.check(&marker, &rows, &mut keys),
                Err(error) => found.problems.push(describe(&error)),
            }
        }
        if let Some(images) = self.record().plan.images
            && found.problems.is_empty()
            && images != found.images
        {
            let problem = format!("{} image rows, the plan has {images} images", found.images);
            found.problems.push(problem);
        }
        Ok(found)
    }
}

impl Verification {
    fn check(&mut self, marker: &Marker, rows: &[ImageRows], keys: &mut HashSet<String>) {
        let shard = marker.shard;
        let mut rejected = 0;
        for ImageRows { image, masks } in rows {
            self.images += 1;
            self.masks += masks.len() as u64;
            let key = &image.image_key;
            let mut problem = |text: String| {
                self.problems
                    .push(format!("shard {shard:06}, image {key:?}: {text}"));
            };
            if !keys.insert(key.clone()) {
                problem("it is there twice".to_owned());
            }
            if image.shard != shard {
                problem(format!("its row says shard {}", image.shard));
            }
            if image.masks as usize != masks.len() {
                problem(format!(
                    "{} masks, its row says {}",
                    masks.len(),
                    image.masks
                ));
            }
            if image.status == ImageStatus::Rejected {
                rejected += 1;
                if image.reason.is_none() || !masks.is_empty() {
                    problem("a rejected image has a reason and no masks".to_owned());
                }
            }
            let size = ImageSize::new(image.height, image.width);
            for (index, mask) in masks.iter().enumerate() {
                if mask.mask_id as usize != index {
                    problem(format!("mask {} is in place {index}", mask.mask_id));
                }
                if let Some(wrong) = wrong_mask(mask, size) {
                    problem(format!("mask {index}: {wrong}"));
                }
            }
        }
        if rejected != marker.images_rejected {
            self.problems.push(format!(
                "shard {shard:06}: {rejected} images are rejected, its marker says {}",
                marker.images_rejected
            ));
        }
    }
}

/// What a mask says of itself against what its run lengths decode to.
fn wrong_mask(mask: &MaskRow, image: ImageSize) -> Option<String> {
    if mask.rle.size() != image {
        return Some(format!("it is {}, the image {image}", mask.rle.size()));
    }
    let decoded = mask.rle.decode();
    let (area, bbox) = (decoded.area(), decoded.bounds().sa_xywh());
    if (area, bbox) != (mask.area, mask.bbox) {
        return Some(format!(
            "it decodes to area {area} and box {bbox:?}, its row says {} and {:?}",
            mask.area, mask.bbox
        ));
    }
    None
}

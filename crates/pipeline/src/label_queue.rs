//! Masks that wait for the labeller: crops of several images make one batch.

use std::collections::VecDeque;
use std::time::Instant;

use maskmill_grounding::{ClipInput, MaskLabel};
use maskmill_sam::GeneratedMask;

use crate::given::Given;
use crate::in_flight::Ticket;
use crate::meter::Stage;
use crate::stages::{FinishedImage, ImageFacts};

/// selector -> device: an image whose masks are to be labelled.
pub(crate) struct LabelRequest {
    pub facts: Box<ImageFacts>,
    pub masks: Vec<GeneratedMask>,
    pub given: Vec<Given>,
    /// The crop of each mask that has no label yet, in their order.
    pub crops: Vec<ClipInput>,
    pub ticket: Option<Ticket>,
}

/// Requests in the order in which they came.
#[derive(Default)]
pub(crate) struct LabelQueue {
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    request: LabelRequest,
    /// Of the first crops.
    labels: Vec<MaskLabel>,
}

impl Waiting {
    fn unlabelled(&self) -> &[ClipInput] {
        &self.request.crops[self.labels.len()..]
    }
}

impl LabelQueue {
    pub(crate) fn push(&mut self, request: LabelRequest) {
        let labels = Vec::with_capacity(request.crops.len());
        self.waiting.push_back(Waiting { request, labels });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Crops that have no label yet.
    pub(crate) fn crops(&self) -> usize {
        let waiting = self.waiting.iter();
        waiting.map(|waiting| waiting.unlabelled().len()).sum()
    }

    /// Labels the next `batch` crops at most, and gives out the images that are done by it. Each image is charged
    /// its share of the time.
    pub(crate) fn turn(
        &mut self,
        batch: usize,
        label: impl FnOnce(&[&ClipInput]) -> Vec<MaskLabel>,
    ) -> Vec<FinishedImage> {
        let start = Instant::now();
        let unlabelled = self.waiting.iter().flat_map(Waiting::unlabelled);
        let crops: Vec<&ClipInput> = unlabelled.take(batch.max(1)).collect();
        let total = crops.len();
        let mut labels = label(&crops).into_iter();
        let spent = start.elapsed();
        for waiting in &mut self.waiting {
            let wanted = waiting.unlabelled().len();
            let before = waiting.labels.len();
            waiting.labels.extend(labels.by_ref().take(wanted));
            let got = waiting.labels.len() - before;
            if got > 0 {
                let share = spent.mul_f64(got as f64 / total as f64);
                waiting.request.facts.times.add(Stage::Device, share);
            }
        }
        let mut finished = Vec::new();
        while let Some(first) = self.waiting.pop_front() {
            if !first.unlabelled().is_empty() {
                self.waiting.push_front(first);
                break;
            }
            let LabelRequest {
                facts,
                masks,
                given,
                ticket,
                ..
            } = first.request;
            finished.push(facts.accept(masks, &given, first.labels));
            drop(ticket);
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use maskmill_job::ShardId;
    use maskmill_masks::{BoxPx, ImageSize, Rle};
    use maskmill_pixels::RgbImage;
    use maskmill_sam::PromptedBy;

    use super::*;
    use crate::stages::{Attempt, Carried, ImageId};

    fn mask() -> GeneratedMask {
        let size = ImageSize::new(2, 3);
        GeneratedMask {
            rle: Rle::empty(size),
            bounds: BoxPx::EMPTY,
            area: 0,
            predicted_iou: 0.9,
            stability_score: 0.9,
            prompted_by: PromptedBy::GridPoint([0.0, 0.0]),
            crop: BoxPx::of(size),
        }
    }

    /// A request whose crops are of one colour each.
    fn request(index: usize, colours: &[u8]) -> LabelRequest {
        let id = ImageId {
            attempt: Attempt {
                shard: ShardId(0),
                number: 1,
            },
            index,
            key: format!("image {index}"),
            carried: Carried::default(),
        };
        let crop = |&colour: &u8| {
            let image = RgbImage::new(ImageSize::new(1, 1), vec![colour; 3]).unwrap();
            ClipInput::new(&image, 1)
        };
        LabelRequest {
            facts: Box::new(ImageFacts::of(id, &[])),
            masks: colours.iter().map(|_| mask()).collect(),
            given: Vec::new(),
            crops: colours.iter().map(crop).collect(),
            ticket: None,
        }
    }

    fn label(crops: &[&ClipInput]) -> Vec<MaskLabel> {
        let label = |crop: &&ClipInput| MaskLabel {
            label: crop.pixels().data()[0].to_string(),
            score: Some(0.5),
        };
        crops.iter().map(label).collect()
    }

    #[test]
    fn batches_cross_images_and_every_mask_gets_its_own_label() {
        for batch in [1, 2, 3, 100] {
            let mut queue = LabelQueue::default();
            for (index, colours) in [&[1, 2, 3][..], &[4], &[5, 6]].into_iter().enumerate() {
                queue.push(request(index, colours));
            }
            let mut labels = Vec::new();
            let mut turns = 0;
            while !queue.is_empty() {
                for image in queue.turn(batch, label) {
                    let of_masks = image.masks.iter().map(|mask| mask.label.clone().unwrap());
                    labels.push((image.index, of_masks.collect::<Vec<_>>()));
                }
                turns += 1;
            }
            assert_eq!(turns, 6_usize.div_ceil(batch));
            let expected = [
                (0, vec!["1", "2", "3"]),
                (1, vec!["4"]),
                (2, vec!["5", "6"]),
            ];
            let expected = expected.map(|(index, labels)| {
                let labels: Vec<String> = labels.into_iter().map(str::to_owned).collect();
                (index, labels)
            });
            assert_eq!(labels, expected);
        }
    }
}

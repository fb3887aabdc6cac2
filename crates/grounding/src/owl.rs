//! OWL-ViT (Minderer et al., 2022) and OWLv2 (2023): every image patch is a candidate box, scored against
//! queries.
//!
//! Follows `OwlViTForObjectDetection` and `Owlv2ForObjectDetection` (transformers). The image side does not
//! know the queries: it runs once per image, whatever their number, and scoring is one matrix product.

use std::fmt;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use maskmill_pixels::RgbImage;
use maskmill_weights::{Checkpoint, ModelKind, Shapes, Weights, to_host};

use crate::clip::towers;
use crate::config::ModelConfig;
use crate::detector::{OwlNetworks, TINY, box_bias, unit};
use crate::files::{LoadError, tokenizer_place, weights_file};
use crate::pixel_values::{OwlInput, Squaring};
use crate::texts::{Embeddings, TextEncoder, dot};
use crate::tokenizer::ClipTokenizer;
use crate::towers::{ImageSizes, Layout, TextSizes, TowerShapes};

/// The models, for errors.
pub(crate) const MODEL: &str = "an OWL-ViT or OWLv2";
/// Queries scored at once: it bounds the matrix of scores, 7 MB for OWLv2's 3600 boxes.
const QUERIES_PER_BATCH: usize = 512;
/// A single query is scored beside one of zeros: for one column the CPU's matrix product sums in another order, and
/// a query's scores would depend on whether there are others.
const LEAST_COLUMNS: usize = 2;

/// Sizes of a detector, read from its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwlArchitecture {
    /// Whether it is OWLv2: padded images, and an objectness head.
    pub is_v2: bool,
    /// The text tower.
    pub text: TextSizes,
    /// The image tower.
    pub image: ImageSizes,
    /// Whether there is an objectness head. The first OWL-ViT has none.
    pub has_objectness: bool,
}

impl OwlArchitecture {
    /// Candidate boxes of an image: one per patch.
    pub fn boxes(&self) -> usize {
        self.image.grid() * self.image.grid()
    }

    /// Reads the sizes from the shapes in `checkpoint`, and what they do not tell from the configuration
    /// beside it.
    ///
    /// # Errors
    /// [`CheckpointError::OtherModel`](maskmill_weights::CheckpointError::OtherModel) where it is neither
    /// model; a configuration that contradicts it.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        Ok(Parts::of(checkpoint)?.architecture)
    }
}

impl fmt::Display for OwlArchitecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.is_v2 { "OWLv2" } else { "OWL-ViT" };
        let boxes = self.boxes();
        write!(f, "{name}, {}, {}, {boxes} boxes", self.image, self.text)
    }
}

/// What a checkpoint is of, and how it names its tensors.
pub(crate) struct Parts {
    pub(crate) architecture: OwlArchitecture,
    pub(crate) layout: Layout,
}

impl Parts {
    pub(crate) fn of(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        let is_v2 = match ModelKind::of(checkpoint) {
            ModelKind::OwlVit => false,
            ModelKind::Owlv2 | ModelKind::Unknown => true,
            _ => {
                return Err(checkpoint
                    .other_model(MODEL, "class_head.dense0.weight")
                    .into());
            }
        };
        let layout = match is_v2 {
            true => Layout::OWLV2,
            false => Layout::OWL_VIT,
        };
        let mut shapes = Shapes::new(checkpoint);
        let found = TowerShapes::of(&mut shapes, &layout);
        shapes.finish(
            MODEL,
            " (Owlv2ForObjectDetection or OwlViTForObjectDetection)",
        )?;
        let config = ModelConfig::hugging_face(checkpoint.path())?;
        let (text, image) = towers(checkpoint, &found, &config, MODEL)?;
        let objectness = checkpoint.shape("objectness_head.dense0.weight");
        Ok(Self {
            architecture: OwlArchitecture {
                is_v2,
                text,
                image,
                has_objectness: objectness.is_some(),
            },
            layout,
        })
    }
}

/// A loaded detector with its tokenizer.
pub struct Owl {
    architecture: OwlArchitecture,
    networks: OwlNetworks,
    tokenizer: ClipTokenizer,
    /// `[1, boxes, 4]`: where a patch expects its box.
    box_bias: Tensor<3>,
    device: Device,
}

/// What the image side makes of an image: everything that does not depend on the queries.
pub struct OwlImage {
    /// `[boxes, dim]`, as `dense0` gives them.
    class_embeds: Tensor<2>,
    /// `[boxes, 1]` each.
    shift: Tensor<2>,
    scale: Tensor<2>,
    /// `[boxes, 4]` centre x, centre y, width, height in [0, 1], and the objectness logit where there is one.
    boxes: Tensor<2>,
    extent: [f32; 2],
}

/// Embeddings to look for, on the device.
pub struct Queries {
    batches: Vec<QueryBatch>,
    count: usize,
}

struct QueryBatch {
    /// `[dim, count]`, at least [`LEAST_COLUMNS`].
    columns: Tensor<2>,
    count: usize,
}

impl Queries {
    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// An image's candidate boxes.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateBoxes {
    /// Centre x, centre y, width, height, in fractions of the model's square input.
    pub cxcywh_norm: Vec<[f32; 4]>,
    /// x0, y0, x1, y1 in pixels of the original image; they may reach beyond it.
    pub xyxy_px: Vec<[f32; 4]>,
    /// Logits of there being an object, whatever it is; OWLv2 alone has them.
    pub objectness: Option<Vec<f32>>,
}

impl Owl {
    /// Loads an OWLv2 or OWL-ViT checkpoint of `transformers`, a file or the folder that holds it, with the
    /// tokenizer beside it or at `tokenizer`. Sizes are read from the tensors.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(path: &Path, tokenizer: Option<&Path>, device: &Device) -> Result<Self, LoadError> {
        let checkpoint = Checkpoint::open(&weights_file(path)?)?;
        let Parts {
            architecture,
            layout,
        } = Parts::of(&checkpoint)?;
        let place = tokenizer_place(checkpoint.path(), tokenizer);
        let tokenizer = ClipTokenizer::load(&place)?;
        tokenizer.check_fits(checkpoint.path(), architecture.text.vocabulary)?;
        let mut w = Weights::new(&checkpoint, device);
        layout.ignore_buffers(&mut w);
        // Of the CLIP that the detector was made from; a detector does not use them.
        w.ignore(layout.image_projection);
        w.ignore(layout.logit_scale);
        let networks = OwlNetworks::load(&mut w, &layout, &architecture);
        w.finish(&architecture)?;
        Ok(Self {
            networks,
            tokenizer,
            box_bias: box_bias(architecture.image.grid(), device),
            device: device.clone(),
            architecture,
        })
    }

    /// The sizes read from the checkpoint.
    pub fn architecture(&self) -> &OwlArchitecture {
        &self.architecture
    }

    /// The checkpoint's tokenizer.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// The text side, for [`TextEncoder::embed`].
    pub fn text_encoder(&self) -> TextEncoder<'_> {
        TextEncoder {
            tower: &self.networks.text,
            tokenizer: &self.tokenizer,
            context: self.architecture.text.context,
        }
    }

    /// Resizes and normalises as the model's image processor does.
    pub fn input(&self, image: &RgbImage) -> OwlInput {
        self.architecture.input(image)
    }

    /// Brings query embeddings to the device.
    pub fn queries(&self, embeddings: &Embeddings) -> Queries {
        let dim = embeddings.dim();
        let rows: Vec<&[f32]> = embeddings.rows().collect();
        let batches = rows.chunks(QUERIES_PER_BATCH).map(|rows| {
            let columns = rows.len().max(LEAST_COLUMNS);
            let mut values = vec![0.0; dim * columns];
            for (query, row) in rows.iter().enumerate() {
                let norm = dot(row, row).sqrt() + TINY;
                for (channel, value) in row.iter().enumerate() {
                    values[channel * columns + query] = value / norm;
                }
            }
            let values = TensorData::new(values, [dim, columns]);
            QueryBatch {
                columns: Tensor::from_data(values, &self.device),
                count: rows.len(),
            }
        });
        Queries {
            batches: batches.collect(),
            count: rows.len(),
        }
    }

    /// The image side, done once per image.
    pub fn embed(&self, input: &OwlInput) -> OwlImage {
        let images = input.tensor(&self.device);
        let patches = self.networks.patches(images, self.box_bias.clone());
        let boxes = self.architecture.boxes();
        let flat = |x: Tensor<3>| -> Tensor<2> {
            let channels = x.dims()[2];
            x.reshape([boxes, channels])
        };
        let located = match patches.objectness {
            Some(objectness) => Tensor::cat(vec![patches.boxes, objectness], 2),
            None => patches.boxes,
        };
        OwlImage {
            class_embeds: flat(patches.class_embeds),
            shift: flat(patches.shift),
            scale: flat(patches.scale),
            boxes: flat(located),
            extent: input.extent(),
        }
    }

    /// Class logits of every box for every query, batch by batch: `sink` takes the first query's number and
    /// `[boxes, queries of the batch]` logits, row-major. With the first batch the boxes come too, so that one
    /// read from the device serves both.
    pub fn score(
        &self,
        image: &OwlImage,
        queries: &Queries,
        mut sink: impl FnMut(usize, &[f32]),
    ) -> CandidateBoxes {
        let embeds = unit(image.class_embeds.clone());
        let [_, located] = image.boxes.dims();
        let mut boxes = None;
        let mut first = 0;
        for batch in &queries.batches {
            let count = batch.count;
            let cosines = embeds.clone().matmul(batch.columns.clone());
            let cosines = cosines.narrow(1, 0, count);
            let logits = (cosines + image.shift.clone()) * image.scale.clone();
            if boxes.is_some() {
                sink(first, &to_host(logits));
            } else {
                let both = to_host(Tensor::cat(vec![image.boxes.clone(), logits], 1));
                let rows = both.chunks_exact(located + count);
                let logits: Vec<f32> = rows
                    .clone()
                    .flat_map(|row| &row[located..])
                    .copied()
                    .collect();
                let rows: Vec<f32> = rows.flat_map(|row| &row[..located]).copied().collect();
                boxes = Some(candidate_boxes(&rows, located, image.extent));
                sink(first, &logits);
            }
            first += count;
        }
        boxes.unwrap_or_else(|| {
            candidate_boxes(&to_host(image.boxes.clone()), located, image.extent)
        })
    }

    /// The query that an example image stands for: the class embedding of the patch that shows the example best,
    /// and which patch it is.
    ///
    /// With OWLv2 that is the patch of the highest objectness. With OWL-ViT, of the patches whose box has at least
    /// 80 % of the best IoU with the whole image, the one least like the mean of all is taken: the others tend to
    /// be background. Follows `embed_image_query` (transformers) of either model.
    pub fn example_query(&self, example: &OwlInput) -> (Vec<f32>, usize) {
        let image = self.embed(example);
        let [_, located] = image.boxes.dims();
        let boxes = candidate_boxes(&to_host(image.boxes.clone()), located, image.extent);
        let dim = image.class_embeds.dims()[1];
        let embeds = Embeddings::new(to_host(image.class_embeds), dim);
        let patch = match (&boxes.objectness, self.architecture.is_v2) {
            (Some(objectness), true) => first_greatest(objectness),
            _ => fitting_patch(&boxes.cxcywh_norm, &embeds),
        };
        let embed = embeds.rows().nth(patch).expect("a patch's number");
        (embed.to_vec(), patch)
    }
}

impl OwlArchitecture {
    /// Resizes and normalises as the model's image processor does: CPU work that needs no model.
    pub fn input(&self, image: &RgbImage) -> OwlInput {
        let squaring = match self.is_v2 {
            true => Squaring::Pad,
            false => Squaring::Stretch,
        };
        OwlInput::new(image, self.image.image_size, squaring)
    }
}

/// `[boxes, located]` values to boxes.
fn candidate_boxes(values: &[f32], located: usize, extent: [f32; 2]) -> CandidateBoxes {
    let rows = values.chunks_exact(located);
    let cxcywh_norm: Vec<[f32; 4]> = rows
        .clone()
        .map(|row| [row[0], row[1], row[2], row[3]])
        .collect();
    let xyxy_px = cxcywh_norm.iter().map(|&cxcywh| {
        let [x0, y0, x1, y1] = corners(cxcywh);
        let [width, height] = extent;
        [x0 * width, y0 * height, x1 * width, y1 * height]
    });
    CandidateBoxes {
        xyxy_px: xyxy_px.collect(),
        objectness: (located > 4).then(|| rows.map(|row| row[4]).collect()),
        cxcywh_norm,
    }
}

/// `center_to_corners_format`.
fn corners([cx, cy, width, height]: [f32; 4]) -> [f32; 4] {
    [
        cx - 0.5 * width,
        cy - 0.5 * height,
        cx + 0.5 * width,
        cy + 0.5 * height,
    ]
}

fn first_greatest(values: &[f32]) -> usize {
    let places = 0..values.len();
    let greatest = places.reduce(|a, b| if values[b] > values[a] { b } else { a });
    greatest.expect("an image has patches")
}

fn fitting_patch(boxes: &[[f32; 4]], embeds: &Embeddings) -> usize {
    let corners: Vec<[f32; 4]> = boxes.iter().map(|&cxcywh| corners(cxcywh)).collect();
    let mut ious: Vec<f32> = corners.iter().map(|&b| iou_with_unit(b)).collect();
    if ious.iter().all(|iou| *iou == 0.0) {
        ious = corners
            .iter()
            .map(|&b| generalised_iou_with_unit(b))
            .collect();
    }
    let best = ious.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let threshold = best * 0.8;
    let count = embeds.count() as f32;
    let mut mean = vec![0.0; embeds.dim()];
    for row in embeds.rows() {
        for (sum, value) in mean.iter_mut().zip(row) {
            *sum += value / count;
        }
    }
    let similarity = |patch: usize| {
        let row = embeds.rows().nth(patch).expect("one embedding per patch");
        dot(&mean, row)
    };
    let selected = (0..ious.len()).filter(|&patch| ious[patch] >= threshold);
    selected
        .map(|patch| (patch, similarity(patch)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(0, |(patch, _)| patch)
}

/// Intersection and union with the unit square.
fn with_unit([x0, y0, x1, y1]: [f32; 4]) -> (f32, f32) {
    let width = (x1.min(1.0) - x0.max(0.0)).max(0.0);
    let height = (y1.min(1.0) - y0.max(0.0)).max(0.0);
    let intersection = width * height;
    let area = (x1 - x0) * (y1 - y0);
    (intersection, 1.0 + area - intersection)
}

fn iou_with_unit(corners: [f32; 4]) -> f32 {
    let (intersection, union) = with_unit(corners);
    intersection / union
}

/// IoU less the share of the common hull that neither covers.
fn generalised_iou_with_unit(corners: [f32; 4]) -> f32 {
    let [x0, y0, x1, y1] = corners;
    let (intersection, union) = with_unit(corners);
    let hull = (x1.max(1.0) - x0.min(0.0)) * (y1.max(1.0) - y0.min(0.0));
    intersection / union - (hull - union) / hull
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_s_patch_fits_the_image_and_is_unlike_the_mean() {
        let boxes = [
            [0.5, 0.5, 1.0, 1.0],
            [0.5, 0.5, 0.95, 0.95],
            [0.1, 0.1, 0.1, 0.1],
        ];
        let embeds = Embeddings::new(vec![2.0, 0.0, 0.0, 1.0, 2.0, 0.1], 2);
        // The first two fit; the mean points along x.
        assert_eq!(fitting_patch(&boxes, &embeds), 1);
    }

    #[test]
    fn boxes_beside_the_image_are_told_apart_by_their_distance() {
        let boxes = [[3.0, 3.0, 0.1, 0.1], [1.2, 0.5, 0.1, 0.1]];
        let embeds = Embeddings::new(vec![1.0, 0.0, 0.0, 1.0], 2);
        assert!(boxes.iter().all(|&b| iou_with_unit(corners(b)) == 0.0));
        // All IoUs are 0 and generalised ones negative: 80 % of the best is above the best, as in the
        // reference, whose selection is then empty; the first patch stands in.
        assert_eq!(fitting_patch(&boxes, &embeds), 0);
    }
}

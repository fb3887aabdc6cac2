//! One image batch: prompts, rounds of clicks, the loss.
//!
//! The recipe of SAM (Kirillov et al. 2023, appendix A): a first prompt that is a point or a noisy box, then rounds that
//! each add a point where the answer was wrong and feed the answer back as a mask.

use burn::tensor::{Int, Tensor, TensorData};
use fastrand::Rng;
use maskmill_job::{LossSettings, TrainingPrompts};
use maskmill_masks::{Bitmap, ImageSize};
use maskmill_pixels::RgbImage;
use maskmill_sam::{PointLabel, PromptPoints, TrainableSam};
use maskmill_weights::to_host;
use rayon::prelude::*;

use crate::clicks::{noisy_box, random_error, random_inside};
use crate::losses::{RoundLoss, RoundTargets, round_loss};
use crate::pixels::PixelQueries;

/// An image as the model takes it, before padding, and masks in its frame: what threads can make ahead.
#[derive(Clone, Debug)]
pub struct TrainingImage {
    /// Its key, for messages.
    pub key: String,
    /// At most the model's side in either direction.
    pub image: RgbImage,
    /// In the image's frame, of its size or zero-padded to the model's; none empty.
    pub masks: Vec<Bitmap>,
    /// The masks at the decoder's resolution, row-major.
    low_res: Vec<Vec<bool>>,
}

impl TrainingImage {
    /// `image_size` is the side of the model's input, `side` that of its low-resolution masks.
    pub fn new(
        key: String,
        image: RgbImage,
        masks: Vec<Bitmap>,
        [image_size, side]: [usize; 2],
    ) -> Self {
        let low_res = masks.iter();
        let low_res = low_res.map(|mask| low_res_target(mask, side, image_size / side));
        Self {
            low_res: low_res.collect(),
            key,
            image,
            masks,
        }
    }
}

/// What is asked first, in pixels of the model's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum First {
    /// A point on the object, x and y.
    Point([f64; 2]),
    /// A box around it, x0, y0, x1, y1.
    Box([f64; 4]),
}

/// A prompt whose clicks are all known beforehand.
#[derive(Clone, Debug)]
pub struct GivenPrompt {
    /// The first prompt.
    pub first: First,
    /// The mask that is asked for, in the image's frame.
    pub mask: Bitmap,
    /// The click of each later round.
    pub clicks: Vec<([f64; 2], PointLabel)>,
}

/// Where later clicks come from.
enum Later {
    /// Drawn from what is wrong.
    Drawn(Rng),
    /// Given, in order.
    Given(std::vec::IntoIter<([f64; 2], PointLabel)>),
}

/// One object that the model is asked for.
struct Asked {
    first: First,
    /// Its mask at the decoder's resolution, row-major.
    target: Vec<bool>,
    /// Clicks so far, the first prompt's point included.
    clicks: Vec<([f64; 2], PointLabel)>,
    later: Later,
}

impl Asked {
    fn new(first: First, target: Vec<bool>, later: Later) -> Self {
        Self {
            clicks: match first {
                First::Point(xy) => vec![(xy, PointLabel::Foreground)],
                First::Box(_) => Vec::new(),
            },
            first,
            target,
            later,
        }
    }
}

/// The loss of a batch, `[1]` each: means over the rounds.
pub struct BatchLoss {
    /// What is minimised.
    pub total: Tensor<1>,
    /// Focal, dice and IoU parts, unweighted.
    pub parts: [Tensor<1>; 3],
}

/// A batch of images with the same number of prompts each, drawn and on its way to the model.
pub struct Batch {
    images: Vec<RgbImage>,
    asked: Vec<Asked>,
    prompts_per_image: usize,
    pixels: Option<PixelQueries>,
    side: usize,
    stride: usize,
}

/// What is asked about an image.
type AboutImage = (Option<PixelQueries>, Vec<Asked>);

impl Batch {
    /// Draws the prompts: `settings.masks_per_image` of each image, the same mask more than once where it has fewer.
    ///
    /// `image_size` is the side of the model's input, `side` that of its low-resolution masks. The result is a function of
    /// the arguments alone.
    ///
    /// # Panics
    /// If an image has no mask, or an empty one.
    pub fn draw(
        images: Vec<TrainingImage>,
        settings: &TrainingPrompts,
        [image_size, side]: [usize; 2],
        seed: u64,
    ) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rngs: Vec<Rng> = images.iter().map(|_| rng.fork()).collect();
        let mut batch = Self::empty(settings.masks_per_image as usize, [image_size, side]);
        let drawn = images.par_iter().zip(rngs);
        let drawn = drawn.map(|(image, rng)| drawn_about(image, settings, rng));
        let (pixels, asked): (Vec<_>, Vec<_>) = drawn.collect::<Vec<_>>().into_iter().unzip();
        batch.pixels = pixels.into_iter().flatten().reduce(PixelQueries::and);
        batch.asked = asked.into_iter().flatten().collect();
        batch.images = images.into_iter().map(|image| image.image).collect();
        batch
    }

    /// Prompts whose clicks are known beforehand, as many for each image.
    ///
    /// # Panics
    /// If images have different numbers of prompts.
    pub fn given(images: Vec<(RgbImage, Vec<GivenPrompt>)>, sides: [usize; 2]) -> Self {
        let mut batch = Self::empty(images.first().map_or(0, |(_, asked)| asked.len()), sides);
        for (image, prompts) in images {
            assert_eq!(
                prompts.len(),
                batch.prompts_per_image,
                "prompts of an image"
            );
            for prompt in prompts {
                let later = Later::Given(prompt.clicks.into_iter());
                let target = low_res_target(&prompt.mask, batch.side, batch.stride);
                batch.asked.push(Asked::new(prompt.first, target, later));
            }
            batch.images.push(image);
        }
        batch
    }

    fn empty(prompts_per_image: usize, [image_size, side]: [usize; 2]) -> Self {
        Self {
            images: Vec::new(),
            asked: Vec::new(),
            prompts_per_image,
            pixels: None,
            side,
            stride: image_size / side,
        }
    }

    /// Its images, each at most of the model's side.
    pub fn images(&self) -> &[RgbImage] {
        &self.images
    }

    /// Prompts in it.
    pub fn prompts(&self) -> usize {
        self.asked.len()
    }

    /// The images' embeddings as the model is now, `[images, grid, grid, dim]`.
    pub fn encode(&self, sam: &TrainableSam) -> Tensor<4> {
        let images: Vec<&RgbImage> = self.images.iter().collect();
        sam.encode(sam.normalised(&images))
    }

    /// Asks, clicks and asks again; the loss of all rounds.
    ///
    /// `embeddings`: `[images, grid, grid, dim]`, of [`Batch::encode`] or kept from before.
    pub fn loss(
        mut self,
        sam: &TrainableSam,
        embeddings: Tensor<4>,
        settings: &TrainingPrompts,
        losses: &LossSettings,
    ) -> BatchLoss {
        let (prompts, side) = (self.asked.len(), self.side);
        let pixels = self.pixels.take();
        let pixels = pixels.map(|pixels| pixels.loss(sam, embeddings.clone()));
        let embeddings = repeated(embeddings, self.prompts_per_image);
        let device = sam.device();
        let masks = TensorData::new(self.targets(), [prompts, 1, side * side]);
        let masks = Tensor::<3>::from_data(masks, device);
        let mask_tokens = sam.architecture().mask_tokens;
        let rounds = settings.rounds as usize + 1;
        let mut sum: Option<RoundLoss> = None;
        let mut feedback: Option<Tensor<4>> = None;
        for round in 0..rounds {
            let allowed = self.allowed(round, settings.multimask, mask_tokens);
            let answer = sam.decode(embeddings.clone(), &self.points(), feedback.take());
            let logits = answer
                .low_res_logits
                .reshape([prompts, mask_tokens, side * side]);
            if round + 1 < rounds {
                let chosen = self.click(&logits, &answer.predicted_iou, &allowed);
                feedback = Some(chosen.reshape([prompts, side, side, 1]));
            }
            let shape = [prompts, mask_tokens];
            let targets = RoundTargets {
                masks: masks.clone(),
                allowed: Tensor::from_data(TensorData::new(allowed, shape), device),
            };
            let loss = round_loss(logits, answer.predicted_iou, &targets, losses);
            sum = Some(match sum {
                None => loss,
                Some(sum) => added(sum, loss),
            });
        }
        let sum = sum.expect("there is a first round");
        let mean = |x: Tensor<1>| x.div_scalar(rounds as f64);
        let prompted = mean(sum.total);
        BatchLoss {
            total: match pixels {
                Some(pixels) => prompted + pixels.mul_scalar(losses.pixels),
                None => prompted,
            },
            parts: [sum.focal, sum.dice, sum.iou].map(mean),
        }
    }

    /// The masks that are asked for, row-major `[prompts, side, side]`: 1 inside and 0 outside.
    fn targets(&self) -> Vec<f32> {
        let pixels = self.side * self.side;
        let mut values = vec![0.0; self.asked.len() * pixels];
        let each = values.par_chunks_exact_mut(pixels).zip(&self.asked);
        each.for_each(|(values, asked)| {
            for (value, inside) in values.iter_mut().zip(&asked.target) {
                *value = f32::from(u8::from(*inside));
            }
        });
        values
    }

    /// Which mask tokens may answer: those of the multi-mask output for a single point, otherwise the single mask's. 1 or 0,
    /// `[prompts, mask tokens]`.
    fn allowed(&self, round: usize, multimask: bool, mask_tokens: usize) -> Vec<f32> {
        let several = |asked: &Asked| {
            multimask && round == 0 && matches!(asked.first, First::Point(_)) && mask_tokens > 1
        };
        let of = |asked: &Asked| {
            let several = several(asked);
            (0..mask_tokens).map(move |token| f32::from(u8::from((token > 0) == several)))
        };
        self.asked.iter().flat_map(of).collect()
    }

    /// As many for each prompt: clicks, then the corners of a box or the padding that stands for none.
    fn points(&self) -> Vec<PromptPoints> {
        let points = self.asked.iter().map(|asked| {
            let mut points: PromptPoints = asked.clicks.clone();
            match asked.first {
                First::Point(_) => points.push(([0.0, 0.0], PointLabel::Padding)),
                First::Box([x0, y0, x1, y1]) => {
                    points.push(([x0, y0], PointLabel::BoxTopLeft));
                    points.push(([x1, y1], PointLabel::BoxBottomRight));
                }
            }
            points
        });
        points.collect()
    }

    /// Adds to each prompt a click where its answer was wrong. The answer is that of the highest predicted IoU among those
    /// allowed; its logits, without gradients, are returned, `[prompts, pixels]`.
    fn click(
        &mut self,
        logits: &Tensor<3>,
        predicted_iou: &Tensor<2>,
        allowed: &[f32],
    ) -> Tensor<2> {
        let [prompts, tokens, pixels] = logits.dims();
        let predicted = predicted_iou.clone().without_autodiff();
        let predicted = to_host(predicted);
        let chosen = predicted
            .chunks_exact(tokens)
            .zip(allowed.chunks_exact(tokens))
            .enumerate()
            .map(|(prompt, (iou, allowed))| (prompt * tokens + best(iou, allowed)) as i64);
        let chosen = TensorData::new(chosen.collect::<Vec<_>>(), [prompts]);
        let inner = logits.clone().without_autodiff();
        let chosen = Tensor::<1, Int>::from_data(chosen, &inner.device());
        let answers = inner.reshape([prompts * tokens, pixels]).select(0, chosen);
        let values = to_host(answers.clone());
        let (side, stride) = (self.side, self.stride);
        let each = self
            .asked
            .par_iter_mut()
            .zip(values.par_chunks_exact(pixels));
        each.for_each(|(asked, answer)| {
            let drawn = match &mut asked.later {
                Later::Given(clicks) => clicks.next(),
                Later::Drawn(rng) => {
                    let inside = answer.iter().map(|logit| *logit > 0.0);
                    let error = random_error(inside, &asked.target, rng);
                    error.map(|(index, inside)| {
                        let label = match inside {
                            true => PointLabel::Foreground,
                            false => PointLabel::Background,
                        };
                        (centre(index, side, stride), label)
                    })
                }
            };
            // Where there is nothing to add, the last click again.
            let nothing = ([0.0, 0.0], PointLabel::Padding);
            let click = drawn.or(asked.clicks.last().copied()).unwrap_or(nothing);
            asked.clicks.push(click);
        });
        answers.autodiff()
    }
}

/// The centre of a low-resolution pixel, x and y in pixels of the model's input.
fn centre(index: usize, side: usize, stride: usize) -> [f64; 2] {
    let centre = |v: usize| (v as f64 + 0.5) * stride as f64 - 0.5;
    [centre(index % side), centre(index / side)]
}

/// The number of the highest predicted IoU among the allowed.
fn best(iou: &[f32], allowed: &[f32]) -> usize {
    let mut best: Option<usize> = None;
    for token in 0..iou.len() {
        if allowed[token] > 0.0 && best.is_none_or(|b| iou[token] > iou[b]) {
            best = Some(token);
        }
    }
    best.expect("at least one token is allowed")
}

fn added(a: RoundLoss, b: RoundLoss) -> RoundLoss {
    RoundLoss {
        total: a.total + b.total,
        focal: a.focal + b.focal,
        dice: a.dice + b.dice,
        iou: a.iou + b.iou,
    }
}

/// Each image's embedding once for each of its prompts.
fn repeated(embeddings: Tensor<4>, times: usize) -> Tensor<4> {
    let [images, height, width, dim] = embeddings.dims();
    embeddings
        .reshape([images, 1, height * width * dim])
        .expand([images, times, height * width * dim])
        .reshape([images * times, height, width, dim])
}

/// Draws the prompts about an image, and the pixels that are compared.
fn drawn_about(image: &TrainingImage, settings: &TrainingPrompts, mut rng: Rng) -> AboutImage {
    let pixels = match settings.pixels_per_image {
        0 => None,
        count => Some(PixelQueries::draw(
            &image.low_res,
            count as usize,
            &mut rng.fork(),
        )),
    };
    let mut order: Vec<usize> = (0..image.masks.len()).collect();
    rng.shuffle(&mut order);
    let prompts = order.iter().cycle().take(settings.masks_per_image as usize);
    let asked = prompts.map(|&mask| {
        let mut rng = rng.fork();
        let first = first_prompt(&image.masks[mask], image.image.size(), settings, &mut rng);
        Asked::new(first, image.low_res[mask].clone(), Later::Drawn(rng))
    });
    let asked = asked.collect();
    (pixels, asked)
}

fn first_prompt(
    mask: &Bitmap,
    size: ImageSize,
    settings: &TrainingPrompts,
    rng: &mut Rng,
) -> First {
    if rng.f64() < settings.box_probability {
        return First::Box(noisy_box(mask.bounds(), size, settings.box_noise, rng));
    }
    let [x, y] = random_inside(mask, rng).expect("masks of training images are not empty");
    First::Point([f64::from(x), f64::from(y)])
}

/// A mask at the decoder's resolution: the pixels of which at least half is inside, or the one that has most of it where
/// there is none. Row-major `[side, side]`.
fn low_res_target(mask: &Bitmap, side: usize, stride: usize) -> Vec<bool> {
    let size = mask.size();
    let mut counts = vec![0_usize; side * side];
    for y in 0..size.height {
        let row = &mut counts[(y as usize / stride) * side..];
        for (count, pixels) in row.iter_mut().zip(mask.row(y).chunks(stride)) {
            *count += pixels.iter().filter(|inside| **inside).count();
        }
    }
    let full = stride * stride;
    let mut target: Vec<bool> = counts.iter().map(|count| 2 * count >= full).collect();
    if !target.contains(&true) {
        let most = (0..counts.len()).max_by_key(|i| (counts[*i], usize::MAX - i));
        target[most.expect("masks have pixels")] = true;
    }
    target
}

//! Examples from the sources of a training file, drawn by number.

use std::path::Path;

use crossbeam_channel::{Receiver, bounded};
use fastrand::Rng;
use maskmill_examples::{
    Augmentation, Colour, Example, ExampleError, SampleOptions, Sampler, Source,
};
use maskmill_job as job;
use maskmill_masks::BoxPx;
use rayon::prelude::*;

use crate::error::TrainError;
use crate::step::TrainingImage;

/// Examples in a row that may be unusable before the data counts as wrong.
const TRIES: usize = 50;

/// The sources of a training file.
pub struct Data {
    sources: Vec<Weighted>,
}

struct Weighted {
    source: Source,
    /// How likely it is drawn from.
    weight: f64,
    /// The least part of an image that a mask covers.
    min_area: f64,
}

impl Weighted {
    fn example(&self, index: usize) -> Result<Example, ExampleError> {
        self.source.example_of_masks_from(index, self.min_area)
    }
}

/// An image in the model's frame, and where it comes from.
pub struct Drawn {
    /// The image and its masks.
    pub image: TrainingImage,
    /// Source and index: the same for the same example.
    pub place: (usize, usize),
    /// Problems of examples that were passed over on the way.
    pub skipped: Vec<String>,
}

impl Data {
    /// Opens every source; `setting` is their place in the training file, for errors.
    ///
    /// # Errors
    /// [`TrainError::Data`].
    pub fn open(data: &[job::TrainingData], setting: &str) -> Result<Self, TrainError> {
        let sources = data.iter().enumerate().map(|(i, data)| {
            let setting = format!("{setting}[{i}]");
            Ok(Weighted {
                source: open(&data.kind, setting)?,
                weight: data.weight,
                min_area: data.min_area,
            })
        });
        Ok(Self {
            sources: sources.collect::<Result<_, TrainError>>()?,
        })
    }

    /// The first `count` examples, of each source in proportion to its weight: the same ones every time. Examples that
    /// cannot be used are errors in their place.
    pub fn first(
        &self,
        count: usize,
    ) -> impl Iterator<Item = Result<Example, ExampleError>> + Send + '_ {
        let sources = self
            .sources
            .iter()
            .map(|from| (from.weight, from.source.len()));
        let places = first_places(count, &sources.collect::<Vec<_>>());
        places
            .into_iter()
            .map(|(source, index)| self.sources[source].example(index))
    }

    fn draw(&self, rng: &mut Rng) -> (usize, usize) {
        let weights: Vec<f64> = self.sources.iter().map(|from| from.weight).collect();
        let source = drawn_by(&weights, rng);
        (source, rng.usize(0..self.sources[source].source.len()))
    }

    /// The image of a number: a function of the data, the options and the number. Examples that cannot be used, and those
    /// of which a crop shows nothing, are passed over. `low_res_side` is the side of the decoder's masks.
    ///
    /// # Errors
    /// [`TrainError::NoExamples`].
    pub fn image(
        &self,
        sampler: &Sampler,
        low_res_side: usize,
        number: u64,
    ) -> Result<Drawn, TrainError> {
        let sides = [sampler.options().side as usize, low_res_side];
        let mut rng = Rng::with_seed(number);
        let mut skipped = Vec::new();
        for _ in 0..TRIES {
            let place = self.draw(&mut rng);
            match self.sources[place.0].example(place.1) {
                Err(error) => skipped.push(error.to_string()),
                Ok(example) => {
                    let sample = sampler.sample(&example, rng.u64(..));
                    if sample.masks.is_empty() {
                        skipped.push(format!("{}: no mask is large enough to see", example.key));
                        continue;
                    }
                    let content = BoxPx {
                        x0: 0,
                        y0: 0,
                        x1: sample.content.width,
                        y1: sample.content.height,
                    };
                    let image = sample.image.crop(content);
                    let image = TrainingImage::new(example.key, image, sample.masks, sides);
                    return Ok(Drawn {
                        image,
                        place,
                        skipped,
                    });
                }
            }
        }
        Err(TrainError::NoExamples {
            tries: skipped.len(),
            last: skipped.pop().unwrap_or_default(),
        })
    }
}

/// Batches of `images` images, made ahead by `threads` threads: of the batch of a number, `draw` makes those from that many
/// times `images` on. Ends when the receiver is dropped.
pub(crate) fn batches<'scope, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    draw: &'scope (impl Fn(u64) -> Result<T, TrainError> + Sync),
    images: usize,
    numbers: std::ops::Range<u64>,
    threads: usize,
) -> Receiver<Result<Vec<T>, TrainError>> {
    let (send, receive) = bounded(2);
    scope.spawn(move || {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads for reading images");
        for number in numbers {
            let batch = pool.install(|| {
                (0..images as u64)
                    .into_par_iter()
                    .map(|i| draw(number * images as u64 + i))
                    .collect()
            });
            if send.send(batch).is_err() {
                return;
            }
        }
    });
    receive
}

/// A place in `weights`, drawn by them.
pub(crate) fn drawn_by(weights: &[f64], rng: &mut Rng) -> usize {
    let total: f64 = weights.iter().sum();
    let mut at = rng.f64() * total;
    let drawn = weights.iter().position(|weight| {
        at -= weight;
        at < 0.0
    });
    drawn.unwrap_or(weights.len() - 1)
}

/// Source and index of `count` examples of sources with these weights and lengths, of each in proportion to its weight and
/// at an even distance.
pub(crate) fn first_places(count: usize, sources: &[(f64, usize)]) -> Vec<(usize, usize)> {
    let total: f64 = sources.iter().map(|(weight, _)| weight).sum();
    let places = sources
        .iter()
        .enumerate()
        .flat_map(|(source, &(weight, examples))| {
            let share = (count as f64 * weight / total).round() as usize;
            let share = share.clamp(1, examples);
            (0..share).map(move |i| (source, i * examples / share))
        });
    places.take(count.max(sources.len())).collect()
}

/// A seed of its own for each number.
pub(crate) fn mixed(seed: u64, number: u64) -> u64 {
    Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).u64(..)
}

/// The sampler of a training file, for a model of this side.
///
/// # Errors
/// [`TrainError::Augmentation`].
pub(crate) fn sampler(
    augmentation: &job::Augmentation,
    side: usize,
) -> Result<Sampler, TrainError> {
    let half = |on: bool| if on { 0.5 } else { 0.0 };
    let options = SampleOptions {
        augmentation: Augmentation {
            scale_jitter: augmentation.scale,
            horizontal_flip: half(augmentation.flip),
            vertical_flip: half(augmentation.vertical_flip),
            colour: Colour {
                brightness: augmentation.colour,
                contrast: augmentation.colour,
                saturation: augmentation.colour,
                grayscale: augmentation.grayscale,
                ..Colour::NONE
            },
            ..Augmentation::NONE
        },
        ..SampleOptions::new(u32::try_from(side).expect("sides are thousands at most"))
    };
    Ok(Sampler::new(options)?)
}

/// Whether every image is always the same.
pub(crate) fn unchanged(augmentation: &job::Augmentation) -> bool {
    augmentation.scale == [1.0, 1.0]
        && !augmentation.flip
        && !augmentation.vertical_flip
        && augmentation.colour == 0.0
        && augmentation.grayscale == 0.0
}

fn open(kind: &job::TrainingDataKind, setting: String) -> Result<Source, TrainError> {
    let opened = match kind {
        job::TrainingDataKind::Scenes {
            seed,
            count,
            scenes,
        } => Source::scenes(scenes.options(), *seed, *count as usize),
        job::TrainingDataKind::Sa1b { path } => Source::sa1b(Path::new(path)),
        job::TrainingDataKind::Coco {
            annotations,
            images,
        } => Source::coco(Path::new(annotations), Path::new(images)),
        job::TrainingDataKind::Maskmill { output, images } => {
            Source::maskmill(Path::new(output), Path::new(images))
        }
    };
    opened.map_err(|source| TrainError::Data { setting, source })
}

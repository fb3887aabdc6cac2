//! Milliseconds that a sample takes on one core: `cargo bench -p maskmill-examples`.
//!
//! Each row is the median over seeds, of an image with ten masks. The rows without augmentation are the baseline: decoding
//! and the resize of SAM's preprocessing are what cannot be saved.

use std::time::Instant;

use maskmill_examples::{Augmentation, Example, Sample, SampleOptions, Sampler};
use maskmill_masks::{Bitmap, ImageSize, Rle};
use maskmill_pixels::{RgbImage, longest_side, resize_bilinear};

const SEEDS: u64 = 41;

fn main() {
    println!("image      side  augmentation   ms (median of {SEEDS})   of it the resize alone");
    for (height, width) in [(512, 512), (1024, 1024), (1500, 2250)] {
        let example = example(ImageSize::new(height, width));
        for side in [256, 512, 1024] {
            let resize = median(|_| {
                let target = longest_side(example.image.size(), side);
                resize_bilinear(&example.image, target)
            });
            let everything = Augmentation {
                blur_px: 1.0,
                noise_levels: 5.0,
                ..Augmentation::PHOTOGRAPHS
            };
            for (name, augmentation) in [
                ("none", Augmentation::NONE),
                ("photographs", Augmentation::PHOTOGRAPHS),
                ("+ blur, noise", everything),
            ] {
                let options = SampleOptions {
                    augmentation,
                    ..SampleOptions::new(side)
                };
                let sampler = Sampler::new(options).expect("options in range");
                let taken = median(|seed| -> Sample { sampler.sample(&example, seed) });
                println!(
                    "{width:>4}x{height:<5} {side:>4}  {name:<13} {taken:>6.1}   {resize:>26.1}"
                );
            }
        }
    }
}

/// Ten wavy discs of a tenth to a third of the image.
fn example(size: ImageSize) -> Example {
    let mut data = Vec::with_capacity(size.pixels() as usize * 3);
    for y in 0..size.height {
        for x in 0..size.width {
            data.extend([(x * 7 + y) as u8, (y * 5) as u8, (x ^ y) as u8]);
        }
    }
    let mask = |number: u32| {
        let side = f64::from(size.height.min(size.width));
        let radius = side * (0.05 + 0.012 * f64::from(number));
        let center_y = f64::from(size.height) * (0.2 + 0.06 * f64::from(number));
        let center_x = f64::from(size.width) * (0.15 + 0.07 * f64::from(number));
        let disc = Bitmap::from_fn(size, |y, x| {
            let (dy, dx) = (f64::from(y) - center_y, f64::from(x) - center_x);
            let wave = 1.0 + 0.1 * (12.0 * dy.atan2(dx)).sin();
            dy.hypot(dx) < radius * wave
        });
        Rle::encode(&disc)
    };
    Example {
        key: "discs".to_owned(),
        image: RgbImage::new(size, data).expect("three bytes a pixel"),
        masks: (0..10).map(mask).collect(),
        empty_masks: 0,
    }
}

/// The median time of `SEEDS` calls, in milliseconds.
fn median<T>(mut run: impl FnMut(u64) -> T) -> f64 {
    let mut times: Vec<f64> = (0..SEEDS)
        .map(|seed| {
            let start = Instant::now();
            std::hint::black_box(run(seed));
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

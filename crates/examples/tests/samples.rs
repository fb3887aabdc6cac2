//! Samples: the geometry of images and masks, SAM's preprocessing, determinism.

use maskmill_examples::{Augmentation, Colour, Example, Sample, SampleOptions, Sampler};
use maskmill_masks::{Bitmap, ImageSize, Rle};
use maskmill_pixels::{RgbImage, longest_side, resize_bilinear};

/// A blob with a hole and a tail that leaves the image; bright in the image, so that it can be told from the pixels.
fn is_blob(size: ImageSize, y: u32, x: u32) -> bool {
    let (y, x) = (f64::from(y) + 0.5, f64::from(x) + 0.5);
    let (height, width) = (f64::from(size.height), f64::from(size.width));
    let from = |cy: f64, cx: f64| ((y - cy * height).powi(2) + (x - cx * width).powi(2)).sqrt();
    let unit = height.min(width);
    let disc = from(0.45, 0.55) < 0.33 * unit && from(0.5, 0.6) > 0.12 * unit;
    let tail = (y - 0.2 * height - 0.1 * x).abs() < 0.08 * unit && x < 0.5 * width;
    disc || tail
}

/// The blob, and three dots of 2, 5 and 9 pixels a side.
fn example(size: ImageSize) -> Example {
    let blob = Bitmap::from_fn(size, |y, x| is_blob(size, y, x));
    let mut data = Vec::new();
    for y in 0..size.height {
        for x in 0..size.width {
            let level = if blob.get(y, x) { 220 } else { 40 };
            // Red and blue vary, green tells the blob.
            data.extend([(x % 200) as u8, level, (y % 150) as u8]);
        }
    }
    let dot = |side: u32| Bitmap::from_fn(size, |y, x| y < side && (10..10 + side).contains(&x));
    let masks = [blob, dot(2), dot(5), dot(9)];
    Example {
        key: "blob".to_owned(),
        image: RgbImage::new(size, data).unwrap(),
        masks: masks.iter().map(Rle::encode).collect(),
        empty_masks: 0,
    }
}

fn sampler(side: u32, augmentation: Augmentation) -> Sampler {
    let options = SampleOptions {
        augmentation,
        ..SampleOptions::new(side)
    };
    Sampler::new(options).unwrap()
}

fn green(sample: &Sample, y: u32, x: u32) -> u8 {
    sample.image.row(y)[x as usize * 3 + 1]
}

/// Whether all pixels within `radius` of one are alike in a mask.
fn is_clear(mask: &Bitmap, content: ImageSize, y: u32, x: u32, radius: u32) -> bool {
    let rows = y.saturating_sub(radius)..(y + radius + 1).min(content.height);
    rows.into_iter().all(|v| {
        let columns = x.saturating_sub(radius)..(x + radius + 1).min(content.width);
        columns
            .into_iter()
            .all(|u| mask.get(v, u) == mask.get(y, x))
    })
}

/// What disagrees between the blob's mask and the pixels, over all content: far from the outline, and in sum.
struct Disagreement {
    /// Pixels away from the outline; there must be none.
    clear: u32,
    /// Mask pixels that are dark, at the outline.
    too_large: u32,
    /// Bright pixels that are not of the mask, at the outline.
    too_small: u32,
    /// Pixels at the outline.
    outline: u32,
}

fn compare(sample: &Sample, radius: u32) -> Disagreement {
    let mut found = Disagreement {
        clear: 0,
        too_large: 0,
        too_small: 0,
        outline: 0,
    };
    let mask = &sample.masks[0];
    for y in 0..sample.content.height {
        for x in 0..sample.content.width {
            let (inside, bright) = (mask.get(y, x), green(sample, y, x) >= 130);
            if is_clear(mask, sample.content, y, x, radius) {
                found.clear += u32::from(inside != bright);
                continue;
            }
            found.outline += 1;
            found.too_large += u32::from(inside && !bright);
            found.too_small += u32::from(!inside && bright);
        }
    }
    found
}

const GEOMETRY: Augmentation = Augmentation {
    scale_jitter: [0.4, 2.5],
    least_crop: 0.6,
    horizontal_flip: 0.5,
    vertical_flip: 0.5,
    ..Augmentation::NONE
};

#[test]
fn masks_stay_on_their_pixels() {
    let (mut mirrored, mut padded, mut too_large, mut too_small, mut outline) = (0, 0, 0, 0, 0);
    for size in [
        ImageSize::new(300, 451),
        ImageSize::new(517, 233),
        ImageSize::new(90, 70),
    ] {
        let example = example(size);
        let sampler = sampler(192, GEOMETRY);
        for seed in 0..60 {
            let sample = sampler.sample(&example, seed);
            if sample.mask_indices.first() != Some(&0) {
                continue;
            }
            // Enlarged pixels are squares in the mask and a ramp in the image: apart by half an original pixel at most.
            let enlarged = 2.5 * 192.0 / f64::from(size.height.max(size.width)) / 0.6;
            let radius = 1 + (enlarged / 2.0).ceil() as u32;
            let found = compare(&sample, radius);
            assert_eq!(found.clear, 0, "{size}, seed {seed}");
            too_large += found.too_large;
            too_small += found.too_small;
            outline += found.outline;
            padded += u32::from(sample.content.height.max(sample.content.width) < 192);
            // The stripes of red go up from left to right, unless mirrored.
            let (left, right) = (sample.image.row(0)[3], sample.image.row(0)[6]);
            mirrored += u32::from(left > right);
        }
    }
    // Nearly all of the outline agrees, and what does not errs to both sides alike.
    assert!(outline > 50_000, "{outline}");
    assert!(
        too_large + too_small < outline / 10,
        "{too_large} + {too_small} of {outline}"
    );
    assert!(
        too_large.abs_diff(too_small) < outline / 50,
        "{too_large}, {too_small}"
    );
    assert!((40..140).contains(&mirrored), "{mirrored}");
    assert!(padded > 20, "{padded}");
}

#[test]
fn without_augmentation_it_is_sam_s_preprocessing() {
    for size in [
        ImageSize::new(300, 451),
        ImageSize::new(90, 70),
        ImageSize::new(256, 100),
    ] {
        let example = example(size);
        let sample = sampler(256, Augmentation::NONE).sample(&example, 7);
        let content = longest_side(size, 256);
        assert_eq!(sample.content, content);
        let resized = resize_bilinear(&example.image, content);
        for y in 0..256 {
            let (shown, padding) = sample.image.row(y).split_at(content.width as usize * 3);
            assert!(padding.iter().all(|&level| level == 0));
            match y < content.height {
                true => assert_eq!(shown, resized.row(y)),
                false => assert!(shown.iter().all(|&level| level == 0)),
            }
        }
        assert!(sample.masks.iter().all(|mask| {
            let bounds = mask.bounds();
            mask.size() == ImageSize::new(256, 256)
                && bounds.y1 <= content.height
                && bounds.x1 <= content.width
        }));
        assert_eq!(compare(&sample, 1 + 256 / size.height.min(256)).clear, 0);
    }
}

#[test]
fn an_image_of_the_model_s_size_keeps_its_masks() {
    let example = example(ImageSize::new(120, 192));
    let sample = sampler(192, Augmentation::NONE).sample(&example, 0);
    assert_eq!(
        sample.mask_indices,
        [0, 2, 3],
        "4 pixels are too few to see"
    );
    for (mask, &index) in sample.masks.iter().zip(&sample.mask_indices) {
        let original = example.masks[index].decode();
        for y in 0..120 {
            assert_eq!(mask.row(y)[..192], *original.row(y));
        }
        assert_eq!(mask.area(), original.area());
    }
}

#[test]
fn a_flip_is_the_mirror_image_and_nothing_else() {
    let example = example(ImageSize::new(300, 451));
    let plain = sampler(128, Augmentation::NONE).sample(&example, 1);
    let ImageSize { height, width } = plain.content;
    let flipped = |horizontal_flip, vertical_flip| {
        let augmentation = Augmentation {
            horizontal_flip,
            vertical_flip,
            ..Augmentation::NONE
        };
        sampler(128, augmentation).sample(&example, 1)
    };
    for (horizontal, vertical) in [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
        let sample = flipped(horizontal, vertical);
        assert_eq!(sample.content, plain.content);
        assert_eq!(sample.mask_indices, plain.mask_indices);
        for y in 0..height {
            for x in 0..width {
                let from = |at, length, flip| if flip == 1.0 { length - 1 - at } else { at };
                let (v, u) = (from(y, height, vertical), from(x, width, horizontal));
                let pixel = |sample: &Sample, y: u32, x: u32| {
                    sample.image.row(y)[x as usize * 3..][..3].to_vec()
                };
                assert_eq!(pixel(&sample, y, x), pixel(&plain, v, u));
                for (mask, original) in sample.masks.iter().zip(&plain.masks) {
                    assert_eq!(mask.get(y, x), original.get(v, u));
                }
            }
        }
    }
}

#[test]
fn a_seed_gives_one_sample_and_another_seed_another() {
    let example = example(ImageSize::new(200, 331));
    let everything = Augmentation {
        blur_px: 1.5,
        noise_levels: 6.0,
        ..Augmentation::PHOTOGRAPHS
    };
    let sampler = sampler(128, everything);
    let samples: Vec<Sample> = (0..6).map(|seed| sampler.sample(&example, seed)).collect();
    for (seed, sample) in samples.iter().enumerate() {
        assert_eq!(*sample, sampler.sample(&example, seed as u64));
        assert!(samples[..seed].iter().all(|other| other != sample));
    }
}

#[test]
fn colours_blur_and_noise_leave_geometry_alone() {
    let example = example(ImageSize::new(200, 331));
    let plain = sampler(128, GEOMETRY);
    let coloured = sampler(
        128,
        Augmentation {
            colour: Colour {
                brightness: 0.3,
                contrast: 0.3,
                saturation: 0.3,
                channel_gain: 0.1,
                grayscale: 0.3,
            },
            blur_px: 2.0,
            noise_levels: 10.0,
            ..GEOMETRY
        },
    );
    for seed in 0..10 {
        let (plain, coloured) = (
            plain.sample(&example, seed),
            coloured.sample(&example, seed),
        );
        assert_eq!(plain.masks, coloured.masks);
        assert_eq!(plain.content, coloured.content);
        assert_ne!(plain.image, coloured.image);
        // Padding stays black.
        let ImageSize { height, width } = coloured.content;
        for y in 0..128 {
            let shown = if y < height { width as usize * 3 } else { 0 };
            assert!(
                coloured.image.row(y)[shown..]
                    .iter()
                    .all(|&level| level == 0)
            );
        }
    }
}

#[test]
fn a_frame_that_shows_no_mask_is_drawn_again() {
    // One small object in a corner of a large image.
    let size = ImageSize::new(600, 900);
    let object = Bitmap::from_fn(size, |y, x| y < 40 && x >= 860);
    let example = Example {
        masks: vec![Rle::encode(&object)],
        ..example(size)
    };
    // So much enlarged that hardly a crop shows it, and so much reduced that nobody would see it.
    for scale_jitter in [[3.0, 4.0], [0.4, 0.4]] {
        let augmentation = Augmentation {
            scale_jitter,
            ..Augmentation::NONE
        };
        let sampler = sampler(128, augmentation);
        for seed in 0..40 {
            assert_eq!(sampler.sample(&example, seed).mask_indices, [0], "{seed}");
        }
    }
}

#[test]
fn objects_that_are_never_large_enough_give_a_sample_without_masks() {
    let size = ImageSize::new(600, 900);
    let speck = Bitmap::from_fn(size, |y, x| y < 3 && x < 3);
    let example = Example {
        masks: vec![Rle::encode(&speck)],
        ..example(size)
    };
    let sample = sampler(128, Augmentation::PHOTOGRAPHS).sample(&example, 0);
    assert_eq!(sample.masks, []);
    assert_eq!(sample.mask_indices, [0_usize; 0]);
}

#[test]
fn the_smallest_images_and_the_thinnest_are_sampled() {
    for (height, width) in [(1, 1), (1, 700), (700, 1), (2, 3)] {
        let size = ImageSize::new(height, width);
        let full = Bitmap::from_fn(size, |_, _| true);
        let example = Example {
            key: size.to_string(),
            image: RgbImage::new(size, vec![9; size.pixels() as usize * 3]).unwrap(),
            masks: vec![Rle::encode(&full)],
            empty_masks: 0,
        };
        for seed in 0..20 {
            let sample = sampler(64, GEOMETRY).sample(&example, seed);
            assert_eq!(
                sample.masks[0].area(),
                sample.content.pixels(),
                "{size}, {seed}"
            );
        }
    }
}

#[test]
fn options_out_of_range_are_named() {
    let options = SampleOptions {
        side: 8,
        augmentation: Augmentation {
            horizontal_flip: 2.0,
            ..Augmentation::NONE
        },
        ..SampleOptions::new(8)
    };
    let error = Sampler::new(options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the options of samples cannot be used: horizontal_flip = 2 is outside [0, 1]; side = 8 is outside [16, 4096]"
    );
}

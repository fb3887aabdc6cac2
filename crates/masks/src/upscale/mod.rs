//! From a decoder's low-resolution logits to a mask of the whole image.
//!
//! The reference upscales twice, bilinearly: to the model's square input, whose padding it cuts off, then to the
//! original image. It holds every upscaled mask in memory, and passes over it for the stability score, the threshold,
//! the box and the run lengths. [`Upscaler::scan`] makes one pass that holds sixteen columns of a few rows at a time,
//! and gives the same bits as [`Upscaler::logits`], the plain version.
//!
//! # Why most pixels are never computed
//! Bilinear values lie between the four they are made from. So a tile of the image whose source logits are all on one
//! side of a threshold is on that side too, and only tiles that a mask's outline passes are computed: the cost follows
//! the outline, not the area. Rounding can carry a value past its neighbours by a few units in the last place; [`slack`]
//! covers it many times over, so the shortcut never decides differently than the arithmetic would.

mod scan;
mod taps;
mod tiles;

use crate::{BoxPx, ImageSize, Rle, StabilityCounts};
use scan::{BAND_ROWS, LANES, Stripe};
use taps::{Tap, bilinear_taps};
use tiles::{Levels, Tiling};

/// Upscales mask logits to one image; reusable for all masks of images of the same size.
///
/// Follows `Sam.postprocess_masks` (segment-anything) in f32: `F.interpolate(mode="bilinear", align_corners=False)`
/// without antialiasing, twice.
///
/// Source positions and weights are PyTorch's to the bit. PyTorch's AVX2 and AVX-512 kernels fuse one multiplication with
/// each addition; this rounds both, so that results do not depend on the CPU. The difference is in the last places:
/// below 1e-6 of the largest logit.
#[derive(Clone, Debug)]
pub struct Upscaler {
    low_res: ImageSize,
    input: ImageSize,
    original: ImageSize,
    /// Model rows from low-resolution rows, and original rows from model rows.
    rows: [Vec<Tap>; 2],
    /// The same for columns.
    columns: [Vec<Tap>; 2],
    tiling: Tiling,
    stripes: Vec<Stripe>,
}

/// The thresholds of a scan, in logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScanOptions {
    /// A pixel is inside the mask if its logit is above this: `mask_threshold`, 0 for SAM.
    pub threshold: f32,
    /// How far the threshold is raised and lowered for the stability score: `stability_score_offset`, 1 by default.
    pub stability_offset: f32,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            threshold: 0.0,
            stability_offset: 1.0,
        }
    }
}

/// A mask at the size of the image, and what was counted on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Pixels above `threshold + stability_offset`.
    pub above: u64,
    /// Pixels above `threshold - stability_offset`.
    pub below: u64,
    /// Pixels above `threshold`: the area of the mask.
    pub area: u64,
    /// The box around the mask; empty if the mask is.
    pub bounds: BoxPx,
    /// The mask.
    pub rle: Rle,
}

impl Scan {
    /// The stability score: see [`stability_score`](crate::stability_score).
    pub fn stability_score(&self) -> f32 {
        crate::stability_score(self.above, self.below)
    }
}

impl Upscaler {
    /// Prepares the upscaling to one image.
    ///
    /// - `low_res`: size of the decoder's logits, 256x256 for SAM
    /// - `model_side`: side of the model's square input, `image_size`, 1024 for SAM, in pixels
    /// - `input`: the resized, unpadded image that fills the input's top left corner, in pixels
    /// - `original`: the image, or the crop of it that the model saw, in pixels
    ///
    /// # Panics
    /// If a size is 0, `input` is larger than the model's side, or `original` has more than `u32::MAX` pixels.
    pub fn new(low_res: ImageSize, model_side: u32, input: ImageSize, original: ImageSize) -> Self {
        for (name, size) in [
            ("low-resolution logits", low_res),
            ("model input", input),
            ("original image", original),
        ] {
            assert!(
                size.pixels() > 0,
                "the {name} are {size}: nothing to upscale"
            );
        }
        assert!(
            input.height.max(input.width) <= model_side,
            "an input of {input} does not fit the model's side of {model_side}"
        );
        assert!(
            original.pixels() <= u64::from(u32::MAX),
            "an image of {original} has more pixels than run lengths of 32 bits can hold"
        );
        let axis = |low_res, input, original| {
            let mut to_model = bilinear_taps(low_res, model_side);
            to_model.truncate(input as usize); // the padding is cut off here
            [to_model, bilinear_taps(input, original)]
        };
        let rows = axis(low_res.height, input.height, original.height);
        let columns = axis(low_res.width, input.width, original.width);
        let tiling = Tiling::new(&rows, &columns, BAND_ROWS, LANES);
        let stripes = tiling
            .stripes
            .iter()
            .map(|span| Stripe::new(&columns, span.image.clone()))
            .collect();
        Self {
            low_res,
            input,
            original,
            tiling,
            stripes,
            rows,
            columns,
        }
    }

    /// Size of the logits that go in.
    pub fn low_res(&self) -> ImageSize {
        self.low_res
    }

    /// Size of the masks that come out.
    pub fn original(&self) -> ImageSize {
        self.original
    }

    /// All logits at the size of the image: the plain version, for those who want logits, and to test the others.
    ///
    /// # Shapes
    /// - `low_res`: `[low_res.height, low_res.width]`, row-major
    /// - output: `[original.height, original.width]`, row-major
    ///
    /// # Panics
    /// If `low_res` has another length.
    pub fn logits(&self, low_res: &[f32]) -> Vec<f32> {
        self.check(low_res);
        let (low_width, input_width) = (self.low_res.width as usize, self.input.width as usize);
        let model = resize(low_res, low_width, &self.rows[0], &self.columns[0]);
        resize(&model, input_width, &self.rows[1], &self.columns[1])
    }

    /// The mask, its box and area, and the counts of its stability score, in one pass that never holds the upscaled
    /// logits.
    ///
    /// Bit-identical to thresholding [`logits`](Self::logits), NaN and infinite logits included: NaN is outside.
    ///
    /// # Shapes
    /// - `low_res`: `[low_res.height, low_res.width]`, row-major
    ///
    /// # Panics
    /// If `low_res` has another length.
    pub fn scan(&self, low_res: &[f32], options: ScanOptions) -> Scan {
        let low_res = self.rows_read(low_res);
        self.scan_mask(low_res, &Levels::new(options, slack(low_res)))
    }

    /// The counts of the stability score alone: [`scan`](Self::scan) without the mask, for masks that their score may
    /// still reject. About an eighth cheaper.
    ///
    /// # Shapes
    /// - `low_res`: `[low_res.height, low_res.width]`, row-major
    ///
    /// # Panics
    /// If `low_res` has another length.
    pub fn counts(&self, low_res: &[f32], options: ScanOptions) -> StabilityCounts {
        let low_res = self.rows_read(low_res);
        self.scan_counts(low_res, &Levels::new(options, slack(low_res)))
    }

    /// The rows of one mask's logits that the image is made from: the padding's rows, at the bottom, change nothing.
    fn rows_read<'a>(&self, low_res: &'a [f32]) -> &'a [f32] {
        self.check(low_res);
        &low_res[..self.tiling.low_res_rows() * self.low_res.width as usize]
    }

    fn check(&self, low_res: &[f32]) {
        assert_eq!(
            low_res.len() as u64,
            self.low_res.pixels(),
            "the logits of one mask must be {}",
            self.low_res
        );
    }
}

/// Bilinear resize in PyTorch's order: each row is interpolated across, then two rows are interpolated down.
fn resize(source: &[f32], source_width: usize, rows: &[Tap], columns: &[Tap]) -> Vec<f32> {
    let across = |y: u32, column: &Tap| {
        let row = &source[y as usize * source_width..][..source_width];
        column.lerp(row[column.near as usize], row[column.far as usize])
    };
    rows.iter()
        .flat_map(|row| {
            columns
                .iter()
                .map(move |column| row.lerp(across(row.near, column), across(row.far, column)))
        })
        .collect()
}

/// How far a value of the two interpolations may lie beyond the range of the logits it is made from, by rounding.
///
/// A value is a convex combination through four interpolations. Each multiplies twice and adds once, and its weights
/// add up to 1 within 2^-25, so each carries a relative error of `M` below 2.5 * 2^-24 and the four below 2^-20, where
/// `M` is the largest logit. 2^-18 leaves room for the rounding of the comparison itself, and the smallest normal number
/// for underflow. Where a value might overflow, or is not a number, the slack is infinite: nothing is decided early.
fn slack(low_res: &[f32]) -> f32 {
    const ROUNDING: f32 = 1.0 / (1 << 18) as f32;
    const FAR_FROM_OVERFLOW: f32 = 1e30;
    // Without their signs floats are in the order of their bits, NaN last: integers, for a loop that vectorises.
    let magnitudes = low_res
        .iter()
        .map(|logit| logit.abs().to_bits().cast_signed());
    let largest = f32::from_bits(magnitudes.fold(0, i32::max).cast_unsigned());
    if largest < FAR_FROM_OVERFLOW {
        largest * ROUNDING + f32::MIN_POSITIVE
    } else {
        f32::INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bitmap, stability_counts};
    use proptest::prelude::*;

    /// What [`Upscaler::scan`] must return, from the logits.
    fn scan_of_logits(upscaler: &Upscaler, low_res: &[f32], options: ScanOptions) -> Scan {
        let logits = upscaler.logits(low_res);
        let size = upscaler.original();
        let inside = |y, x| logits[(y * size.width + x) as usize] > options.threshold;
        let mask = Bitmap::from_fn(size, inside);
        let counts = stability_counts(&logits, options.threshold, options.stability_offset);
        Scan {
            above: counts.above,
            below: counts.below,
            area: mask.area(),
            bounds: mask.bounds(),
            rle: Rle::encode(&mask),
        }
    }

    fn check(upscaler: &Upscaler, low_res: &[f32], options: ScanOptions) -> Scan {
        let scan = upscaler.scan(low_res, options);
        assert_eq!(scan, scan_of_logits(upscaler, low_res, options));
        let counts = upscaler.counts(low_res, options);
        assert_eq!((counts.above, counts.below), (scan.above, scan.below));
        scan
    }

    /// A disc of positive logits, steep at its outline.
    fn disc(size: ImageSize, radius: f32) -> Vec<f32> {
        let centre = [size.height as f32 * 0.4, size.width as f32 * 0.6];
        (0..size.height)
            .flat_map(|y| (0..size.width).map(move |x| [y as f32, x as f32]))
            .map(|[y, x]| (radius - (y - centre[0]).hypot(x - centre[1])) * 2.0)
            .collect()
    }

    #[test]
    fn an_unchanged_size_changes_nothing() {
        let size = ImageSize::new(4, 4);
        let low_res: Vec<f32> = (0..16u8).map(|i| f32::from(i) - 7.5).collect();
        assert_eq!(Upscaler::new(size, 4, size, size).logits(&low_res), low_res);
    }

    #[test]
    fn the_padding_is_cut_off() {
        let input = ImageSize::new(2, 4);
        let upscaler = Upscaler::new(ImageSize::new(4, 4), 4, input, input);
        let low_res: Vec<f32> = (0..16u8).map(f32::from).collect();
        assert_eq!(upscaler.logits(&low_res), low_res[..8]);
    }

    #[test]
    fn a_disc_at_the_size_of_a_photo() {
        let low_res = ImageSize::new(64, 64);
        let photo = ImageSize::new(300, 451);
        let upscaler = Upscaler::new(low_res, 256, ImageSize::new(170, 256), photo);
        let scan = check(&upscaler, &disc(low_res, 9.0), ScanOptions::default());
        // The disc's radius in the photo is 9 * 451 / 64 pixels.
        let radius = 9.0 * 451.0 / 64.0;
        let area = std::f64::consts::PI * radius * radius;
        assert!(
            (scan.area as f64 / area - 1.0).abs() < 0.01,
            "{}",
            scan.area
        );
        // The logits fall by 2 per low-resolution pixel, so the offset of 1 moves the outline by half of one.
        assert!((scan.stability_score() - (8.5f32 / 9.5).powi(2)).abs() < 0.01);
    }

    #[test]
    fn images_smaller_than_the_input_and_of_extreme_shape() {
        let low_res = ImageSize::new(16, 16);
        let logits = disc(low_res, 4.0);
        for (input, original) in [
            ((40, 64), (7, 11)),
            ((64, 1), (5000, 1)),
            ((1, 64), (1, 5000)),
            ((64, 64), (1, 1)),
            ((1, 1), (3, 90)),
            ((64, 33), (129, 67)),
        ] {
            let size = |(height, width)| ImageSize::new(height, width);
            let upscaler = Upscaler::new(low_res, 64, size(input), size(original));
            check(&upscaler, &logits, ScanOptions::default());
        }
    }

    #[test]
    fn masks_that_are_nowhere_or_everywhere() {
        let low_res = ImageSize::new(16, 16);
        let photo = ImageSize::new(50, 37);
        let upscaler = Upscaler::new(low_res, 64, ImageSize::new(64, 47), photo);
        let scan = |logit| check(&upscaler, &[logit; 256], ScanOptions::default());
        assert_eq!(scan(-9.0).rle, Rle::empty(photo));
        assert!(scan(-9.0).stability_score().is_nan());
        assert_eq!(scan(9.0).bounds, BoxPx::of(photo));
        assert_eq!(scan(9.0).rle.counts(), [0, 50 * 37]);
        // On the threshold is outside; between the thresholds, only the lowered one is passed.
        assert_eq!(scan(0.0).area, 0);
        assert_eq!(scan(0.5).stability_score(), 0.0);
        assert_eq!(scan(f32::NAN).below, 0);
        assert_eq!(scan(f32::NEG_INFINITY).below, 0);
    }

    #[test]
    fn one_logit_makes_the_whole_mask() {
        let one = ImageSize::new(1, 1);
        let photo = ImageSize::new(33, 17);
        for upscaler in [
            Upscaler::new(one, 1, one, photo),
            Upscaler::new(one, 64, ImageSize::new(64, 41), photo),
            Upscaler::new(one, 1, one, one),
        ] {
            let scan = |logit| check(&upscaler, &[logit], ScanOptions::default());
            assert_eq!(scan(2.0).bounds, BoxPx::of(upscaler.original()));
            assert_eq!(scan(-2.0).rle, Rle::empty(upscaler.original()));
            for logit in [0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                scan(logit);
            }
        }
    }

    /// Logits of a disc whose outline is rough: many short runs, and tiles of every kind side by side.
    fn rough_disc(size: ImageSize, radius: f32) -> Vec<f32> {
        let mut random = 1u32;
        let mut logits = disc(size, radius);
        for logit in &mut logits {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *logit = logit.clamp(-15.0, 8.0) + (random >> 16) as f32 / 8192.0 - 4.0;
        }
        logits
    }

    #[test]
    fn a_rough_outline_at_the_size_of_a_photo() {
        let low_res = ImageSize::new(64, 64);
        let logits = rough_disc(low_res, 18.0);
        // Sides that are and are not whole numbers of tiles; enlarged, reduced, and stretched.
        for (input, original) in [
            ((171, 256), (375, 563)),
            ((256, 192), (512, 384)),
            ((256, 171), (161, 107)),
            ((1, 256), (431, 700)),
        ] {
            let size = |(height, width)| ImageSize::new(height, width);
            let upscaler = Upscaler::new(low_res, 256, size(input), size(original));
            for (threshold, stability_offset) in [(0.0, 1.0), (-3.5, 0.0), (0.5, -2.0)] {
                let options = ScanOptions {
                    threshold,
                    stability_offset,
                };
                check(&upscaler, &logits, options);
            }
        }
    }

    #[test]
    fn one_wild_logit_changes_what_it_touches_only() {
        let low_res = ImageSize::new(64, 64);
        let upscaler = Upscaler::new(
            low_res,
            256,
            ImageSize::new(171, 256),
            ImageSize::new(300, 451),
        );
        for wild in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            // In the mask, outside of it, on the edge of the image, and in the padding.
            for index in [25 * 64 + 38, 5 * 64 + 5, 0, 64 * 64 - 1] {
                let mut logits = rough_disc(low_res, 9.0);
                logits[index] = wild;
                check(&upscaler, &logits, ScanOptions::default());
            }
        }
    }

    #[test]
    fn rounding_next_to_a_threshold_is_not_decided_early() {
        // Equal logits whose weights do not add up to 1 to the bit, and thresholds within some units of them.
        let low_res = ImageSize::new(8, 8);
        let upscaler = Upscaler::new(low_res, 31, ImageSize::new(31, 23), ImageSize::new(77, 59));
        for logit in [0.1f32, 1.7, -3.3, 1000.1] {
            let mut threshold = logit;
            for _ in 0..4 {
                threshold = threshold.next_down();
            }
            for _ in 0..8 {
                let options = ScanOptions {
                    threshold,
                    stability_offset: 0.0,
                };
                check(&upscaler, &[logit; 64], options);
                threshold = threshold.next_up();
            }
        }
    }

    #[test]
    #[should_panic(expected = "the logits of one mask must be 4x4 (height x width)")]
    fn logits_of_another_size_are_a_bug() {
        let size = ImageSize::new(4, 4);
        Upscaler::new(size, 4, size, size).logits(&[0.0; 15]);
    }

    /// Logits mostly far from the threshold, so that tiles are decided early, with rare NaN and infinities.
    fn any_logits(count: usize) -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![
            20 => -12.0..4.0f32,
            20 => Just(-8.0f32),
            10 => Just(6.0f32),
            3 => Just(0.0f32),
        ];
        let wild = prop_oneof![
            Just(f32::NAN),
            Just(f32::INFINITY),
            Just(f32::NEG_INFINITY),
            Just(f32::MAX),
            Just(1e-44f32),
        ];
        let some = proptest::collection::vec((0..count, wild), 0..3);
        (proptest::collection::vec(logit, count), some, any::<bool>()).prop_map(
            |(mut logits, wild, tame)| {
                if !tame {
                    for (index, value) in wild {
                        logits[index] = value;
                    }
                }
                logits
            },
        )
    }

    prop_compose! {
        fn any_case()(
            (low_height, low_width) in (1u32..9, 1u32..9),
            model_side in 1u32..40,
        )(
            input in (1..=model_side, 1..=model_side),
            original in (1u32..70, 1u32..70),
            logits in any_logits((low_height * low_width) as usize),
            low_res in Just(ImageSize::new(low_height, low_width)),
            model_side in Just(model_side),
        ) -> (Upscaler, Vec<f32>) {
            let size = |(height, width)| ImageSize::new(height, width);
            (Upscaler::new(low_res, model_side, size(input), size(original)), logits)
        }
    }

    proptest! {
        #[test]
        fn a_scan_is_the_threshold_of_the_logits(
            (upscaler, logits) in any_case(),
            threshold in prop_oneof![
                8 => Just(0.0f32),
                8 => -8.0..6.0f32,
                1 => Just(f32::NAN),
                1 => Just(f32::INFINITY),
                1 => Just(f32::NEG_INFINITY),
            ],
            stability_offset in prop_oneof![
                8 => Just(1.0f32),
                8 => -3.0..3.0f32,
                1 => Just(f32::NAN),
                1 => Just(f32::INFINITY),
            ],
        ) {
            check(&upscaler, &logits, ScanOptions { threshold, stability_offset });
        }
    }
}

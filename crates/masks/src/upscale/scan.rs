//! One pass over the image in stripes of sixteen columns, each cut into bands of rows.
//!
//! ```text
//!              stripe: 16 columns
//!            +--------+--------+-----
//!  band:     | tile   |        |        source logits all on one side of each threshold -> counted, not computed
//!  16 rows   +--------+--------+-----
//!            |        | ###    |        otherwise, row by row:  low-res row -> model columns   (two rows kept)
//!            +--------+--------+-----                           model row   -> image columns   (two rows kept)
//!                                                               image row   -> counts, edges
//! ```
//!
//! A column of a stripe is one lane of the arrays below, so the compiler vectorises across columns. Down a column only
//! the rows at which the mask begins or ends are noted; the run lengths, which are column-major, follow from them.

use std::ops::Range;

use super::{Scan, ScanOptions, Tap, Upscaler};
use crate::StabilityCounts;
use crate::rle::RunBuilder;

/// Columns of the image that are computed together: four SSE registers, two of AVX2, or one of AVX-512.
const LANES: usize = 16;
/// Rows of the image whose source logits are examined together. Fewer rows decide more tiles early, at more cost each.
const BAND_ROWS: usize = 16;
/// Each lane reads at most two columns of the model's grid.
const SUPPORT: usize = 2 * LANES;

/// Some rows of the image, and the low-resolution rows that they are made from.
#[derive(Clone, Debug)]
pub(super) struct Band {
    rows: Range<usize>,
    low_rows: Range<usize>,
}

impl Band {
    /// All bands of an image, given `[low-resolution to model, model to image]` taps of its rows.
    pub(super) fn all([to_model, to_image]: &[Vec<Tap>; 2]) -> Vec<Self> {
        (0..to_image.len())
            .step_by(BAND_ROWS)
            .map(|start| {
                let rows = start..(start + BAND_ROWS).min(to_image.len());
                let first = to_image[rows.start].near as usize;
                let last = to_image[rows.end - 1].far as usize;
                Self {
                    rows,
                    low_rows: to_model[first].near as usize..to_model[last].far as usize + 1,
                }
            })
            .collect()
    }
}

/// Some columns of the image, and the columns that they are made from.
#[derive(Clone, Debug)]
pub(super) struct Stripe {
    /// Lanes that are columns of the image; less than [`LANES`] at its right edge only. The lanes beyond repeat the
    /// last column and are never counted.
    columns: usize,
    low_columns: Range<usize>,
    /// The columns of the model's grid that the lanes read, as taps of low-resolution columns.
    support: Vec<Tap>,
    /// The lanes, as taps of positions in `support`.
    lanes: [Tap; LANES],
}

impl Stripe {
    /// All stripes of an image, given `[low-resolution to model, model to image]` taps of its columns.
    pub(super) fn all([to_model, to_image]: &[Vec<Tap>; 2]) -> Vec<Self> {
        to_image
            .chunks(LANES)
            .map(|columns| {
                let mut read: Vec<u32> =
                    columns.iter().flat_map(|tap| [tap.near, tap.far]).collect();
                read.sort_unstable();
                read.dedup();
                let support: Vec<Tap> = read.iter().map(|&x| to_model[x as usize]).collect();
                let position = |x: u32| read.partition_point(|&other| other < x) as u32;
                let lanes = std::array::from_fn(|lane| {
                    let column = columns[lane.min(columns.len() - 1)];
                    Tap {
                        near: position(column.near),
                        far: position(column.far),
                        ..column
                    }
                });
                let (first, last) = (support[0], support[support.len() - 1]);
                Self {
                    columns: columns.len(),
                    low_columns: first.near as usize..last.far as usize + 1,
                    support,
                    lanes,
                }
            })
            .collect()
    }

    /// A low-resolution row at the columns of the model's grid that the stripe reads.
    fn to_model_columns(&self, low_row: &[f32]) -> [f32; SUPPORT] {
        let mut row = [0.0; SUPPORT];
        for (value, tap) in row.iter_mut().zip(&self.support) {
            *value = tap.lerp(low_row[tap.near as usize], low_row[tap.far as usize]);
        }
        row
    }

    /// A row of the model's grid at the columns of the image.
    fn to_image_columns(&self, model_row: &[f32; SUPPORT]) -> [f32; LANES] {
        std::array::from_fn(|lane| {
            let tap = &self.lanes[lane];
            // The remainders change nothing; they spare the bounds checks.
            tap.lerp(
                model_row[tap.near as usize % SUPPORT],
                model_row[tap.far as usize % SUPPORT],
            )
        })
    }
}

/// The three thresholds that logits are compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Levels {
    mask: f32,
    high: f32,
    low: f32,
    /// See [`slack`](super::slack).
    slack: f32,
}

/// Which thresholds all pixels of a tile pass.
struct Passed {
    mask: bool,
    high: bool,
    low: bool,
}

impl Levels {
    pub(super) fn new(options: ScanOptions, slack: f32) -> Self {
        Self {
            mask: options.threshold,
            high: options.threshold + options.stability_offset,
            low: options.threshold - options.stability_offset,
            slack,
        }
    }

    /// What a tile made from logits between `least` and `most` passes; `None` if its pixels may differ.
    fn decide(&self, least: f32, most: f32) -> Option<Passed> {
        let (least, most) = (least - self.slack, most + self.slack);
        let side = |level: f32| {
            if least > level {
                Some(true)
            } else if most <= level {
                Some(false)
            } else {
                None
            }
        };
        Some(Passed {
            mask: side(self.mask)?,
            high: side(self.high)?,
            low: side(self.low)?,
        })
    }
}

/// What is known of the columns of a stripe so far.
struct Lanes {
    above: [u32; LANES],
    below: [u32; LANES],
    /// Whether the last row was inside the mask, 0 or 1. Bytes, so that sixteen compare as one register.
    inside: [u8; LANES],
    /// The rows at which each column enters and leaves the mask, alternately.
    edges: [Vec<u32>; LANES],
}

impl Lanes {
    fn new() -> Self {
        Self {
            above: [0; LANES],
            below: [0; LANES],
            inside: [0; LANES],
            edges: Default::default(),
        }
    }

    /// Ready for the next stripe, with the memory of this one.
    fn clear(&mut self) {
        (self.above, self.below) = ([0; LANES], [0; LANES]);
        self.inside = [0; LANES];
        for edges in &mut self.edges {
            edges.clear();
        }
    }

    /// Adds one row of logits to the counts.
    #[inline(always)]
    fn count(&mut self, logits: &[f32; LANES], levels: &Levels) {
        for (lane, &logit) in logits.iter().enumerate() {
            self.above[lane] += u32::from(logit > levels.high);
            self.below[lane] += u32::from(logit > levels.low);
        }
    }

    /// Adds a tile of `rows` rows to the counts.
    fn count_tile(&mut self, rows: usize, passed: &Passed) {
        for lane in 0..LANES {
            self.above[lane] += rows as u32 * u32::from(passed.high);
            self.below[lane] += rows as u32 * u32::from(passed.low);
        }
    }

    /// Notes which columns change sides at row `y`.
    #[inline(always)]
    fn cross(&mut self, y: usize, inside: [u8; LANES]) {
        // Most rows change nothing: one comparison.
        if inside != self.inside {
            for (lane, edges) in self.edges.iter_mut().enumerate() {
                if inside[lane] != self.inside[lane] {
                    edges.push(y as u32);
                }
            }
            self.inside = inside;
        }
    }

    /// The counts of the stripe's first `columns` lanes.
    fn counts(&self, columns: usize) -> StabilityCounts {
        let sum = |lanes: &[u32]| lanes.iter().map(|&count| u64::from(count)).sum();
        StabilityCounts {
            above: sum(&self.above[..columns]),
            below: sum(&self.below[..columns]),
        }
    }
}

/// The two source rows that a linear interpolation reads at the moment. Going down the image each source row is
/// computed once: what was the far row becomes the near one.
struct TwoRows<const N: usize> {
    index: [Option<u32>; 2],
    rows: [[f32; N]; 2],
}

impl<const N: usize> TwoRows<N> {
    fn new() -> Self {
        Self {
            index: [None; 2],
            rows: [[0.0; N]; 2],
        }
    }

    /// Makes `rows` the near and far source rows of `tap`.
    #[inline(always)]
    fn load(&mut self, tap: &Tap, mut compute: impl FnMut(u32) -> [f32; N]) {
        if self.index == [Some(tap.near), Some(tap.far)] {
            return;
        }
        if self.index[1] == Some(tap.near) {
            self.rows[0] = self.rows[1];
        } else {
            self.rows[0] = compute(tap.near);
        }
        self.rows[1] = if tap.far == tap.near {
            self.rows[0]
        } else {
            compute(tap.far)
        };
        self.index = [Some(tap.near), Some(tap.far)];
    }

    #[inline(always)]
    fn lerp(&self, tap: &Tap) -> [f32; N] {
        std::array::from_fn(|i| tap.lerp(self.rows[0][i], self.rows[1][i]))
    }
}

impl Upscaler {
    pub(super) fn scan_mask(&self, low_res: &[f32], levels: Levels) -> Scan {
        let height = self.original.height;
        let mut counts = StabilityCounts::default();
        let mut runs = RunBuilder::new(self.original);
        self.sweep::<true>(low_res, &levels, |columns, lanes| {
            let stripe = lanes.counts(columns);
            counts.above += stripe.above;
            counts.below += stripe.below;
            for edges in &lanes.edges[..columns] {
                let (mut inside, mut from) = (false, 0);
                for &y in edges {
                    runs.push(inside, y - from);
                    (inside, from) = (!inside, y);
                }
                runs.push(inside, height - from);
            }
        });
        let rle = runs.finish();
        Scan {
            above: counts.above,
            below: counts.below,
            area: rle.area(),
            bounds: rle.bounds(),
            rle,
        }
    }

    pub(super) fn scan_counts(&self, low_res: &[f32], levels: Levels) -> StabilityCounts {
        let mut counts = StabilityCounts::default();
        self.sweep::<false>(low_res, &levels, |columns, lanes| {
            let stripe = lanes.counts(columns);
            counts.above += stripe.above;
            counts.below += stripe.below;
        });
        counts
    }

    /// Goes through the stripes from left to right, and hands each to `finish` as the number of its columns and what is
    /// known of them. Without `MASK` no edges are noted.
    fn sweep<const MASK: bool>(
        &self,
        low_res: &[f32],
        levels: &Levels,
        mut finish: impl FnMut(usize, &Lanes),
    ) {
        let mut lanes = Lanes::new();
        let mut extents = vec![(0.0, 0.0); self.low_res.height as usize];
        for stripe in &self.stripes {
            lanes.clear();
            self.measure_rows(low_res, stripe, &mut extents);
            let mut low_rows = TwoRows::<SUPPORT>::new();
            let mut model_rows = TwoRows::<LANES>::new();
            for band in &self.bands {
                let (least, most) = range_of(&extents[band.low_rows.clone()]);
                if let Some(passed) = levels.decide(least, most) {
                    lanes.count_tile(band.rows.len(), &passed);
                    if MASK {
                        lanes.cross(band.rows.start, [u8::from(passed.mask); LANES]);
                    }
                    continue;
                }
                for y in band.rows.clone() {
                    let row = &self.rows[1][y];
                    model_rows.load(row, |model_y| {
                        let row = &self.rows[0][model_y as usize];
                        low_rows.load(row, |low_y| {
                            stripe.to_model_columns(self.low_row(low_res, low_y as usize))
                        });
                        stripe.to_image_columns(&low_rows.lerp(row))
                    });
                    let logits = model_rows.lerp(row);
                    lanes.count(&logits, levels);
                    if MASK {
                        lanes.cross(y, logits.map(|logit| u8::from(logit > levels.mask)));
                    }
                }
            }
            finish(stripe.columns, &lanes);
        }
    }

    /// The least and the greatest logit of each low-resolution row within the columns that a stripe is made from. NaN is
    /// passed over: where there is one, the slack is infinite and nothing is decided.
    fn measure_rows(&self, low_res: &[f32], stripe: &Stripe, extents: &mut [(f32, f32)]) {
        for (y, extent) in extents.iter_mut().enumerate() {
            let row = &self.low_row(low_res, y)[stripe.low_columns.clone()];
            *extent = row
                .iter()
                .fold((f32::INFINITY, f32::NEG_INFINITY), |range, &logit| {
                    widen(range, (logit, logit))
                });
        }
    }

    fn low_row<'a>(&self, low_res: &'a [f32], y: usize) -> &'a [f32] {
        let width = self.low_res.width as usize;
        &low_res[y * width..][..width]
    }
}

/// The range that covers all `extents`.
fn range_of(extents: &[(f32, f32)]) -> (f32, f32) {
    extents
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |range, &extent| {
            widen(range, extent)
        })
}

/// The range that covers two ranges.
#[inline(always)]
fn widen((least, most): (f32, f32), (other_least, other_most): (f32, f32)) -> (f32, f32) {
    (
        if other_least < least {
            other_least
        } else {
            least
        },
        if other_most > most { other_most } else { most },
    )
}

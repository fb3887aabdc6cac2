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

use super::tiles::{Levels, Tiling};
use super::{Scan, Tap, Upscaler};
use crate::StabilityCounts;
use crate::rle::RunBuilder;

/// Columns of the image that are computed together: four SSE registers, two of AVX2, or one of AVX-512.
pub(super) const LANES: usize = 16;
/// Rows of the image whose source logits are examined together. Fewer rows decide more tiles early, at more cost each.
pub(super) const BAND_ROWS: usize = 16;

/// How the columns of a stripe are made.
#[derive(Clone, Debug)]
pub(super) struct Stripe {
    /// How many lanes are columns of the image: less than [`LANES`] at its right edge only. The lanes beyond repeat the
    /// last column and are never counted.
    columns: usize,
    /// The columns of the model's grid that the lanes read, as taps of low-resolution columns.
    model_columns: Vec<Tap>,
    /// Which of them is the near one of each lane, then which is the far one.
    read: [u8; 2 * LANES],
    near_weights: [f32; LANES],
    far_weights: [f32; LANES],
}

impl Stripe {
    /// The stripe of some columns of an image, at most [`LANES`], given `[low-resolution to model, model to image]` taps
    /// of all.
    pub(super) fn new([to_model, to_image]: &[Vec<Tap>; 2], columns: Range<usize>) -> Self {
        let lanes: [Tap; LANES] =
            std::array::from_fn(|lane| to_image[(columns.start + lane).min(columns.end - 1)]);
        let mut read: Vec<u32> = lanes.iter().flat_map(|tap| [tap.near, tap.far]).collect();
        read.sort_unstable();
        read.dedup();
        let position = |x: u32| read.partition_point(|&other| other < x) as u8;
        Self {
            columns: columns.len(),
            model_columns: read.iter().map(|&x| to_model[x as usize]).collect(),
            read: std::array::from_fn(|index| match index.checked_sub(LANES) {
                None => position(lanes[index].near),
                Some(lane) => position(lanes[lane].far),
            }),
            near_weights: lanes.map(|tap| tap.near_weight),
            far_weights: lanes.map(|tap| tap.far_weight),
        }
    }

    /// A low-resolution row at the columns of the model's grid that the lanes read, near ones and far ones.
    ///
    /// Neighbouring lanes read the same columns. With a copy for each, only the few low-resolution rows are read at
    /// scattered places.
    #[inline(always)]
    fn to_model_columns(&self, low_row: &[f32]) -> [f32; 2 * LANES] {
        let mut row = [0.0; 2 * LANES];
        for (value, tap) in row.iter_mut().zip(&self.model_columns) {
            *value = tap.lerp(low_row[tap.near as usize], low_row[tap.far as usize]);
        }
        // The remainder changes nothing; it spares the bounds checks.
        self.read.map(|index| row[index as usize % (2 * LANES)])
    }

    /// A row of the model's grid at the columns of the image.
    #[inline(always)]
    fn to_image_columns(&self, model_row: &[f32; 2 * LANES]) -> [f32; LANES] {
        std::array::from_fn(|lane| {
            model_row[lane] * self.near_weights[lane]
                + model_row[LANES + lane] * self.far_weights[lane]
        })
    }
}

/// The rows of one tile, compared with the thresholds; of every lane, in 16 bits, so that they fill two SSE registers.
struct TileRows {
    /// Rows above the raised threshold.
    above: [u16; LANES],
    /// Rows above the lowered one.
    below: [u16; LANES],
    /// A bit for each row, the first in the lowest: whether it is inside the mask.
    inside: [u16; LANES],
}

impl TileRows {
    fn new() -> Self {
        const { assert!(BAND_ROWS <= u16::BITS as usize) };
        Self {
            above: [0; LANES],
            below: [0; LANES],
            inside: [0; LANES],
        }
    }

    /// Adds the logits of row `row` of the tile.
    #[inline(always)]
    fn compare<const MASK: bool>(&mut self, row: usize, logits: &[f32; LANES], levels: &Levels) {
        for (rows, &logit) in self.above.iter_mut().zip(logits) {
            *rows += u16::from(logit > levels.high);
        }
        for (rows, &logit) in self.below.iter_mut().zip(logits) {
            *rows += u16::from(logit > levels.low);
        }
        if MASK {
            let bit = 1 << row;
            for (rows, &logit) in self.inside.iter_mut().zip(logits) {
                *rows |= if logit > levels.mask { bit } else { 0 };
            }
        }
    }

    /// The pixels above the thresholds in the first `columns` lanes.
    fn counts(&self, columns: usize) -> StabilityCounts {
        let sum = |lanes: &[u16]| lanes.iter().map(|&count| u64::from(count)).sum();
        StabilityCounts {
            above: sum(&self.above[..columns]),
            below: sum(&self.below[..columns]),
        }
    }
}

/// Where the mask's outline crosses the columns of a stripe, down to some row.
struct Edges {
    /// Whether the last row was inside the mask, 0 or 1.
    inside: [u8; LANES],
    /// The rows at which each column enters and leaves the mask, alternately.
    rows: [Vec<u32>; LANES],
}

impl Edges {
    fn new() -> Self {
        Self {
            inside: [0; LANES],
            rows: Default::default(),
        }
    }

    /// Ready for the next stripe, with the memory of this one.
    fn clear(&mut self) {
        self.inside = [0; LANES];
        for rows in &mut self.rows {
            rows.clear();
        }
    }

    /// Goes on with rows, from `start` on, that are all inside the mask or all outside.
    fn continue_alike(&mut self, start: usize, inside: bool) {
        let inside = [u8::from(inside); LANES];
        if inside != self.inside {
            for (lane, rows) in self.rows.iter_mut().enumerate() {
                if inside[lane] != self.inside[lane] {
                    rows.push(start as u32);
                }
            }
            self.inside = inside;
        }
    }

    /// Goes on with a tile of these rows.
    fn continue_with(&mut self, tile: &TileRows, rows: &Range<usize>) {
        let (start, last) = (rows.start as u32, rows.len() - 1);
        for lane in 0..LANES {
            let inside = u32::from(tile.inside[lane]);
            // A bit for each row, whether the one before it was inside.
            let before = inside << 1 | u32::from(self.inside[lane]);
            let mut changed = (inside ^ before) & ((2 << last) - 1);
            while changed != 0 {
                self.rows[lane].push(start + changed.trailing_zeros());
                changed &= changed - 1;
            }
            self.inside[lane] = (inside >> last) as u8;
        }
    }
}

/// The two source rows that a linear interpolation reads at the moment. Going down the image each source row is
/// computed once: what was the far row becomes the near one.
struct TwoRows<const N: usize> {
    index: [u32; 2],
    rows: [[f32; N]; 2],
}

impl<const N: usize> TwoRows<N> {
    fn new() -> Self {
        Self {
            index: [u32::MAX; 2], // no image has such a row
            rows: [[0.0; N]; 2],
        }
    }

    /// Makes `rows` the near and far source rows of `tap`.
    #[inline(always)]
    fn load(&mut self, tap: &Tap, mut compute: impl FnMut(u32) -> [f32; N]) {
        if self.index == [tap.near, tap.far] {
            return;
        }
        if self.index[1] == tap.near {
            self.rows[0] = self.rows[1];
        } else {
            self.rows[0] = compute(tap.near);
        }
        self.rows[1] = if tap.far == tap.near {
            self.rows[0]
        } else {
            compute(tap.far)
        };
        self.index = [tap.near, tap.far];
    }

    #[inline(always)]
    fn lerp(&self, tap: &Tap) -> [f32; N] {
        std::array::from_fn(|i| tap.lerp(self.rows[0][i], self.rows[1][i]))
    }
}

/// Computes rows of a stripe, going down.
struct Rows<'a> {
    upscaler: &'a Upscaler,
    low_res: &'a [f32],
    stripe: &'a Stripe,
    /// Low-resolution rows, at the columns of the model's grid.
    low_rows: TwoRows<{ 2 * LANES }>,
    /// Rows of the model's grid, at the columns of the image.
    model_rows: TwoRows<LANES>,
}

impl<'a> Rows<'a> {
    fn new(upscaler: &'a Upscaler, low_res: &'a [f32], stripe: &'a Stripe) -> Self {
        Self {
            upscaler,
            low_res,
            stripe,
            low_rows: TwoRows::new(),
            model_rows: TwoRows::new(),
        }
    }

    /// The logits of a row of the image.
    #[inline(always)]
    fn logits(&mut self, y: usize) -> [f32; LANES] {
        let Upscaler { rows, low_res, .. } = self.upscaler;
        let width = low_res.width as usize;
        let row = &rows[1][y];
        self.model_rows.load(row, |model_y| {
            let row = &rows[0][model_y as usize];
            self.low_rows.load(row, |low_y| {
                let low_row = &self.low_res[low_y as usize * width..][..width];
                self.stripe.to_model_columns(low_row)
            });
            self.stripe.to_image_columns(&self.low_rows.lerp(row))
        });
        self.model_rows.lerp(row)
    }
}

impl Upscaler {
    pub(super) fn scan_mask(&self, low_res: &[f32], levels: &Levels) -> Scan {
        let height = self.original.height;
        let mut runs = RunBuilder::new(self.original);
        let counts = self.sweep::<true>(low_res, levels, |columns| {
            for edges in columns {
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

    pub(super) fn scan_counts(&self, low_res: &[f32], levels: &Levels) -> StabilityCounts {
        self.sweep::<false>(low_res, levels, |_| {})
    }

    /// Goes through the stripes from left to right, and hands the edges of each one's columns to `finish`. Without `MASK`
    /// no edges are noted.
    fn sweep<const MASK: bool>(
        &self,
        low_res: &[f32],
        levels: &Levels,
        mut finish: impl FnMut(&[Vec<u32>]),
    ) -> StabilityCounts {
        let Tiling { bands, .. } = &self.tiling;
        let low_width = self.low_res.width as usize;
        let sides = self.tiling.classify(low_res, low_width, levels);
        let mut counts = StabilityCounts::default();
        let mut edges = Edges::new();
        for (stripe, sides) in self.stripes.iter().zip(sides.chunks_exact(bands.len())) {
            edges.clear();
            let mut rows = Rows::new(self, low_res, stripe);
            let mut bands = bands.as_slice();
            for alike in sides.chunk_by(|side, next| side == next) {
                let (tiles, below) = bands.split_at(alike.len());
                bands = below;
                if alike[0].is_known() {
                    let (start, end) = (tiles[0].image.start, tiles[tiles.len() - 1].image.end);
                    let pixels = ((end - start) * stripe.columns) as u64;
                    counts.above += if alike[0].above_high() { pixels } else { 0 };
                    counts.below += if alike[0].above_low() { pixels } else { 0 };
                    if MASK {
                        edges.continue_alike(start, alike[0].above_mask());
                    }
                    continue;
                }
                for band in tiles {
                    let mut tile = TileRows::new();
                    for (row, y) in band.image.clone().enumerate() {
                        tile.compare::<MASK>(row, &rows.logits(y), levels);
                    }
                    let computed = tile.counts(stripe.columns);
                    counts.above += computed.above;
                    counts.below += computed.below;
                    if MASK {
                        edges.continue_with(&tile, &band.image);
                    }
                }
            }
            finish(&edges.rows[..stripe.columns]);
        }
        counts
    }
}

//! The image cut into tiles, and which of them need no computation.

use std::ops::Range;

use super::{ScanOptions, Tap};

/// Rows or columns of the image that lie side by side, and the low-resolution ones that they are made from.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) image: Range<usize>,
    pub(super) low_res: Range<usize>,
}

impl Span {
    /// All spans of an axis, of `length` each but for the last, given its `[low-resolution to model, model to image]`
    /// taps.
    fn all([to_model, to_image]: &[Vec<Tap>; 2], length: usize) -> Vec<Self> {
        (0..to_image.len())
            .step_by(length)
            .map(|start| {
                let image = start..(start + length).min(to_image.len());
                let first = to_image[image.start].near as usize;
                let last = to_image[image.end - 1].far as usize;
                let low_res = to_model[first].near as usize..to_model[last].far as usize + 1;
                Self { image, low_res }
            })
            .collect()
    }
}

/// The tiles of an image: each is where a band of rows and a stripe of columns cross.
#[derive(Clone, Debug)]
pub(super) struct Tiling {
    pub(super) bands: Vec<Span>,
    pub(super) stripes: Vec<Span>,
}

impl Tiling {
    /// Tiles of `height` by `width` pixels, given the taps of the image's rows and columns.
    pub(super) fn new(
        rows: &[Vec<Tap>; 2],
        columns: &[Vec<Tap>; 2],
        height: usize,
        width: usize,
    ) -> Self {
        Self {
            bands: Span::all(rows, height),
            stripes: Span::all(columns, width),
        }
    }

    /// The low-resolution rows that the image is made from. Those below are padding.
    pub(super) fn low_res_rows(&self) -> usize {
        self.bands.last().map_or(0, |band| band.low_res.end)
    }

    /// On which side of the thresholds each tile is.
    ///
    /// # Shapes
    /// - `low_res`: `[rows, low_width]`
    /// - output: `[stripes, bands]`
    pub(super) fn classify(&self, low_res: &[f32], low_width: usize, levels: &Levels) -> Vec<Side> {
        let bands = self.bands.len();
        let sides: Vec<Side> = low_res.iter().map(|&logit| levels.side(logit)).collect();
        // First down the rows of each band, then across the columns of each stripe. What is between, [low_width, bands], is
        // turned, so that both steps go along contiguous memory.
        let mut columns = vec![Side::ANY; low_width * bands];
        let mut row = vec![Side::ANY; low_width];
        for (index, band) in self.bands.iter().enumerate() {
            row.fill(Side::ANY);
            for y in band.low_res.clone() {
                narrow(&mut row, &sides[y * low_width..][..low_width]);
            }
            for (column, &side) in columns.chunks_exact_mut(bands).zip(&row) {
                column[index] = side;
            }
        }
        let mut tiles = vec![Side::ANY; self.stripes.len() * bands];
        for (tiles, stripe) in tiles.chunks_exact_mut(bands).zip(&self.stripes) {
            for x in stripe.low_res.clone() {
                narrow(tiles, &columns[x * bands..][..bands]);
            }
        }
        tiles
    }
}

/// Leaves of each side what is also true of its counterpart.
fn narrow(sides: &mut [Side], others: &[Side]) {
    for (side, other) in sides.iter_mut().zip(others) {
        side.0 &= other.0;
    }
}

/// The three thresholds that logits are compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Levels {
    pub(super) mask: f32,
    pub(super) high: f32,
    pub(super) low: f32,
    /// See [`slack`](super::slack).
    slack: f32,
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

    /// On which side of the thresholds a pixel is that is made from this logit and others of the same side.
    #[inline(always)]
    fn side(&self, logit: f32) -> Side {
        let (least, most) = (logit - self.slack, logit + self.slack);
        let mut side = 0;
        for (level, bit) in [
            (self.mask, Side::MASK),
            (self.high, Side::HIGH),
            (self.low, Side::LOW),
        ] {
            // Neither, near the threshold, for NaN, and where the slack is infinite.
            side |= if least > level { bit } else { 0 };
            side |= if most <= level { bit << Side::NOT } else { 0 };
        }
        Side(side)
    }
}

/// On which side of each threshold some logits or pixels are: one bit if all are above it, another if none is. So the side
/// of many is the `and` of theirs, and bytes are combined sixteen at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side(u8);

impl Side {
    const MASK: u8 = 1;
    const HIGH: u8 = 2;
    const LOW: u8 = 4;
    /// How far the bits for "none is above" are from those for "all are".
    const NOT: u32 = 3;
    /// All that could be said of no logits at all.
    const ANY: Self = Self(0b11_1111);

    /// Whether it tells for every threshold: then no pixel needs to be computed.
    pub(super) fn is_known(self) -> bool {
        (self.0 | self.0 >> Self::NOT) & 0b111 == 0b111
    }

    pub(super) fn above_mask(self) -> bool {
        self.0 & Self::MASK != 0
    }

    pub(super) fn above_high(self) -> bool {
        self.0 & Self::HIGH != 0
    }

    pub(super) fn above_low(self) -> bool {
        self.0 & Self::LOW != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upscale::{bilinear_taps, slack};

    /// 4 x 6 logits enlarged eightfold, in tiles of 8 x 8: one for each logit.
    fn tiling() -> Tiling {
        let axis = |length| {
            [
                bilinear_taps(length, length),
                bilinear_taps(length, 8 * length),
            ]
        };
        Tiling::new(&axis(4), &axis(6), 8, 8)
    }

    fn levels(low_res: &[f32]) -> Levels {
        Levels::new(ScanOptions::default(), slack(low_res))
    }

    /// `#` where all pixels are above all thresholds, `.` where none is above any, `+` where all are above the lowered
    /// threshold only, `?` where they must be computed.
    fn draw(logits: &[f32]) -> String {
        let tiling = tiling();
        let sides = tiling.classify(logits, 6, &levels(logits));
        let (bands, stripes) = (tiling.bands.len(), tiling.stripes.len());
        let tile = |y: usize, x: usize| {
            let side = sides[x * bands + y];
            match (side.is_known(), side.above_low(), side.above_mask()) {
                (false, ..) => '?',
                (true, true, true) => '#',
                (true, true, false) => '+',
                (true, false, _) => '.',
            }
        };
        let row = |y| (0..stripes).map(|x| tile(y, x)).collect();
        (0..bands).map(row).collect::<Vec<String>>().join("\n")
    }

    #[test]
    fn only_tiles_on_an_outline_are_unknown() {
        // A tile reads its logit and those around it.
        let mut logits = vec![-5.0; 24];
        assert_eq!(draw(&logits), "......\n......\n......\n......");
        logits[6] = 5.0;
        assert_eq!(draw(&logits), "??....\n??....\n??....\n......");
        logits.fill(5.0);
        logits[23] = -0.5;
        assert_eq!(draw(&logits), "######\n######\n####??\n####??");
        assert_eq!(draw(&[-0.5; 24]), "++++++\n++++++\n++++++\n++++++");
    }

    #[test]
    fn logits_on_or_next_to_a_threshold_are_not_decided() {
        let unknown = "??????\n??????\n??????\n??????";
        let next_to = [0.0f32, 1.0, -1.0].map(|level| [level.next_down(), level, level.next_up()]);
        for logit in next_to.into_iter().flatten() {
            assert_eq!(draw(&[logit; 24]), unknown, "{logit}");
        }
    }

    #[test]
    fn nothing_is_decided_next_to_what_is_not_a_number() {
        for wild in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut logits = [-5.0; 24];
            logits[0] = wild;
            assert!(draw(&logits).starts_with("??????"), "{wild}");
        }
    }

    #[test]
    fn rows_of_padding_are_not_read() {
        // The image fills the upper 2 of 4 rows.
        let mut to_model = bilinear_taps(4, 4);
        to_model.truncate(2);
        let rows = [to_model, bilinear_taps(2, 16)];
        let columns = [bilinear_taps(6, 6), bilinear_taps(6, 48)];
        assert_eq!(Tiling::new(&rows, &columns, 8, 8).low_res_rows(), 2);
    }
}

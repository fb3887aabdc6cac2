//! Run-length encoded masks, as COCO has them.

mod coco;
mod ops;

use std::ops::Range;

use crate::{Bitmap, BoxPx, ImageSize};

pub use ops::MergeOp;
pub(crate) use ops::fraction;

/// What is wrong with a run-length encoding, or with the masks of one operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RleError {
    /// The runs do not add up to the mask's pixels.
    #[error(
        "the runs cover {covered} pixels but a mask of {size} has {}: check that height and width are not swapped, \
         and that the runs are complete",
        size.pixels()
    )]
    LengthMismatch {
        /// The mask's stated size.
        size: ImageSize,
        /// The sum of the runs.
        covered: u64,
    },
    /// The mask has more pixels than a run can count.
    #[error(
        "a mask of {size} has more than {} pixels, which run lengths of 32 bits cannot hold",
        u32::MAX
    )]
    TooLarge {
        /// The mask's stated size.
        size: ImageSize,
    },
    /// A character that COCO's compressed form does not use.
    #[error(
        "byte {byte:#04x} at position {position} is not part of a COCO RLE string, which uses '0' to 'o' only"
    )]
    BadCharacter {
        /// The byte found.
        byte: u8,
        /// Its offset in the string.
        position: usize,
    },
    /// The string ends inside a run.
    #[error(
        "the COCO RLE string ends at position {position}, in the middle of a run: it was cut short"
    )]
    Truncated {
        /// The length of the string.
        position: usize,
    },
    /// A run below 0 or above 32 bits.
    #[error(
        "the run that begins at position {position} of the COCO RLE string is negative or above 32 bits"
    )]
    RunOutOfRange {
        /// Where the run's first character is.
        position: usize,
    },
    /// Two masks of one operation differ in size.
    #[error(
        "masks of {left} and {right} cannot be combined: bring them into the frame of one image first"
    )]
    SizeMismatch {
        /// The size of the first mask.
        left: ImageSize,
        /// The size of the other mask.
        right: ImageSize,
    },
    /// A crop's mask does not have the crop's size.
    #[error("a mask of {mask} does not fill the crop {crop}")]
    CropMismatch {
        /// The mask's size.
        mask: ImageSize,
        /// The crop.
        crop: BoxPx,
    },
    /// A crop reaches beyond the image.
    #[error("the crop {crop} reaches beyond the image of {image}")]
    CropOutside {
        /// The crop.
        crop: BoxPx,
        /// The image's size.
        image: ImageSize,
    },
    /// A merge of no masks, which would have no size.
    #[error("no masks to merge: give at least one")]
    NothingToMerge,
}

/// A mask as COCO's run lengths.
///
/// The pixels are taken column by column, and the lengths of the runs alternate between outside and inside, beginning
/// outside:
///
/// ```text
/// . # #
/// . # .      columns ".." "##" "#."  ->  2 outside, 3 inside, 1 outside  ->  [2, 3, 1]
/// ```
///
/// A mask whose first pixel is inside begins with a run of 0. No other run is 0, so equal masks have equal runs, and they
/// are the runs of `mask_to_rle_pytorch` (segment-anything) and pycocotools. At most `u32::MAX` pixels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rle {
    size: ImageSize,
    counts: Vec<u32>,
}

impl Rle {
    /// Encodes a mask.
    ///
    /// Follows `mask_to_rle_pytorch` (segment-anything).
    ///
    /// # Panics
    /// If the mask has more than `u32::MAX` pixels.
    pub fn encode(mask: &Bitmap) -> Self {
        let size = mask.size();
        let mut runs = RunBuilder::new(size);
        for x in 0..size.width {
            for y in 0..size.height {
                runs.push(mask.get(y, x), 1);
            }
        }
        runs.finish()
    }

    /// A mask with no pixel inside.
    ///
    /// # Panics
    /// If the mask has more than `u32::MAX` pixels.
    pub fn empty(size: ImageSize) -> Self {
        let mut runs = RunBuilder::new(size);
        runs.push(false, size.pixels() as u32);
        runs.finish()
    }

    /// A mask from its run lengths, column-major, beginning outside.
    ///
    /// Runs of 0, which some writers emit, are folded into their neighbours.
    ///
    /// # Errors
    /// [`RleError::LengthMismatch`] if they do not add up, [`RleError::TooLarge`] above `u32::MAX` pixels.
    pub fn from_counts(size: ImageSize, counts: impl Into<Vec<u32>>) -> Result<Self, RleError> {
        let counts = counts.into();
        if size.pixels() > u64::from(u32::MAX) {
            return Err(RleError::TooLarge { size });
        }
        let covered = counts.iter().map(|&count| u64::from(count)).sum();
        if covered != size.pixels() {
            return Err(RleError::LengthMismatch { size, covered });
        }
        let mut runs = RunBuilder::new(size);
        for (index, &count) in counts.iter().enumerate() {
            runs.push(index % 2 == 1, count);
        }
        Ok(runs.finish())
    }

    /// The mask pixel by pixel. Allocates `height * width` bytes: check the size of masks from outside first.
    pub fn decode(&self) -> Bitmap {
        let mut mask = Bitmap::new(self.size);
        for (x, y0, y1) in self.column_spans(true) {
            mask.fill_column(x, y0, y1);
        }
        mask
    }

    /// Height and width.
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// The run lengths, column-major, beginning outside.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Pixels inside the mask.
    pub fn area(&self) -> u64 {
        self.counts
            .iter()
            .skip(1)
            .step_by(2)
            .map(|&count| u64::from(count))
            .sum()
    }

    /// The smallest box around the mask, from the runs alone; [`BoxPx::EMPTY`] if there is none.
    pub fn bounds(&self) -> BoxPx {
        let height = self.size.height;
        let (mut x0, mut x1) = (u32::MAX, 0);
        let (mut y0, mut y1) = (u32::MAX, 0);
        for run in self.runs_inside() {
            let last = run.end - 1;
            let (first_column, last_column) = (run.start / height, last / height);
            x0 = x0.min(first_column);
            x1 = last_column + 1;
            if first_column == last_column {
                y0 = y0.min(run.start % height);
                y1 = y1.max(last % height + 1);
            } else {
                // The run passes the bottom of one column and the top of the next.
                (y0, y1) = (0, height);
            }
        }
        if x1 == 0 {
            return BoxPx::EMPTY;
        }
        BoxPx { x0, y0, x1, y1 }
    }

    /// The runs inside the mask, as ranges of column-major pixel indices (`x * height + y`), ascending.
    pub fn runs_inside(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.runs()
            .filter_map(|(inside, run)| inside.then_some(run))
    }

    /// All runs in order with their sides, as ranges of column-major pixel indices; none is empty.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (bool, Range<u32>)> + '_ {
        let mut start = 0;
        self.counts
            .iter()
            .enumerate()
            .map(move |(index, &count)| {
                let run = start..start + count;
                start = run.end;
                (index % 2 == 1, run)
            })
            .filter(|(_, run)| !run.is_empty())
    }

    /// The runs of one side, split at the columns: `(x, y0, y1)` for rows `[y0, y1)` of column `x`, in column-major
    /// order.
    pub(crate) fn column_spans(&self, inside: bool) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        let height = self.size.height;
        self.runs()
            .filter(move |(side, _)| *side == inside)
            .flat_map(move |(_, run)| {
                let (first, last) = (run.start / height, (run.end - 1) / height);
                (first..=last).map(move |x| {
                    // In u64: the end of the last column may be 2^32.
                    let top = u64::from(x) * u64::from(height);
                    let y0 = u64::from(run.start).max(top) - top;
                    let y1 = (u64::from(run.end) - top).min(u64::from(height));
                    (x, y0 as u32, y1 as u32)
                })
            })
    }
}

/// Collects runs in column-major order and keeps them canonical.
#[derive(Clone, Debug)]
pub(crate) struct RunBuilder {
    size: ImageSize,
    /// Never empty; the last entry is the run that grows, and is on `side`.
    counts: Vec<u32>,
    side: bool,
}

impl RunBuilder {
    /// # Panics
    /// If a mask of this size has more than `u32::MAX` pixels.
    pub(crate) fn new(size: ImageSize) -> Self {
        assert!(
            size.pixels() <= u64::from(u32::MAX),
            "a mask of {size} has more pixels than run lengths of 32 bits can hold"
        );
        Self {
            size,
            counts: vec![0],
            side: false,
        }
    }

    /// Appends `length` pixels, all inside or all outside.
    pub(crate) fn push(&mut self, inside: bool, length: u32) {
        if length == 0 {
            return;
        }
        if inside == self.side {
            let last = self.counts.len() - 1;
            self.counts[last] += length;
        } else {
            self.counts.push(length);
            self.side = inside;
        }
    }

    /// The mask, once as many pixels were pushed as it has.
    pub(crate) fn finish(mut self) -> Rle {
        if self.counts == [0] {
            self.counts.clear(); // a mask without pixels
        }
        let rle = Rle {
            size: self.size,
            counts: self.counts,
        };
        debug_assert_eq!(
            rle.counts
                .iter()
                .map(|&count| u64::from(count))
                .sum::<u64>(),
            rle.size.pixels(),
            "the runs of a mask of {} must cover it",
            rle.size
        );
        rle
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Masks up to 12 x 12, from empty to full, sides of 0 included.
    pub(crate) fn any_mask() -> impl Strategy<Value = Bitmap> {
        (0u32..12, 0u32..12).prop_flat_map(|(height, width)| mask_of(ImageSize::new(height, width)))
    }

    /// Masks of one size whose density varies from mask to mask.
    pub(crate) fn mask_of(size: ImageSize) -> impl Strategy<Value = Bitmap> {
        (0u8..=4).prop_flat_map(move |quarters| {
            proptest::collection::vec(0u8..4, size.pixels() as usize).prop_map(move |values| {
                Bitmap::from_fn(size, |y, x| {
                    values[(y * size.width + x) as usize] < quarters
                })
            })
        })
    }

    fn rle(drawing: &str) -> Rle {
        Rle::encode(&Bitmap::from_ascii(drawing))
    }

    #[test]
    fn runs_go_down_the_columns() {
        assert_eq!(rle(".##\n.#.").counts(), [2, 3, 1]);
        assert_eq!(rle("#..\n...").counts(), [0, 1, 5]);
        assert_eq!(rle("...\n...").counts(), [6]);
        assert_eq!(rle("###\n###").counts(), [0, 6]);
        assert_eq!(rle("..#\n..#").counts(), [4, 2]);
    }

    #[test]
    fn a_mask_without_pixels_has_no_runs() {
        let size = ImageSize::new(0, 5);
        assert_eq!(Rle::encode(&Bitmap::new(size)).counts(), [0u32; 0]);
        assert_eq!(Rle::from_counts(size, [0]), Ok(Rle::empty(size)));
        assert_eq!(Rle::empty(size).bounds(), BoxPx::EMPTY);
    }

    #[test]
    fn runs_of_zero_are_folded() {
        let size = ImageSize::new(2, 3);
        let folded = Rle::from_counts(size, [1, 0, 1, 2, 0, 1, 1, 0]);
        assert_eq!(folded, Ok(rle(".##\n.#.")));
    }

    #[test]
    fn runs_that_do_not_add_up_are_refused() {
        let size = ImageSize::new(2, 3);
        for (counts, covered) in [
            (vec![], 0),
            (vec![5], 5),
            (vec![3, 4], 7),
            (vec![u32::MAX, u32::MAX, 8], 8_589_934_598),
        ] {
            let error = Rle::from_counts(size, counts).unwrap_err();
            assert_eq!(error, RleError::LengthMismatch { size, covered });
        }
        let message = Rle::from_counts(size, [5]).unwrap_err().to_string();
        assert!(
            message
                .starts_with("the runs cover 5 pixels but a mask of 2x3 (height x width) has 6:"),
            "{message}"
        );
    }

    #[test]
    fn more_pixels_than_32_bits_are_refused() {
        let size = ImageSize::new(1 << 16, 1 << 16);
        assert_eq!(
            Rle::from_counts(size, [u32::MAX, 1]),
            Err(RleError::TooLarge { size })
        );
        // One pixel less than that is the limit, and nothing on the way overflows.
        let size = ImageSize::new(u32::MAX, 1);
        let full = Rle::from_counts(size, [0, u32::MAX]).unwrap();
        assert_eq!(full.area(), u64::from(u32::MAX));
        assert_eq!(full.bounds(), BoxPx::of(size));
        assert_eq!(full.column_spans(true).last(), Some((0, 0, u32::MAX)));
    }

    #[test]
    fn bounds_of_a_run_across_columns_span_the_height() {
        let mask = rle("
            .....
            ..#..
            .#...
        ");
        assert_eq!(mask.bounds().xywh(), [1, 1, 2, 2]);
        let joined = rle("
            ..#..
            .....
            .#...
        ");
        assert_eq!(joined.counts(), [5, 2, 8]);
        assert_eq!(joined.bounds().xywh(), [1, 0, 2, 3]);
    }

    proptest! {
        #[test]
        fn encoding_round_trips_and_agrees_with_the_bitmap(mask in any_mask()) {
            let rle = Rle::encode(&mask);
            prop_assert_eq!(rle.decode(), mask.clone());
            prop_assert_eq!(rle.area(), mask.area());
            prop_assert_eq!(rle.bounds(), mask.bounds());
            prop_assert!(rle.counts().iter().skip(1).all(|&count| count > 0));
            prop_assert_eq!(Rle::from_counts(rle.size(), rle.counts()), Ok(rle));
        }
    }
}

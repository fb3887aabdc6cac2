//! Masks resized by area: a pixel is inside where the mask covers at least half of it.

use maskmill_masks::{Bitmap, BoxPx, ImageSize, Rle};

use crate::frame::Frame;

/// Coverage is counted in units of the image's pixels, in 32 bits.
const MAX_PIXELS: u64 = 1 << 31;

/// Times a sample's side, at most 4096, this fits 32 bits.
const MAX_SIDE: u32 = 1 << 18;

/// What a frame shows of a mask, in the top left corner of `[side, side]`; none if that is less than `min_px` pixels, or
/// nothing.
///
/// Coverage is counted in whole numbers and exactly: of a part that is `n` pixels wide in the image and `m` in the sample,
/// the image's pixels are `m` units wide and the sample's `n`. Half covered counts as inside. So an outline is off by
/// half a pixel at most, to either side alike, at any scale.
///
/// # Panics
/// If the frame has more than 2^31 pixels of the image, or more than 2^18 along a side.
pub(crate) fn resample(mask: &Rle, frame: &Frame, side: u32, min_px: u64) -> Option<Bitmap> {
    let seen = mask.bounds().intersect(&frame.crop);
    if seen.is_empty() {
        return None;
    }
    let part = frame.crop.size();
    assert!(
        part.pixels() <= MAX_PIXELS && part.height.max(part.width) <= MAX_SIDE,
        "a part of {part} of an image is larger than coverage can be counted of"
    );
    let columns = Axis::new(part.width, frame.content.width);
    let rows = Axis::new(part.height, frame.content.height);

    // The rows of the sample that the mask can reach; only they are counted.
    let first_row = rows.first(seen.y0 - frame.crop.y0);
    let last_row = rows.last(seen.y1 - 1 - frame.crop.y0);
    let height = (last_row - first_row + 1) as usize;
    // How much of the sample's pixels one column of the image covers, then all columns: of `rows.target_units`, and of
    // these times `columns.target_units`.
    let mut of_column = vec![0_u32; height];
    let mut covered = vec![0_u32; height];

    let full = columns.target_units * rows.target_units;
    let mut inside = Bitmap::new(ImageSize::new(side, side));
    let mut area = 0;
    let mut write = |column: u32, covered: &mut [u32]| {
        let x = frame.column(column);
        for (row, covered) in (first_row..).zip(covered.iter_mut()) {
            if *covered >= full.div_ceil(2) {
                inside.set(frame.row(row), x, true);
                area += 1;
            }
            *covered = 0;
        }
    };

    let mut spans = ColumnSpans::new(mask, &seen).peekable();
    let mut at = columns.first(seen.x0 - frame.crop.x0);
    for x in seen.x0..seen.x1 {
        let mut is_covered = false;
        while let Some((_, y0, y1)) = spans.next_if(|(column, ..)| *column == x) {
            let (top, bottom) = (y0 - frame.crop.y0, y1 - frame.crop.y0);
            rows.cover(top, bottom, first_row, &mut of_column);
            is_covered = true;
        }
        let x = x - frame.crop.x0;
        for column in columns.first(x)..=columns.last(x) {
            if column != at {
                write(at, &mut covered);
                at = column;
            }
            if is_covered {
                let width = columns.overlap(x, x + 1, column);
                for (sum, &of_column) in covered.iter_mut().zip(&of_column) {
                    *sum += of_column * width;
                }
            }
        }
        if is_covered {
            of_column.fill(0);
        }
    }
    write(at, &mut covered);
    (area >= min_px.max(1)).then_some(inside)
}

/// Pixels of the image and of the sample along one axis, in common units.
#[derive(Clone, Copy)]
struct Axis {
    /// Units of a pixel of the image.
    source_units: u32,
    /// Units of a pixel of the sample.
    target_units: u32,
}

impl Axis {
    /// `source` pixels of the image are as long as `target` pixels of the sample.
    fn new(source: u32, target: u32) -> Self {
        Self {
            source_units: target,
            target_units: source,
        }
    }

    /// The first pixel of the sample that a pixel of the image covers some of.
    fn first(&self, source: u32) -> u32 {
        source * self.source_units / self.target_units
    }

    /// The last pixel of the sample that a pixel of the image covers some of.
    fn last(&self, source: u32) -> u32 {
        ((source + 1) * self.source_units - 1) / self.target_units
    }

    /// Units of a pixel of the sample that the pixels `[start, end)` of the image cover.
    fn overlap(&self, start: u32, end: u32, target: u32) -> u32 {
        let from = (start * self.source_units).max(target * self.target_units);
        let to = (end * self.source_units).min((target + 1) * self.target_units);
        to - from
    }

    /// Adds what the pixels `[start, end)` of the image cover, to pixels of the sample from `first` on.
    fn cover(&self, start: u32, end: u32, first: u32, covered: &mut [u32]) {
        let (from, to) = (self.first(start), self.last(end - 1));
        let place = |target| (target - first) as usize;
        covered[place(from)] += self.overlap(start, end, from);
        if from == to {
            return;
        }
        covered[place(to)] += self.overlap(start, end, to);
        for covered in &mut covered[place(from) + 1..place(to)] {
            *covered += self.target_units;
        }
    }
}

/// The rows `[y0, y1)` of column `x` that are inside a mask, cut to a box, in column-major order: `(x, y0, y1)`.
struct ColumnSpans<'a, R> {
    runs: R,
    /// What is left of the current run: column-major pixels `[start, end)`.
    run: std::ops::Range<u32>,
    height: u32,
    within: &'a BoxPx,
}

impl<'a> ColumnSpans<'a, ()> {
    fn new(
        mask: &'a Rle,
        within: &'a BoxPx,
    ) -> ColumnSpans<'a, impl Iterator<Item = std::ops::Range<u32>>> {
        let height = mask.size().height;
        let start = within.x0 * height;
        ColumnSpans {
            runs: mask.runs_inside().skip_while(move |run| run.end <= start),
            run: 0..0,
            height,
            within,
        }
    }
}

impl<R: Iterator<Item = std::ops::Range<u32>>> Iterator for ColumnSpans<'_, R> {
    type Item = (u32, u32, u32);

    fn next(&mut self) -> Option<(u32, u32, u32)> {
        loop {
            if self.run.is_empty() {
                self.run = self.runs.next()?;
            }
            let x = self.run.start / self.height;
            if x >= self.within.x1 {
                return None;
            }
            let top = x * self.height;
            // In u64: the end of the last column may be 2^32.
            let bottom = u64::from(top) + u64::from(self.height);
            let end = bottom.min(u64::from(self.run.end)) as u32;
            let (y0, y1) = (self.run.start - top, end - top);
            self.run.start = end;
            let (y0, y1) = (y0.max(self.within.y0), y1.min(self.within.y1));
            if x >= self.within.x0 && y0 < y1 {
                return Some((x, y0, y1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, pixel by pixel.
    fn oracle(mask: &Bitmap, frame: &Frame, side: u32) -> Bitmap {
        let part = frame.crop.size();
        let overlap = |source: u32, target: u32, sources: u32, targets: u32| {
            let from = (source * targets).max(target * sources);
            let to = ((source + 1) * targets).min((target + 1) * sources);
            to.saturating_sub(from)
        };
        Bitmap::from_fn(ImageSize::new(side, side), |y, x| {
            if y >= frame.content.height || x >= frame.content.width {
                return false;
            }
            let (row, column) = (frame.row(y), frame.column(x));
            let mut covered = 0;
            for v in 0..part.height {
                for u in 0..part.width {
                    if mask.get(frame.crop.y0 + v, frame.crop.x0 + u) {
                        covered += overlap(v, row, part.height, frame.content.height)
                            * overlap(u, column, part.width, frame.content.width);
                    }
                }
            }
            2 * u64::from(covered) >= part.pixels()
        })
    }

    fn whole(size: ImageSize, content: ImageSize) -> Frame {
        Frame {
            crop: BoxPx::of(size),
            content,
            mirrored: false,
            upside_down: false,
        }
    }

    fn resized(drawing: &str, height: u32, width: u32) -> Option<String> {
        let mask = Bitmap::from_ascii(drawing);
        let frame = whole(mask.size(), ImageSize::new(height, width));
        let side = height.max(width);
        resample(&Rle::encode(&mask), &frame, side, 1).map(|mask| mask.to_ascii())
    }

    #[test]
    fn half_a_pixel_is_enough() {
        let drawing = "
            ##..#.
            #...#.
            ....#.
            ......
        ";
        // Quarters: 3, 0, 2 above; 0, 0, 1 below.
        assert_eq!(resized(drawing, 2, 3).unwrap(), "#.#\n...\n...\n");
    }

    #[test]
    fn enlarging_repeats_pixels() {
        assert_eq!(resized(".#\n#.", 4, 4).unwrap(), "..##\n..##\n##..\n##..\n");
    }

    #[test]
    fn what_is_too_small_to_see_is_none() {
        assert_eq!(resized("#...\n....\n....\n....", 2, 2), None);
        let mask = Rle::encode(&Bitmap::from_ascii("##\n#."));
        let frame = whole(mask.size(), mask.size());
        assert!(resample(&mask, &frame, 2, 3).is_some());
        assert_eq!(resample(&mask, &frame, 2, 4), None);
    }

    /// A mask, a part of it and how it is shown.
    fn any_case() -> impl Strategy<Value = (Bitmap, Frame)> {
        let sides = (1_u32..14, 1_u32..14);
        let content = (1_u32..20, 1_u32..20);
        (sides, content, any::<[bool; 2]>()).prop_flat_map(|(sides, content, flips)| {
            let size = ImageSize::new(sides.0, sides.1);
            let pixels = proptest::collection::vec(any::<bool>(), size.pixels() as usize);
            let corners = (0..sides.0, 0..sides.1);
            let corners = corners.prop_flat_map(move |(y0, x0)| {
                (Just(y0), y0 + 1..=sides.0, Just(x0), x0 + 1..=sides.1)
            });
            (pixels, corners).prop_map(move |(pixels, (y0, y1, x0, x1))| {
                let mask = Bitmap::from_fn(size, |y, x| pixels[(y * size.width + x) as usize]);
                let frame = Frame {
                    crop: BoxPx { x0, y0, x1, y1 },
                    content: ImageSize::new(content.0, content.1),
                    mirrored: flips[0],
                    upside_down: flips[1],
                };
                (mask, frame)
            })
        })
    }

    proptest! {
        #[test]
        fn coverage_is_exact((mask, frame) in any_case()) {
            let expected = oracle(&mask, &frame, 20);
            let found = resample(&Rle::encode(&mask), &frame, 20, 1);
            prop_assert_eq!(found.is_some(), expected.area() > 0);
            if let Some(found) = found {
                prop_assert_eq!(found.to_ascii(), expected.to_ascii());
            }
        }
    }
}

//! Masks resized by area: a pixel is inside where the mask covers at least half of it.

use maskmill_masks::{Bitmap, BoxPx, ImageSize, Rle};

use crate::frame::Frame;

/// What a frame shows of a mask, in the top left corner of `[side, side]`; none if that is less than `min_px` pixels, or
/// nothing.
///
/// Coverage is counted in whole numbers and exactly: of a part that is `n` pixels wide in the image and `m` in the sample,
/// the image's pixels are `m` units wide and the sample's `n`. Half covered counts as inside. So an outline is off by
/// half a pixel at most, to either side alike, at any scale.
///
/// # Panics
/// If the frame has more than 2^31 pixels of the image.
pub(crate) fn resample(mask: &Rle, frame: &Frame, side: u32, min_px: u64) -> Option<Bitmap> {
    let seen = mask.bounds().intersect(&frame.crop);
    if seen.is_empty() {
        return None;
    }
    assert!(
        frame.crop.area() <= 1 << 31,
        "a frame of {} has more than 2^31 pixels",
        frame.crop.size()
    );
    let columns = Axis::new(frame.crop.width(), frame.content.width);
    let rows = Axis::new(frame.crop.height(), frame.content.height);

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

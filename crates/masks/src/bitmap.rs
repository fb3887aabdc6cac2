//! A mask with one value per pixel.

use crate::{BoxPx, ImageSize};

/// A mask as one `bool` per pixel, row-major.
///
/// One byte per pixel: for tests, drawing and single masks. Masks in number are kept as [`Rle`](crate::Rle).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bitmap {
    size: ImageSize,
    data: Vec<bool>,
}

impl Bitmap {
    /// An empty mask.
    pub fn new(size: ImageSize) -> Self {
        Self {
            size,
            data: vec![false; size.pixels() as usize],
        }
    }

    /// A mask from the value of `f(y, x)` at every pixel.
    pub fn from_fn(size: ImageSize, mut f: impl FnMut(u32, u32) -> bool) -> Self {
        let mut data = Vec::with_capacity(size.pixels() as usize);
        for y in 0..size.height {
            for x in 0..size.width {
                data.push(f(y, x));
            }
        }
        Self { size, data }
    }

    /// A mask drawn in text, for tests: one line per row, `#` inside, any other character outside. Blank lines and
    /// indentation are ignored.
    ///
    /// # Panics
    /// If the lines differ in length.
    pub fn from_ascii(drawing: &str) -> Self {
        let rows: Vec<&str> = drawing
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let width = rows.first().map_or(0, |row| row.chars().count());
        let mut data = Vec::with_capacity(rows.len() * width);
        for row in &rows {
            assert_eq!(
                row.chars().count(),
                width,
                "the rows of a drawn mask must be equally long, and {row:?} is not"
            );
            data.extend(row.chars().map(|c| c == '#'));
        }
        Self {
            size: ImageSize::new(rows.len() as u32, width as u32),
            data,
        }
    }

    /// The drawing that [`from_ascii`](Self::from_ascii) reads: `#` inside, `.` outside, a newline after every row.
    pub fn to_ascii(&self) -> String {
        let mut drawing = String::with_capacity(self.data.len() + self.size.height as usize);
        for y in 0..self.size.height {
            drawing.extend(self.row(y).iter().map(|&set| if set { '#' } else { '.' }));
            drawing.push('\n');
        }
        drawing
    }

    /// Height and width.
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// The pixels, row-major: `height * width` values.
    pub fn as_slice(&self) -> &[bool] {
        &self.data
    }

    /// The pixels of row `y`, left to right.
    ///
    /// # Panics
    /// If `y` is outside the mask.
    pub fn row(&self, y: u32) -> &[bool] {
        assert!(y < self.size.height, "row {y} of a mask of {}", self.size);
        let start = self.index(y, 0);
        &self.data[start..start + self.size.width as usize]
    }

    /// The pixel in row `y` and column `x`.
    ///
    /// # Panics
    /// If the pixel is outside the mask.
    pub fn get(&self, y: u32, x: u32) -> bool {
        self.check(y, x);
        self.data[self.index(y, x)]
    }

    /// Sets the pixel in row `y` and column `x`.
    ///
    /// # Panics
    /// If the pixel is outside the mask.
    pub fn set(&mut self, y: u32, x: u32, value: bool) {
        self.check(y, x);
        let index = self.index(y, x);
        self.data[index] = value;
    }

    /// Sets the rows `[y0, y1)` of column `x`.
    pub(crate) fn fill_column(&mut self, x: u32, y0: u32, y1: u32) {
        for y in y0..y1 {
            let index = self.index(y, x);
            self.data[index] = true;
        }
    }

    /// Pixels inside the mask.
    pub fn area(&self) -> u64 {
        self.data.iter().filter(|&&set| set).count() as u64
    }

    /// The smallest box around the mask; [`BoxPx::EMPTY`] if there is none.
    pub fn bounds(&self) -> BoxPx {
        let (mut x0, mut x1) = (u32::MAX, 0);
        let (mut y0, mut y1) = (u32::MAX, 0);
        for y in 0..self.size.height {
            let row = self.row(y);
            let Some(first) = row.iter().position(|&set| set) else {
                continue;
            };
            let last = row.iter().rposition(|&set| set).unwrap_or(first);
            x0 = x0.min(first as u32);
            x1 = x1.max(last as u32 + 1);
            y0 = y0.min(y);
            y1 = y + 1;
        }
        if x1 == 0 {
            return BoxPx::EMPTY;
        }
        BoxPx { x0, y0, x1, y1 }
    }

    fn index(&self, y: u32, x: u32) -> usize {
        y as usize * self.size.width as usize + x as usize
    }

    fn check(&self, y: u32, x: u32) {
        assert!(
            y < self.size.height && x < self.size.width,
            "pixel (row {y}, column {x}) of a mask of {}",
            self.size
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWING: &str = "
        .......
        ..#.#..
        .....#.
    ";

    #[test]
    fn drawings_round_trip() {
        let mask = Bitmap::from_ascii(DRAWING);
        assert_eq!(mask.size(), ImageSize::new(3, 7));
        assert_eq!(mask.to_ascii(), ".......\n..#.#..\n.....#.\n");
        assert_eq!(Bitmap::from_ascii(&mask.to_ascii()), mask);
    }

    #[test]
    fn rows_come_before_columns() {
        let mask = Bitmap::from_ascii(DRAWING);
        assert!(mask.get(1, 4) && mask.get(2, 5) && !mask.get(2, 4));
        assert_eq!(Bitmap::from_fn(mask.size(), |y, x| mask.get(y, x)), mask);
        let mut copy = Bitmap::new(mask.size());
        for (y, x) in [(1, 2), (1, 4), (2, 5)] {
            copy.set(y, x, true);
        }
        assert_eq!(copy, mask);
    }

    #[test]
    fn area_and_bounds() {
        let mask = Bitmap::from_ascii(DRAWING);
        assert_eq!(mask.area(), 3);
        assert_eq!(mask.bounds().xywh(), [2, 1, 4, 2]);
        assert_eq!(Bitmap::new(mask.size()).bounds(), BoxPx::EMPTY);
        assert_eq!(Bitmap::new(ImageSize::new(0, 9)).bounds(), BoxPx::EMPTY);
    }

    #[test]
    #[should_panic(expected = "pixel (row 0, column 7) of a mask of 3x7")]
    fn a_column_too_far_is_not_the_next_row() {
        Bitmap::from_ascii(DRAWING).get(0, 7);
    }
}

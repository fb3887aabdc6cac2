//! Sizes and boxes in pixels.

use std::fmt;

/// Height and width of an image or a mask, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl ImageSize {
    /// A size of `height` rows and `width` columns.
    pub const fn new(height: u32, width: u32) -> Self {
        Self { height, width }
    }

    /// Number of pixels.
    pub const fn pixels(self) -> u64 {
        self.height as u64 * self.width as u64
    }
}

impl fmt::Display for ImageSize {
    /// Height first, as arrays have it: `683x1024 (height x width)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} (height x width)", self.height, self.width)
    }
}

/// A half-open box of pixels: columns `[x0, x1)` and rows `[y0, y1)`.
///
/// Width and height are pixel counts. The reference keeps inclusive maxima instead, so its boxes are one pixel
/// smaller in each direction; [`sa_xyxy`](Self::sa_xyxy) and [`sa_xywh`](Self::sa_xywh) convert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BoxPx {
    /// First column.
    pub x0: u32,
    /// First row.
    pub y0: u32,
    /// One past the last column.
    pub x1: u32,
    /// One past the last row.
    pub y1: u32,
}

impl BoxPx {
    /// The box without pixels that stands for "nothing": all corners 0, as the reference has it for an empty mask.
    pub const EMPTY: Self = Self {
        x0: 0,
        y0: 0,
        x1: 0,
        y1: 0,
    };

    /// The whole image.
    pub const fn of(size: ImageSize) -> Self {
        Self {
            x0: 0,
            y0: 0,
            x1: size.width,
            y1: size.height,
        }
    }

    /// Columns in the box; 0 if `x1 <= x0`.
    pub const fn width(&self) -> u32 {
        self.x1.saturating_sub(self.x0)
    }

    /// Rows in the box; 0 if `y1 <= y0`.
    pub const fn height(&self) -> u32 {
        self.y1.saturating_sub(self.y0)
    }

    /// Pixels in the box.
    pub const fn area(&self) -> u64 {
        self.size().pixels()
    }

    /// Whether the box holds no pixel.
    pub const fn is_empty(&self) -> bool {
        self.width() == 0 || self.height() == 0
    }

    /// Height and width of the box.
    pub const fn size(&self) -> ImageSize {
        ImageSize::new(self.height(), self.width())
    }

    /// The pixels that lie in both boxes; [`EMPTY`](Self::EMPTY) if there are none.
    pub fn intersect(&self, other: &Self) -> Self {
        let both = Self {
            x0: self.x0.max(other.x0),
            y0: self.y0.max(other.y0),
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
        };
        if both.is_empty() { Self::EMPTY } else { both }
    }

    /// The box moved right by `dx` and down by `dy` pixels: from a crop's frame to the image's, given the crop's first
    /// column and row.
    #[must_use]
    pub const fn translate(&self, dx: u32, dy: u32) -> Self {
        Self {
            x0: self.x0 + dx,
            y0: self.y0 + dy,
            x1: self.x1 + dx,
            y1: self.y1 + dy,
        }
    }

    /// `[x0, y0, width, height]`, exact. The reference gives crop boxes this way.
    pub const fn xywh(&self) -> [u32; 4] {
        [self.x0, self.y0, self.width(), self.height()]
    }

    /// `[x0, y0, x_max, y_max]` with inclusive maxima, the reference's mask box; `[0, 0, 0, 0]` for an empty box.
    ///
    /// Follows `batched_mask_to_box` (segment-anything).
    pub const fn sa_xyxy(&self) -> [u32; 4] {
        if self.is_empty() {
            return [0; 4];
        }
        [self.x0, self.y0, self.x1 - 1, self.y1 - 1]
    }

    /// `[x0, y0, x_max - x0, y_max - y0]`, the reference's `bbox`: one less than the pixels in each direction;
    /// `[0, 0, 0, 0]` for an empty box.
    ///
    /// Follows `box_xyxy_to_xywh` (segment-anything).
    pub const fn sa_xywh(&self) -> [u32; 4] {
        if self.is_empty() {
            return [0; 4];
        }
        [self.x0, self.y0, self.width() - 1, self.height() - 1]
    }
}

impl fmt::Display for BoxPx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "columns [{}, {}), rows [{}, {})",
            self.x0, self.x1, self.y0, self.y1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: BoxPx = BoxPx {
        x0: 2,
        y0: 1,
        x1: 7,
        y1: 4,
    };

    #[test]
    fn measures_count_pixels() {
        assert_eq!(BOX.size(), ImageSize::new(3, 5));
        assert_eq!(BOX.area(), 15);
        assert_eq!(BoxPx::of(ImageSize::new(3, 5)).size(), BOX.size());
        assert_eq!(ImageSize::new(u32::MAX, 2).pixels(), 8_589_934_590);
    }

    #[test]
    fn the_references_boxes_are_one_pixel_smaller() {
        assert_eq!(BOX.sa_xyxy(), [2, 1, 6, 3]);
        assert_eq!(BOX.sa_xywh(), [2, 1, 4, 2]);
        assert_eq!(BOX.xywh(), [2, 1, 5, 3]);
    }

    #[test]
    fn an_empty_box_is_zeros_wherever_it_lies() {
        let empty = BoxPx {
            x0: 5,
            y0: 4,
            x1: 5,
            y1: 9,
        };
        assert!(empty.is_empty());
        assert_eq!(empty.area(), 0);
        assert_eq!(empty.sa_xyxy(), [0; 4]);
        assert_eq!(empty.sa_xywh(), [0; 4]);
    }

    #[test]
    fn boxes_that_only_touch_share_no_pixel() {
        let right = BOX.translate(5, 0);
        assert_eq!(right.x0, BOX.x1);
        assert_eq!(BOX.intersect(&right), BoxPx::EMPTY);
        let corner = BOX.translate(4, 2);
        assert_eq!(BOX.intersect(&corner).xywh(), [6, 3, 1, 1]);
    }
}

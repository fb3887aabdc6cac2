//! Rectangles of pixels that may lie partly outside the image.

use maskmill_masks::ImageSize;

/// Columns `[x0, x1)` and rows `[y0, y1)` in the image's frame, in pixels; may be negative, and empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) x0: i32,
    pub(crate) y0: i32,
    pub(crate) x1: i32,
    pub(crate) y1: i32,
}

impl Window {
    pub(crate) fn of(size: ImageSize) -> Self {
        Self {
            x0: 0,
            y0: 0,
            x1: size.width as i32,
            y1: size.height as i32,
        }
    }

    /// The pixels within `half` (`[x, y]`, pixels) of `centre`, and a margin of two.
    pub(crate) fn around(centre: [f32; 2], half: [f32; 2]) -> Self {
        Self {
            x0: (centre[0] - half[0]).floor() as i32 - 2,
            y0: (centre[1] - half[1]).floor() as i32 - 2,
            x1: (centre[0] + half[0]).ceil() as i32 + 2,
            y1: (centre[1] + half[1]).ceil() as i32 + 2,
        }
    }

    pub(crate) fn width(self) -> usize {
        (self.x1 - self.x0).max(0) as usize
    }

    pub(crate) fn height(self) -> usize {
        (self.y1 - self.y0).max(0) as usize
    }

    pub(crate) fn intersect(self, other: Self) -> Self {
        let x0 = self.x0.max(other.x0);
        let y0 = self.y0.max(other.y0);
        Self {
            x0,
            y0,
            x1: self.x1.min(other.x1).max(x0),
            y1: self.y1.min(other.y1).max(y0),
        }
    }

    /// Every side `px` further out.
    pub(crate) fn grow(self, px: i32) -> Self {
        Self {
            x0: self.x0 - px,
            y0: self.y0 - px,
            x1: self.x1 + px,
            y1: self.y1 + px,
        }
    }

    /// The place of a pixel in a row-major buffer of this window.
    pub(crate) fn index(self, x: i32, y: i32) -> usize {
        (y - self.y0) as usize * self.width() + (x - self.x0) as usize
    }
}

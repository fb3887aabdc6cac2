//! An RGB image in memory.

use maskmill_masks::{BoxPx, ImageSize};

/// Bytes per pixel of an [`RgbImage`].
pub(crate) const CHANNELS: usize = 3;

/// Why pixels could not become an [`RgbImage`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PixelsError {
    /// An image without pixels: every operation on images assumes at least one.
    #[error(
        "an image of {height} x {width} pixels (height x width) has no pixels; both sides must be at least 1"
    )]
    NoPixels {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
    },
    /// The buffer does not hold `height * width * 3` bytes.
    #[error(
        "an RGB image of {height} x {width} pixels (height x width) needs {needed} bytes, but the buffer holds {found}"
    )]
    WrongLength {
        /// Rows.
        height: u32,
        /// Columns.
        width: u32,
        /// Bytes such an image has.
        needed: u64,
        /// Bytes that were given.
        found: usize,
    },
}

/// An 8-bit RGB image of at least one pixel.
///
/// # Shapes
/// - `data`: `[height, width, 3]`, row by row without padding, red first, values 0 to 255
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    size: ImageSize,
    data: Vec<u8>,
}

impl RgbImage {
    /// Takes over `data`, `[height, width, 3]` bytes.
    ///
    /// # Errors
    /// [`PixelsError`] when a side is zero or `data` is not exactly `height * width * 3` bytes long.
    pub fn new(size: ImageSize, data: Vec<u8>) -> Result<Self, PixelsError> {
        let ImageSize { height, width } = size;
        if height == 0 || width == 0 {
            return Err(PixelsError::NoPixels { height, width });
        }
        // 2^32 * 2^32 * 3 does not fit 64 bits: saturate, no buffer is that long.
        let needed = (u64::from(height) * u64::from(width)).saturating_mul(CHANNELS as u64);
        if data.len() as u64 != needed {
            return Err(PixelsError::WrongLength {
                height,
                width,
                needed,
                found: data.len(),
            });
        }
        Ok(Self { size, data })
    }

    /// Height and width in pixels, both at least 1.
    pub fn size(&self) -> ImageSize {
        self.size
    }

    /// The pixels, `[height, width, 3]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The pixels, `[height, width, 3]`, without a copy.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// Row `y`, `[width, 3]`.
    ///
    /// # Panics
    /// When `y` is not below the height.
    pub fn row(&self, y: u32) -> &[u8] {
        let row_bytes = self.size.width as usize * CHANNELS;
        &self.data[y as usize * row_bytes..][..row_bytes]
    }

    /// A copy of the pixels inside `crop_box`.
    ///
    /// # Panics
    /// When `crop_box` is empty or reaches outside the image: crop boxes are computed from the image's size, so that
    /// is a bug of the caller.
    pub fn crop(&self, crop_box: BoxPx) -> RgbImage {
        let BoxPx { x0, y0, x1, y1 } = crop_box;
        assert!(
            x0 < x1 && y0 < y1 && x1 <= self.size.width && y1 <= self.size.height,
            "crop box {crop_box} does not lie inside the image of {}",
            self.size
        );
        let size = ImageSize {
            height: y1 - y0,
            width: x1 - x0,
        };
        let columns = x0 as usize * CHANNELS..x1 as usize * CHANNELS;
        let mut data = Vec::with_capacity(columns.len() * size.height as usize);
        for y in y0..y1 {
            data.extend_from_slice(&self.row(y)[columns.clone()]);
        }
        RgbImage { size, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(height: u32, width: u32) -> RgbImage {
        let data = (0..height * width * 3).map(|i| i as u8).collect();
        RgbImage::new(ImageSize { height, width }, data).unwrap()
    }

    #[test]
    fn crop_copies_the_half_open_box() {
        let crop = numbered(3, 4).crop(BoxPx {
            x0: 1,
            y0: 1,
            x1: 3,
            y1: 3,
        });
        assert_eq!(
            crop.size(),
            ImageSize {
                height: 2,
                width: 2
            }
        );
        assert_eq!(
            crop.data(),
            [15, 16, 17, 18, 19, 20, 27, 28, 29, 30, 31, 32]
        );
    }

    #[test]
    fn crop_of_the_whole_image_is_the_image() {
        let image = numbered(5, 2);
        assert_eq!(
            image.crop(BoxPx {
                x0: 0,
                y0: 0,
                x1: 2,
                y1: 5
            }),
            image
        );
    }

    #[test]
    #[should_panic(expected = "does not lie inside")]
    fn crop_outside_panics() {
        numbered(3, 4).crop(BoxPx {
            x0: 1,
            y0: 1,
            x1: 5,
            y1: 3,
        });
    }

    #[test]
    fn wrong_length_names_both_lengths() {
        let error = RgbImage::new(
            ImageSize {
                height: 2,
                width: 3,
            },
            vec![0; 17],
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "an RGB image of 2 x 3 pixels (height x width) needs 18 bytes, but the buffer holds 17"
        );
    }

    #[test]
    fn an_image_has_pixels() {
        let size = ImageSize {
            height: 0,
            width: 3,
        };
        assert_eq!(
            RgbImage::new(size, vec![]),
            Err(PixelsError::NoPixels {
                height: 0,
                width: 3
            })
        );
    }

    #[test]
    fn sizes_whose_byte_count_overflows_are_refused() {
        let size = ImageSize {
            height: u32::MAX,
            width: u32::MAX,
        };
        assert!(matches!(
            RgbImage::new(size, vec![0; 8]),
            Err(PixelsError::WrongLength { found: 8, .. })
        ));
    }
}

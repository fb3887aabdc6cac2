//! Image bytes to upright RGB.
//!
//! | input | becomes |
//! |---|---|
//! | alpha, in any form | dropped, not composited, as Pillow's `convert("RGB")` does |
//! | palette | expanded to its colours |
//! | gray | repeated in the three channels |
//! | 16 bits per channel | the high byte (for gray, Pillow would saturate instead: most such images turn white) |
//! | CMYK, YCCK | RGB by Pillow's formula, JPEG samples inverted as Adobe writes them; no colour profile is applied |
//! | EXIF orientation 2 to 8 | turned upright; recorded in [`Decoded::exif_orientation`] |
//! | animated WebP or PNG, multi-page TIFF | the first frame |
//! | floating-point samples, palette TIFF | refused as unsupported |
//!
//! JPEG goes through libjpeg-turbo with its accurate DCT and smooth upsampling, so that the pixels are those that
//! Pillow and OpenCV give the reference. Any JPEG warning is an error here: a half-gray picture of a truncated file
//! would yield masks that look like data.
//!
//! The format is told from the first bytes, never from a name. Width and height are read and compared with
//! [`DecodeLimits`] before memory for pixels is taken.

mod jpeg;
mod orientation;
mod raster;

use std::fmt;

use maskmill_masks::ImageSize;
use maskmill_pixels::RgbImage;

use crate::panics::caught;

/// How large an image may be; larger ones are refused before memory for their pixels is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels (width times height).
    pub max_pixels: u64,
    /// Most pixels along either side.
    pub max_side: u32,
}

impl Default for DecodeLimits {
    /// 100 megapixels (300 MB of RGB), and sides as long as libjpeg reads them.
    fn default() -> Self {
        Self {
            max_pixels: 100_000_000,
            max_side: 65_500,
        }
    }
}

impl DecodeLimits {
    fn check(&self, format: ImageFormat, width: u32, height: u32) -> Result<(), DecodeError> {
        let over = if width.max(height) > self.max_side {
            format!("sides of at most {} pixels are", self.max_side)
        } else if u64::from(width) * u64::from(height) > self.max_pixels {
            format!("at most {} pixels are", self.max_pixels)
        } else {
            return Ok(());
        };
        Err(DecodeError::TooLarge {
            format,
            detail: format!("the header says {width} x {height} pixels, {over} allowed"),
        })
    }
}

/// The image file formats that [`decode`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// JPEG, baseline and progressive, 8 bits per sample.
    Jpeg,
    /// PNG.
    Png,
    /// TIFF and BigTIFF.
    Tiff,
    /// Windows bitmap.
    Bmp,
    /// WebP, lossy and lossless.
    WebP,
}

impl ImageFormat {
    /// The name written to image rows: `jpeg`, `png`, `tiff`, `bmp` or `webp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Tiff => "tiff",
            Self::Bmp => "bmp",
            Self::WebP => "webp",
        }
    }

    /// Tells the format from a file's first bytes.
    fn sniff(bytes: &[u8]) -> Result<Self, DecodeError> {
        const BMP_HEADER_LENGTHS: [u8; 8] = [12, 16, 40, 52, 56, 64, 108, 124];
        let unsupported = |name: &str| {
            Err(DecodeError::Unsupported {
                detail: format!(
                    "{name} images are not read; convert them to JPEG, PNG, TIFF, BMP or WebP"
                ),
            })
        };
        match bytes {
            [] => Err(DecodeError::Empty),
            [0xFF, 0xD8, 0xFF, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Ok(Self::Png),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Ok(Self::Tiff),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Ok(Self::WebP),
            // Two letters are too few to tell a bitmap from a text: its second header's length follows at 14.
            [b'B', b'M', rest @ ..] if matches!(rest.get(12..16), Some([n, 0, 0, 0]) if BMP_HEADER_LENGTHS.contains(n)) => {
                Ok(Self::Bmp)
            }
            [b'G', b'I', b'F', b'8', ..] => unsupported("GIF"),
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => unsupported("HEIC and AVIF"),
            [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => unsupported("JPEG XL"),
            [0xFF, 0x4F, 0xFF, 0x51, ..] | [0, 0, 0, 12, b'j', b'P', ..] => {
                unsupported("JPEG 2000")
            }
            _ => Err(DecodeError::NotAnImage {
                head: bytes[..bytes.len().min(16)].escape_ascii().to_string(),
            }),
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Tiff => "TIFF",
            Self::Bmp => "BMP",
            Self::WebP => "WebP",
        })
    }
}

/// A decoded image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The upright image, `[height, width, 3]`.
    pub image: RgbImage,
    /// The file's format.
    pub format: ImageFormat,
    /// The EXIF orientation (1 to 8) that was applied; 1 when the file has none or an invalid one.
    pub exif_orientation: u8,
}

/// Why bytes did not become an image. Each is a property of the file: trying again gives the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Zero bytes.
    #[error("the file is empty")]
    Empty,
    /// The first bytes are of no image format known here.
    #[error("not a JPEG, PNG, TIFF, BMP or WebP image: the file begins with \"{head}\"")]
    NotAnImage {
        /// Up to 16 first bytes, escaped.
        head: String,
    },
    /// The file ends before its image does.
    #[error("the {format} file is cut short: {detail}")]
    Truncated {
        /// The file's format.
        format: ImageFormat,
        /// What the decoder said.
        detail: String,
    },
    /// The file breaks its format's rules, as damaged files do.
    #[error("the {format} file is damaged: {detail}")]
    Corrupt {
        /// The file's format.
        format: ImageFormat,
        /// What the decoder said.
        detail: String,
    },
    /// More pixels than [`DecodeLimits`] allow, or than the format's decoder can hold.
    #[error("the {format} image is too large: {detail}")]
    TooLarge {
        /// The file's format.
        format: ImageFormat,
        /// Its size and the limit.
        detail: String,
    },
    /// A valid file of a kind that is not read.
    #[error("unsupported image: {detail}")]
    Unsupported {
        /// What is not supported.
        detail: String,
    },
}

impl DecodeError {
    /// The stable code written to rejected image rows: `empty`, `not_an_image`, `truncated`, `corrupt`, `too_large` or
    /// `unsupported`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotAnImage { .. } => "not_an_image",
            Self::Truncated { .. } => "truncated",
            Self::Corrupt { .. } => "corrupt",
            Self::TooLarge { .. } => "too_large",
            Self::Unsupported { .. } => "unsupported",
        }
    }
}

/// Pixels as stored, before they are turned upright.
struct Stored {
    image: RgbImage,
    /// 1 to 8.
    exif_orientation: u8,
}

/// The size of an image as stored, before it is turned upright, read from its header.
///
/// # Errors
/// As [`decode`], for what the header alone shows.
pub fn dimensions(bytes: &[u8], limits: &DecodeLimits) -> Result<ImageSize, DecodeError> {
    let format = ImageFormat::sniff(bytes)?;
    unpanicked(format, || match format {
        ImageFormat::Jpeg => jpeg::dimensions(bytes, limits),
        _ => raster::dimensions(format, bytes, limits),
    })
}

/// Decodes a whole image file and turns it upright.
///
/// # Errors
/// [`DecodeError`] for anything that is not a complete, readable image within `limits`. Never panics: a codec that
/// panics on hostile bytes is reported as [`DecodeError::Corrupt`].
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    let format = ImageFormat::sniff(bytes)?;
    let stored = unpanicked(format, || match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, limits),
        _ => raster::decode(format, bytes, limits),
    })?;
    Ok(Decoded {
        image: orientation::upright(stored.image, stored.exif_orientation),
        format,
        exif_orientation: stored.exif_orientation,
    })
}

/// Reports a codec that panics on hostile bytes as [`DecodeError::Corrupt`].
fn unpanicked<T>(
    format: ImageFormat,
    decode: impl FnOnce() -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    caught(decode).unwrap_or_else(|panic| {
        let detail = format!("its decoder panicked: {panic}");
        Err(DecodeError::Corrupt { format, detail })
    })
}

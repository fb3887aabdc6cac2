//! PNG, TIFF, BMP and WebP through the `image` crate.

use std::error::Error;
use std::io::{self, Cursor};

use image::codecs::{bmp::BmpDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder};
use image::{ColorType, ImageDecoder, ImageError, Limits};
use maskmill_masks::ImageSize;
use maskmill_pixels::RgbImage;

use super::{DecodeError, DecodeLimits, ImageFormat, Stored, orientation};

/// Most bytes per pixel of the colour types accepted here: RGBA with 16 bits.
const MAX_BYTES_PER_PIXEL: u64 = 8;

/// Room for a decoder's own tables and rows, besides the pixels.
const WORKING_BYTES: u64 = 64 << 20;

/// Reads the header; the size is within `limits`.
fn open<'a>(
    format: ImageFormat,
    bytes: &'a [u8],
    limits: &DecodeLimits,
) -> Result<Box<dyn ImageDecoder + 'a>, DecodeError> {
    let explain = |error| classify(format, error);
    if format == ImageFormat::WebP {
        check_riff_length(bytes)?;
    }
    let reader = Cursor::new(bytes);
    let decoder: Box<dyn ImageDecoder + 'a> = match format {
        ImageFormat::Png => {
            Box::new(PngDecoder::with_limits(reader, decoder_limits(limits)).map_err(explain)?)
        }
        ImageFormat::Tiff => Box::new(TiffDecoder::new(reader).map_err(explain)?),
        ImageFormat::Bmp => Box::new(BmpDecoder::new(reader).map_err(explain)?),
        ImageFormat::WebP => Box::new(WebPDecoder::new(reader).map_err(explain)?),
        ImageFormat::Jpeg => unreachable!("JPEG has its own decoder"),
    };
    let (width, height) = decoder.dimensions();
    limits.check(format, width, height)?;
    Ok(decoder)
}

/// Size as stored, from the header.
pub(super) fn dimensions(
    format: ImageFormat,
    bytes: &[u8],
    limits: &DecodeLimits,
) -> Result<ImageSize, DecodeError> {
    let (width, height) = open(format, bytes, limits)?.dimensions();
    Ok(ImageSize { height, width })
}

pub(super) fn decode(
    format: ImageFormat,
    bytes: &[u8],
    limits: &DecodeLimits,
) -> Result<Stored, DecodeError> {
    let explain = |error| classify(format, error);
    let mut decoder = open(format, bytes, limits)?;
    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    if !is_integer(color) {
        return Err(DecodeError::Unsupported {
            detail: format!("{format} with {color:?} samples; write them as 8 or 16 bit integers"),
        });
    }
    decoder
        .set_limits(decoder_limits(limits))
        .map_err(explain)?;
    let exif_orientation = stored_orientation(format, decoder.as_mut());

    // Below MAX_BYTES_PER_PIXEL * max_pixels, which the limits allow.
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples).map_err(explain)?;
    let size = ImageSize { height, width };
    let image =
        RgbImage::new(size, to_rgb(color, samples)).map_err(|error| DecodeError::Corrupt {
            format,
            detail: error.to_string(),
        })?;
    Ok(Stored {
        image,
        exif_orientation,
    })
}

/// WebP keeps metadata after the pixels, so a file whose orientation is cut off would decode, but lie on its side.
fn check_riff_length(bytes: &[u8]) -> Result<(), DecodeError> {
    // The length of everything after itself, behind the four letters RIFF.
    let length = bytes[4..]
        .first_chunk()
        .map_or(0, |length| u32::from_le_bytes(*length));
    let needed = u64::from(length) + 8;
    if needed <= bytes.len() as u64 {
        return Ok(());
    }
    Err(DecodeError::Truncated {
        format: ImageFormat::WebP,
        detail: format!(
            "the header says {needed} bytes, the file has {}",
            bytes.len()
        ),
    })
}

/// Memory alone: sides and pixels are compared in [`open`], whose message names them.
fn decoder_limits(limits: &DecodeLimits) -> Limits {
    let mut decoder_limits = Limits::default();
    decoder_limits.max_alloc = Some(
        limits
            .max_pixels
            .saturating_mul(MAX_BYTES_PER_PIXEL)
            .saturating_add(WORKING_BYTES),
    );
    decoder_limits
}

fn is_integer(color: ColorType) -> bool {
    use ColorType::{L8, L16, La8, La16, Rgb8, Rgb16, Rgba8, Rgba16};
    matches!(color, L8 | L16 | La8 | La16 | Rgb8 | Rgb16 | Rgba8 | Rgba16)
}

/// The file's orientation (1 to 8). Metadata that cannot be read never costs the image: it means 1.
fn stored_orientation(format: ImageFormat, decoder: &mut dyn ImageDecoder) -> u8 {
    if format == ImageFormat::Tiff {
        return decoder
            .orientation()
            .map_or(1, |orientation| orientation.to_exif());
    }
    match decoder.exif_metadata() {
        Ok(Some(block)) => orientation::from_exif(&block),
        Ok(None) | Err(_) => 1,
    }
}

/// Drops alpha, repeats gray and keeps the high byte of 16 bits; `samples` are in native byte order.
fn to_rgb(color: ColorType, samples: Vec<u8>) -> Vec<u8> {
    if color == ColorType::Rgb8 {
        return samples;
    }
    let bytes_per_pixel = usize::from(color.bytes_per_pixel());
    let bytes_per_sample = bytes_per_pixel / usize::from(color.channel_count());
    let high_byte = if cfg!(target_endian = "little") {
        bytes_per_sample - 1
    } else {
        0
    };
    let [red, green, blue] = if color.has_color() {
        [0, 1, 2]
    } else {
        [0, 0, 0]
    };
    let mut rgb = Vec::with_capacity(samples.len() / bytes_per_pixel * 3);
    for pixel in samples.chunks_exact(bytes_per_pixel) {
        rgb.extend([red, green, blue].map(|channel| pixel[channel * bytes_per_sample + high_byte]));
    }
    rgb
}

fn classify(format: ImageFormat, error: ImageError) -> DecodeError {
    let detail = error.to_string();
    match error {
        ImageError::Unsupported(_) => DecodeError::Unsupported { detail },
        ImageError::Limits(_) => DecodeError::TooLarge { format, detail },
        _ if ends_early(&error) => DecodeError::Truncated { format, detail },
        _ => DecodeError::Corrupt { format, detail },
    }
}

/// Whether an unexpected end of input is anywhere among an error's causes.
fn ends_early(error: &ImageError) -> bool {
    if let ImageError::IoError(error) = error {
        return error.kind() == io::ErrorKind::UnexpectedEof;
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sixteen(samples: &[u16]) -> Vec<u8> {
        samples
            .iter()
            .flat_map(|sample| sample.to_ne_bytes())
            .collect()
    }

    #[test]
    fn every_integer_layout_becomes_rgb() {
        assert_eq!(to_rgb(ColorType::L8, vec![7, 9]), [7, 7, 7, 9, 9, 9]);
        assert_eq!(
            to_rgb(ColorType::La8, vec![7, 0, 9, 255]),
            [7, 7, 7, 9, 9, 9]
        );
        assert_eq!(to_rgb(ColorType::Rgba8, vec![1, 2, 3, 0]), [1, 2, 3]);
        assert_eq!(
            to_rgb(ColorType::L16, sixteen(&[0x12FF])),
            [0x12, 0x12, 0x12]
        );
        assert_eq!(
            to_rgb(ColorType::La16, sixteen(&[0x12FF, 0])),
            [0x12, 0x12, 0x12]
        );
        assert_eq!(
            to_rgb(ColorType::Rgb16, sixteen(&[0x12FF, 0x3480, 0x00FF])),
            [0x12, 0x34, 0]
        );
        assert_eq!(
            to_rgb(ColorType::Rgba16, sixteen(&[0x12FF, 0x3480, 0x00FF, 0])),
            [0x12, 0x34, 0]
        );
    }
}

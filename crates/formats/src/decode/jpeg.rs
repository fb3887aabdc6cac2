//! JPEG through libjpeg-turbo.

use maskmill_masks::ImageSize;
use maskmill_pixels::RgbImage;
use turbojpeg::{Colorspace, Decompressor, Image, PixelFormat};

use super::{DecodeError, DecodeLimits, ImageFormat, Stored, orientation};

/// Most scans of a progressive file. Encoders write about ten; thousands of them in a small file are an attack that
/// costs minutes of decoding.
const MAX_SCANS: u32 = 500;

/// Reads the header; the size is within `limits`.
fn header(
    decompressor: &mut Decompressor,
    bytes: &[u8],
    limits: &DecodeLimits,
) -> Result<(ImageSize, Colorspace), DecodeError> {
    let header = decompressor
        .read_header(bytes)
        .map_err(|error| classify(error, bytes))?;
    // JPEG stores sides in 16 bits.
    let size = ImageSize {
        height: header.height as u32,
        width: header.width as u32,
    };
    limits.check(ImageFormat::Jpeg, size.width, size.height)?;
    Ok((size, header.colorspace))
}

/// Size as stored, from the header.
pub(super) fn dimensions(bytes: &[u8], limits: &DecodeLimits) -> Result<ImageSize, DecodeError> {
    let mut decompressor = Decompressor::new().map_err(|error| classify(error, bytes))?;
    Ok(header(&mut decompressor, bytes, limits)?.0)
}

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Stored, DecodeError> {
    let mut decompressor = Decompressor::new().map_err(|error| classify(error, bytes))?;
    decompressor
        .set_scan_limit(MAX_SCANS)
        .map_err(|error| classify(error, bytes))?;
    let (size, colorspace) = header(&mut decompressor, bytes, limits)?;
    let data = match colorspace {
        Colorspace::CMYK | Colorspace::YCCK => {
            let cmyk = decompress(&mut decompressor, bytes, size, PixelFormat::CMYK)?;
            inverted_cmyk_to_rgb(&cmyk)
        }
        // Gray is repeated in the three channels by libjpeg itself.
        Colorspace::RGB | Colorspace::YCbCr | Colorspace::Gray => {
            decompress(&mut decompressor, bytes, size, PixelFormat::RGB)?
        }
    };
    Ok(Stored {
        image: RgbImage::new(size, data).expect("libjpeg-turbo fills the size its header names"),
        exif_orientation: exif(bytes).map_or(1, orientation::from_exif),
    })
}

fn decompress(
    decompressor: &mut Decompressor,
    bytes: &[u8],
    size: ImageSize,
    format: PixelFormat,
) -> Result<Vec<u8>, DecodeError> {
    let (height, width) = (size.height as usize, size.width as usize);
    let pitch = width * format.size();
    let mut pixels = vec![0; height * pitch];
    let output = Image {
        pixels: pixels.as_mut_slice(),
        width,
        pitch,
        height,
        format,
    };
    decompressor
        .decompress(bytes, output)
        .map_err(|error| classify(error, bytes))?;
    Ok(pixels)
}

/// Adobe's inverted CMYK (255 is no ink), `[pixels, 4]`, to RGB, `[pixels, 3]`.
///
/// Follows `cmyk2rgb` (Pillow, `Convert.c`) on samples that Pillow's JPEG reader has inverted back.
fn inverted_cmyk_to_rgb(cmyk: &[u8]) -> Vec<u8> {
    let (pixels, _) = cmyk.as_chunks::<4>();
    let mut rgb = Vec::with_capacity(pixels.len() * 3);
    for &[cyan, magenta, yellow, key] in pixels {
        rgb.extend([cyan, magenta, yellow].map(|ink| key - times(255 - ink, key)));
    }
    rgb
}

/// `a * b / 255`, rounded as Pillow's `MULDIV255` does; at most `b`.
fn times(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    ((product + (product >> 8)) >> 8) as u8
}

/// The EXIF block of a JPEG file: the TIFF structure after `Exif\0\0` in the first APP1 segment that has it.
fn exif(bytes: &[u8]) -> Option<&[u8]> {
    const APP1: u8 = 0xE1;
    const START_OF_SCAN: u8 = 0xDA;
    // Segments follow the two bytes of the start marker: FF, type, then a length that counts itself.
    let mut rest = bytes.get(2..)?;
    loop {
        match rest {
            // Any number of FF bytes may pad a marker.
            [0xFF, 0xFF, ..] => rest = &rest[1..],
            [0xFF, START_OF_SCAN, ..] => return None,
            [0xFF, kind, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let payload = rest.get(4..2 + length)?;
                if *kind == APP1 && payload.starts_with(orientation::EXIF_PREFIX) {
                    return Some(payload);
                }
                rest = &rest[2 + length..];
            }
            _ => return None,
        }
    }
}

/// libjpeg tells its errors apart by their texts (`jerror.h`). It reads a file that is cut short as if an end marker
/// followed, and may stumble over that before it notices the end.
fn classify(error: turbojpeg::Error, bytes: &[u8]) -> DecodeError {
    const END_OF_IMAGE: [u8; 2] = [0xFF, 0xD9];
    let format = ImageFormat::Jpeg;
    let detail = match error {
        turbojpeg::Error::TurboJpegError(message) => message,
        other => other.to_string(),
    };
    let says = |texts: &[&str]| texts.iter().any(|text| detail.contains(text));
    if says(&["Maximum supported image dimension", "too wide"]) {
        DecodeError::TooLarge { format, detail }
    } else if says(&[
        "Unsupported",
        "Could not determine colorspace",
        "data precision",
        "not implemented",
        "omitted at compile time",
    ]) {
        let detail = format!("JPEG: {detail}");
        DecodeError::Unsupported { detail }
    } else if says(&["Premature end", "premature end"])
        || !bytes.windows(2).any(|pair| pair == END_OF_IMAGE)
    {
        DecodeError::Truncated { format, detail }
    } else {
        DecodeError::Corrupt { format, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cmyk_without_ink_is_white_and_with_key_black() {
        assert_eq!(inverted_cmyk_to_rgb(&[255, 255, 255, 255]), [255, 255, 255]);
        assert_eq!(inverted_cmyk_to_rgb(&[255, 255, 255, 0]), [0, 0, 0]);
        assert_eq!(inverted_cmyk_to_rgb(&[0, 255, 255, 255]), [0, 255, 255]);
        // Half the cyan ink at 200 of 255 light: 200 - round(127 * 200 / 255).
        assert_eq!(inverted_cmyk_to_rgb(&[128, 255, 255, 200]), [100, 200, 200]);
    }

    #[test]
    fn times_never_exceeds_its_second_factor() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert!(times(a, b) <= b, "{a} x {b}");
            }
        }
    }

    #[test]
    fn exif_is_found_after_other_segments_and_padding() {
        let jpeg = b"\xFF\xD8\xFF\xE0\0\x04ab\xFF\xFF\xE1\0\x03x\xFF\xE1\0\x0AExif\0\0II\xFF\xDA";
        assert_eq!(exif(jpeg), Some(&b"Exif\0\0II"[..]));
    }

    #[test]
    fn broken_segments_have_no_exif() {
        for jpeg in [
            &b""[..],
            b"\xFF\xD8",
            b"\xFF\xD8\xFF\xE1\0",
            b"\xFF\xD8\xFF\xE1\0\0",
            b"\xFF\xD8\xFF\xE1\xFF\xFFExif\0\0",
            b"\xFF\xD8ab",
        ] {
            assert_eq!(exif(jpeg), None, "{jpeg:?}");
        }
    }
}

//! EXIF orientation: reading it, and turning the pixels upright.

use image::metadata::Orientation;
use maskmill_masks::ImageSize;
use maskmill_pixels::RgbImage;

/// What precedes the TIFF structure in JPEG's APP1 segment, and in some writers' WebP and PNG chunks.
pub(super) const EXIF_PREFIX: &[u8] = b"Exif\0\0";

/// The orientation tag (1 to 8) of an EXIF block, with or without its prefix. A block without the tag, a damaged block
/// and a value outside 1 to 8 all mean 1: the pixels are fine as they are stored.
pub(super) fn from_exif(block: &[u8]) -> u8 {
    let tiff = block.strip_prefix(EXIF_PREFIX).unwrap_or(block);
    Orientation::from_exif_chunk(tiff).map_or(1, Orientation::to_exif)
}

/// Undoes what the camera did: `image` as stored, turned and mirrored so that its first row is the top.
///
/// # Shapes
/// - `image`: `[height, width, 3]`
/// - output: the same for 1 to 4, `[width, height, 3]` for 5 to 8
///
/// Follows the EXIF standard (CIPA DC-008, tag 0x0112), as `PIL.ImageOps.exif_transpose` does.
pub(super) fn upright(image: RgbImage, exif_orientation: u8) -> RgbImage {
    let ImageSize { height, width } = image.size();
    let [bottom, right] = [height as usize - 1, width as usize - 1];
    // From a row and column of the output to those of the stored image.
    let stored: fn([usize; 2], [usize; 2]) -> [usize; 2] = match exif_orientation {
        2 => |[y, x], [_, right]| [y, right - x],
        3 => |[y, x], [bottom, right]| [bottom - y, right - x],
        4 => |[y, x], [bottom, _]| [bottom - y, x],
        5 => |[y, x], _| [x, y],
        6 => |[y, x], [bottom, _]| [bottom - x, y],
        7 => |[y, x], [bottom, right]| [bottom - x, right - y],
        8 => |[y, x], [_, right]| [x, right - y],
        _ => return image,
    };
    let size = if exif_orientation < 5 {
        image.size()
    } else {
        ImageSize {
            height: width,
            width: height,
        }
    };
    let (pixels, _) = image.data().as_chunks::<3>();
    let mut data = Vec::with_capacity(image.data().len());
    for y in 0..size.height as usize {
        for x in 0..size.width as usize {
            let [stored_y, stored_x] = stored([y, x], [bottom, right]);
            data.extend_from_slice(&pixels[stored_y * width as usize + stored_x]);
        }
    }
    RgbImage::new(size, data).expect("every pixel was copied once")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters as gray pixels, `/` between rows.
    fn image(rows: &str) -> RgbImage {
        let rows: Vec<&[u8]> = rows.split('/').map(str::as_bytes).collect();
        let size = ImageSize {
            height: rows.len() as u32,
            width: rows[0].len() as u32,
        };
        let data = rows
            .concat()
            .into_iter()
            .flat_map(|letter| [letter; 3])
            .collect();
        RgbImage::new(size, data).unwrap()
    }

    /// What the sensor stores for each orientation when the scene is `abc/def`.
    #[test]
    fn all_eight_orientations_show_the_same_scene() {
        let stored = [
            "abc/def", "cba/fed", "fed/cba", "def/abc", "ad/be/cf", "cf/be/ad", "fc/eb/da",
            "da/eb/fc",
        ];
        for (orientation, stored) in (1..).zip(stored) {
            assert_eq!(
                upright(image(stored), orientation),
                image("abc/def"),
                "orientation {orientation}"
            );
        }
    }

    /// A TIFF structure whose IFD 0 holds one entry: tag 0x0112, type SHORT, count 1.
    fn exif_block(value: u16, little_endian: bool) -> Vec<u8> {
        let order = if little_endian { b"II" } else { b"MM" };
        // The IFD's offset and the entry's count are 32 bits wide, so their halves swap with the byte order.
        let numbers = if little_endian {
            [42, 8, 0, 1, 0x0112, 3, 1, 0, value, 0, 0, 0].map(u16::to_le_bytes)
        } else {
            [42, 0, 8, 1, 0x0112, 3, 0, 1, value, 0, 0, 0].map(u16::to_be_bytes)
        };
        [&order[..], numbers.as_flattened()].concat()
    }

    #[test]
    fn both_byte_orders_are_read_with_and_without_prefix() {
        for little in [true, false] {
            let block = exif_block(6, little);
            assert_eq!(from_exif(&block), 6);
            assert_eq!(from_exif(&[EXIF_PREFIX, &block].concat()), 6);
        }
    }

    #[test]
    fn malformed_blocks_mean_upright() {
        let block = exif_block(6, true);
        for length in 0..20 {
            assert_eq!(from_exif(&block[..length]), 1, "cut to {length} bytes");
        }
        assert_eq!(from_exif(&exif_block(0, true)), 1);
        assert_eq!(from_exif(&exif_block(9, false)), 1);
        assert_eq!(from_exif(b"Exif\0\0garbage, no TIFF header"), 1);
    }
}

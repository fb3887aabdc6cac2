//! Run-length encoded masks.

use maskmill_masks::{Bitmap, BoxPx, ImageSize, MergeOp, RegionMode, Rle, RleError};

use crate::panics::guarded;
use crate::{is_set, split};

/// Masks of more pixels, or with longer sides, are not decoded: without pixels a mask may be 2^32 columns wide.
const MAX_PIXELS: u64 = 1 << 16;

/// Reads a mask: what is accepted survives being written, and its runs agree with its pixels.
///
/// Bit 0 of the options: run lengths of 32 bits, little-endian, instead of a COCO string. Bit 1: the size is not the
/// one stated but one that the runs fill. Four bytes each of height and width follow.
pub fn rle(data: &[u8]) {
    guarded(|| check(data));
}

fn check(data: &[u8]) {
    let (options, rest) = split(data);
    let Some((size, runs)) = rest.split_at_checked(8) else {
        return;
    };
    let side = |at: usize| u32::from_le_bytes(size[at..at + 4].try_into().expect("four bytes"));
    let stated = ImageSize::new(side(0), side(4));
    let mut read = parse(options, stated, runs);
    if let (true, Err(RleError::LengthMismatch { covered, .. })) = (is_set(options, 1), &read) {
        read = parse(options, filled(stated, *covered), runs);
    }
    match read {
        Ok(mask) => check_mask(&mask),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn parse(options: u8, size: ImageSize, runs: &[u8]) -> Result<Rle, RleError> {
    if is_set(options, 0) {
        let (runs, _) = runs.as_chunks();
        let counts: Vec<u32> = runs.iter().map(|run| u32::from_le_bytes(*run)).collect();
        return Rle::from_counts(size, counts);
    }
    let string = String::from_utf8_lossy(runs);
    Rle::from_coco_string(size, &string)
}

/// A size of `covered` pixels, as high as `stated` if that divides them.
fn filled(stated: ImageSize, covered: u64) -> ImageSize {
    let height = u64::from(stated.height).max(1);
    let height = if covered.is_multiple_of(height) {
        height
    } else {
        1
    };
    match u32::try_from(covered / height) {
        Ok(width) => ImageSize::new(height as u32, width),
        Err(_) => stated,
    }
}

fn check_mask(mask: &Rle) {
    let size = mask.size();
    let total: u64 = mask.counts().iter().map(|&count| u64::from(count)).sum();
    assert_eq!(total, size.pixels());
    let folded = mask.counts().iter().skip(1).all(|&count| count > 0);
    assert!(folded, "an empty run in {:?}", mask.counts());

    let string = mask.to_coco_string();
    assert_eq!(Rle::from_coco_string(size, &string).as_ref(), Ok(mask));
    assert_eq!(Rle::from_counts(size, mask.counts()).as_ref(), Ok(mask));

    let (area, bounds) = (mask.area(), mask.bounds());
    assert!(area <= bounds.area(), "{area} pixels in {bounds}");
    assert_eq!(area == 0, bounds.is_empty());
    assert!(bounds.x1 <= size.width && bounds.y1 <= size.height);
    assert_eq!(mask.intersection_area(mask), Ok(area));
    let inside: u64 = mask.runs_inside().map(|run| run.len() as u64).sum();
    assert_eq!(inside, area);

    let longest = u64::from(size.height.max(size.width));
    if size.pixels() <= MAX_PIXELS && longest <= MAX_PIXELS {
        check_pixels(mask);
    }
}

/// The runs against the plain pixels.
fn check_pixels(mask: &Rle) {
    let pixels = mask.decode();
    assert_eq!(pixels.area(), mask.area());
    assert_eq!(pixels.bounds(), mask.bounds());
    assert_eq!(&Rle::encode(&pixels), mask);

    let size = mask.size();
    let others = Rle::encode(&Bitmap::from_fn(size, |y, x| !pixels.get(y, x)));
    let full = Rle::merge(&[mask, &others], MergeOp::Union).expect("masks of one size");
    assert_eq!(full.area(), size.pixels());
    assert_eq!(mask.intersection_area(&others), Ok(0));

    let image = ImageSize::new(size.height + 3, size.width + 2);
    let crop = BoxPx::of(size).translate(1, 2);
    let placed = mask
        .uncrop(crop, image)
        .expect("the crop is inside the image");
    let padded = Bitmap::from_fn(image, |y, x| {
        let is_inside = (2..2 + size.height).contains(&y) && (1..1 + size.width).contains(&x);
        is_inside && pixels.get(y - 2, x - 1)
    });
    assert_eq!(placed, Rle::encode(&padded));

    let (cleaned, _) = mask.remove_small_regions(5, RegionMode::Islands);
    assert!(cleaned.area() <= mask.area());
    assert_eq!(cleaned.area() == 0, mask.area() == 0);
    let (filled, _) = mask.remove_small_regions(5, RegionMode::Holes);
    assert_eq!(filled.intersection_area(mask), Ok(mask.area()));
}

//! Overlapping crops of an image, and masks that a crop's edge cut.

use crate::{BoxPx, ImageSize};

/// One crop of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Crop {
    /// 0 for the whole image; layer `i` cuts each side into `2^i` overlapping parts.
    pub layer: u32,
    /// Where the crop lies in the image.
    pub bounds: BoxPx,
}

/// A mask whose box comes this close to its crop's edge was probably cut by it, in pixels.
///
/// The default `atol` of `is_box_near_crop_edge` (segment-anything).
const CROP_EDGE_TOLERANCE_PX: u32 = 20;

/// The whole image, then the crops of layers 1 to `n_layers`: `4^i` crops in layer `i`, x outer, y inner.
///
/// `overlap_ratio` is the overlap of neighbouring crops of layer 1 as a fraction of the image's shorter side; it halves
/// with every further layer.
///
/// Follows `generate_crop_boxes` (segment-anything), with its arithmetic. Crops without pixels, which only images of
/// a few pixels have and on which the reference fails, are left out.
///
/// # Panics
/// If `overlap_ratio` is outside `[0, 1]`, or `n_layers` is above 15 (which would be `4^15` crops).
pub fn crops(image: ImageSize, n_layers: u32, overlap_ratio: f64) -> Vec<Crop> {
    assert!(
        (0.0..=1.0).contains(&overlap_ratio),
        "the overlap of crops must lie in [0, 1], not {overlap_ratio}"
    );
    assert!(
        n_layers <= 15,
        "{n_layers} layers of crops: at most 15 are possible"
    );
    let short_side = f64::from(image.height.min(image.width));
    let mut crops = vec![Crop {
        layer: 0,
        bounds: BoxPx::of(image),
    }];
    for layer in 1..=n_layers {
        let per_side = 1u32 << layer;
        // The products in the reference's order; truncation is Python's int().
        let overlap = (overlap_ratio * short_side * (2.0 / f64::from(per_side))) as u32;
        let columns = spans(image.width, per_side, overlap);
        let rows = spans(image.height, per_side, overlap);
        for &(x0, x1) in &columns {
            for &(y0, y1) in &rows {
                let bounds = BoxPx { x0, y0, x1, y1 };
                if !bounds.is_empty() {
                    crops.push(Crop { layer, bounds });
                }
            }
        }
    }
    crops
}

/// One side of `length` pixels cut into `parts` spans `[start, end)` that overlap by `overlap` pixels.
fn spans(length: u32, parts: u32, overlap: u32) -> Vec<(u32, u32)> {
    // In u64: the sum of overlaps may pass 2^32. With a ratio up to 1, `overlap <= length`, so a span is never shorter
    // than its overlap.
    let (length, parts, overlap) = (u64::from(length), u64::from(parts), u64::from(overlap));
    let span = (overlap * (parts - 1) + length).div_ceil(parts);
    (0..parts)
        .map(|part| {
            let start = (span - overlap) * part;
            let end = (start + span).min(length);
            (start.min(length) as u32, end as u32)
        })
        .collect()
}

/// Whether a mask comes within 20 pixels of an edge of its crop that is not also an edge of the image.
///
/// - `box_in_crop`: the mask's box in the frame of the crop
/// - `crop`: the crop in the frame of the image
///
/// The corners compared are the reference's: the mask's maxima are inclusive, the crop's and image's exclusive. An empty
/// mask stands at the crop's first pixel. Follows `is_box_near_crop_edge` (segment-anything).
pub fn is_near_crop_edge(box_in_crop: BoxPx, crop: BoxPx, image: ImageSize) -> bool {
    let [x0, y0, x_max, y_max] = box_in_crop.sa_xyxy();
    let corners = [x0 + crop.x0, y0 + crop.y0, x_max + crop.x0, y_max + crop.y0];
    let crop_corners = [crop.x0, crop.y0, crop.x1, crop.y1];
    let image_corners = [0, 0, image.width, image.height];
    let near = |a: u32, b: u32| a.abs_diff(b) <= CROP_EDGE_TOLERANCE_PX;
    (0..4).any(|i| near(corners[i], crop_corners[i]) && !near(corners[i], image_corners[i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boxed(x0: u32, y0: u32, x1: u32, y1: u32) -> BoxPx {
        BoxPx { x0, y0, x1, y1 }
    }

    #[test]
    fn without_layers_there_is_the_whole_image() {
        let image = ImageSize::new(30, 70);
        let only = Crop {
            layer: 0,
            bounds: BoxPx::of(image),
        };
        assert_eq!(crops(image, 0, 0.3), [only]);
    }

    #[test]
    fn crops_run_down_the_columns_first() {
        let bounds: Vec<BoxPx> = crops(ImageSize::new(100, 200), 1, 0.2)
            .iter()
            .map(|crop| crop.bounds)
            .collect();
        // Overlap int(0.2 * 100) = 20: spans of ceil(220 / 2) columns and ceil(120 / 2) rows.
        assert_eq!(
            bounds,
            [
                boxed(0, 0, 200, 100),
                boxed(0, 0, 110, 60),
                boxed(0, 40, 110, 100),
                boxed(90, 0, 200, 60),
                boxed(90, 40, 200, 100),
            ]
        );
    }

    #[test]
    fn an_image_of_one_pixel_has_no_empty_crops() {
        let crops = crops(ImageSize::new(1, 1), 2, 0.34);
        assert!(crops.iter().all(|crop| !crop.bounds.is_empty()));
        assert_eq!(crops.len(), 3);
    }

    #[test]
    fn the_tolerance_is_inclusive() {
        let image = ImageSize::new(400, 1000);
        let crop = boxed(300, 100, 700, 300);
        // 21 pixels from every edge of the crop; the maxima are inclusive, hence 180 and 380.
        let clear = boxed(21, 21, 380, 180);
        assert!(!is_near_crop_edge(clear, crop, image));
        for near in [
            boxed(20, 21, 380, 180),
            boxed(21, 20, 380, 180),
            boxed(21, 21, 381, 180),
            boxed(21, 21, 380, 181),
        ] {
            assert!(is_near_crop_edge(near, crop, image), "{near}");
        }
    }

    #[test]
    fn the_images_own_edges_cut_nothing() {
        let image = ImageSize::new(400, 1000);
        assert!(!is_near_crop_edge(
            BoxPx::of(image),
            BoxPx::of(image),
            image
        ));
        let top_left = boxed(0, 0, 600, 300);
        assert!(!is_near_crop_edge(boxed(0, 0, 500, 200), top_left, image));
        assert!(is_near_crop_edge(boxed(0, 0, 600, 200), top_left, image));
    }

    #[test]
    fn an_empty_mask_stands_at_the_crops_first_pixel() {
        let image = ImageSize::new(400, 1000);
        assert!(is_near_crop_edge(
            BoxPx::EMPTY,
            boxed(300, 100, 700, 300),
            image
        ));
        assert!(!is_near_crop_edge(BoxPx::EMPTY, BoxPx::of(image), image));
    }

    proptest! {
        #[test]
        fn every_layer_covers_the_image(
            height in 1u32..200,
            width in 1u32..200,
            ratio in 0.0..=1.0f64,
        ) {
            let image = ImageSize::new(height, width);
            let crops = crops(image, 3, ratio);
            for layer in 0..=3 {
                for (x, y) in [(0, 0), (width - 1, 0), (width / 2, height / 3), (width - 1, height - 1)] {
                    let covered = crops.iter().any(|crop| {
                        let b = crop.bounds;
                        crop.layer == layer && (b.x0..b.x1).contains(&x) && (b.y0..b.y1).contains(&y)
                    });
                    prop_assert!(covered, "layer {} misses ({}, {})", layer, x, y);
                }
            }
            for crop in &crops {
                prop_assert_eq!(crop.bounds.intersect(&BoxPx::of(image)), crop.bounds);
            }
        }
    }
}

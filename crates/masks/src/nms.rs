//! Non-maximum suppression: of masks that show the same thing, the best is kept.
//!
//! All three functions go through the masks from the best score to the worst, keep each that no kept mask suppresses,
//! and return the kept indices in that order. Applied again to what they kept, they keep all of it.

use std::cmp::Ordering;

use crate::rle::fraction;
use crate::{BoxPx, Rle};

/// Keeps the boxes that overlap no better scored kept box by more than `iou_threshold`.
///
/// # Shapes
/// - `boxes`: `[x0, y0, x1, y1]`; in the reference these are inclusive maxima ([`BoxPx::sa_xyxy`]), and no 1 is added
///   to widths
/// - `scores`: one per box; equal scores keep the order of the boxes, and NaN counts as the greatest score, as
///   `torch.sort` has it
/// - output: kept indices, best first
///
/// Equal to `torchvision.ops.nms` on the CPU: areas and IoU in f32, compared with the f64 threshold by strict `>`. A
/// box without area has IoU 0 or NaN with every other and is never suppressed by a threshold of 0 or more.
///
/// # Panics
/// If `boxes` and `scores` differ in length.
pub fn box_nms(boxes: &[[f32; 4]], scores: &[f32], iou_threshold: f64) -> Vec<usize> {
    let order = best_first(scores, boxes.len());
    let threshold = floor_to_f32(iou_threshold);

    // By coordinate and in order of score, so that the inner loop runs on whole vectors, without branches.
    let corner = |i: usize| -> Vec<f32> { order.iter().map(|&index| boxes[index][i]).collect() };
    let (x0, y0, x1, y1) = (corner(0), corner(1), corner(2), corner(3));
    let area: Vec<f32> = (0..order.len())
        .map(|i| (x1[i] - x0[i]) * (y1[i] - y0[i]))
        .collect();

    let mut suppressed = vec![false; order.len()];
    let mut kept = Vec::new();
    for best in 0..order.len() {
        if suppressed[best] {
            continue;
        }
        kept.push(order[best]);
        let rest = best + 1..order.len();
        let (x0s, y0s) = (&x0[rest.clone()], &y0[rest.clone()]);
        let (x1s, y1s) = (&x1[rest.clone()], &y1[rest.clone()]);
        let (areas, suppressed) = (&area[rest.clone()], &mut suppressed[rest]);
        for i in 0..areas.len() {
            let width = greater(0.0, lesser(x1[best], x1s[i]) - greater(x0[best], x0s[i]));
            let height = greater(0.0, lesser(y1[best], y1s[i]) - greater(y0[best], y0s[i]));
            let intersection = width * height;
            let iou = intersection / (area[best] + areas[i] - intersection);
            suppressed[i] |= iou > threshold;
        }
    }
    kept
}

/// Keeps the masks whose pixels overlap no better scored kept mask by more than `iou_threshold`.
///
/// Like [`box_nms`], with the IoU of the masks instead of their boxes (not in the reference). Two masks whose boxes are
/// apart, or whose areas alone rule it out, are not compared run by run.
///
/// # Panics
/// If `masks` and `scores` differ in length, or the masks in size: they must be masks of one image.
pub fn mask_nms(masks: &[&Rle], scores: &[f32], iou_threshold: f64) -> Vec<usize> {
    suppress_masks(masks, scores, |better, mask| {
        // IoU grows with the intersection, so its bound bounds the IoU.
        let iou_of = |intersection| fraction(intersection, better.area + mask.area - intersection);
        iou_of(better.most_shared(mask)) > iou_threshold
            && iou_of(better.shared(mask)) > iou_threshold
    })
}

/// Keeps the masks of which less than the fraction `threshold` lies inside a better scored kept mask.
///
/// Unlike [`mask_nms`] this removes a part whose whole is kept, however small the part (not in the reference). A mask
/// without pixels lies inside nothing.
///
/// # Panics
/// If `masks` and `scores` differ in length, or the masks in size: they must be masks of one image.
pub fn containment_nms(masks: &[&Rle], scores: &[f32], threshold: f64) -> Vec<usize> {
    suppress_masks(masks, scores, |better, mask| {
        fraction(better.most_shared(mask), mask.area) >= threshold
            && fraction(better.shared(mask), mask.area) >= threshold
    })
}

/// A mask with what can be known of its overlaps before its runs are walked.
struct Measured<'a> {
    rle: &'a Rle,
    area: u64,
    bounds: BoxPx,
}

impl Measured<'_> {
    /// At least as many pixels as the masks share.
    fn most_shared(&self, other: &Self) -> u64 {
        let shared_box = self.bounds.intersect(&other.bounds).area();
        shared_box.min(self.area).min(other.area)
    }

    /// The pixels the masks share.
    fn shared(&self, other: &Self) -> u64 {
        self.rle
            .intersection_area(other.rle)
            .expect("the masks of one image have one size, as was checked")
    }
}

/// Goes through the masks from best to worst and keeps those for which no kept one `suppresses(kept, mask)`.
fn suppress_masks(
    masks: &[&Rle],
    scores: &[f32],
    suppresses: impl Fn(&Measured<'_>, &Measured<'_>) -> bool,
) -> Vec<usize> {
    if let Some(pair) = masks
        .windows(2)
        .find(|pair| pair[0].size() != pair[1].size())
    {
        let (left, right) = (pair[0].size(), pair[1].size());
        panic!("NMS compares the masks of one image, and these are of {left} and {right}");
    }
    let measured: Vec<Measured<'_>> = masks
        .iter()
        .map(|rle| Measured {
            rle,
            area: rle.area(),
            bounds: rle.bounds(),
        })
        .collect();
    let mut kept: Vec<usize> = Vec::new();
    for index in best_first(scores, masks.len()) {
        let mask = &measured[index];
        if !kept
            .iter()
            .any(|&better| suppresses(&measured[better], mask))
        {
            kept.push(index);
        }
    }
    kept
}

/// The indices of the scores in descending order, NaN first, equals in their given order: a stable `torch.sort`.
fn best_first(scores: &[f32], expected: usize) -> Vec<usize> {
    assert_eq!(
        scores.len(),
        expected,
        "NMS needs one score for each box or mask"
    );
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (scores[a], scores[b]);
        // Not `total_cmp`, which would part 0 from -0.
        match (a.is_nan(), b.is_nan()) {
            (false, false) => b.partial_cmp(&a).unwrap_or(Ordering::Equal),
            (a_nan, b_nan) => b_nan.cmp(&a_nan),
        }
    });
    order
}

/// The greatest f32 not above `threshold`: an f32 exceeds it exactly if it exceeds `threshold`.
fn floor_to_f32(threshold: f64) -> f32 {
    let nearest = threshold as f32;
    if f64::from(nearest) > threshold {
        nearest.next_down()
    } else {
        nearest
    }
}

/// `std::max` of C++, which tells what becomes of NaN, and is one instruction.
fn greater(a: f32, b: f32) -> f32 {
    if a < b { b } else { a }
}

/// `std::min` of C++.
fn lesser(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rle::tests::mask_of;
    use crate::{Bitmap, ImageSize};
    use proptest::prelude::*;

    fn rle(drawing: &str) -> Rle {
        Rle::encode(&Bitmap::from_ascii(drawing))
    }

    #[test]
    fn the_better_of_two_overlapping_boxes_stays() {
        let boxes = [
            [0.0, 0.0, 10.0, 4.0],
            [1.0, 0.0, 11.0, 4.0],
            [20.0, 0.0, 25.0, 9.0],
        ];
        assert_eq!(box_nms(&boxes, &[0.5, 0.9, 0.1], 0.7), [1, 2]);
        assert_eq!(box_nms(&boxes, &[0.9, 0.5, 0.95], 0.7), [2, 0]);
    }

    #[test]
    fn an_iou_on_the_threshold_does_not_suppress() {
        // IoU 0.5 exactly: 20 shared of 40.
        let boxes = [[0.0, 0.0, 10.0, 4.0], [0.0, 0.0, 5.0, 4.0]];
        assert_eq!(box_nms(&boxes, &[1.0, 0.5], 0.5), [0, 1]);
        assert_eq!(box_nms(&boxes, &[1.0, 0.5], 0.5f64.next_down()), [0]);
    }

    #[test]
    fn the_threshold_is_not_rounded() {
        // 7 shared of 10 is f32(0.7), which lies below the f64 0.7.
        let boxes = [[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, 7.0, 1.0]];
        assert_eq!(box_nms(&boxes, &[1.0, 0.5], 0.7), [0, 1]);
        assert_eq!(box_nms(&boxes, &[1.0, 0.5], f64::from(0.7f32)), [0, 1]);
        assert_eq!(box_nms(&boxes, &[1.0, 0.5], 0.699_999_98), [0]);
    }

    #[test]
    fn boxes_without_area_survive() {
        let boxes = [
            [3.0, 3.0, 3.0, 3.0],
            [3.0, 3.0, 3.0, 3.0],
            [0.0, 0.0, 9.0, 9.0],
        ];
        assert_eq!(box_nms(&boxes, &[0.1, 0.2, 0.3], 0.0), [2, 1, 0]);
    }

    #[test]
    fn equal_scores_keep_their_order_and_nan_is_greatest() {
        let apart: Vec<[f32; 4]> = (0..5u8)
            .map(f32::from)
            .map(|i| [i * 10.0, 0.0, i * 10.0 + 5.0, 2.0])
            .collect();
        let scores = [0.0, f32::NAN, -0.0, 1.0, f32::NAN];
        assert_eq!(box_nms(&apart, &scores, 0.7), [1, 4, 3, 0, 2]);
    }

    #[test]
    fn masks_may_differ_where_their_boxes_agree() {
        let (upper, lower) = (rle("####.\n#....\n....."), rle("...#.\n.###.\n....."));
        let scores = [0.5, 0.6];
        assert_eq!(mask_nms(&[&upper, &lower], &scores, 0.5), [1, 0]);
        let same = rle("####.\n#....\n.....");
        assert_eq!(mask_nms(&[&upper, &same], &scores, 0.5), [1]);
        // Nothing exceeds an IoU of 1.
        assert_eq!(mask_nms(&[&upper, &same], &scores, 1.0), [1, 0]);
    }

    #[test]
    fn a_part_of_a_kept_mask_is_dropped_but_not_the_whole() {
        let (whole, part) = (rle("#####\n#####\n....."), rle(".##..\n.....\n....."));
        let contained = |scores: [f32; 2]| containment_nms(&[&whole, &part], &scores, 1.0);
        assert_eq!(contained([0.9, 0.1]), [0]);
        assert_eq!(contained([0.1, 0.9]), [1, 0]);
        let empty = Rle::empty(whole.size());
        assert_eq!(containment_nms(&[&whole, &empty], &[0.9, 0.1], 0.5), [0, 1]);
    }

    #[test]
    #[should_panic(expected = "these are of 2x3 (height x width) and 3x3 (height x width)")]
    fn masks_of_two_images_are_a_bug() {
        mask_nms(&[&rle("###\n..."), &rle("#..\n...\n...")], &[0.5, 0.4], 0.5);
    }

    /// The definition, pair by pair.
    fn mask_nms_without_bounds(masks: &[&Rle], scores: &[f32], threshold: f64) -> Vec<usize> {
        let mut kept: Vec<usize> = Vec::new();
        for index in best_first(scores, masks.len()) {
            if kept
                .iter()
                .all(|&k| masks[k].iou(masks[index]).unwrap() <= threshold)
            {
                kept.push(index);
            }
        }
        kept
    }

    proptest! {
        #[test]
        fn box_nms_is_idempotent(
            boxes in proptest::collection::vec((0u8..12, 0u8..12, 0u8..8, 0u8..8, 0u8..4), 0..40),
            threshold in 0.0..1.0f64,
        ) {
            let (boxes, scores): (Vec<[f32; 4]>, Vec<f32>) = boxes
                .iter()
                .map(|&(x, y, w, h, score)| {
                    ([x, y, x + w, y + h].map(f32::from), f32::from(score))
                })
                .unzip();
            let kept = box_nms(&boxes, &scores, threshold);
            let kept_boxes: Vec<[f32; 4]> = kept.iter().map(|&i| boxes[i]).collect();
            let kept_scores: Vec<f32> = kept.iter().map(|&i| scores[i]).collect();
            let again = box_nms(&kept_boxes, &kept_scores, threshold);
            prop_assert_eq!(again, (0..kept.len()).collect::<Vec<_>>());
        }

        #[test]
        fn mask_nms_is_idempotent_and_its_bounds_change_nothing(
            masks in proptest::collection::vec((mask_of(ImageSize::new(3, 5)), 0u8..4), 0..24),
            threshold in 0.0..1.0f64,
        ) {
            let rles: Vec<Rle> = masks.iter().map(|(mask, _)| Rle::encode(mask)).collect();
            let rles: Vec<&Rle> = rles.iter().collect();
            let scores: Vec<f32> = masks.iter().map(|(_, score)| f32::from(*score)).collect();
            let kept = mask_nms(&rles, &scores, threshold);
            prop_assert_eq!(&kept, &mask_nms_without_bounds(&rles, &scores, threshold));
            for nms in [mask_nms, containment_nms] {
                let kept = nms(&rles, &scores, threshold);
                let kept_rles: Vec<&Rle> = kept.iter().map(|&i| rles[i]).collect();
                let kept_scores: Vec<f32> = kept.iter().map(|&i| scores[i]).collect();
                let again = nms(&kept_rles, &kept_scores, threshold);
                prop_assert_eq!(again, (0..kept.len()).collect::<Vec<_>>());
            }
        }
    }
}

//! Which masks are kept: predicates over their scores and areas.
//!
//! Thresholds come from configuration in f64; scores come from the device in f32. PyTorch compares an f32 tensor with a
//! Python number in f32, so the threshold is rounded first: a score that prints as `0.95` passes `>= 0.95`.

use crate::ImageSize;

/// Whether a predicted IoU is above the threshold; every mask passes a threshold of 0 or less.
///
/// Follows `SamAutomaticMaskGenerator._process_batch` (segment-anything): `>`, not `>=`. NaN fails.
pub fn passes_iou(predicted_iou: f32, threshold: f64) -> bool {
    threshold <= 0.0 || predicted_iou > threshold as f32
}

/// Whether a stability score reaches the threshold; every mask passes a threshold of 0 or less.
///
/// Follows `SamAutomaticMaskGenerator._process_batch` (segment-anything): `>=`. NaN, the score of a mask that is empty
/// at every threshold, fails.
pub fn passes_stability(stability_score: f32, threshold: f64) -> bool {
    threshold <= 0.0 || stability_score >= threshold as f32
}

/// Whether a mask has at least `min_area` pixels.
pub fn passes_min_area(area: u64, min_area: u64) -> bool {
    area >= min_area
}

/// Whether a mask covers less than the fraction `max_coverage` of its image.
///
/// SA-1B dropped masks that cover 95 % of the image or more (Kirillov et al. 2023, appendix B): 0.95 keeps the masks
/// strictly below. A fraction above 1 keeps all.
pub fn passes_max_coverage(area: u64, image: ImageSize, max_coverage: f64) -> bool {
    (area as f64) < max_coverage * image.pixels() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predicted_iou_must_exceed_its_threshold() {
        // f32(0.88) is below 0.88 and equals the rounded threshold.
        assert!(!passes_iou(0.88, 0.88));
        assert!(passes_iou(0.88f32.next_up(), 0.88));
        assert!(!passes_iou(f32::NAN, 0.88));
    }

    #[test]
    fn stability_need_only_reach_its_threshold() {
        assert!(f64::from(0.95f32) < 0.95);
        assert!(passes_stability(0.95, 0.95));
        assert!(!passes_stability(0.95f32.next_down(), 0.95));
        assert!(!passes_stability(f32::NAN, 0.95));
    }

    #[test]
    fn thresholds_of_zero_or_less_keep_everything() {
        for threshold in [0.0, -0.5] {
            assert!(passes_iou(-3.0, threshold) && passes_iou(f32::NAN, threshold));
            assert!(passes_stability(0.0, threshold) && passes_stability(f32::NAN, threshold));
        }
    }

    #[test]
    fn areas_are_bounded_on_both_sides() {
        let image = ImageSize::new(10, 20);
        assert!(passes_min_area(100, 100) && !passes_min_area(99, 100));
        assert!(passes_max_coverage(189, image, 0.95));
        assert!(!passes_max_coverage(190, image, 0.95));
        assert!(passes_max_coverage(200, image, 1.5));
    }
}

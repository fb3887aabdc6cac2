//! Stability: how little a mask changes when its threshold moves.

/// How many logits pass the raised and the lowered threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StabilityCounts {
    /// Pixels whose logit is above `threshold + offset`.
    pub above: u64,
    /// Pixels whose logit is above `threshold - offset`.
    pub below: u64,
}

impl StabilityCounts {
    /// The stability score of these counts; see [`stability_score`].
    pub fn score(self) -> f32 {
        stability_score(self.above, self.below)
    }
}

/// Counts the logits that pass the raised and the lowered threshold.
///
/// The plain version of what [`Upscaler::scan`](crate::Upscaler::scan) counts as it goes. NaN passes neither.
///
/// The reference sums each row in 16 bits, which overflows in images wider than 32767 pixels; this does not.
pub fn stability_counts(logits: &[f32], threshold: f32, offset: f32) -> StabilityCounts {
    let (high, low) = (threshold + offset, threshold - offset);
    StabilityCounts {
        above: logits.iter().filter(|&&logit| logit > high).count() as u64,
        below: logits.iter().filter(|&&logit| logit > low).count() as u64,
    }
}

/// `intersection / union` of the masks at the raised and the lowered threshold, in `[0, 1]`; NaN for two empty masks.
///
/// The raised mask lies inside the lowered one, so the intersection is the former's area and the union the latter's.
/// Both are rounded to f32 before the division, as PyTorch divides integer tensors.
///
/// Follows `calculate_stability_score` (segment-anything).
pub fn stability_score(intersection: u64, union: u64) -> f32 {
    intersection as f32 / union as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_on_a_threshold_do_not_pass_it() {
        let logits = [-2.0, -1.0, -0.5, 0.0, 1.0, 1.5, f32::NAN, f32::INFINITY];
        let counts = stability_counts(&logits, 0.0, 1.0);
        assert_eq!(counts, StabilityCounts { above: 2, below: 5 });
        assert_eq!(counts.score(), 0.4);
    }

    #[test]
    fn two_empty_masks_have_no_score() {
        assert!(stability_score(0, 0).is_nan());
        assert_eq!(stability_score(0, 3), 0.0);
    }

    #[test]
    fn counts_above_24_bits_round_before_the_division() {
        assert_eq!(stability_score((1 << 24) + 1, 1 << 24), 1.0);
    }
}

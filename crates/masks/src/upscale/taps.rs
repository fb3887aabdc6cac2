//! Where bilinear interpolation reads, along one axis.

/// One output position of a linear interpolation: two neighbouring source positions and their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tap {
    pub(super) near: u32,
    /// `near + 1`, or `near` itself at the end of the axis.
    pub(super) far: u32,
    pub(super) near_weight: f32,
    pub(super) far_weight: f32,
}

impl Tap {
    /// The value between the two source values: two rounded products, one rounded sum.
    #[inline(always)]
    pub(super) fn lerp(&self, near: f32, far: f32) -> f32 {
        near * self.near_weight + far * self.far_weight
    }
}

/// The taps of all output positions of an axis that is resized from `source` to `target` pixels, pixel centres aligned
/// (`align_corners=False`).
///
/// Follows `area_pixel_compute_source_index` (PyTorch, `UpSample.h`) in f32.
pub(super) fn bilinear_taps(source: u32, target: u32) -> Vec<Tap> {
    let scale = source as f32 / target as f32;
    (0..target)
        .map(|position| {
            if source == target {
                return Tap {
                    near: position,
                    far: position,
                    near_weight: 1.0,
                    far_weight: 0.0,
                };
            }
            let centre = (scale * (position as f32 + 0.5) - 0.5).max(0.0);
            let near = (centre as u32).min(source - 1);
            let far_weight = centre - near as f32;
            Tap {
                near,
                far: (near + 1).min(source - 1),
                near_weight: 1.0 - far_weight,
                far_weight,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_reads_at_quarters() {
        let taps = bilinear_taps(2, 4);
        let read: Vec<(u32, u32, f32)> = taps
            .iter()
            .map(|tap| (tap.near, tap.far, tap.far_weight))
            .collect();
        assert_eq!(
            read,
            [(0, 1, 0.0), (0, 1, 0.25), (0, 1, 0.75), (1, 1, 0.25)]
        );
    }

    #[test]
    fn shrinking_reads_two_pixels_only() {
        // Centres of the source: 1.5 and 5.5. No antialiasing.
        let taps = bilinear_taps(8, 2);
        assert_eq!((taps[0].near, taps[0].far_weight), (1, 0.5));
        assert_eq!((taps[1].near, taps[1].far_weight), (5, 0.5));
    }

    #[test]
    fn sources_never_run_backwards_or_out() {
        for (source, target) in [(1, 900), (256, 1024), (683, 1500), (1024, 333), (7, 7)] {
            let taps = bilinear_taps(source, target);
            assert!(
                taps.iter()
                    .all(|tap| tap.near <= tap.far && tap.far < source)
            );
            assert!(
                taps.is_sorted_by_key(|tap| tap.near),
                "{source} to {target}"
            );
        }
    }
}

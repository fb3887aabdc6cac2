//! Grids of point prompts.

use crate::ImageSize;

/// A grid of `points_per_side` squared points, evenly spaced over the unit square.
///
/// # Shapes
/// - output: `points_per_side^2` points `[x, y]` in `(0, 1)`, x running fastest
///
/// Bit-equal to `build_point_grid` (segment-anything), which is `numpy.linspace` in f64. A side of 0 gives no points,
/// where the reference divides by zero.
pub fn point_grid(points_per_side: u32) -> Vec<[f64; 2]> {
    let side = linspace_centres(points_per_side);
    side.iter()
        .flat_map(|&y| side.iter().map(move |&x| [x, y]))
        .collect()
}

/// `numpy.linspace(offset, 1 - offset, n)` with `offset = 1 / 2n`: `start + i * step`, the last point set exactly.
fn linspace_centres(n: u32) -> Vec<f64> {
    let start = 1.0 / (2.0 * f64::from(n));
    let stop = 1.0 - start;
    let step = (stop - start) / (f64::from(n) - 1.0);
    (0..n)
        .map(|i| match i {
            0 => start,
            i if i + 1 == n => stop,
            i => f64::from(i) * step + start,
        })
        .collect()
}

/// The point grids of the whole image and of `n_layers` layers of crops.
///
/// Layer `i` has `points_per_side / downscale_factor^i` points per side, rounded down. A layer that would have none is
/// an empty grid (the reference fails on it).
///
/// Follows `build_all_layer_point_grids` (segment-anything).
///
/// # Panics
/// If `downscale_factor` is 0.
pub fn layer_point_grids(
    points_per_side: u32,
    n_layers: u32,
    downscale_factor: u32,
) -> Vec<Vec<[f64; 2]>> {
    assert!(
        downscale_factor > 0,
        "the downscale factor of the point grids must be at least 1"
    );
    (0..=n_layers)
        .map(|layer| point_grid(points_per_side / downscale_factor.saturating_pow(layer)))
        .collect()
}

/// A grid in the pixel frame of an image: x times the width, y times the height.
///
/// # Shapes
/// - `grid`: points `[x, y]` in the unit square
/// - output: the same points in pixels, where `(0, 0)` is the top left corner of the top left pixel
///
/// Follows `SamAutomaticMaskGenerator._process_crop` (segment-anything).
pub fn scale_points(grid: &[[f64; 2]], size: ImageSize) -> Vec<[f64; 2]> {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    grid.iter().map(|[x, y]| [x * width, y * height]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x_runs_fastest() {
        assert_eq!(
            point_grid(2),
            [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
        );
    }

    #[test]
    fn one_point_is_the_centre_and_none_is_no_grid() {
        assert_eq!(point_grid(1), [[0.5, 0.5]]);
        assert!(point_grid(0).is_empty());
    }

    #[test]
    fn layers_shrink_by_the_factor_rounding_down() {
        let sides: Vec<usize> = layer_point_grids(10, 3, 3)
            .iter()
            .map(|grid| grid.len().isqrt())
            .collect();
        assert_eq!(sides, [10, 3, 1, 0]);
        assert_eq!(layer_point_grids(4, 2, 1).concat().len(), 48);
    }

    #[test]
    fn scaling_keeps_x_with_the_width() {
        let points = scale_points(&[[0.25, 0.5]], ImageSize::new(10, 40));
        assert_eq!(points, [[10.0, 5.0]]);
    }
}

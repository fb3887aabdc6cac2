//! Fractal value noise, row by row.

use crate::random::hash_signed;
use crate::window::Window;

/// Sums of smoothed random lattices, each of half the spacing and `gain` times the amplitude of the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise {
    pub(crate) seed: u32,
    /// Spacing of the coarsest lattice in pixels, `[x, y]`: unequal ones give a grain.
    pub(crate) cell_px: [f32; 2],
    pub(crate) octaves: u32,
    pub(crate) gain: f32,
}

/// Lattices below this spacing would be noise per pixel.
const MIN_CELL_PX: f32 = 1.5;

impl Noise {
    /// The noise at the pixels of `window`, row-major, within `[-1, 1]`, of mean 0.
    ///
    /// A pixel's value depends on its place in the image, not on the window it is asked in.
    pub(crate) fn sample(&self, window: Window) -> Vec<f32> {
        let (width, height) = (window.width(), window.height());
        let mut values = vec![0.0; width * height];
        let mut amplitude = 1.0;
        let mut total = 0.0;
        let mut cell = self.cell_px;
        for octave in 0..self.octaves {
            if octave > 0 && cell[0].min(cell[1]) < MIN_CELL_PX {
                break;
            }
            let cell_px = cell.map(|side| side.max(MIN_CELL_PX));
            self.add_octave(octave, cell_px, amplitude, window, &mut values);
            total += amplitude;
            amplitude *= self.gain;
            cell = cell.map(|side| side * 0.5);
        }
        let scale = 1.0 / total;
        values.iter_mut().for_each(|value| *value *= scale);
        values
    }

    fn add_octave(
        &self,
        octave: u32,
        cell_px: [f32; 2],
        amplitude: f32,
        window: Window,
        values: &mut [f32],
    ) {
        let seed = self.seed.wrapping_add(octave.wrapping_mul(0x9e37_79b9));
        // Lattices that share their origin would show it.
        let shift = [
            hash_signed(1, 0, seed) * 50.0,
            hash_signed(0, 1, seed) * 50.0,
        ];
        let place = |pixel: i32, axis: usize| -> (i32, f32) {
            let at = (pixel as f32 + 0.5) / cell_px[axis] + shift[axis];
            let cell = at.floor();
            let t = at - cell;
            (cell as i32, t * t * (3.0 - 2.0 * t))
        };
        let columns: Vec<(usize, f32)> = {
            let (first, _) = place(window.x0, 0);
            let column = |x| place(x, 0);
            (window.x0..window.x1)
                .map(column)
                .map(|(cell, t)| ((cell - first) as usize, t))
                .collect()
        };
        let (first_cell, _) = place(window.x0, 0);
        let cells = columns.last().map_or(0, |(cell, _)| cell + 2);
        let lattice_row = |y: i32| -> Vec<f32> {
            (0..cells)
                .map(|i| hash_signed(first_cell + i as i32, y, seed))
                .collect()
        };

        let mut above_y = i32::MIN;
        let (mut above, mut below) = (Vec::new(), Vec::new());
        let mut between = vec![0.0; cells];
        for (y, row) in (window.y0..window.y1).zip(values.chunks_exact_mut(window.width().max(1))) {
            let (cell_y, t) = place(y, 1);
            if cell_y != above_y {
                above = if cell_y == above_y.wrapping_add(1) {
                    below
                } else {
                    lattice_row(cell_y)
                };
                below = lattice_row(cell_y + 1);
                above_y = cell_y;
            }
            for (value, (a, b)) in between.iter_mut().zip(above.iter().zip(&below)) {
                *value = amplitude * (a + (b - a) * t);
            }
            for (value, &(cell, t)) in row.iter_mut().zip(&columns) {
                let (a, b) = (between[cell], between[cell + 1]);
                *value += a + (b - a) * t;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOISE: Noise = Noise {
        seed: 5,
        cell_px: [24.0, 16.0],
        octaves: 4,
        gain: 0.5,
    };

    fn window(x0: i32, y0: i32, x1: i32, y1: i32) -> Window {
        Window { x0, y0, x1, y1 }
    }

    #[test]
    fn a_window_shows_a_part_of_the_same_noise() {
        let whole = NOISE.sample(window(-40, -30, 60, 50));
        let part = NOISE.sample(window(-7, 3, 20, 11));
        for y in 3..11 {
            for x in -7..20 {
                let in_whole = whole[((y + 30) * 100 + x + 40) as usize];
                assert_eq!(part[((y - 3) * 27 + x + 7) as usize], in_whole, "{x}, {y}");
            }
        }
    }

    #[test]
    fn neighbours_are_alike_and_distant_pixels_are_not() {
        let values = NOISE.sample(window(0, 0, 300, 200));
        let rms = |step: usize| {
            let differences = values.windows(step + 1).map(|w| (w[0] - w[step]).powi(2));
            (differences.sum::<f32>() / values.len() as f32).sqrt()
        };
        assert!(values.iter().all(|value| value.abs() <= 1.0));
        assert!(rms(1) < 0.2 * rms(120), "{} {}", rms(1), rms(120));
    }

    #[test]
    fn a_window_without_pixels_has_no_values() {
        assert!(NOISE.sample(window(5, 5, 5, 9)).is_empty());
    }
}

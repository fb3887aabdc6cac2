//! A checkpoint at another input size than its own: what lies on its grid of tokens is interpolated.

use maskmill_weights::Weights;

use crate::architecture::Architecture;
use crate::image_encoder::interpolation;

impl Architecture {
    /// The same for inputs of another side, in pixels.
    pub(crate) fn at(&self, image_size: usize) -> Self {
        Self {
            image_size,
            ..self.clone()
        }
    }
}

/// Positions, and the relative positions of global blocks, of a checkpoint of the architecture `from` for the grid of `to`.
///
/// Linearly, as `get_rel_pos` of segment-anything treats tables of another length.
pub(crate) fn resize(w: &mut Weights<'_>, from: &Architecture, to: &Architecture) {
    let (dim, grid, wanted) = (from.encoder_dim, from.grid(), to.grid());
    w.change(
        "image_encoder.pos_embed",
        [1, grid, grid, dim],
        [1, wanted, wanted, dim],
        |values| grid_stretched(&values, grid, wanted),
    );
    let head_dim = dim / from.encoder_heads;
    let global = from.windows.iter().enumerate();
    for (block, _) in global.filter(|(_, window)| window.is_none()) {
        for axis in ["h", "w"] {
            let key = format!("image_encoder.blocks.{block}.attn.rel_pos_{axis}");
            // A table of another length than the grid's is interpolated wherever it is used.
            let length = w.checkpoint_shape(&key).map_or(0, |shape| shape[0]);
            if length == 2 * grid - 1 {
                let wanted = 2 * wanted - 1;
                w.change(&key, [length, head_dim], [wanted, head_dim], |values| {
                    stretched(&values, head_dim, wanted)
                });
            }
        }
    }
}

/// Rows that lie on a square grid, for a grid of another side, by linear interpolation: `[from, from, width]` ->
/// `[to, to, width]`
pub fn grid_stretched(values: &[f32], from: usize, to: usize) -> Vec<f32> {
    let width = values.len() / (from * from);
    let wide: Vec<f32> = values
        .chunks_exact(from * width)
        .flat_map(|row| stretched(row, width, to))
        .collect();
    stretched(&wide, to * width, to)
}

/// `[from, width]` -> `[to, width]`
fn stretched(values: &[f32], width: usize, to: usize) -> Vec<f32> {
    let row = |row: usize| &values[row * width..][..width];
    let rows = interpolation(values.len() / width, to).flat_map(|(low, high, weight)| {
        let pairs = row(low).iter().zip(row(high));
        pairs.map(move |(a, b)| a * (1.0 - weight) + b * weight)
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_stretched_and_shrunk() {
        let rows = [0.0, 10.0, 1.0, 20.0];
        let wide = stretched(&rows, 2, 4);
        assert_eq!(wide, [0.0, 10.0, 0.25, 12.5, 0.75, 17.5, 1.0, 20.0]);
        assert_eq!(stretched(&wide, 2, 2), [0.125, 11.25, 0.875, 18.75]);
        // Down the rows and along them.
        let grid = grid_stretched(&[0.0, 4.0, 8.0, 12.0], 2, 4);
        assert_eq!(grid[..4], [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(grid[4..8], [2.0, 3.0, 5.0, 6.0]);
        assert_eq!(grid[12..], [8.0, 9.0, 11.0, 12.0]);
    }
}

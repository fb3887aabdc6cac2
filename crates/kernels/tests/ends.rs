//! Patch embedding and neck at every level and precision, against the plain version in f64.

mod support;

use maskmill_kernels::{Neck, NeckWeights, PatchEmbed, PatchWeights};
use support::{OwnLinear, OwnNorm, Random, error, sum, variants, widen};

#[test]
fn patches_to_tokens() {
    for (channels, patch, grid, dim, images) in [
        (3, 16, [6, 9], 96, 2),
        (1, 3, [1, 5], 17, 1),
        (3, 2, [11, 20], 33, 1),
    ] {
        let mut random = Random::new(dim as u64);
        let [rows, columns] = grid;
        let proj = OwnLinear::random(&mut random, channels * patch * patch, dim);
        let positions = random.values(rows * columns * dim, 1.0);
        let x = random.values(images * rows * columns * patch * patch * channels, 2.0);
        let mut expected = Vec::new();
        for token in 0..images * rows * columns {
            let (image, token) = (token / (rows * columns), token % (rows * columns));
            // In PyTorch's order: channel, row, column.
            let gathered: Vec<f64> = (0..channels * patch * patch)
                .map(|i| {
                    let (c, y, x_) = (i / (patch * patch), i / patch % patch, i % patch);
                    let row = (image * rows + token / columns) * patch + y;
                    let column = token % columns * patch + x_;
                    f64::from(x[(row * columns * patch + column) * channels + c])
                })
                .collect();
            let position = widen(&positions[token * dim..][..dim]);
            expected.extend(sum(&proj.of(&gathered), &position));
        }
        let weights = PatchWeights {
            weight: &proj.weight,
            bias: &proj.bias,
            positions: &positions,
            patch,
            grid,
        };
        for (level, precision, limit) in variants() {
            let kernel = PatchEmbed::new(&weights, level, precision);
            assert_eq!((kernel.outputs(), kernel.grid()), (dim, grid));
            let error = error(&kernel.forward(&x), &expected);
            assert!(error < limit, "{level} {precision}: {error:e}");
        }
    }
}

#[test]
fn tokens_to_the_embedding() {
    for (dim, channels, grid, images) in [
        (48, 32, [7, 9], 2),
        (20, 24, [1, 1], 1),
        (64, 64, [13, 16], 1),
    ] {
        let mut random = Random::new(dim as u64);
        let [height, width] = grid;
        let conv1 = random.values(channels * dim, 0.2);
        let conv2 = random.values(channels * channels * 9, 0.1);
        let norms = [
            OwnNorm::random(&mut random, channels),
            OwnNorm::random(&mut random, channels),
        ];
        let x = random.values(images * height * width * dim, 1.0);
        let none = OwnLinear {
            weight: conv1.clone(),
            bias: vec![0.0; channels],
        };
        let mut expected = Vec::new();
        for x in x.chunks_exact(height * width * dim) {
            let once = norms[0].of(&none.of(&widen(x)));
            let mut twice = vec![0.0; height * width * channels];
            for (token, out) in twice.chunks_exact_mut(channels).enumerate() {
                for neighbour in 0..9 {
                    let row = (token / width + neighbour / 3).wrapping_sub(1);
                    let column = (token % width + neighbour % 3).wrapping_sub(1);
                    if row >= height || column >= width {
                        continue;
                    }
                    let input = &once[(row * width + column) * channels..][..channels];
                    for (o, out) in out.iter_mut().enumerate() {
                        let weight =
                            |i: usize| f64::from(conv2[(o * channels + i) * 9 + neighbour]);
                        *out += input
                            .iter()
                            .enumerate()
                            .map(|(i, v)| v * weight(i))
                            .sum::<f64>();
                    }
                }
            }
            expected.extend(norms[1].of(&twice));
        }
        let weights = NeckWeights {
            conv1: &conv1,
            norm1: norms[0].get(),
            conv2: &conv2,
            norm2: norms[1].get(),
            grid,
        };
        for (level, precision, limit) in variants() {
            let kernel = Neck::new(&weights, level, precision);
            let error = error(&kernel.forward(&x), &expected);
            assert!(error < limit, "{level} {precision}: {error:e}");
        }
    }
}

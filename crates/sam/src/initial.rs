//! Weights of a model that has learnt nothing yet.
//!
//! The image encoder starts as ViTDet does (normal with deviation 0.02, that is for 768 inputs; more for fewer), everything
//! else as `torch.nn` does by default, which is what `build_sam.py` leaves it at, but for biases, which start at zero.
//!
//! SAM's encoder is pretrained, and its decoder sees a billion masks. So that a small model learns from nothing, four
//! things that those would find out first are there from the beginning:
//! - positions are sines and cosines of the place (as in MAE), and not zero;
//! - patches are taken apart by cosines, the coarse ones first, luminance before colour, and fine ones amplified as much
//!   as images lack them: random projections see little more than a patch's mean. The neck lets the coarse ones through,
//!   and the upscaling of the decoder puts them together again: a pixel's embedding has its colours;
//! - tokens of the encoder attend to those like them;
//! - where prompts and image attend to each other, queries and keys are projected alike. The likeness of two positions'
//!   encodings then falls with their distance, and a prompt attends to where it points.

use maskmill_weights::initial::{Random, cosines, quarters, sines};

use crate::architecture::{Architecture, DECODER_HEADS};

/// Deviation of the encoder's weights for 768 inputs (ViT, Dosovitskiy et al., 2021).
const DEVIATION: f32 = 0.02;
/// What the likeness of a place with itself adds to the logits of an attention head, where queries and keys are projected
/// alike.
const LIKENESS: f32 = 3.0;
/// The same of a token of the encoder with itself.
const TOKEN_LIKENESS: f32 = 4.0;

/// The values of the tensor under an official key, row-major: a function of its arguments alone.
pub(crate) fn initial_values(
    key: &str,
    shape: &[usize],
    architecture: &Architecture,
    seed: u64,
) -> Vec<f32> {
    let count = shape.iter().product();
    let mut random = Random::new(key, seed);
    let is = |part: &str| key.contains(part);
    if key == "image_encoder.pos_embed" {
        let &[_, height, width, dim] = shape else {
            unreachable!("positions are [1, grid, grid, dim], not {shape:?}")
        };
        return sines(height, width, dim);
    }
    if is(".rel_pos_") {
        return vec![0.0; count];
    }
    // `nn.Embedding` and the random frequencies.
    let embeddings = [
        "_embed.weight",
        "point_embeddings",
        "iou_token",
        "mask_tokens",
        "gaussian_matrix",
    ];
    if embeddings.into_iter().any(is) {
        return random.normal(count, 1.0);
    }
    if let Some(queries) = ["token_to_image", "image_to_token"]
        .into_iter()
        .any(is)
        .then(|| key.replace("k_proj.weight", "q_proj.weight"))
        .filter(|key| key.ends_with("q_proj.weight"))
    {
        let &[channels, dim] = shape else {
            unreachable!("projections are [channels, dim], not {shape:?}")
        };
        // A position's encoding has the length sqrt(dim / 2), and a logit is divided by the root of the head's channels.
        let root = (channels as f32 / DECODER_HEADS as f32).sqrt();
        let deviation = (LIKENESS / (root * dim as f32 / 2.0)).sqrt();
        return Random::new(&queries, seed).normal(count, deviation);
    }
    // What fine patches lose in the upscaling cannot be put together.
    let side = architecture.patch_size;
    let whole = side.is_multiple_of(4);
    match (key, shape) {
        ("mask_decoder.output_upscaling.0.weight", &[input, output, _, _]) if whole => {
            return quarters([input, output], side, false);
        }
        ("mask_decoder.output_upscaling.3.weight", &[input, output, _, _]) if whole => {
            return quarters([input, output], side / 2, true);
        }
        ("image_encoder.neck.0.weight", &[output, input, height, width]) => {
            let noise = random.normal(count, DEVIATION);
            return identity([output, input, height, width], noise);
        }
        ("image_encoder.neck.2.weight", &[output, input, height, width]) => {
            let fan_in = (input * height * width) as f32;
            let noise = random.uniform(count, 0.5 / fan_in.sqrt());
            return identity([output, input, height, width], noise);
        }
        _ => {}
    }
    if key.ends_with("attn.qkv.weight") {
        // A normed token has the length sqrt(dim), and a logit is divided by the root of the head's channels.
        let dim = architecture.encoder_dim;
        let root = (dim as f32 / architecture.encoder_heads as f32).sqrt();
        let deviation = (TOKEN_LIKENESS / (root * dim as f32)).sqrt();
        let queries = random.normal(dim * dim, deviation);
        let values = random.normal(dim * dim, DEVIATION * (768.0 / dim as f32).sqrt());
        return [queries.clone(), queries, values].concat();
    }
    match *shape {
        // Norms' weights are the only vectors that are not biases.
        [_] if key.ends_with(".weight") => vec![1.0; count],
        [_] => vec![0.0; count],
        [_, input] if is("image_encoder") => {
            random.normal(count, DEVIATION * (768.0 / input as f32).sqrt())
        }
        // `kaiming_uniform_(a=sqrt(5))`: within 1 / sqrt(fan in). For a transposed convolution `torch` takes the second
        // side as well.
        [_, input] => random.uniform(count, (input as f32).sqrt().recip()),
        [output, input, height, width] if key == "image_encoder.patch_embed.proj.weight" => {
            cosines([output, input, height, width], &mut random)
        }
        [_, input, height, width] => {
            let fan_in = input * height * width;
            random.uniform(count, (fan_in as f32).sqrt().recip())
        }
        _ => unreachable!("no tensor of SAM has the shape {shape:?}: {key}"),
    }
}

/// Adds the identity to the centre of a convolution's kernel, as far as it goes.
fn identity([output, input, height, width]: [usize; 4], mut values: Vec<f32>) -> Vec<f32> {
    let centre = height / 2 * width + width / 2;
    for i in 0..output.min(input) {
        values[(i * input + i) * height * width + centre] += 1.0;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainable::tests::small;

    fn architecture() -> Architecture {
        Architecture {
            encoder_dim: 64,
            ..small()
        }
    }

    fn initial(key: &str, shape: &[usize], seed: u64) -> Vec<f32> {
        initial_values(key, shape, &architecture(), seed)
    }

    fn deviation(values: &[f32]) -> f32 {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>();
        assert!(mean.abs() < 0.05 * squares.sqrt());
        (squares / values.len() as f32).sqrt()
    }

    #[test]
    fn every_kind_of_tensor_has_its_spread() {
        let of = |key: &str, shape: &[usize]| initial(key, shape, 5);
        let close = |values: Vec<f32>, wanted: f32| {
            let found = deviation(&values);
            assert!((found / wanted - 1.0).abs() < 0.05, "{found} {wanted}");
        };
        close(
            of("image_encoder.blocks.0.attn.proj.weight", &[96, 64]),
            0.02 * 12.0_f32.sqrt(),
        );
        let third = 3.0_f32.sqrt();
        let decoder = of(
            "mask_decoder.transformer.layers.0.mlp.lin1.weight",
            &[80, 100],
        );
        assert!(decoder.iter().all(|v| v.abs() <= 0.1));
        close(decoder, 0.1 / third);
        let conv = of("prompt_encoder.mask_downscaling.3.weight", &[16, 25, 2, 2]);
        close(conv, 0.1 / third);
        close(of("mask_decoder.mask_tokens.weight", &[40, 64]), 1.0);
        close(
            of("prompt_encoder.not_a_point_embed.weight", &[1, 4096]),
            1.0,
        );
        assert_eq!(of("image_encoder.neck.1.weight", &[3]), [1.0; 3]);
        assert_eq!(of("image_encoder.neck.1.bias", &[3]), [0.0; 3]);
        assert_eq!(
            of("image_encoder.blocks.0.attn.rel_pos_h", &[3, 2]),
            [0.0; 6]
        );
    }

    #[test]
    fn prompts_attend_to_where_they_point() {
        let of = |name: &str| {
            let key = format!(
                "mask_decoder.transformer.layers.1.cross_attn_token_to_image.{name}.weight"
            );
            initial(&key, &[64, 128], 4)
        };
        assert_eq!(of("q_proj"), of("k_proj"));
        assert!(of("v_proj") != of("q_proj"));
        let shared = initial(
            "mask_decoder.transformer.layers.1.self_attn.k_proj.weight",
            &[64, 64],
            4,
        );
        assert!(
            shared
                != initial(
                    "mask_decoder.transformer.layers.1.self_attn.q_proj.weight",
                    &[64, 64],
                    4
                )
        );
        // The logits of eight heads of eight channels for two encodings: of the same place, and of places far apart.
        let encoding = |phase: f32| -> Vec<f32> {
            let angle = |i: usize| 0.7 + phase * (i as f32 * 1.37).sin();
            (0..64)
                .map(|i| angle(i).sin())
                .chain((0..64).map(|i| angle(i).cos()))
                .collect()
        };
        let rows = of("q_proj");
        let project = |x: &[f32]| -> Vec<f32> {
            let row = |row: &[f32]| row.iter().zip(x).map(|(a, b)| a * b).sum();
            rows.chunks_exact(128).map(row).collect()
        };
        let logit = |a: &[f32], b: &[f32]| {
            let product: f32 = project(a).iter().zip(project(b)).map(|(a, b)| a * b).sum();
            product / 8.0 / 8.0_f32.sqrt()
        };
        let (here, there) = (encoding(0.0), encoding(9.0));
        let same = logit(&here, &here);
        assert!((same / LIKENESS - 1.0).abs() < 0.3, "{same}");
        assert!(logit(&here, &there) < same / 2.0);
    }

    #[test]
    fn tokens_attend_to_those_like_them() {
        let dim = 64;
        let values = initial("image_encoder.blocks.1.attn.qkv.weight", &[3 * dim, dim], 7);
        let [q, k, v] = [0, 1, 2].map(|part| &values[part * dim * dim..][..dim * dim]);
        assert!(q == k && q != v);
        // Normed tokens with themselves, in four heads of sixteen channels.
        let tokens = 1..=32;
        let logit = |token: usize| -> f32 {
            let sign = |i: usize| if i * token % 5 < 2 { 1.0 } else { -1.0 };
            let row =
                |row: &[f32]| -> f32 { row.iter().enumerate().map(|(i, w)| w * sign(i)).sum() };
            let squares: f32 = q.chunks_exact(dim).map(|w| row(w).powi(2)).sum();
            squares / 4.0 / 16.0_f32.sqrt()
        };
        let mean = tokens.map(logit).sum::<f32>() / 32.0;
        assert!((mean / TOKEN_LIKENESS - 1.0).abs() < 0.4, "{mean}");
    }

    /// An image of one colour within each cell of four pixels, through patches, neck and upscaling without norms: each
    /// pixel's embedding depends on its own cell's colour alone, and tells colours apart.
    #[test]
    fn pixels_start_with_their_colours() {
        let side = 8;
        let [patches, first, second] = [
            initial(
                "image_encoder.patch_embed.proj.weight",
                &[192, 3, side, side],
                2,
            ),
            initial(
                "mask_decoder.output_upscaling.0.weight",
                &[192, 24, 2, 2],
                2,
            ),
            initial("mask_decoder.output_upscaling.3.weight", &[24, 6, 2, 2], 2),
        ];
        let embed = |patch: &[f32]| -> Vec<[f32; 6]> {
            let token: Vec<f32> = patches
                .chunks_exact(patch.len())
                .map(|row| row.iter().zip(patch).map(|(a, b)| a * b).sum())
                .collect();
            let up = |x: &[f32], weights: &[f32], outputs: usize, at: usize| -> Vec<f32> {
                let sum = |o: usize| -> f32 {
                    let weight = |i: usize| weights[(i * outputs + o) * 4 + at];
                    x.iter().enumerate().map(|(i, x)| x * weight(i)).sum()
                };
                (0..outputs).map(sum).collect()
            };
            let mut pixels = Vec::new();
            for outer in 0..4 {
                let quarter = up(&token, &first, 24, outer);
                let quarter: Vec<f32> = quarter.iter().map(|v| v.max(0.0)).collect();
                for inner in 0..4 {
                    let pixel = up(&quarter, &second, 6, inner);
                    pixels.push(pixel.try_into().unwrap());
                }
            }
            pixels
        };
        // Cells of two by two pixels: what a pixel of the decoder's logits covers.
        let colour = |cell: usize, channel: usize| ((cell * 5 + channel * 3) % 7) as f32 / 7.0;
        let patch = |changed: Option<usize>| -> Vec<f32> {
            let mut values = Vec::new();
            for channel in 0..3 {
                for y in 0..side {
                    for x in 0..side {
                        let cell = y / 2 * 4 + x / 2;
                        let more = if changed == Some(cell) { 0.5 } else { 0.0 };
                        values.push(colour(cell, channel) + more * (channel == 0) as u8 as f32);
                    }
                }
            }
            values
        };
        let before = embed(&patch(None));
        // The last cell is the last pixel of the last quarter.
        let after = embed(&patch(Some(15)));
        let change = |pixel: usize| {
            let pairs = before[pixel].iter().zip(&after[pixel]);
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        // Not of that pixel alone: fine cosines are left out.
        let others = (0..15).map(change).fold(0.0, f32::max);
        assert!(change(15) > 2.0 * others, "{} {others}", change(15));
        for pixel in before {
            for pair in pixel.chunks_exact(2) {
                assert!((pair[0] + pair[1]).abs() < 1e-4, "{pair:?}");
            }
        }
    }

    #[test]
    fn patches_are_taken_apart_by_frequency() {
        let (dim, side) = (12, 8);
        let key = "image_encoder.patch_embed.proj.weight";
        let values = initial(key, &[dim, 3, side, side], 1);
        let patch = 3 * side * side;
        let rows: Vec<&[f32]> = values.chunks_exact(patch).collect();
        // The first sees brightness alone: all weights alike.
        assert!(
            rows[0]
                .iter()
                .all(|w| (w - rows[0][0]).abs() < 1e-6 && *w > 0.0)
        );
        // No two see the same: they are orthogonal.
        for (i, a) in rows.iter().enumerate() {
            for b in &rows[..i] {
                let product: f32 = a.iter().zip(*b).map(|(a, b)| a * b).sum();
                assert!(product.abs() < 1e-4, "{product}");
            }
        }
        // More outputs than a patch has numbers: the others are random, and none is zero.
        let all = initial(key, &[20, 3, 2, 2], 1);
        assert!(
            all.chunks_exact(12)
                .all(|row| row.iter().any(|w| *w != 0.0))
        );
    }

    #[test]
    fn positions_tell_places_apart() {
        let values = initial("image_encoder.pos_embed", &[1, 3, 5, 8], 1);
        let places: Vec<&[f32]> = values.chunks_exact(8).collect();
        assert_eq!(places.len(), 15);
        for (i, a) in places.iter().enumerate() {
            assert!(places[..i].iter().all(|b| a != b));
        }
        // x = 1, y = 0: sin 1 and cos 1 lead the first half, 0 and 1 the second.
        assert!((places[1][0] - 1.0_f32.sin()).abs() < 1e-6);
        assert_eq!((places[1][4], places[1][6]), (0.0, 1.0));
    }
}

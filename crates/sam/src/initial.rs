//! Weights of a model that has learnt nothing yet.
//!
//! The image encoder starts as ViTDet does (normal with deviation 0.02), everything else as `torch.nn` does by default,
//! which is what `build_sam.py` leaves it at, but for biases, which start at zero. Another departure: positions start as sines and cosines of the place (as in
//! MAE, whose weights SAM starts from) and not at zero, so that an encoder without pretraining learns from fewer images.

/// Deviation of the encoder's weights (ViT, Dosovitskiy et al., 2021).
const DEVIATION: f32 = 0.02;

/// The values of the tensor under an official key, row-major: a function of its arguments alone.
pub(crate) fn initial_values(key: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let count = shape.iter().product();
    let mut random = Random::new(key, seed);
    let is = |part: &str| key.contains(part);
    if key == "image_encoder.pos_embed" {
        return sines(shape);
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
    match *shape {
        // Norms' weights are the only vectors that are not biases.
        [_] if key.ends_with(".weight") => vec![1.0; count],
        [_] => vec![0.0; count],
        [_, _] if is("image_encoder") => random.normal(count, DEVIATION),
        // `kaiming_uniform_(a=sqrt(5))`: within 1 / sqrt(fan in). For a transposed convolution `torch` takes the second
        // side as well.
        [_, input] => random.uniform(count, (input as f32).sqrt().recip()),
        [_, input, height, width] => {
            let fan_in = input * height * width;
            random.uniform(count, (fan_in as f32).sqrt().recip())
        }
        _ => unreachable!("no tensor of SAM has the shape {shape:?}: {key}"),
    }
}

/// `get_2d_sincos_pos_embed` of MAE: half the channels for x, half for y, each sines and then cosines.
fn sines(shape: &[usize]) -> Vec<f32> {
    let &[_, height, width, dim] = shape else {
        unreachable!("positions are [1, grid, grid, dim], not {shape:?}")
    };
    let quarter = dim / 4;
    let mut values = Vec::with_capacity(height * width * dim);
    for y in 0..height {
        for x in 0..width {
            for place in [x, y] {
                let angle = |i: usize| place as f64 / 10_000_f64.powf(i as f64 / quarter as f64);
                values.extend((0..quarter).map(|i| angle(i).sin() as f32));
                values.extend((0..quarter).map(|i| angle(i).cos() as f32));
            }
            let missing = dim - 4 * quarter;
            values.extend(std::iter::repeat_n(0.0, missing));
        }
    }
    values
}

/// SplitMix64 (Steele et al., 2014), started by a key and a seed.
struct Random(u64);

impl Random {
    fn new(key: &str, seed: u64) -> Self {
        // FNV-1a of the key.
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Uniform in (0, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn uniform(&mut self, count: usize, bound: f32) -> Vec<f32> {
        let mut next = || (2.0 * self.next() - 1.0) as f32 * bound;
        std::iter::repeat_with(&mut next).take(count).collect()
    }

    /// Box and Muller's.
    fn normal(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        let mut next = || {
            let radius = (-2.0 * self.next().ln()).sqrt();
            (radius * (std::f64::consts::TAU * self.next()).cos()) as f32 * deviation
        };
        std::iter::repeat_with(&mut next).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deviation(values: &[f32]) -> f32 {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>();
        assert!(mean.abs() < 0.05 * squares.sqrt());
        (squares / values.len() as f32).sqrt()
    }

    #[test]
    fn every_kind_of_tensor_has_its_spread() {
        let of = |key: &str, shape: &[usize]| initial_values(key, shape, 5);
        let close = |values: Vec<f32>, wanted: f32| {
            let found = deviation(&values);
            assert!((found / wanted - 1.0).abs() < 0.05, "{found} {wanted}");
        };
        close(
            of("image_encoder.blocks.0.attn.qkv.weight", &[96, 64]),
            0.02,
        );
        let third = 3.0_f32.sqrt();
        let decoder = of(
            "mask_decoder.transformer.layers.0.mlp.lin1.weight",
            &[80, 100],
        );
        assert!(decoder.iter().all(|v| v.abs() <= 0.1));
        close(decoder, 0.1 / third);
        let conv = of("image_encoder.neck.2.weight", &[16, 25, 2, 2]);
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
    fn positions_tell_places_apart() {
        let values = initial_values("image_encoder.pos_embed", &[1, 3, 5, 8], 1);
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

//! The first weights of an image tower, from the image encoder of a Segment Anything model of the same sizes.
//!
//! Both are vision transformers of the same blocks. The encoder's relative positions and windows have no place in CLIP's
//! tower: what its attention did by them is learned anew, while patches, norms and MLPs, and what tokens look for in each
//! other, are there from the start.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use maskmill_grounding::{CLIP_MEAN, CLIP_STD, OwlArchitecture};
use maskmill_sam::{PIXEL_MEAN, PIXEL_STD, TrainableSam};
use maskmill_weights::initial::sines;

use crate::error::TrainError;

/// How long sines and cosines of places are beside tokens.
const SINES: f64 = 0.5;
/// Where the tower's keys begin.
pub(super) const TOWER: &str = "owlv2.vision_model";
/// The key of the patches' positions within the tower; that of the class token comes first.
pub(super) const POSITIONS: &str = "embeddings.position_embedding.weight";
/// Parts of a block, in the encoder and in the tower.
const PARTS: [(&str, &str); 5] = [
    ("norm1", "layer_norm1"),
    ("norm2", "layer_norm2"),
    ("attn.proj", "self_attn.out_proj"),
    ("mlp.lin1", "mlp.fc1"),
    ("mlp.lin2", "mlp.fc2"),
];

/// Tensors of the image tower by their official keys, of the encoder of the SAM checkpoint at `path`.
///
/// # Errors
/// [`TrainError::Checkpoint`] of a file that is none; [`TrainError::Settings`] of an encoder of other sizes.
pub(crate) fn from_sam(
    path: &Path,
    architecture: &OwlArchitecture,
) -> Result<BTreeMap<String, Vec<f32>>, TrainError> {
    let image = &architecture.image;
    let sam = TrainableSam::load(path, Some(image.image_size), &Device::flex())?;
    let encoder = sam.architecture();
    let sizes = [
        ("patch_size", image.patch_size, encoder.patch_size),
        ("image_dim", image.transformer.width, encoder.encoder_dim),
        (
            "image_depth",
            image.transformer.layers,
            encoder.windows.len(),
        ),
        (
            "image_heads",
            image.transformer.heads,
            encoder.encoder_heads,
        ),
        (
            "image_mlp_dim",
            image.transformer.mlp_dim,
            encoder.encoder_mlp_dim,
        ),
    ];
    let differing = sizes.iter().filter(|(_, tower, encoder)| tower != encoder);
    let differing: Vec<String> = differing
        .map(|(key, tower, encoder)| format!("architecture.{key} is {tower} and not {encoder}"))
        .collect();
    if !differing.is_empty() {
        return Err(TrainError::Settings(format!(
            "model.image_encoder: the image tower is to begin with the encoder of {}, but {}; give it the same sizes, or \
             leave model.image_encoder out",
            path.display(),
            differing.join(", ")
        )));
    }

    let values = sam.values_by_key();
    let read = |key: &str| values[&format!("image_encoder.{key}")].clone();
    let mut tower = embeddings(
        read("patch_embed.proj.weight"),
        &read("patch_embed.proj.bias"),
        &read("pos_embed"),
    );
    for block in 0..image.transformer.layers {
        let to = |part: &str| format!("{TOWER}.encoder.layers.{block}.{part}");
        for kind in ["weight", "bias"] {
            let from = |part: &str| read(&format!("blocks.{block}.{part}.{kind}"));
            for (part, of_tower) in PARTS {
                tower.insert(to(&format!("{of_tower}.{kind}")), from(part));
            }
            let qkv = from("attn.qkv");
            let parts = qkv.chunks_exact(qkv.len() / 3);
            for (part, values) in ["q", "k", "v"].iter().zip(parts) {
                let key = to(&format!("self_attn.{part}_proj.{kind}"));
                tower.insert(key, values.to_vec());
            }
        }
    }
    Ok(tower)
}

/// Patches and positions.
///
/// CLIP's patches have no bias, and its images another mean and deviation: the first is part of the positions, the other of
/// the kernel. CLIP's tower then normalises its tokens, which SAM's does not: the norm's weight gives them back the length
/// that those of a plain grey patch have, a standard deviation from the mean. Sines and cosines of a patch's place, half as
/// long, are added to the encoder's positions, which are short beside what they are added to: SAM has relative ones.
///
/// # Shapes
/// - `kernel`: `[dim, 3, patch, patch]`
/// - `bias`: `[dim]`
/// - `positions`: `[grid * grid, dim]`
fn embeddings(mut kernel: Vec<f32>, bias: &[f32], positions: &[f32]) -> BTreeMap<String, Vec<f32>> {
    let dim = bias.len();
    let mut bias = bias.to_vec();
    let mut grey = vec![0.0; dim];
    let of_output = kernel.len() / dim;
    for ((kernel, bias), grey) in kernel
        .chunks_exact_mut(of_output)
        .zip(&mut bias)
        .zip(&mut grey)
    {
        let channels = kernel.chunks_exact_mut(of_output / 3).zip(0..3);
        for (kernel, c) in channels {
            let [mean, deviation] = [PIXEL_MEAN[c], PIXEL_STD[c]].map(|value| value / 255.0);
            *bias += (CLIP_MEAN[c] - mean) / deviation * kernel.iter().sum::<f32>();
            for weight in kernel.iter_mut() {
                *weight *= CLIP_STD[c] / deviation;
            }
            *grey += kernel.iter().sum::<f32>();
        }
    }
    // The class token has no place.
    let mut places = vec![0.0; dim];
    places.extend(
        positions
            .iter()
            .zip(bias.iter().cycle())
            .map(|(p, b)| p + b),
    );
    let mean_square = |values: &[f32]| {
        let squares = values.iter().map(|v| f64::from(*v).powi(2));
        squares.sum::<f64>() / values.len() as f64
    };
    let length = (mean_square(&places[dim..]) + mean_square(&grey)).sqrt();
    let grid = (positions.len() / dim).isqrt();
    // Half of their squares is the mean.
    let scale = (SINES * length * 2.0_f64.sqrt()) as f32;
    for (place, sine) in places[dim..].iter_mut().zip(sines(grid, grid, dim)) {
        *place += scale * sine;
    }
    let length = length * (1.0 + SINES * SINES).sqrt();
    let tensors = [
        ("embeddings.patch_embedding.weight", kernel),
        (POSITIONS, places),
        ("pre_layernorm.weight", vec![length as f32; dim]),
    ];
    tensors
        .map(|(key, values)| (format!("{TOWER}.{key}"), values))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_what_the_encoder_makes_of_it() {
        // One channel of patches of 1 x 2 pixels: the pixels' values in [0, 1] give the same sums.
        let kernel = vec![0.5, -1.0, 2.0, 0.25, -0.75, 1.5];
        let (bias, positions) = ([0.3], [0.1, -0.2]);
        let made = embeddings(kernel.clone(), &bias, &positions);
        let of = |key: &str| &made[&format!("{TOWER}.{key}")];
        let pixels: [[f32; 2]; 3] = [[0.2, 0.9], [0.4, 0.1], [1.0, 0.6]];
        let sum = |kernel: &[f32], mean: [f32; 3], deviation: [f32; 3]| -> f32 {
            let of_channel = |c: usize| -> f32 {
                let pixels = pixels[c].iter().zip(&kernel[2 * c..]);
                pixels.map(|(p, w)| (p - mean[c]) / deviation[c] * w).sum()
            };
            (0..3).map(of_channel).sum()
        };
        let [mean, deviation] = [PIXEL_MEAN, PIXEL_STD].map(|v| v.map(|v| v / 255.0));
        let clip = sum(of("embeddings.patch_embedding.weight"), CLIP_MEAN, CLIP_STD);
        let places = of("embeddings.position_embedding.weight");
        assert_eq!((places.len(), places[0]), (3, 0.0));
        for (position, place) in positions.iter().zip(&places[1..]) {
            let expected = sum(&kernel, mean, deviation) + bias[0] + position;
            assert!((clip + place - expected).abs() < 1e-4, "{place}");
        }
        assert!(of("pre_layernorm.weight")[0] > 0.0);
    }
}

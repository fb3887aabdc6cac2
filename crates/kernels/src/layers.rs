//! Layers of Burn's modules that compute by the kernels of training where the CPU trains, and by Burn's operations
//! elsewhere.

use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Tensor, activation};

use crate::training::{training_gelu, training_linear, training_norm, trains_here};

/// A linear layer: `[.., inputs]` -> `[.., outputs]`.
pub fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    match &layer.bias {
        Some(bias) if trains_here(&x) => training_linear(x, layer.weight.val(), bias.val()),
        _ => layer.forward(x),
    }
}

/// The exact (error-function) GELU.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match trains_here(&x) {
        true => training_gelu(x),
        false => activation::gelu(x),
    }
}

/// A layer norm of the last dimension. `epsilon` is the norm's own, which Burn keeps to itself.
pub fn layer_norm<const D: usize>(norm: &LayerNorm, epsilon: f64, x: Tensor<D>) -> Tensor<D> {
    match &norm.beta {
        Some(beta) if trains_here(&x) => training_norm(x, norm.gamma.val(), beta.val(), epsilon),
        _ => norm.forward(x),
    }
}

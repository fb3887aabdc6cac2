//! Layers of SAM that stand at more than one place.

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{DType, Tensor, activation};
use maskmill_kernels::layers::{gelu, layer_norm, linear};
use maskmill_kernels::{training_linear, trains_here};
use maskmill_weights::Weights;

/// Epsilon of the image encoder's norms and of `LayerNorm2d` (`build_sam.py`, `common.py`).
pub(crate) const ENCODER_EPSILON: f64 = 1e-6;

/// A layer norm of numbers of any width. It computes in 32 bits, in which its parameters are, and gives the width that
/// it was given: Burn's own norm would sum bfloat16 in bfloat16.
pub(crate) fn normed<const D: usize>(norm: &LayerNorm, epsilon: f64, x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    layer_norm(norm, epsilon, x.cast(DType::F32)).cast(dtype)
}

/// A module with every parameter in `dtype`, but for those of layer norms.
pub(crate) fn cast_products<M: Module>(module: M, dtype: DType) -> M {
    module.map(&mut Cast { dtype, norms: 0 })
}

struct Cast {
    dtype: DType,
    /// How many layer norms the current parameter lies within: 0 or 1.
    norms: usize,
}

/// What Burn calls the module whose fields are being entered.
const LAYER_NORM: &str = "Struct:LayerNorm";

impl ModuleMapper for Cast {
    fn enter_module(&mut self, _field: &str, container: &str) {
        self.norms += usize::from(container == LAYER_NORM);
    }

    fn exit_module(&mut self, _field: &str, container: &str) {
        self.norms -= usize::from(container == LAYER_NORM);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.norms > 0 {
            return param;
        }
        param.map(|tensor| tensor.cast(self.dtype))
    }
}

/// A transposed convolution of kernel = stride = 2, as `torch.nn.ConvTranspose2d(in, out, 2, stride=2)`.
#[derive(Module, Debug)]
pub(crate) struct UpConv {
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
}

impl UpConv {
    pub(crate) fn load(w: &mut Weights<'_>, prefix: &str, c_in: usize, c_out: usize) -> Self {
        Self {
            weight: w.param(&format!("{prefix}.weight"), [c_in, c_out, 2, 2]),
            bias: w.param(&format!("{prefix}.bias"), [c_out]),
        }
    }

    /// The pixels that each pixel becomes stay together, row by row.
    ///
    /// # Shapes
    /// - `x`: `[pixels, channels_in]`
    /// - output: `[4 pixels, channels_out]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [pixels, _] = x.dims();
        let [_, c_out, _, _] = self.weight.dims();
        let (weight, bias) = self.as_linear();
        let y = match trains_here(&x) {
            true => training_linear(x, weight, bias),
            false => x.matmul(weight) + bias.unsqueeze(),
        };
        y.reshape([4 * pixels, c_out])
    }

    /// As a linear layer, whose outputs go corner by corner: `[c_in, 4 c_out]` and `[4 c_out]`.
    pub(crate) fn as_linear(&self) -> (Tensor<2>, Tensor<1>) {
        let weight = self.weight.val();
        let [c_in, c_out, _, _] = weight.dims();
        // [c_in, c_out, 2, 2] -> [c_in, 2, 2, c_out]: the product is channels-last already.
        let weight = weight.permute([0, 2, 3, 1]).reshape([c_in, 4 * c_out]);
        let bias = self.bias.val().unsqueeze::<2>();
        (weight, bias.expand([4, c_out]).reshape([4 * c_out]))
    }
}

/// `MLPBlock`: two linear layers around an activation.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    lin1: Linear,
    lin2: Linear,
}

impl Mlp {
    pub(crate) fn load(w: &mut Weights<'_>, prefix: &str, dim: usize, hidden: usize) -> Self {
        Self {
            lin1: w.linear(&format!("{prefix}.lin1"), dim, hidden),
            lin2: w.linear(&format!("{prefix}.lin2"), hidden, dim),
        }
    }

    /// With the exact (error-function) GELU of the image encoder.
    pub(crate) fn gelu<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(&self.lin2, gelu(linear(&self.lin1, x)))
    }

    /// With the ReLU of the mask decoder.
    pub(crate) fn relu<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(&self.lin2, activation::relu(linear(&self.lin1, x)))
    }
}

/// `MLP` of the mask decoder's heads: linear layers with ReLU between them.
#[derive(Module, Debug)]
pub(crate) struct HeadMlp {
    layers: Vec<Linear>,
}

impl HeadMlp {
    /// `dims`: input, hidden..., output.
    pub(crate) fn load(w: &mut Weights<'_>, prefix: &str, dims: &[usize]) -> Self {
        let layers = dims.windows(2).enumerate();
        Self {
            layers: layers
                .map(|(i, io)| w.linear(&format!("{prefix}.layers.{i}"), io[0], io[1]))
                .collect(),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, input]`
    /// - output: `[batch, output]`
    ///
    /// A row's result does not depend on the batch it is in: a single row is computed twice, because the
    /// CPU's matrix-vector product sums in another order than its matrix-matrix product.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        if x.dims()[0] == 1 {
            return self.forward(x.repeat_dim(0, 2)).narrow(0, 0, 1);
        }
        let (last, hidden) = self.layers.split_last().expect("an MLP has layers");
        let x = hidden
            .iter()
            .fold(x, |x, layer| activation::relu(linear(layer, x)));
        linear(last, x)
    }
}

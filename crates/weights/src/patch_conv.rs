//! Convolutions whose kernel equals their stride: each output depends on one patch, so they are matrix
//! products over channels-last tensors.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::row_product::row_product;
use crate::weights::Weights;

/// A convolution of kernel = stride, as `torch.nn.Conv2d(in, out, k, stride=k)`.
#[derive(Module, Debug)]
pub struct PatchConv {
    weight: Param<Tensor<4>>,
    bias: Option<Param<Tensor<1>>>,
}

impl PatchConv {
    /// `shape`: `[channels_out, channels_in, k, k]`.
    pub fn load(w: &mut Weights<'_>, prefix: &str, shape: [usize; 4], bias: bool) -> Self {
        Self {
            weight: w.param(&format!("{prefix}.weight"), shape),
            bias: bias.then(|| w.param(&format!("{prefix}.bias"), [shape[0]])),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, height, width, channels_in]`, sides multiples of k
    /// - output: `[batch, height / k, width / k, channels_out]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = self.weight.val();
        let [c_out, c_in, k, _] = weight.dims();
        let [batch, height, width, _] = x.dims();
        let [rows, columns] = [height / k, width / k];
        let patches = x
            .reshape([batch, rows, k, columns, k, c_in])
            .permute([0, 1, 3, 5, 2, 4])
            .reshape([batch * rows * columns, c_in * k * k]);
        let y = row_product(patches, weight.reshape([c_out, c_in * k * k]).transpose());
        let y = match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        };
        y.reshape([batch, rows, columns, c_out])
    }
}

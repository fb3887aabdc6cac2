//! Values from the device.

use burn::tensor::Tensor;

/// Every read of a tensor's values from the device goes through here.
///
/// # Panics
/// When the device fails while computing: its driver is gone or it is out of memory.
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .try_into_vec_as()
        .unwrap_or_else(|error| panic!("the device failed while computing: {error:?}"))
}

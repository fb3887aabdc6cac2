//! The kernels as operations on Burn's tensors of the CPU.
//!
//! They come in through `#[backend_extension]`: `Dispatch` finds the backend of the tensor at run time, and Flex, the CPU's,
//! runs the kernel on its memory. Other backends have no such operation; they compute the same with Burn's own.

use std::sync::Arc;

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Bytes, DType, Tensor};

use crate::{Neck, PatchEmbed, VitBlock};

/// The operations of SAM's image encoder, on tensors of f32 without gradients.
#[backend_extension(Flex)]
pub trait EncoderOps: Backend {
    /// `[images, height, width, channels]` -> `[images, rows, columns, dim]`
    fn patch_embed(
        images: FloatTensor<Self>,
        kernel: Arc<PatchEmbed>,
        shape: [usize; 4],
    ) -> FloatTensor<Self>;
    /// `[images, rows, columns, dim]` -> the same
    fn vit_block(x: FloatTensor<Self>, kernel: Arc<VitBlock>) -> FloatTensor<Self>;
    /// `[images, rows, columns, dim]` -> `[images, rows, columns, channels]`
    fn neck(x: FloatTensor<Self>, kernel: Arc<Neck>, shape: [usize; 4]) -> FloatTensor<Self>;
}

/// A tensor of the CPU, row-major.
pub(crate) fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    assert_eq!(values.len(), shape.iter().product::<usize>());
    let layout = Layout::contiguous(shape.to_vec().into());
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}

impl EncoderOps for Flex {
    fn patch_embed(images: FlexTensor, kernel: Arc<PatchEmbed>, shape: [usize; 4]) -> FlexTensor {
        let images = images.to_contiguous();
        tensor(kernel.forward(images.storage()), &shape)
    }

    fn vit_block(x: FlexTensor, kernel: Arc<VitBlock>) -> FlexTensor {
        let mut x = x.to_contiguous();
        // In place where nobody else holds the tensor.
        kernel.forward(x.storage_mut());
        x
    }

    fn neck(x: FlexTensor, kernel: Arc<Neck>, shape: [usize; 4]) -> FlexTensor {
        let x = x.to_contiguous();
        tensor(kernel.forward(x.storage()), &shape)
    }
}

/// [`PatchEmbed`] on a tensor of the CPU.
///
/// # Shapes
/// - `images`: `[images, height, width, channels]`
/// - output: `[images, rows, columns, dim]`
///
/// # Panics
/// If the tensor is of another device, or of another size than the kernel's.
pub fn patch_embed(images: Tensor<4>, kernel: &Arc<PatchEmbed>) -> Tensor<4> {
    let [rows, columns] = kernel.grid();
    let shape = [images.dims()[0], rows, columns, kernel.outputs()];
    Tensor::from_dispatch(Dispatch::patch_embed(
        images.into_dispatch(),
        Arc::clone(kernel),
        shape,
    ))
}

/// [`VitBlock`] on a tensor of the CPU, in place where nobody else holds it.
///
/// # Shapes
/// - `x`: `[images, rows, columns, dim]`
/// - output: the same
///
/// # Panics
/// If the tensor is of another device, or of another size than the kernel's.
pub fn vit_block(x: Tensor<4>, kernel: &Arc<VitBlock>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::vit_block(x.into_dispatch(), Arc::clone(kernel)))
}

/// [`Neck`] on a tensor of the CPU.
///
/// # Shapes
/// - `x`: `[images, rows, columns, dim]`
/// - output: `[images, rows, columns, channels]`
///
/// # Panics
/// If the tensor is of another device, or of another size than the kernel's.
pub fn neck(x: Tensor<4>, kernel: &Arc<Neck>) -> Tensor<4> {
    let [images, rows, columns, _] = x.dims();
    let shape = [images, rows, columns, kernel.outputs()];
    Tensor::from_dispatch(Dispatch::neck(x.into_dispatch(), Arc::clone(kernel), shape))
}

//! Operations of training on the CPU with gradients of their own: each forward and each backward is one sweep, where
//! Burn's operations make a tensor for every step of a formula.
//!
//! They come in through `#[backend_extension]`, for Flex and for autodiff over it. Numbers are f32, sums have one order
//! whatever the threads; the results are those of Burn's own operations to rounding.

mod attention;
mod few;
mod linear;
mod masks;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::aligned::{Shared, unwritten};
use crate::burn_ops::tensor;
use crate::rows::{Focal, MASK_SUMS, NormGradient, RowKernels};
use crate::{Level, Precision};
use attention::{Positions, Rows, RowsMut};

/// Floats that a thread works on at once.
const BLOCK: usize = 1 << 14;

/// The operations of training, on tensors of f32.
#[backend_extension(Flex, Autodiff)]
pub trait TrainingOps: Backend {
    /// The exact GELU.
    fn training_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// A layer norm of the last dimension.
    fn training_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;

    /// `x` `[.., inputs]`, `weight` `[inputs, outputs]`, `bias` `[outputs]` -> `[.., outputs]`
    fn training_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// `qkv` `[batch, height * width, 3 dim]`, `down` `[height, height, dim / heads]`, `across`
    /// `[width, width, dim / heads]` -> `[batch, height * width, dim]`
    fn training_self_attention(
        qkv: FloatTensor<Self>,
        down: FloatTensor<Self>,
        across: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;

    /// `qkv` `[batch, tokens, 3 dim]` -> `[batch, tokens, dim]`
    fn training_packed_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;

    /// `q` `[batch, queries, dim]`, `k` and `v` `[batch, keys, dim]` -> `[batch, queries, dim]`
    fn training_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;

    /// `logits` `[prompts, masks, pixels]`, `targets` `[prompts, 1, pixels]` -> `[prompts, masks, 5]`
    fn training_mask_sums(
        logits: FloatTensor<Self>,
        targets: FloatTensor<Self>,
        focal: [f64; 2],
    ) -> FloatTensor<Self>;

    /// `x` `[prompts, height * width, dim]`, `weight1` `[dim, 4 c1]`, `bias1` `[4 c1]`, `gamma` and `beta` `[c1]`, `weight2`
    /// `[c1, 4 c2]`, `bias2` `[4 c2]`, `masks` `[prompts, masks, c2]` -> `[prompts, masks, 4 height, 4 width]`
    #[allow(clippy::too_many_arguments)]
    fn training_masks(
        x: FloatTensor<Self>,
        weight1: FloatTensor<Self>,
        bias1: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        weight2: FloatTensor<Self>,
        bias2: FloatTensor<Self>,
        masks: FloatTensor<Self>,
        grid: [usize; 2],
        epsilon: f32,
    ) -> FloatTensor<Self>;
}

/// The [`Precision`] of products, as a number.
static PRECISION: AtomicU8 = AtomicU8::new(Precision::F32 as u8);

/// In which numbers products of linear layers, attention and masks are trained, by this process from now on; f32 until it is
/// set. PyTorch's `set_float32_matmul_precision` is of the process as well.
pub fn set_training_precision(precision: Precision) {
    PRECISION.store(precision as u8, Ordering::Relaxed);
}

fn precision() -> Precision {
    let number = PRECISION.load(Ordering::Relaxed);
    [Precision::High, Precision::Bf16]
        .into_iter()
        .find(|&precision| precision as u8 == number)
        .unwrap_or_default()
}

/// The level of this process.
fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    // What the variable asks for in vain is said where the device is opened.
    *LEVEL.get_or_init(|| Level::choose().unwrap_or(Level::best()))
}

/// How products are computed.
fn numbers() -> (Level, Precision) {
    (level(), precision())
}

fn kernels() -> &'static RowKernels {
    RowKernels::of(level())
}

/// With the shape of another.
fn like(values: Vec<f32>, other: &FlexTensor) -> FlexTensor {
    tensor(values, &other.layout().shape().to_vec())
}

fn shape<const D: usize>(x: &FlexTensor) -> [usize; D] {
    let dims: &[usize] = x.layout().shape().as_ref();
    dims.try_into()
        .expect("the dimensions that it is documented to have")
}

/// Its numbers one after the other.
fn floats(x: &FlexTensor) -> &[f32] {
    assert!(x.is_contiguous(), "made contiguous when it came in");
    x.storage()
}

fn gelu(x: &FlexTensor) -> FlexTensor {
    let k = kernels();
    let mut y = floats(x).to_vec();
    y.par_chunks_mut(BLOCK).for_each(|y| {
        // SAFETY: the table is of a level that the CPU has.
        unsafe { (k.gelu_plain)(y) }
    });
    like(y, x)
}

fn gelu_gradient(x: &FlexTensor, g: &FlexTensor) -> FlexTensor {
    let k = kernels();
    let mut g = g.to_contiguous();
    let blocks = g.storage_mut().par_chunks_mut(BLOCK);
    blocks.zip(floats(x).par_chunks(BLOCK)).for_each(|(g, x)| {
        // SAFETY: the table is of a level that the CPU has.
        unsafe { (k.gelu_gradient)(g, x) }
    });
    g
}

/// Rows that a thread works on at once.
fn rows_at_once(width: usize) -> usize {
    (BLOCK / width).max(1)
}

fn norm(x: &FlexTensor, gamma: &FlexTensor, beta: &FlexTensor, epsilon: f32) -> FlexTensor {
    let k = kernels();
    let (gamma, beta) = (floats(gamma), floats(beta));
    let width = gamma.len();
    // SAFETY: every row is written.
    let mut y = unsafe { unwritten(floats(x).len()) };
    let block = rows_at_once(width) * width;
    let blocks = y.par_chunks_mut(block).zip(floats(x).par_chunks(block));
    blocks.for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            // SAFETY: the table is of a level that the CPU has.
            unsafe { (k.layer_norm)(y, x, gamma, beta, epsilon) }
        }
    });
    like(y, x)
}

/// The gradients at `x`, `gamma` and `beta`.
fn norm_gradients(
    x: &FlexTensor,
    gamma: &FlexTensor,
    g: &FlexTensor,
    epsilon: f32,
) -> [FlexTensor; 3] {
    let k = kernels();
    let g = g.to_contiguous();
    let gamma = floats(gamma);
    let width = gamma.len();
    // SAFETY: every row is written.
    let mut of_x = unsafe { unwritten(floats(x).len()) };
    let block = rows_at_once(width) * width;
    let blocks = of_x.par_chunks_mut(block).zip(floats(x).par_chunks(block));
    let blocks = blocks.zip(floats(&g).par_chunks(block));
    let parts = blocks.map(|((of_x, x), g)| {
        let (mut of_gamma, mut of_beta) = (vec![0.0; width], vec![0.0; width]);
        let mut norm = NormGradient {
            gamma,
            epsilon,
            of_gamma: &mut of_gamma,
            of_beta: &mut of_beta,
        };
        let rows = of_x.chunks_exact_mut(width).zip(x.chunks_exact(width));
        for ((of_x, x), g) in rows.zip(g.chunks_exact(width)) {
            // SAFETY: the table is of a level that the CPU has.
            unsafe { (k.norm_gradient)(of_x, g, x, &mut norm) }
        }
        (of_gamma, of_beta)
    });
    let (of_gamma, of_beta) = linear::added(parts.collect(), k);
    [
        like(of_x, x),
        tensor(of_gamma, &[width]),
        tensor(of_beta, &[width]),
    ]
}

fn linear_sizes(x: &FlexTensor, weight: &FlexTensor) -> linear::Sizes {
    let [inputs, outputs] = shape(weight);
    let rows = floats(x).len() / inputs;
    linear::Sizes {
        rows,
        inputs,
        outputs,
    }
}

fn linear(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let sizes = linear_sizes(x, weight);
    let y = linear::forward(floats(x), floats(weight), floats(bias), sizes, numbers());
    let mut shape: Vec<usize> = x.layout().shape().to_vec();
    *shape.last_mut().expect("inputs") = sizes.outputs;
    tensor(y, &shape)
}

/// The parts of `qkv`, one after the other in every row.
fn packed_rows(qkv: &FlexTensor) -> [Rows<'_>; 3] {
    let [_, _, stride] = shape(qkv);
    let data = floats(qkv);
    [0, 1, 2].map(|part| Rows {
        data,
        offset: part * stride / 3,
        stride,
    })
}

/// The tables of relative positions, where there are any.
fn positions(tables: Option<[&FlexTensor; 2]>) -> Option<Positions<'_>> {
    tables.map(|[down, across]| {
        let ([height, _, _], [width, _, _]) = (shape(down), shape(across));
        Positions {
            down: floats(down),
            across: floats(across),
            height,
            width,
        }
    })
}

fn packed_sizes(qkv: &FlexTensor, heads: usize) -> attention::Sizes {
    let [batch, tokens, channels] = shape(qkv);
    let head_dim = channels / 3 / heads;
    attention::Sizes {
        batch,
        heads,
        head_dim,
        queries: tokens,
        keys: tokens,
    }
}

/// The answers, and the softmax of scores.
fn self_attention(
    qkv: &FlexTensor,
    tables: Option<[&FlexTensor; 2]>,
    heads: usize,
) -> [FlexTensor; 2] {
    let sizes = packed_sizes(qkv, heads);
    let positions = positions(tables);
    let rows = packed_rows(qkv);
    let (y, softmax) = attention::forward(rows, positions.as_ref(), sizes, numbers());
    let dims = [sizes.batch, sizes.queries, heads * sizes.head_dim];
    [tensor(y, &dims), tensor_of(softmax)]
}

/// As one row.
fn tensor_of(values: Vec<f32>) -> FlexTensor {
    let count = values.len();
    tensor(values, &[count])
}

/// The gradients at `qkv` and at the tables.
fn self_attention_gradients(
    [qkv, softmax]: [&FlexTensor; 2],
    tables: Option<[&FlexTensor; 2]>,
    g: &FlexTensor,
    heads: usize,
) -> (FlexTensor, [Vec<f32>; 2]) {
    let sizes = packed_sizes(qkv, heads);
    let rows = packed_rows(qkv);
    // SAFETY: queries, keys and values of every head are all of it.
    let mut of_qkv = unsafe { unwritten(floats(qkv).len()) };
    let shared = Shared::new(&mut of_qkv);
    let gradients = rows.map(|rows| RowsMut {
        data: &shared,
        offset: rows.offset,
        stride: rows.stride,
    });
    let g = g.to_contiguous();
    let positions = positions(tables);
    let positions = positions.as_ref();
    let softmax = floats(softmax);
    let (down, across) = attention::backward(
        floats(&g),
        softmax,
        rows,
        gradients,
        positions,
        sizes,
        numbers(),
    );
    (like(of_qkv, qkv), [down, across])
}

fn whole_rows(x: &FlexTensor) -> Rows<'_> {
    let [_, _, stride] = shape(x);
    Rows {
        data: floats(x),
        offset: 0,
        stride,
    }
}

fn attention_sizes(q: &FlexTensor, k: &FlexTensor, heads: usize) -> attention::Sizes {
    let ([batch, queries, dim], [_, keys, _]) = (shape(q), shape(k));
    attention::Sizes {
        batch,
        heads,
        head_dim: dim / heads,
        queries,
        keys,
    }
}

/// The answers, and the softmax of scores.
fn attention([q, k, v]: [&FlexTensor; 3], heads: usize) -> [FlexTensor; 2] {
    let sizes = attention_sizes(q, k, heads);
    let (y, softmax) = attention::forward([q, k, v].map(whole_rows), None, sizes, numbers());
    [like(y, q), tensor_of(softmax)]
}

/// The gradients at queries, keys and values.
fn attention_gradients(
    [q, k, v, softmax]: [&FlexTensor; 4],
    g: &FlexTensor,
    heads: usize,
) -> [FlexTensor; 3] {
    let sizes = attention_sizes(q, k, heads);
    let rows = [q, k, v].map(whole_rows);
    let g = g.to_contiguous();
    // SAFETY: all heads' columns are all of each.
    let mut values = rows.map(|rows| unsafe { unwritten(rows.data.len()) });
    {
        let [a, b, c] = &mut values;
        let shared = [Shared::new(a), Shared::new(b), Shared::new(c)];
        let gradients = [0, 1, 2].map(|i| RowsMut {
            data: &shared[i],
            offset: 0,
            stride: rows[i].stride,
        });
        attention::backward(
            floats(&g),
            floats(softmax),
            rows,
            gradients,
            None,
            sizes,
            numbers(),
        );
    }
    let [of_q, of_k, of_v] = values;
    [like(of_q, q), like(of_k, k), like(of_v, v)]
}

fn focal([alpha, gamma]: [f64; 2]) -> Focal {
    Focal {
        alpha: alpha as f32,
        gamma: gamma as f32,
    }
}

fn mask_sums(logits: &FlexTensor, targets: &FlexTensor, losses: [f64; 2]) -> FlexTensor {
    let k = kernels();
    let focal = focal(losses);
    let [prompts, masks, pixels] = shape(logits);
    let (logits, targets) = (floats(logits), floats(targets));
    let mut sums = vec![0.0; prompts * masks * MASK_SUMS];
    let rows = sums.par_chunks_exact_mut(MASK_SUMS).enumerate();
    rows.for_each(|(row, sums)| {
        let logits = &logits[row * pixels..][..pixels];
        let target = &targets[row / masks * pixels..][..pixels];
        // SAFETY: the table is of a level that the CPU has.
        sums.copy_from_slice(&unsafe { (k.mask_sums)(logits, target, &focal) });
    });
    tensor(sums, &[prompts, masks, MASK_SUMS])
}

fn mask_gradient(
    logits: &FlexTensor,
    targets: &FlexTensor,
    g: &FlexTensor,
    losses: [f64; 2],
) -> FlexTensor {
    let k = kernels();
    let focal = focal(losses);
    let [_, masks, pixels] = shape(logits);
    let g = g.to_contiguous();
    let (targets, g) = (floats(targets), floats(&g));
    let mut gradient = vec![0.0; floats(logits).len()];
    let rows = gradient.par_chunks_exact_mut(pixels).enumerate();
    rows.for_each(|(row, gradient)| {
        let logits = &floats(logits)[row * pixels..][..pixels];
        let target = &targets[row / masks * pixels..][..pixels];
        let g = &g[row * MASK_SUMS..][..3];
        // A mask that was not chosen has no part in the loss.
        if g != [0.0; 3] {
            // SAFETY: the table is of a level that the CPU has.
            unsafe { (k.mask_gradient)(gradient, logits, target, &focal, [g[0], g[1], g[2]]) }
        }
    });
    like(gradient, logits)
}

/// What [`masks`] computes with: tokens, the first transposed convolution, the norm, the second, and the masks' weights.
type MaskInputs = [FlexTensor; 8];

fn mask_sizes(inputs: &MaskInputs, grid: [usize; 2]) -> masks::Sizes {
    let [x, _, _, gamma, _, _, _, weights] = inputs;
    let ([prompts, _, dim], [quarter]) = (shape(x), shape(gamma));
    let [_, masks, eighth] = shape(weights);
    masks::Sizes {
        prompts,
        grid,
        dim,
        channels: [quarter, eighth],
        masks,
    }
}

fn mask_layers(inputs: &MaskInputs, epsilon: f32) -> masks::Layers<'_> {
    let [_, weight1, bias1, gamma, beta, weight2, bias2, _] = inputs.each_ref().map(floats);
    masks::Layers {
        weight1,
        bias1,
        gamma,
        beta,
        epsilon,
        weight2,
        bias2,
    }
}

fn mask_logits(inputs: &MaskInputs, grid: [usize; 2], epsilon: f32) -> FlexTensor {
    let sizes = mask_sizes(inputs, grid);
    let layers = mask_layers(inputs, epsilon);
    let (x, weights) = (floats(&inputs[0]), floats(&inputs[7]));
    let logits = masks::forward(x, &layers, weights, sizes, numbers());
    let [height, width] = grid;
    tensor(logits, &[sizes.prompts, sizes.masks, 4 * height, 4 * width])
}

fn mask_logits_gradients(
    inputs: &MaskInputs,
    grid: [usize; 2],
    epsilon: f32,
    g: &FlexTensor,
) -> MaskInputs {
    let sizes = mask_sizes(inputs, grid);
    let layers = mask_layers(inputs, epsilon);
    let (x, weights) = (floats(&inputs[0]), floats(&inputs[7]));
    let g = g.to_contiguous();
    let of = masks::backward(floats(&g), x, &layers, weights, sizes, numbers());
    let [conv1, norm, conv2] = of.layers;
    let values = [
        of.x, conv1.0, conv1.1, norm.0, norm.1, conv2.0, conv2.1, of.weights,
    ];
    let mut inputs = inputs.iter();
    values.map(|values| like(values, inputs.next().expect("as many")))
}

impl TrainingOps for Flex {
    fn training_gelu(x: FlexTensor) -> FlexTensor {
        gelu(&x.to_contiguous())
    }

    fn training_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        epsilon: f32,
    ) -> FlexTensor {
        let [x, gamma, beta] = [x, gamma, beta].map(|x| x.to_contiguous());
        norm(&x, &gamma, &beta, epsilon)
    }

    fn training_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(|x| x.to_contiguous());
        linear(&x, &weight, &bias)
    }

    fn training_self_attention(
        qkv: FlexTensor,
        down: FlexTensor,
        across: FlexTensor,
        heads: usize,
    ) -> FlexTensor {
        let [qkv, down, across] = [qkv, down, across].map(|x| x.to_contiguous());
        let [y, _] = self_attention(&qkv, Some([&down, &across]), heads);
        y
    }

    fn training_packed_attention(qkv: FlexTensor, heads: usize) -> FlexTensor {
        let [y, _] = self_attention(&qkv.to_contiguous(), None, heads);
        y
    }

    fn training_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, heads: usize) -> FlexTensor {
        let [q, k, v] = [q, k, v].map(|x| x.to_contiguous());
        let [y, _] = attention([&q, &k, &v], heads);
        y
    }

    fn training_mask_sums(logits: FlexTensor, targets: FlexTensor, focal: [f64; 2]) -> FlexTensor {
        mask_sums(&logits.to_contiguous(), &targets.to_contiguous(), focal)
    }

    fn training_masks(
        x: FlexTensor,
        weight1: FlexTensor,
        bias1: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        weight2: FlexTensor,
        bias2: FlexTensor,
        masks: FlexTensor,
        grid: [usize; 2],
        epsilon: f32,
    ) -> FlexTensor {
        let inputs = [x, weight1, bias1, gamma, beta, weight2, bias2, masks];
        mask_logits(&inputs.map(|x| x.to_contiguous()), grid, epsilon)
    }
}

/// Registers the gradients of parents that want one. Not a function: autodiff does not name the type of its nodes.
macro_rules! register {
    ($parents:expr, $gradients:expr, $grads:expr) => {
        for (parent, gradient) in $parents.into_iter().zip($gradients) {
            if let Some(node) = parent {
                $grads.register::<Flex>(node.id, gradient);
            }
        }
    };
}

/// An operation of autodiff: what it keeps, how it computes forwards, and what it does backwards.
macro_rules! differentiable {
    ($name:ident, $count:literal, $state:ty, |$kept:ident, $g:ident| $gradients:expr) => {
        #[derive(Debug)]
        struct $name;

        impl Backward<Flex, $count> for $name {
            type State = $state;

            fn backward(
                self,
                ops: Ops<Self::State, $count>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let $g = grads.consume::<Flex>(&ops.node);
                let $kept = ops.state;
                register!(ops.parents, $gradients, grads);
            }
        }
    };
}

differentiable!(Gelu, 1, FlexTensor, |x, g| [gelu_gradient(&x, &g)]);

differentiable!(Norm, 3, ([FlexTensor; 2], f32), |kept, g| {
    let ([x, gamma], epsilon) = kept;
    norm_gradients(&x, &gamma, &g, epsilon)
});

/// Unlike the others it leaves out what nobody wants: a product each.
#[derive(Debug)]
struct Linear;

impl Backward<Flex, 3> for Linear {
    type State = [FlexTensor; 2];

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let g = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [x, weight] = ops.state;
        let sizes = linear_sizes(&x, &weight);
        let [of_x, of_weight, of_bias] = ops.parents;
        if let Some(node) = of_x {
            let values = linear::gradient_of_rows(floats(&g), floats(&weight), sizes, numbers());
            grads.register::<Flex>(node.id, like(values, &x));
        }
        if of_weight.is_some() || of_bias.is_some() {
            let (a, b) = linear::gradient_of_weights(floats(&x), floats(&g), sizes, numbers());
            let gradients = [like(a, &weight), tensor_of(b)];
            register!([of_weight, of_bias], gradients, grads);
        }
    }
}

differentiable!(SelfAttention, 3, ([FlexTensor; 4], usize), |kept, g| {
    let ([qkv, down, across, softmax], heads) = kept;
    let tables = Some([&down, &across]);
    let (of_qkv, [a, b]) = self_attention_gradients([&qkv, &softmax], tables, &g, heads);
    [of_qkv, like(a, &down), like(b, &across)]
});

differentiable!(PackedAttention, 1, ([FlexTensor; 2], usize), |kept, g| {
    let (tensors, heads) = kept;
    let (of_qkv, _) = self_attention_gradients(tensors.each_ref(), None, &g, heads);
    [of_qkv]
});

differentiable!(Attention, 3, ([FlexTensor; 4], usize), |kept, g| {
    let (tensors, heads) = kept;
    attention_gradients(tensors.each_ref(), &g, heads)
});

differentiable!(MaskSums, 1, ([FlexTensor; 2], [f64; 2]), |kept, g| {
    let ([logits, targets], focal) = kept;
    [mask_gradient(&logits, &targets, &g, focal)]
});

differentiable!(MaskLogits, 8, (MaskInputs, ([usize; 2], f32)), |kept, g| {
    let (inputs, (grid, epsilon)) = kept;
    mask_logits_gradients(&inputs, grid, epsilon, &g)
});

/// Registers an operation: its output, and what it keeps where a gradient is wanted.
macro_rules! tracked {
    ($op:ident, $strategy:ident, $nodes:expr, $output:expr, $kept:expr) => {{
        let output = $output;
        match $op.prepare::<$strategy>($nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish($kept, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }};
}

impl<C: CheckpointStrategy> TrainingOps for Autodiff<Flex, C> {
    fn training_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let x = x.to_contiguous();
        tracked!(Gelu, C, [node], gelu(&x), x)
    }

    fn training_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let parts = [x, gamma, beta].map(|x| x.into_parts());
        let [(x, a), (gamma, b), (beta, c)] = parts;
        let [x, gamma, beta] = [x, gamma, beta].map(|x| x.to_contiguous());
        let y = norm(&x, &gamma, &beta, epsilon);
        tracked!(Norm, C, [a, b, c], y, ([x, gamma], epsilon))
    }

    fn training_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let parts = [x, weight, bias].map(|x| x.into_parts());
        let [(x, a), (weight, b), (bias, c)] = parts;
        let [x, weight, bias] = [x, weight, bias].map(|x| x.to_contiguous());
        let y = linear(&x, &weight, &bias);
        tracked!(Linear, C, [a, b, c], y, [x, weight])
    }

    fn training_self_attention(
        qkv: FloatTensor<Self>,
        down: FloatTensor<Self>,
        across: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        let parts = [qkv, down, across].map(|x| x.into_parts());
        let [(qkv, a), (down, b), (across, c)] = parts;
        let [qkv, down, across] = [qkv, down, across].map(|x| x.to_contiguous());
        let [y, softmax] = self_attention(&qkv, Some([&down, &across]), heads);
        let kept = ([qkv, down, across, softmax], heads);
        tracked!(SelfAttention, C, [a, b, c], y, kept)
    }

    fn training_packed_attention(qkv: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        let (qkv, node) = qkv.into_parts();
        let qkv = qkv.to_contiguous();
        let [y, softmax] = self_attention(&qkv, None, heads);
        tracked!(PackedAttention, C, [node], y, ([qkv, softmax], heads))
    }

    fn training_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        let parts = [q, k, v].map(|x| x.into_parts());
        let [(q, a), (k, b), (v, c)] = parts;
        let [q, k, v] = [q, k, v].map(|x| x.to_contiguous());
        let [y, softmax] = attention([&q, &k, &v], heads);
        tracked!(Attention, C, [a, b, c], y, ([q, k, v, softmax], heads))
    }

    fn training_mask_sums(
        logits: FloatTensor<Self>,
        targets: FloatTensor<Self>,
        focal: [f64; 2],
    ) -> FloatTensor<Self> {
        let (logits, node) = logits.into_parts();
        let (targets, _) = targets.into_parts();
        let [logits, targets] = [logits, targets].map(|x| x.to_contiguous());
        let sums = mask_sums(&logits, &targets, focal);
        tracked!(MaskSums, C, [node], sums, ([logits, targets], focal))
    }

    fn training_masks(
        x: FloatTensor<Self>,
        weight1: FloatTensor<Self>,
        bias1: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        weight2: FloatTensor<Self>,
        bias2: FloatTensor<Self>,
        masks: FloatTensor<Self>,
        grid: [usize; 2],
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let inputs = [x, weight1, bias1, gamma, beta, weight2, bias2, masks];
        let mut nodes = Vec::with_capacity(inputs.len());
        let inputs = inputs.map(|input| {
            let (x, node) = input.into_parts();
            nodes.push(node);
            x.to_contiguous()
        });
        let Ok(nodes) = <[_; 8]>::try_from(nodes) else {
            unreachable!("a node for every input");
        };
        let logits = mask_logits(&inputs, grid, epsilon);
        tracked!(MaskLogits, C, nodes, logits, (inputs, (grid, epsilon)))
    }
}

/// Whether the operations of this module are for a tensor: one of f32 on the CPU, with gradients.
pub fn trains_here<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    device.is_autodiff()
        && x.dtype() == DType::F32
        && device.without_autodiff() == burn::tensor::Device::flex()
}

/// The exact GELU (`torch.nn.GELU`).
///
/// # Panics
/// If [`trains_here`] is false for it, as with all that follow.
pub fn training_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::training_gelu(x.into_dispatch()))
}

/// A layer norm of the last dimension, whose width `gamma` and `beta` have (`torch.nn.LayerNorm`).
pub fn training_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::training_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon as f32,
    ))
}

/// A linear layer.
///
/// # Shapes
/// - `x`: `[.., inputs]`
/// - `weight`: `[inputs, outputs]`
/// - `bias`: `[outputs]`
/// - output: `[.., outputs]`
pub fn training_linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::training_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// Self attention of a grid of tokens with decomposed relative positions, whose rows add `q . down[row, row of k]` and
/// `q . across[column, column of k]` to scores (`add_decomposed_rel_pos` of segment-anything).
///
/// # Shapes
/// - `qkv`: `[batch, height * width, 3 dim]`, heads side by side
/// - `down`: `[height, height, dim / heads]`
/// - `across`: `[width, width, dim / heads]`
/// - output: `[batch, height * width, dim]`
pub fn training_self_attention(
    qkv: Tensor<3>,
    down: Tensor<3>,
    across: Tensor<3>,
    heads: usize,
) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::training_self_attention(
        qkv.into_dispatch(),
        down.into_dispatch(),
        across.into_dispatch(),
        heads,
    ))
}

/// Self attention of tokens.
///
/// # Shapes
/// - `qkv`: `[batch, tokens, 3 dim]`, heads side by side
/// - output: `[batch, tokens, dim]`
pub fn training_packed_attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::training_packed_attention(
        qkv.into_dispatch(),
        heads,
    ))
}

/// Attention of projected queries, keys and values.
///
/// # Shapes
/// - `q`: `[batch, queries, dim]`, heads side by side
/// - `k`, `v`: `[batch, keys, dim]`
/// - output: `[batch, queries, dim]`
pub fn training_attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::training_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        heads,
    ))
}

/// What the losses of masks are made of: the sums over pixels of the focal loss (`alpha` and `gamma` in `focal`), of the
/// sigmoid where the target is, of the sigmoid, and of the last two with 1 for every positive logit and 0 for the others
/// in place of the sigmoid. The last two have no gradient.
///
/// # Shapes
/// - `logits`: `[prompts, masks, pixels]`
/// - `targets`: `[prompts, 1, pixels]`, 0 or 1
/// - output: `[prompts, masks, 5]`
pub fn training_mask_sums(logits: Tensor<3>, targets: Tensor<3>, focal: [f64; 2]) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::training_mask_sums(
        logits.into_dispatch(),
        targets.into_dispatch(),
        focal,
    ))
}

/// The upscaling of the mask decoder: two transposed convolutions of kernel = stride = 2 as linear layers, whose outputs go corner
/// by corner.
pub struct TrainingUpscaling {
    /// `[dim, 4 c1]`
    pub weight1: Tensor<2>,
    /// `[4 c1]`
    pub bias1: Tensor<1>,
    /// Of the norm between them, `[c1]`.
    pub gamma: Tensor<1>,
    /// Of the norm, `[c1]`.
    pub beta: Tensor<1>,
    /// Of the norm.
    pub epsilon: f64,
    /// `[c1, 4 c2]`
    pub weight2: Tensor<2>,
    /// `[4 c2]`
    pub bias2: Tensor<1>,
}

/// Logits of masks: image tokens upscaled, with a GELU after the norm and one at the end, times the masks' weights. Nothing
/// between tokens and logits is kept for the gradients; it is computed again.
///
/// # Shapes
/// - `x`: `[prompts, height * width, dim]`, for a `grid` of height and width
/// - `masks`: `[prompts, masks, c2]`
/// - output: `[prompts, masks, 4 height, 4 width]`
pub fn training_masks(
    x: Tensor<3>,
    upscaling: TrainingUpscaling,
    masks: Tensor<3>,
    grid: [usize; 2],
) -> Tensor<4> {
    let u = upscaling;
    Tensor::from_dispatch(Dispatch::training_masks(
        x.into_dispatch(),
        u.weight1.into_dispatch(),
        u.bias1.into_dispatch(),
        u.gamma.into_dispatch(),
        u.beta.into_dispatch(),
        u.weight2.into_dispatch(),
        u.bias2.into_dispatch(),
        masks.into_dispatch(),
        grid,
        u.epsilon as f32,
    ))
}

//! The ViT image encoder: patches -> windowed and global attention -> neck.
//!
//! Follows `ImageEncoderViT` (segment-anything); the attention with decomposed relative positions is
//! that of ViTDet and MViTv2. Tensors are channels-last throughout.

use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::nn::{LayerNorm, Linear, PaddingConfig2d};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation};
use maskmill_kernels::layers::linear;
use maskmill_kernels::{training_self_attention, trains_here};
use maskmill_weights::{PatchConv, Weights};

use crate::architecture::Architecture;
use crate::layers::{ENCODER_EPSILON, Mlp, cast_products, normed};

/// Largest attention matrix made at once, in bytes. A ViT-B global block at 1024 px would hold
/// 12 heads x 4096 x 4096 floats (805 MB); queries are taken in chunks of grid rows instead.
const MAX_SCORES_BYTES: usize = 64 << 20;

/// What the sides of the factors in [`Attention::appended`] are multiples of: the tiles of CubeCL's fused attention are
/// 16 values wide, and a side that they do not divide would lose its last values.
const TILE: usize = 16;

/// How scores that do not fit [`MAX_SCORES_BYTES`] are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LargeAttention {
    /// In chunks of queries: exact on every device.
    #[default]
    Chunked,
    /// All at once: for training, which keeps all scores until the gradients are known.
    Whole,
    /// By Burn's attention, with the relative positions appended to the queries: one fused kernel on GPUs. Its products
    /// take 16-bit floats whatever the tensors are (cubek-attention 0.3), so it is not for [`Precision::F32`].
    ///
    /// [`Precision::F32`]: crate::Precision::F32
    Appended,
}

/// The image encoder.
#[derive(Module, Debug)]
pub struct ImageEncoder {
    patch_embed: PatchConv,
    pos_embed: Param<Tensor<4>>,
    blocks: Vec<Block>,
    neck: Neck,
    #[module(skip)]
    large: LargeAttention,
}

impl ImageEncoder {
    pub(crate) fn load(w: &mut Weights<'_>, a: &Architecture) -> Self {
        let (dim, grid, patch) = (a.encoder_dim, a.grid(), a.patch_size);
        Self {
            patch_embed: PatchConv::load(
                w,
                "image_encoder.patch_embed.proj",
                [dim, 3, patch, patch],
                true,
            ),
            pos_embed: w.param("image_encoder.pos_embed", [1, grid, grid, dim]),
            blocks: (0..a.windows.len()).map(|i| Block::load(w, a, i)).collect(),
            neck: Neck::load(w, a),
            large: LargeAttention::default(),
        }
    }

    /// With scores all at once.
    pub(crate) fn with_whole_scores(self) -> Self {
        Self {
            large: LargeAttention::Whole,
            ..self
        }
    }

    /// Computes in `dtype`, and scores that are too large as `large` says. What enters and leaves stays in 32 bits.
    pub(crate) fn cast_products(self, dtype: DType, large: LargeAttention) -> Self {
        Self {
            large,
            ..cast_products(self, dtype)
        }
    }

    /// Embeds normalised, padded images.
    ///
    /// # Shapes
    /// - `images`: `[batch, image_size, image_size, 3]`
    /// - output: `[batch, grid, grid, embed_dim]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let x = self.patches(images);
        let each = |x, block: &Block| block.forward(x, self.large);
        let x = self.blocks.iter().fold(x, each);
        self.neck.forward(x).cast(DType::F32)
    }

    /// Every stage in order: patches with positions, each block's output, the embedding. For comparing
    /// devices and implementations; shapes are `[batch, grid, grid, channels]`.
    pub fn stages(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut stages = vec![self.patches(images)];
        for block in &self.blocks {
            stages.push(block.forward(stages[stages.len() - 1].clone(), self.large));
        }
        let embedding = self.neck.forward(stages[stages.len() - 1].clone());
        stages.push(embedding.cast(DType::F32));
        stages
    }

    /// `[batch, image_size, image_size, 3]` -> `[batch, grid, grid, dim]`
    fn patches(&self, images: Tensor<4>) -> Tensor<4> {
        let positions = self.pos_embed.val();
        self.patch_embed.forward(images.cast(positions.dtype())) + positions
    }
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    window: Option<usize>,
}

impl Block {
    fn load(w: &mut Weights<'_>, a: &Architecture, index: usize) -> Self {
        let prefix = format!("image_encoder.blocks.{index}");
        let dim = a.encoder_dim;
        Self {
            norm1: w.layer_norm(&format!("{prefix}.norm1"), dim, ENCODER_EPSILON),
            attn: Attention::load(w, &format!("{prefix}.attn"), a, a.windows[index]),
            norm2: w.layer_norm(&format!("{prefix}.norm2"), dim, ENCODER_EPSILON),
            mlp: Mlp::load(w, &format!("{prefix}.mlp"), dim, a.encoder_mlp_dim),
            window: a.windows[index],
        }
    }

    /// `[batch, height, width, dim]` -> the same.
    fn forward(&self, x: Tensor<4>, large: LargeAttention) -> Tensor<4> {
        let [_, height, width, _] = x.dims();
        let y = normed(&self.norm1, ENCODER_EPSILON, x.clone());
        let y = match self.window {
            None => self.attn.forward(y, large),
            Some(window) => {
                let windows = self.attn.forward(partition(y, window), large);
                unpartition(windows, window, height, width)
            }
        };
        let x = x + y;
        let y = self
            .mlp
            .gelu(normed(&self.norm2, ENCODER_EPSILON, x.clone()));
        x + y
    }
}

/// `window_partition`: zero-pads right and bottom to whole windows, after the norm, so padding tokens
/// are attended to as in the reference.
///
/// `[batch, height, width, dim]` -> `[batch * windows, window, window, dim]`
fn partition(x: Tensor<4>, window: usize) -> Tensor<4> {
    let [batch, height, width, dim] = x.dims();
    let [rows, columns] = [height.div_ceil(window), width.div_ceil(window)];
    let x = pad_end(x, 1, rows * window - height);
    let x = pad_end(x, 2, columns * window - width);
    x.reshape([batch, rows, window, columns, window, dim])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([batch * rows * columns, window, window, dim])
}

/// `window_unpartition`: the inverse, without the padding.
fn unpartition(windows: Tensor<4>, window: usize, height: usize, width: usize) -> Tensor<4> {
    let [total, _, _, dim] = windows.dims();
    let [rows, columns] = [height.div_ceil(window), width.div_ceil(window)];
    let batch = total / (rows * columns);
    windows
        .reshape([batch, rows, columns, window, window, dim])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([batch, rows * window, columns * window, dim])
        .narrow(1, 0, height)
        .narrow(2, 0, width)
}

fn pad_end<const D: usize>(x: Tensor<D>, dim: usize, amount: usize) -> Tensor<D> {
    if amount == 0 {
        return x;
    }
    let mut shape = x.dims();
    shape[dim] = amount;
    let zeros = Tensor::zeros(shape, (&x.device(), x.dtype()));
    Tensor::cat(vec![x, zeros], dim)
}

/// Multi-head self attention over a square of tokens, with decomposed relative positions.
#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    rel_pos_h: Param<Tensor<2>>,
    rel_pos_w: Param<Tensor<2>>,
    heads: usize,
}

impl Attention {
    fn load(w: &mut Weights<'_>, prefix: &str, a: &Architecture, window: Option<usize>) -> Self {
        let (dim, heads) = (a.encoder_dim, a.encoder_heads);
        // A global block's table may be of any length: it is interpolated to the grid.
        let length = |axis: &str| {
            let key = format!("{prefix}.rel_pos_{axis}");
            let found = w.checkpoint_shape(&key).map(|shape| shape[0]);
            found.unwrap_or(2 * window.unwrap_or(a.grid()) - 1)
        };
        let (length_h, length_w) = (length("h"), length("w"));
        Self {
            qkv: w.linear(&format!("{prefix}.qkv"), dim, 3 * dim),
            proj: w.linear(&format!("{prefix}.proj"), dim, dim),
            rel_pos_h: w.param(&format!("{prefix}.rel_pos_h"), [length_h, dim / heads]),
            rel_pos_w: w.param(&format!("{prefix}.rel_pos_w"), [length_w, dim / heads]),
            heads,
        }
    }

    /// `[batch, height, width, dim]` -> the same.
    fn forward(&self, x: Tensor<4>, large: LargeAttention) -> Tensor<4> {
        let [batch, height, width, dim] = x.dims();
        let (heads, tokens) = (self.heads, height * width);
        let head_dim = dim / heads;
        let qkv = linear(&self.qkv, x.reshape([batch, tokens, dim]));
        if trains_here(&qkv) {
            let down = relative_positions(self.rel_pos_h.val(), height);
            let across = relative_positions(self.rel_pos_w.val(), width);
            let y = training_self_attention(qkv, down, across, heads);
            return linear(&self.proj, y).reshape([batch, height, width, dim]);
        }
        let qkv = qkv
            .reshape([batch, tokens, 3, heads, head_dim])
            .permute([2, 0, 3, 1, 4]);
        let part = |i: usize| {
            qkv.clone()
                .narrow(0, i, 1)
                .reshape([batch * heads, tokens, head_dim])
        };
        let qkv = [part(0), part(1), part(2)];
        let row_bytes = batch * heads * width * tokens * size_of::<f32>();
        let rows_per_chunk = (MAX_SCORES_BYTES / row_bytes).clamp(1, height);
        let y = match large {
            LargeAttention::Appended if rows_per_chunk < height => {
                self.appended(qkv, height, width)
            }
            LargeAttention::Whole => self.chunked(qkv, height, width, height),
            _ => self.chunked(qkv, height, width, rows_per_chunk),
        };
        let y = y
            .reshape([batch, heads, tokens, head_dim])
            .swap_dims(1, 2)
            .reshape([batch, tokens, dim]);
        self.proj.forward(y).reshape([batch, height, width, dim])
    }

    /// Attention of `rows_per_chunk` rows of queries at a time.
    ///
    /// # Shapes
    /// - queries, keys and values: `[batch * heads, height * width, head_dim]`
    /// - output: the same
    fn chunked(
        &self,
        [q, k, v]: [Tensor<3>; 3],
        height: usize,
        width: usize,
        rows_per_chunk: usize,
    ) -> Tensor<3> {
        let [batch, tokens, head_dim] = q.dims();
        let k = k.transpose();
        let scale = (head_dim as f64).powf(-0.5);
        let bias_h = relative_positions(self.rel_pos_h.val(), height);
        let bias_w = relative_positions(self.rel_pos_w.val(), width);
        let mut chunks = Vec::with_capacity(height.div_ceil(rows_per_chunk));
        for row in (0..height).step_by(rows_per_chunk) {
            let rows = rows_per_chunk.min(height - row);
            let q = q.clone().narrow(1, row * width, rows * width);
            let scores = q.clone().mul_scalar(scale).matmul(k.clone());
            let q = q.reshape([batch, rows, width, head_dim]);
            let [along_h, along_w] =
                relative_scores(q, bias_h.clone().narrow(0, row, rows), bias_w.clone());
            let queries = rows * width;
            let scores = scores.reshape([batch, queries, height, width])
                + along_h.reshape([batch, queries, height, 1])
                + along_w.reshape([batch, queries, 1, width]);
            let attention = activation::softmax(scores.reshape([batch, queries, tokens]), 2);
            chunks.push(attention.matmul(v.clone()));
        }
        Tensor::cat(chunks, 1)
    }

    /// The same without a bias on the scores, which would keep CubeCL from its fused attention; so would a scale of our
    /// own. The relative positions become further channels of the queries, and each key has a one in the channels of
    /// its row and of its column:
    ///
    /// ```text
    /// q.k / sqrt(head_dim) + q.Rh[row of k] + q.Rw[column of k]
    ///     = [q / sqrt(head_dim), q.Rh, q.Rw] . [k, one-hot(row of k), one-hot(column of k)]
    /// ```
    ///
    /// # Shapes
    /// As [`Attention::chunked`].
    fn appended(&self, [q, k, v]: [Tensor<3>; 3], height: usize, width: usize) -> Tensor<3> {
        let [batch, tokens, head_dim] = q.dims();
        let bias_h = relative_positions(self.rel_pos_h.val(), height);
        let bias_w = relative_positions(self.rel_pos_w.val(), width);
        let by_place = q.clone().reshape([batch, height, width, head_dim]);
        let [along_h, along_w] = relative_scores(by_place, bias_h, bias_w);

        let channels = (head_dim + height + width).next_multiple_of(TILE);
        // `attention` divides by the square root of the channels that it sees.
        let undo = (channels as f64).sqrt();
        let scale = (head_dim as f64).powf(-0.5);
        let q = Tensor::cat(
            vec![
                q.mul_scalar(scale * undo),
                along_h.mul_scalar(undo),
                along_w.mul_scalar(undo),
            ],
            2,
        );
        let places = one_hot_places(height, width, &k);
        let places = places
            .unsqueeze::<3>()
            .expand([batch, tokens, height + width]);
        let k = Tensor::cat(vec![k, places], 2);

        let padded = |x: Tensor<3>, channels: usize| {
            let [_, _, found] = x.dims();
            pad_end(x, 2, channels - found).unsqueeze::<4>()
        };
        let (q, k) = (padded(q, channels), padded(k, channels));
        let v = padded(v, head_dim.next_multiple_of(TILE));
        let y = attention(q, k, v, None, None, AttentionModuleOptions::default());
        y.narrow(3, 0, head_dim).reshape([batch, tokens, head_dim])
    }
}

/// `bhwc,hkc->bhwk` and `bhwc,wkc->bhwk` of `add_decomposed_rel_pos`.
///
/// # Shapes
/// - `q`: `[batch, rows, width, head_dim]`, not scaled
/// - `bias_h`: `[rows, height, head_dim]`, of [`relative_positions`]
/// - `bias_w`: `[width, width, head_dim]`, of [`relative_positions`]
/// - output: `[batch, rows * width, height]` and `[batch, rows * width, width]`
fn relative_scores(q: Tensor<4>, bias_h: Tensor<3>, bias_w: Tensor<3>) -> [Tensor<3>; 2] {
    let [batch, rows, width, _] = q.dims();
    let [_, height, _] = bias_h.dims();
    let along_h = q.clone().matmul(bias_h.transpose().unsqueeze());
    let along_w = q
        .swap_dims(1, 2)
        .matmul(bias_w.transpose().unsqueeze())
        .swap_dims(1, 2);
    [
        along_h.reshape([batch, rows * width, height]),
        along_w.reshape([batch, rows * width, width]),
    ]
}

/// For each token a one at its row and a one at its column, `[height * width, height + width]`, on the device of `like`
/// and in its numbers.
fn one_hot_places(height: usize, width: usize, like: &Tensor<3>) -> Tensor<2> {
    let device = like.device();
    let tokens = height * width;
    let row = Tensor::<2>::eye(height, &device)
        .reshape([height, 1, height])
        .expand([height, width, height])
        .reshape([tokens, height]);
    let column = Tensor::<2>::eye(width, &device)
        .reshape([1, width, width])
        .expand([height, width, width])
        .reshape([tokens, width]);
    Tensor::cat(vec![row, column], 1).cast(like.dtype())
}

/// `get_rel_pos` for queries and keys on the same axis of `size` tokens.
///
/// `[length, head_dim]` -> `[size (query), size (key), head_dim]`; entry `(q, k)` is the table's row
/// `q - k + size - 1`, the table being interpolated linearly where its length is not `2 size - 1`.
fn relative_positions(table: Tensor<2>, size: usize) -> Tensor<3> {
    let [length, head_dim] = table.dims();
    let device = table.device();
    let needed = 2 * size - 1;
    let table = if length == needed {
        table
    } else {
        let dtype = table.dtype();
        linear_interpolation(length, needed, &device)
            .matmul(table.cast(DType::F32))
            .cast(dtype)
    };
    let rows: Vec<i64> = (0..size)
        .flat_map(|q| (0..size).map(move |k| (q + size - 1 - k) as i64))
        .collect();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [size * size]), &device);
    table.select(0, rows).reshape([size, size, head_dim])
}

/// `F.interpolate(mode="linear", align_corners=False)`: for each of `to` places the two of `from` that it lies between,
/// and the weight of the second.
pub(crate) fn interpolation(from: usize, to: usize) -> impl Iterator<Item = (usize, usize, f32)> {
    let scale = from as f32 / to as f32;
    (0..to).map(move |place| {
        let source = (scale * (place as f32 + 0.5) - 0.5).max(0.0);
        let low = (source as usize).min(from - 1);
        (low, (low + 1).min(from - 1), source - low as f32)
    })
}

/// [`interpolation`] as a matrix, `[to, from]`.
fn linear_interpolation(from: usize, to: usize, device: &Device) -> Tensor<2> {
    let mut matrix = vec![0.0_f32; to * from];
    for (row, (low, high, weight)) in matrix.chunks_exact_mut(from).zip(interpolation(from, to)) {
        row[low] += 1.0 - weight;
        row[high] += weight;
    }
    Tensor::from_data(TensorData::new(matrix, [to, from]), device)
}

/// 1x1 convolution, norm, 3x3 convolution, norm: the channels of the decoder.
#[derive(Module, Debug)]
struct Neck {
    conv1: PatchConv,
    norm1: LayerNorm,
    conv2: Conv2d,
    norm2: LayerNorm,
}

impl Neck {
    fn load(w: &mut Weights<'_>, a: &Architecture) -> Self {
        let (dim, out) = (a.encoder_dim, a.embed_dim);
        Self {
            conv1: PatchConv::load(w, "image_encoder.neck.0", [out, dim, 1, 1], false),
            norm1: w.layer_norm("image_encoder.neck.1", out, ENCODER_EPSILON),
            conv2: Conv2d {
                weight: w.param("image_encoder.neck.2.weight", [out, out, 3, 3]),
                bias: None,
                stride: [1, 1],
                kernel_size: [3, 3],
                dilation: [1, 1],
                groups: 1,
                padding: PaddingConfig2d::Explicit(1, 1, 1, 1),
            },
            norm2: w.layer_norm("image_encoder.neck.3", out, ENCODER_EPSILON),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = normed(&self.norm1, ENCODER_EPSILON, self.conv1.forward(x));
        let x = self.conv2.forward(x.permute([0, 3, 1, 2]));
        normed(&self.norm2, ENCODER_EPSILON, x.permute([0, 2, 3, 1]))
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;
    use burn::tensor::Distribution;

    use super::*;
    use crate::device::DeviceName;

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.try_into_vec_as().unwrap()
    }

    #[test]
    fn windows_come_back_in_place() {
        let device = Device::flex();
        let (height, width, dim) = (5, 8, 3);
        let data: Vec<f32> = (0..2 * height * width * dim).map(|v| v as f32).collect();
        let shape = [2, height, width, dim];
        let x = Tensor::<4>::from_data(TensorData::new(data.clone(), shape), &device);
        let windows = partition(x, 3);
        assert_eq!(windows.dims(), [2 * 2 * 3, 3, 3, dim]);
        // The last window of the first image: rows 3-4 and columns 6-7, the rest padding.
        let last = values(windows.clone().narrow(0, 5, 1).narrow(3, 0, 1));
        let at = |y: usize, x: usize| ((y * width + x) * dim) as f32;
        let expected = [
            at(3, 6),
            at(3, 7),
            0.0,
            at(4, 6),
            at(4, 7),
            0.0,
            0.0,
            0.0,
            0.0,
        ];
        assert_eq!(last, expected);
        assert_eq!(values(unpartition(windows, 3, height, width)), data);
    }

    fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    /// The CPU, or the device that `MASKMILL_TEST_DEVICE` names, with the error that its attention may have: the fused
    /// kernel of GPUs multiplies 16-bit floats.
    fn device() -> (Device, f32) {
        let name = std::env::var("MASKMILL_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
        let device = name.parse::<DeviceName>().and_then(DeviceName::open);
        let error = if name == "cpu" { 1e-5 } else { 1e-2 };
        (device.unwrap(), error)
    }

    /// `head_dim` of ViT-B and L, of ViT-H, and one that no tile divides; tables that need interpolation, and a grid
    /// that is not square.
    #[test]
    fn appended_relative_positions_equal_added_ones() {
        let (device, tolerance) = device();
        device.seed(9);
        for (head_dim, height, width, lengths) in [
            (64, 14, 14, [27, 27]),
            (64, 16, 32, [31, 63]),
            (80, 16, 9, [31, 17]),
            (5, 6, 11, [9, 30]),
        ] {
            let heads = 3;
            let dim = heads * head_dim;
            let linear = |output| LinearConfig::new(dim, output).init(&device);
            let attention = Attention {
                qkv: linear(3 * dim),
                proj: linear(dim),
                rel_pos_h: Param::from_tensor(random([lengths[0], head_dim], &device)),
                rel_pos_w: Param::from_tensor(random([lengths[1], head_dim], &device)),
                heads,
            };
            let qkv = [0, 1, 2].map(|_| random([2 * heads, height * width, head_dim], &device));
            let appended = values(attention.appended(qkv.clone(), height, width));
            for rows in [height, 4, 1] {
                let chunked = values(attention.chunked(qkv.clone(), height, width, rows));
                let scale = chunked.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
                assert!(scale > 0.1 && appended.len() == chunked.len());
                let pairs = appended.iter().zip(&chunked);
                let worst = pairs.fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
                let error = worst / scale;
                assert!(error <= tolerance, "{head_dim}, {rows} rows: {error:e}");
            }
        }
    }

    #[test]
    fn relative_positions_index_by_difference() {
        let device = Device::flex();
        let table = Tensor::<2>::from_floats([[0.0], [1.0], [2.0], [3.0], [4.0]], &device);
        let positions = values(relative_positions(table, 3));
        assert_eq!(positions, [2.0, 1.0, 0.0, 3.0, 2.0, 1.0, 4.0, 3.0, 2.0]);
    }

    #[test]
    fn interpolation_matches_torch() {
        // torch 2.x: F.interpolate(torch.tensor([[[0., 1., 4.]]]), size=5, mode="linear")
        let device = Device::flex();
        let table = Tensor::<2>::from_floats([[0.0], [1.0], [4.0]], &device);
        let up = values(linear_interpolation(3, 5, &device).matmul(table));
        for (got, expected) in up.iter().zip([0.0, 0.4, 1.0, 2.8, 4.0]) {
            assert!((got - expected).abs() < 1e-6, "{up:?}");
        }
    }
}

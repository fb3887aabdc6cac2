//! The plain versions that kernels are compared with, in f64, and random weights.

#![allow(dead_code, reason = "each test binary uses a part")]

use maskmill_kernels::{
    AttentionWeights, BlockWeights, DecoderWeights, Level, LinearWeights, NormWeights, Precision,
    TwoWayWeights, UpConvWeights, UpscalingWeights,
};

/// Every level of this CPU in every precision, with the relative error that it may have.
pub(crate) fn variants() -> Vec<(Level, Precision, f64)> {
    let each = |level| {
        [
            (level, Precision::F32, 2e-5),
            (level, Precision::High, 2e-4),
            (level, Precision::Bf16, 4e-2),
        ]
    };
    Level::supported().flat_map(each).collect()
}

/// Pseudo-random numbers, the same on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn unit(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32
    }

    pub(crate) fn values(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count)
            .map(|_| (self.unit() - 0.5) * 2.0 * size)
            .collect()
    }
}

/// A linear layer with its values.
pub(crate) struct OwnLinear {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl OwnLinear {
    pub(crate) fn random(random: &mut Random, inputs: usize, outputs: usize) -> Self {
        let size = 1.5 / (inputs as f32).sqrt();
        Self {
            weight: random.values(inputs * outputs, size),
            bias: random.values(outputs, 0.3),
        }
    }

    pub(crate) fn get(&self) -> LinearWeights<'_> {
        LinearWeights {
            weight: &self.weight,
            bias: &self.bias,
        }
    }

    /// `[rows, inputs]` -> `[rows, outputs]`
    pub(crate) fn of(&self, x: &[f64]) -> Vec<f64> {
        let inputs = self.weight.len() / self.bias.len();
        x.chunks_exact(inputs)
            .flat_map(|x| {
                self.weight
                    .chunks_exact(inputs)
                    .zip(&self.bias)
                    .map(move |(w, bias)| {
                        let sum: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
                        sum + f64::from(*bias)
                    })
            })
            .collect()
    }
}

pub(crate) struct OwnNorm {
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
    pub(crate) epsilon: f32,
}

impl OwnNorm {
    pub(crate) fn random(random: &mut Random, dim: usize) -> Self {
        Self {
            gamma: random
                .values(dim, 0.3)
                .into_iter()
                .map(|v| v + 1.0)
                .collect(),
            beta: random.values(dim, 0.3),
            epsilon: 1e-6,
        }
    }

    pub(crate) fn get(&self) -> NormWeights<'_> {
        NormWeights {
            gamma: &self.gamma,
            beta: &self.beta,
            epsilon: self.epsilon,
        }
    }

    pub(crate) fn of(&self, x: &[f64]) -> Vec<f64> {
        let dim = self.gamma.len();
        x.chunks_exact(dim)
            .flat_map(|x| {
                let mean = x.iter().sum::<f64>() / dim as f64;
                let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / dim as f64;
                let factor = (variance + f64::from(self.epsilon)).sqrt().recip();
                (0..dim)
                    .map(|i| {
                        (x[i] - mean) * factor * f64::from(self.gamma[i]) + f64::from(self.beta[i])
                    })
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

pub(crate) fn softmax(x: &mut [f64]) {
    let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for x in x.iter_mut() {
        *x = (*x - most).exp();
        sum += *x;
    }
    for x in x {
        *x /= sum;
    }
}

pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// By its Maclaurin series where that converges, 1 beyond.
pub(crate) fn erf(x: f64) -> f64 {
    if x.abs() > 5.5 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

pub(crate) fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

pub(crate) fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Largest difference, relative to the largest value.
pub(crate) fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
    let difference = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - b).abs());
    difference.fold(0.0, |most, v| if v > most || v.is_nan() { v } else { most }) / scale
}

/// A block of the image encoder.
pub(crate) struct OwnBlock {
    pub(crate) norm1: OwnNorm,
    pub(crate) qkv: OwnLinear,
    pub(crate) rel_pos_h: Vec<f32>,
    pub(crate) rel_pos_w: Vec<f32>,
    pub(crate) proj: OwnLinear,
    pub(crate) norm2: OwnNorm,
    pub(crate) lin1: OwnLinear,
    pub(crate) lin2: OwnLinear,
    pub(crate) heads: usize,
    pub(crate) window: Option<usize>,
    pub(crate) grid: [usize; 2],
}

impl OwnBlock {
    pub(crate) fn random(
        random: &mut Random,
        [dim, heads, hidden]: [usize; 3],
        window: Option<usize>,
        grid: [usize; 2],
    ) -> Self {
        let [height, width] = window.map_or(grid, |window| [window; 2]);
        Self {
            norm1: OwnNorm::random(random, dim),
            qkv: OwnLinear::random(random, dim, 3 * dim),
            rel_pos_h: random.values((2 * height - 1) * dim / heads, 0.5),
            rel_pos_w: random.values((2 * width - 1) * dim / heads, 0.5),
            proj: OwnLinear::random(random, dim, dim),
            norm2: OwnNorm::random(random, dim),
            lin1: OwnLinear::random(random, dim, hidden),
            lin2: OwnLinear::random(random, hidden, dim),
            heads,
            window,
            grid,
        }
    }

    pub(crate) fn get(&self) -> BlockWeights<'_> {
        BlockWeights {
            norm1: self.norm1.get(),
            qkv: self.qkv.get(),
            rel_pos_h: &self.rel_pos_h,
            rel_pos_w: &self.rel_pos_w,
            proj: self.proj.get(),
            norm2: self.norm2.get(),
            lin1: self.lin1.get(),
            lin2: self.lin2.get(),
            heads: self.heads,
            window: self.window,
            grid: self.grid,
        }
    }

    /// One image, `[rows, columns, dim]`.
    pub(crate) fn of(&self, x: &[f64]) -> Vec<f64> {
        let dim = self.proj.bias.len();
        let [height, width] = self.grid;
        let qkv = self.qkv.of(&self.norm1.of(x));
        let padding = widen(&self.qkv.bias);
        let mut attended = vec![0.0; x.len()];
        let (rows, columns) = self
            .window
            .map_or((height, width), |window| (window, window));
        let d = dim / self.heads;
        for top in (0..height).step_by(rows) {
            for left in (0..width).step_by(columns) {
                let places: Vec<_> = (0..rows * columns)
                    .map(|i| (i / columns, i % columns))
                    .collect();
                let token = |(row, column): (usize, usize)| {
                    let (row, column) = (top + row, left + column);
                    (row < height && column < width).then_some(row * width + column)
                };
                let row_of = |at: (usize, usize)| match token(at) {
                    Some(token) => &qkv[token * 3 * dim..][..3 * dim],
                    None => &padding[..],
                };
                for head in 0..self.heads {
                    for &query in places.iter().filter(|&&at| token(at).is_some()) {
                        let q = &row_of(query)[head * d..][..d];
                        let dot = |a: &[f64], b: &[f32]| -> f64 {
                            a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
                        };
                        let mut scores: Vec<f64> = places
                            .iter()
                            .map(|&key| {
                                let k = &row_of(key)[dim + head * d..][..d];
                                let product: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                                let down = query.0 + rows - 1 - key.0;
                                let across = query.1 + columns - 1 - key.1;
                                product / (d as f64).sqrt()
                                    + dot(q, &self.rel_pos_h[down * d..][..d])
                                    + dot(q, &self.rel_pos_w[across * d..][..d])
                            })
                            .collect();
                        softmax(&mut scores);
                        let out = &mut attended[token(query).unwrap() * dim + head * d..][..d];
                        for (&key, weight) in places.iter().zip(scores) {
                            let v = &row_of(key)[2 * dim + head * d..][..d];
                            out.iter_mut()
                                .zip(v)
                                .for_each(|(out, v)| *out += weight * v);
                        }
                    }
                }
            }
        }
        let x = sum(x, &self.proj.of(&attended));
        let hidden: Vec<f64> = self
            .lin1
            .of(&self.norm2.of(&x))
            .into_iter()
            .map(gelu)
            .collect();
        sum(&x, &self.lin2.of(&hidden))
    }
}

pub(crate) struct OwnAttention {
    pub(crate) q: OwnLinear,
    pub(crate) k: OwnLinear,
    pub(crate) v: OwnLinear,
    pub(crate) out: OwnLinear,
    pub(crate) heads: usize,
}

impl OwnAttention {
    fn random(random: &mut Random, dim: usize, inner: usize, heads: usize) -> Self {
        Self {
            q: OwnLinear::random(random, dim, inner),
            k: OwnLinear::random(random, dim, inner),
            v: OwnLinear::random(random, dim, inner),
            out: OwnLinear::random(random, inner, dim),
            heads,
        }
    }

    fn get(&self) -> AttentionWeights<'_> {
        AttentionWeights {
            q: self.q.get(),
            k: self.k.get(),
            v: self.v.get(),
            out: self.out.get(),
        }
    }

    fn of(&self, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let (q, k, v) = (self.q.of(q), self.k.of(k), self.v.of(v));
        let inner = self.q.bias.len();
        let d = inner / self.heads;
        let mut y = vec![0.0; q.len()];
        for (q, y) in q.chunks_exact(inner).zip(y.chunks_exact_mut(inner)) {
            for h in (0..inner).step_by(d) {
                let mut scores: Vec<f64> = k
                    .chunks_exact(inner)
                    .map(|k| (h..h + d).map(|i| q[i] * k[i]).sum::<f64>() / (d as f64).sqrt())
                    .collect();
                softmax(&mut scores);
                for (v, score) in v.chunks_exact(inner).zip(scores) {
                    (h..h + d).for_each(|i| y[i] += score * v[i]);
                }
            }
        }
        self.out.of(&y)
    }
}

pub(crate) struct OwnTwoWay {
    self_attn: OwnAttention,
    norm1: OwnNorm,
    token_to_image: OwnAttention,
    norm2: OwnNorm,
    mlp: [OwnLinear; 2],
    norm3: OwnNorm,
    image_to_token: OwnAttention,
    norm4: OwnNorm,
}

/// The mask decoder.
pub(crate) struct OwnDecoder {
    blocks: Vec<OwnTwoWay>,
    final_attn: OwnAttention,
    norm_final: OwnNorm,
    iou_head: Vec<OwnLinear>,
    hypernetworks: Vec<Vec<OwnLinear>>,
    conv1: OwnLinear,
    norm: OwnNorm,
    conv2: OwnLinear,
    heads: usize,
    grid: [usize; 2],
    dim: usize,
}

fn relu(x: Vec<f64>) -> Vec<f64> {
    x.into_iter().map(|x| x.max(0.0)).collect()
}

fn layers(layers: &[OwnLinear], x: &[f64]) -> Vec<f64> {
    let (last, hidden) = layers.split_last().unwrap();
    last.of(&hidden
        .iter()
        .fold(x.to_vec(), |x, layer| relu(layer.of(&x))))
}

impl OwnDecoder {
    pub(crate) fn random(
        random: &mut Random,
        [dim, inner, heads, hidden]: [usize; 4],
        depth: usize,
        masks: usize,
        grid: [usize; 2],
    ) -> Self {
        let block = |random: &mut Random| OwnTwoWay {
            self_attn: OwnAttention::random(random, dim, dim, heads),
            norm1: OwnNorm::random(random, dim),
            token_to_image: OwnAttention::random(random, dim, inner, heads),
            norm2: OwnNorm::random(random, dim),
            mlp: [
                OwnLinear::random(random, dim, hidden),
                OwnLinear::random(random, hidden, dim),
            ],
            norm3: OwnNorm::random(random, dim),
            image_to_token: OwnAttention::random(random, dim, inner, heads),
            norm4: OwnNorm::random(random, dim),
        };
        let up_conv = |random: &mut Random, inputs: usize, outputs: usize| OwnLinear {
            weight: random.values(inputs * outputs * 4, 1.5 / (inputs as f32).sqrt()),
            bias: random.values(outputs, 0.3),
        };
        let mlp = |random: &mut Random, sizes: &[usize]| -> Vec<OwnLinear> {
            sizes
                .windows(2)
                .map(|io| OwnLinear::random(random, io[0], io[1]))
                .collect()
        };
        Self {
            blocks: (0..depth).map(|_| block(random)).collect(),
            final_attn: OwnAttention::random(random, dim, inner, heads),
            norm_final: OwnNorm::random(random, dim),
            iou_head: mlp(random, &[dim, 24, 24, masks]),
            hypernetworks: (0..masks)
                .map(|_| mlp(random, &[dim, dim, dim, dim / 8]))
                .collect(),
            conv1: up_conv(random, dim, dim / 4),
            norm: OwnNorm::random(random, dim / 4),
            conv2: up_conv(random, dim / 4, dim / 8),
            heads,
            grid,
            dim,
        }
    }

    pub(crate) fn get(&self) -> DecoderWeights<'_> {
        DecoderWeights {
            blocks: self
                .blocks
                .iter()
                .map(|b| TwoWayWeights {
                    self_attn: b.self_attn.get(),
                    norm1: b.norm1.get(),
                    token_to_image: b.token_to_image.get(),
                    norm2: b.norm2.get(),
                    mlp: [b.mlp[0].get(), b.mlp[1].get()],
                    norm3: b.norm3.get(),
                    image_to_token: b.image_to_token.get(),
                    norm4: b.norm4.get(),
                })
                .collect(),
            final_attn: self.final_attn.get(),
            norm_final: self.norm_final.get(),
            iou_head: self.iou_head.iter().map(OwnLinear::get).collect(),
            hypernetworks: self
                .hypernetworks
                .iter()
                .map(|layers| layers.iter().map(OwnLinear::get).collect())
                .collect(),
            upscaling: UpscalingWeights {
                conv1: UpConvWeights {
                    weight: &self.conv1.weight,
                    bias: &self.conv1.bias,
                },
                norm: self.norm.get(),
                conv2: UpConvWeights {
                    weight: &self.conv2.weight,
                    bias: &self.conv2.bias,
                },
            },
            heads: self.heads,
            grid: self.grid,
        }
    }

    /// One prompt: tokens `[count, dim]` and image `[tokens, dim]`.
    pub(crate) fn transform(
        &self,
        image: &[f64],
        positions: &[f64],
        tokens: &[f64],
    ) -> (Vec<f64>, Vec<f64>) {
        let (mut queries, mut keys) = (tokens.to_vec(), image.to_vec());
        for (i, b) in self.blocks.iter().enumerate() {
            queries = if i == 0 {
                b.self_attn.of(&queries, &queries, &queries)
            } else {
                let q = sum(&queries, tokens);
                sum(&queries, &b.self_attn.of(&q, &q, &queries))
            };
            queries = b.norm1.of(&queries);
            let (q, k) = (sum(&queries, tokens), sum(&keys, positions));
            queries = b
                .norm2
                .of(&sum(&queries, &b.token_to_image.of(&q, &k, &keys)));
            queries = b.norm3.of(&sum(&queries, &layers(&b.mlp, &queries)));
            let (q, k) = (sum(&queries, tokens), sum(&keys, positions));
            keys = b
                .norm4
                .of(&sum(&keys, &b.image_to_token.of(&k, &q, &queries)));
        }
        let (q, k) = (sum(&queries, tokens), sum(&keys, positions));
        queries = self
            .norm_final
            .of(&sum(&queries, &self.final_attn.of(&q, &k, &keys)));
        (queries, keys)
    }

    pub(crate) fn predicted_iou(&self, tokens: &[f64]) -> Vec<f64> {
        layers(&self.iou_head, &tokens[..self.dim])
    }

    /// Logits of a mask, `[4 rows, 4 columns]`, of transformed tokens and image.
    pub(crate) fn logits(&self, tokens: &[f64], image: &[f64], mask: usize) -> Vec<f64> {
        let weights = layers(
            &self.hypernetworks[mask],
            &tokens[(1 + mask) * self.dim..][..self.dim],
        );
        let [height, width] = self.grid;
        let quarter = self.dim / 4;
        let once = up(&self.conv1, image, [height, width]);
        let once: Vec<f64> = self.norm.of(&once).into_iter().map(gelu).collect();
        assert_eq!(once.len(), 4 * height * width * quarter);
        let twice: Vec<f64> = up(&self.conv2, &once, [2 * height, 2 * width])
            .into_iter()
            .map(gelu)
            .collect();
        twice
            .chunks_exact(self.dim / 8)
            .map(|pixel| pixel.iter().zip(&weights).map(|(a, b)| a * b).sum())
            .collect()
    }
}

/// `ConvTranspose2d(kernel 2, stride 2)`, channels last.
fn up(conv: &OwnLinear, x: &[f64], [height, width]: [usize; 2]) -> Vec<f64> {
    let outputs = conv.bias.len();
    let inputs = conv.weight.len() / outputs / 4;
    let mut y = vec![0.0; 4 * height * width * outputs];
    for row in 0..2 * height {
        for column in 0..2 * width {
            let x = &x[(row / 2 * width + column / 2) * inputs..][..inputs];
            for o in 0..outputs {
                let weight =
                    |i: usize| conv.weight[((i * outputs + o) * 2 + row % 2) * 2 + column % 2];
                let sum: f64 = x
                    .iter()
                    .enumerate()
                    .map(|(i, x)| x * f64::from(weight(i)))
                    .sum();
                y[(row * 2 * width + column) * outputs + o] = sum + f64::from(conv.bias[o]);
            }
        }
    }
    y
}

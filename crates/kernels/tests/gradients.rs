//! The operations of training give the numbers and the gradients of Burn's own.

use burn::tensor::{Device, Distribution, Tensor, activation};
use maskmill_kernels::{
    Precision, TrainingUpscaling, set_training_precision, training_attention, training_gelu,
    training_linear, training_mask_sums, training_masks, training_norm, training_packed_attention,
    training_self_attention, trains_here,
};

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.without_autodiff().try_into_vec_as().unwrap()
}

/// Of the largest number: products have factors of 16 significant bits.
const PRODUCTS: f32 = 5e-5;
/// Factors of 8.
const ROUNDED: f32 = 1e-2;
const EXACT: f32 = 1e-5;

fn close(name: &str, found: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let scale = wanted.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    assert!(scale > 0.0, "{name}: nothing to compare");
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        let error = (a - b).abs();
        assert!(error <= tolerance * scale, "{name}, {i}: {a}, not {b}");
    }
}

/// Inputs as leaves, an output of them, the gradients of its product with weights that are no two the same.
fn gradients<const N: usize>(
    inputs: &[(Vec<f32>, Vec<usize>); N],
    compute: impl Fn(&[Tensor<1>; N]) -> Tensor<1>,
) -> (Vec<f32>, [Vec<f32>; N]) {
    let device = Device::flex().autodiff();
    let leaves = inputs
        .each_ref()
        .map(|(values, _)| Tensor::<1>::from_floats(values.as_slice(), &device).require_grad());
    let output = compute(&leaves);
    let count = output.dims()[0];
    let weights: Vec<f32> = (0..count)
        .map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 0.9)
        .collect();
    let weights = Tensor::<1>::from_floats(weights.as_slice(), &device);
    let gradients = (output.clone() * weights).sum().backward();
    let of = leaves.map(|leaf| leaf.grad(&gradients).unwrap().try_into_vec_as().unwrap());
    (values(output), of)
}

/// Compares an operation with its formula, on inputs of these shapes.
fn compare<const N: usize>(
    name: &str,
    tolerance: f32,
    shapes: [&[usize]; N],
    operation: impl Fn(&[Tensor<1>; N]) -> Tensor<1>,
    formula: impl Fn(&[Tensor<1>; N]) -> Tensor<1>,
) {
    let device = Device::flex();
    device.seed(11);
    let inputs = shapes.map(|shape| {
        let count = shape.iter().product();
        (values(random([count], &device)), shape.to_vec())
    });
    let (found, of) = gradients(&inputs, operation);
    let (wanted, by) = gradients(&inputs, formula);
    close(name, &found, &wanted, tolerance);
    for (i, (of, by)) in of.iter().zip(&by).enumerate() {
        close(&format!("{name}: gradient {i}"), of, by, tolerance);
    }
}

fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let count = x.shape().num_elements();
    x.reshape([count])
}

#[test]
fn they_are_for_the_cpu_with_gradients() {
    let x = random([2, 3], &Device::flex());
    assert!(!trains_here(&x));
    let x = random([2, 3], &Device::flex().autodiff());
    assert!(trains_here(&x));
    assert!(!trains_here(&x.cast(burn::tensor::DType::BF16)));
}

#[test]
fn gelu() {
    for count in [1, 15, 16, 70_001] {
        compare(
            "gelu",
            EXACT,
            [&[count]],
            |[x]| training_gelu(x.clone().mul_scalar(2.0)),
            |[x]| activation::gelu(x.clone().mul_scalar(2.0)),
        );
    }
}

#[test]
fn norm() {
    for (rows, width) in [(3, 5), (40, 16), (700, 192)] {
        let shape: &[usize] = &[rows * width];
        compare(
            "norm",
            EXACT,
            [shape, &[width], &[width]],
            |[x, gamma, beta]| {
                let x = x.clone().reshape([rows, width]);
                flat(training_norm(x, gamma.clone(), beta.clone(), 1e-5))
            },
            |[x, gamma, beta]| {
                let x = x.clone().reshape([rows, width]);
                let mean = x.clone().mean_dim(1);
                let x = x - mean;
                let deviation = (x.clone().square().mean_dim(1) + 1e-5).sqrt();
                let normed = x / deviation;
                flat(normed * gamma.clone().unsqueeze() + beta.clone().unsqueeze())
            },
        );
    }
}

/// The only operations that the precision is for: no other test here is changed by it.
#[test]
fn linear_layers_attention_and_masks() {
    for (precision, tolerance) in [
        (Precision::F32, EXACT),
        (Precision::High, PRODUCTS),
        (Precision::Bf16, ROUNDED),
        (Precision::F32, EXACT),
    ] {
        set_training_precision(precision);
        linear_within(tolerance);
        // Products one after the other.
        masks_within(5.0 * tolerance);
        attention_within(3.0 * tolerance);
        packed_attention_within(3.0 * tolerance);
        self_attention_within(3.0 * tolerance);
    }
}

fn linear_within(tolerance: f32) {
    for (rows, inputs, outputs) in [
        (1, 1, 1),
        (7, 5, 3),
        (300, 40, 70),
        (4100, 64, 32),
        (33, 192, 576),
    ] {
        compare(
            "linear",
            tolerance,
            [&[rows * inputs], &[inputs * outputs], &[outputs]],
            |[x, weight, bias]| {
                let x = x.clone().reshape([1, rows, inputs]);
                let weight = weight.clone().reshape([inputs, outputs]);
                flat(training_linear(x, weight, bias.clone()))
            },
            |[x, weight, bias]| {
                let x = x.clone().reshape([rows, inputs]);
                let weight = weight.clone().reshape([inputs, outputs]);
                flat(x.matmul(weight) + bias.clone().unsqueeze())
            },
        );
    }
}

/// More tokens than are worked on at once, a single one, channels that are no whole vectors.
fn masks_within(tolerance: f32) {
    for (prompts, [height, width], dim, [quarter, eighth], masks) in [
        (2, [12, 11], 24, [8, 4], 4),
        (1, [1, 1], 16, [5, 3], 1),
        (3, [16, 16], 128, [32, 16], 4),
        (1, [2, 5], 40, [16, 17], 3),
    ] {
        let x = [prompts, height * width, dim];
        let of_masks = [prompts, masks, eighth];
        let weight1 = [dim, 4 * quarter];
        let weight2 = [quarter, 4 * eighth];
        compare(
            "masks",
            tolerance,
            [
                &[x.iter().product()],
                &[dim * 4 * quarter],
                &[4 * quarter],
                &[quarter],
                &[quarter],
                &[quarter * 4 * eighth],
                &[4 * eighth],
                &[of_masks.iter().product()],
            ],
            |[tokens, w1, b1, gamma, beta, w2, b2, weights]| {
                let upscaling = TrainingUpscaling {
                    weight1: w1.clone().reshape(weight1),
                    bias1: b1.clone(),
                    gamma: gamma.clone(),
                    beta: beta.clone(),
                    epsilon: 1e-6,
                    weight2: w2.clone().reshape(weight2),
                    bias2: b2.clone(),
                };
                let weights = weights.clone().reshape(of_masks);
                let tokens = tokens.clone().reshape(x);
                flat(training_masks(tokens, upscaling, weights, [height, width]))
            },
            |[tokens, w1, b1, gamma, beta, w2, b2, weights]| {
                let count = prompts * height * width;
                let once = tokens.clone().reshape([count, dim]);
                let once = once.matmul(w1.clone().reshape(weight1)) + b1.clone().unsqueeze();
                let once = once.reshape([4 * count, quarter]);
                let mean = once.clone().mean_dim(1);
                let once = once - mean;
                let deviation = (once.clone().square().mean_dim(1) + 1e-6).sqrt();
                let once = once / deviation * gamma.clone().unsqueeze() + beta.clone().unsqueeze();
                let twice = activation::gelu(once).matmul(w2.clone().reshape(weight2));
                let twice = activation::gelu(twice + b2.clone().unsqueeze());
                let pixels = twice.reshape([prompts, height * width * 16, eighth]);
                let weights = weights.clone().reshape(of_masks);
                let logits = weights.matmul(pixels.transpose());
                let logits = logits.reshape([prompts * masks * height, width, 2, 2, 2, 2]);
                // Token by token, corner by corner: rows of the halves, then of their halves.
                flat(logits.permute([0, 2, 4, 1, 3, 5]))
            },
        );
    }
}

/// `[batch, tokens, heads * head_dim]` -> `[batch, heads, tokens, head_dim]`
fn split(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, dim] = x.dims();
    x.reshape([batch, tokens, heads, dim / heads])
        .swap_dims(1, 2)
}

fn joined(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, tokens, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([batch, tokens, heads * head_dim])
}

fn attention_within(tolerance: f32) {
    for (batch, queries, keys, heads, head_dim) in [
        (2, 7, 50, 4, 8),
        (3, 64, 5, 8, 8),
        (1, 1, 2, 1, 3),
        (2, 9, 9, 2, 16),
        // Many and few: no whole vectors, a single row, more channels than vectors have lanes.
        (2, 1024, 9, 8, 8),
        (1, 9, 1024, 2, 16),
        (2, 130, 32, 1, 5),
        (1, 1, 77, 3, 7),
        (1, 77, 2, 3, 17),
        // Just no longer so.
        (1, 40, 11, 2, 4),
        (1, 140, 33, 1, 8),
    ] {
        let dim = heads * head_dim;
        let q = [batch, queries, dim];
        let k = [batch, keys, dim];
        let counts = [q, k, k].map(|shape| shape.iter().product::<usize>());
        let shapes = counts.each_ref().map(std::slice::from_ref);
        compare(
            "attention",
            tolerance,
            shapes,
            |[a, b, c]| {
                let [a, b, c] = [(a, q), (b, k), (c, k)].map(|(x, s)| x.clone().reshape(s));
                flat(training_attention(a, b, c, heads))
            },
            |[a, b, c]| {
                let parts = [(a, q), (b, k), (c, k)];
                let [a, b, c] = parts.map(|(x, s)| split(x.clone().reshape(s), heads));
                let scores = a.matmul(b.transpose()).div_scalar((head_dim as f64).sqrt());
                flat(joined(activation::softmax(scores, 3).matmul(c)))
            },
        );
    }
}

fn packed_attention_within(tolerance: f32) {
    let (batch, tokens, heads, head_dim) = (2, 17, 3, 8);
    let dim = heads * head_dim;
    let packed = [batch, tokens, 3 * dim];
    compare(
        "packed attention",
        tolerance,
        [&[packed.iter().product()]],
        |[qkv]| {
            let qkv = qkv.clone().reshape(packed);
            flat(training_packed_attention(qkv, heads))
        },
        |[qkv]| {
            let qkv = qkv.clone().reshape(packed);
            let [q, k, v] = [0, 1, 2].map(|i| split(qkv.clone().narrow(2, i * dim, dim), heads));
            let scores = q.matmul(k.transpose()).div_scalar((head_dim as f64).sqrt());
            flat(joined(activation::softmax(scores, 3).matmul(v)))
        },
    );
}

fn self_attention_within(tolerance: f32) {
    for (batch, height, width, heads, head_dim) in
        // The last two have more queries than are worked on at once.
        [
            (2, 8, 8, 3, 16),
            (1, 5, 3, 2, 4),
            (2, 2, 16, 1, 32),
            (1, 12, 15, 2, 32),
            (1, 10, 13, 1, 40),
        ]
    {
        let (tokens, dim) = (height * width, heads * head_dim);
        let packed = [batch, tokens, 3 * dim];
        let tables = [[height, height, head_dim], [width, width, head_dim]];
        let counts = [packed, tables[0], tables[1]].map(|s| s.iter().product::<usize>());
        compare(
            "self attention",
            tolerance,
            counts.each_ref().map(std::slice::from_ref),
            |[qkv, down, across]| {
                flat(training_self_attention(
                    qkv.clone().reshape(packed),
                    down.clone().reshape(tables[0]),
                    across.clone().reshape(tables[1]),
                    heads,
                ))
            },
            |[qkv, down, across]| {
                let qkv = qkv.clone().reshape(packed);
                let [q, k, v] =
                    [0, 1, 2].map(|i| split(qkv.clone().narrow(2, i * dim, dim), heads));
                let scores = q
                    .clone()
                    .matmul(k.transpose())
                    .div_scalar((head_dim as f64).sqrt());
                let q = q.reshape([batch * heads, height, width, head_dim]);
                // [b, y, x, k] of the rows of keys, and of their columns.
                let down = down.clone().reshape([1, height, height, head_dim]);
                let down = q.clone().matmul(down.swap_dims(2, 3));
                let across = across.clone().reshape([1, width, width, head_dim]);
                let across = q
                    .swap_dims(1, 2)
                    .matmul(across.swap_dims(2, 3))
                    .swap_dims(1, 2);
                let scores = scores.reshape([batch * heads, tokens, height, width])
                    + down.reshape([batch * heads, tokens, height, 1])
                    + across.reshape([batch * heads, tokens, 1, width]);
                let scores = scores.reshape([batch, heads, tokens, tokens]);
                flat(joined(activation::softmax(scores, 3).matmul(v)))
            },
        );
    }
}

#[test]
fn sums_of_masks() {
    let (prompts, masks, pixels) = (3, 2, 77);
    let device = Device::flex().autodiff();
    let inside: Vec<f32> = (0..prompts * pixels)
        .map(|i| f32::from(u8::from(i * i % 7 < 3)))
        .collect();
    let targets = Tensor::<1>::from_floats(inside.as_slice(), &device);
    let targets = targets.reshape([prompts, 1, pixels]);
    for (alpha, gamma) in [(0.5, 0.0), (0.25, 1.0), (0.25, 2.0), (0.7, 1.5)] {
        compare(
            &format!("sums of masks, gamma {gamma}"),
            EXACT,
            [&[prompts * masks * pixels]],
            |[x]| {
                let x = x.clone().mul_scalar(4.0).reshape([prompts, masks, pixels]);
                flat(training_mask_sums(x, targets.clone(), [alpha, gamma]))
            },
            |[x]| {
                let x = x.clone().mul_scalar(4.0).reshape([prompts, masks, pixels]);
                let margin = x.clone() * (targets.clone().mul_scalar(2.0) - 1.0);
                let right = activation::sigmoid(margin);
                let weight = targets.clone().mul_scalar(2.0 * alpha - 1.0) + (1.0 - alpha);
                let wrong = right.clone().neg() + 1.0;
                let focal = right.log().neg() * wrong.powf_scalar(gamma) * weight;
                let inside = activation::sigmoid(x.clone());
                let positive = x.detach().greater_scalar(0.0).float();
                let sums = vec![
                    focal.sum_dim(2),
                    (inside.clone() * targets.clone()).sum_dim(2),
                    inside.sum_dim(2),
                    (positive.clone() * targets.clone()).sum_dim(2),
                    positive.sum_dim(2),
                ];
                flat(Tensor::cat(sums, 2))
            },
        );
    }
    let extreme =
        Tensor::<3>::from_floats([[[200.0, -200.0, 90.0, -90.0]]], &device).require_grad();
    let targets = Tensor::<3>::from_floats([[[0.0, 1.0, 1.0, 0.0]]], &device);
    let sums = training_mask_sums(extreme.clone(), targets, [0.25, 2.0]);
    let gradients = sums.clone().sum().backward();
    let of: Vec<f32> = extreme.grad(&gradients).unwrap().try_into_vec_as().unwrap();
    assert!(
        values(sums).iter().chain(&of).all(|v| v.is_finite()),
        "{of:?}"
    );
    assert!(
        (of[0] - 0.75).abs() < 1e-5 && (of[1] + 0.25).abs() < 1e-5,
        "{of:?}"
    );
}

/// A gradient that nobody wants is not computed, and those that are stay the same.
#[test]
fn constants_have_no_gradient() {
    let device = Device::flex().autodiff();
    device.seed(5);
    let x = random([6, 8], &device);
    let weight = random([8, 4], &device).require_grad();
    let bias = random([4], &device);
    let y = training_linear(x.clone(), weight.clone(), bias.clone());
    let gradients = y.sum().backward();
    assert!(x.grad(&gradients).is_none() && bias.grad(&gradients).is_none());
    let found: Vec<f32> = weight.grad(&gradients).unwrap().try_into_vec_as().unwrap();
    let columns = values(x.sum_dim(0));
    let wanted: Vec<f32> = columns.iter().flat_map(|v| [*v; 4]).collect();
    close("weight", &found, &wanted, PRODUCTS);
}

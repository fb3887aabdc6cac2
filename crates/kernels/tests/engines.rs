//! Products at every level and precision, against the plain one in f64: shapes that fill no tile, one row, one column, and
//! numbers that are not finite.

mod support;

use maskmill_kernels::{Level, LinearWeights, PackedLinear, Precision};
use support::{OwnLinear, Random, error, variants, widen};

fn product(layer: &OwnLinear, x: &[f32], level: Level, precision: Precision) -> Vec<f32> {
    let kernel = PackedLinear::new(layer.get(), level, precision);
    let inputs = layer.weight.len() / layer.bias.len();
    let mut y = vec![f32::NAN; x.len() / inputs * layer.bias.len()];
    kernel.forward(x, &mut y);
    y
}

#[test]
fn shapes_that_fill_no_tile() {
    let mut random = Random::new(5);
    let sizes = [1, 2, 15, 16, 17, 31, 33, 64, 97, 200];
    let mut shapes: Vec<[usize; 3]> = (0..60)
        .map(|_| [0; 3].map(|_| sizes[(random.unit() * sizes.len() as f32) as usize]))
        .collect();
    shapes.extend([[1, 1, 1], [500, 3, 5], [3, 1000, 2], [2, 5, 600]]);
    for [rows, inputs, outputs] in shapes {
        let layer = OwnLinear::random(&mut random, inputs, outputs);
        let x = random.values(rows * inputs, 2.0);
        let expected = layer.of(&widen(&x));
        for (level, precision, limit) in variants() {
            let found = product(&layer, &x, level, precision);
            let error = error(&found, &expected);
            assert!(
                error < limit,
                "{level} {precision}, {rows} x {inputs} x {outputs}: {error:e}"
            );
        }
    }
}

#[test]
fn f32_is_as_exact_at_every_level() {
    let mut random = Random::new(6);
    let layer = OwnLinear::random(&mut random, 768, 96);
    let x = random.values(64 * 768, 2.0);
    let expected = layer.of(&widen(&x));
    for level in Level::supported() {
        let error = error(&product(&layer, &x, level, Precision::F32), &expected);
        assert!(error < 2e-6, "{level}: {error:e}");
    }
}

#[test]
fn high_has_sixteen_bits_of_each_factor() {
    let mut random = Random::new(6);
    let layer = OwnLinear::random(&mut random, 768, 96);
    let x = random.values(64 * 768, 2.0);
    let expected = layer.of(&widen(&x));
    for level in Level::supported() {
        let [high, bf16] = [Precision::High, Precision::Bf16]
            .map(|precision| error(&product(&layer, &x, level, precision), &expected));
        assert!(high < 2e-5, "{level}: {high:e}");
        assert!(100.0 * high < bf16, "{level}: {high:e} of {bf16:e}");
    }
}

#[test]
fn magnitudes_from_the_smallest_to_the_largest() {
    // Terms of f32 lie up to 2^-24 below it: those of the smallest numbers are subnormal, and count as zero.
    for exponent in [-100, -60, -20, 0, 20, 60, 100] {
        let size = 2.0_f32.powi(exponent);
        let mut random = Random::new(7);
        let layer = OwnLinear {
            weight: random.values(40 * 33, 1.0),
            bias: vec![0.0; 33],
        };
        let x = random.values(5 * 40, size);
        let expected = layer.of(&widen(&x));
        for (level, precision, limit) in variants() {
            let error = error(&product(&layer, &x, level, precision), &expected);
            assert!(
                error < limit,
                "{level} {precision}, 2^{exponent}: {error:e}"
            );
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let mut random = Random::new(8);
    let layer = OwnLinear::random(&mut random, 70, 37);
    let clean = random.values(40 * 70, 1.0);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = clean.clone();
        x[7 * 70 + 13] = bad;
        for (level, precision, _) in variants() {
            let before = product(&layer, &clean, level, precision);
            let after = product(&layer, &x, level, precision);
            for (row, (before, after)) in before.chunks(37).zip(after.chunks(37)).enumerate() {
                match row {
                    7 => assert!(after.iter().all(|v| !v.is_finite()), "{level} {precision}"),
                    _ => assert_eq!(before, after, "{level} {precision}, row {row}"),
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let mut random = Random::new(9);
    let layer = OwnLinear::random(&mut random, 65, 50);
    let x = random.values(700 * 65, 1.0);
    for (level, precision, _) in variants() {
        let all = product(&layer, &x, level, precision);
        for (first, rows) in [(0, 1), (699, 1), (3, 40), (100, 333)] {
            let part = product(&layer, &x[first * 65..][..rows * 65], level, precision);
            assert_eq!(part, all[first * 50..][..rows * 50], "{level} {precision}");
        }
    }
}

#[test]
fn threads_change_nothing() {
    let mut random = Random::new(10);
    let layer = OwnLinear::random(&mut random, 96, 96);
    let x = random.values(1000 * 96, 1.0);
    for (level, precision, _) in variants() {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| product(&layer, &x, level, precision))
        };
        assert_eq!(on(1), on(3), "{level} {precision}");
    }
}

#[test]
#[should_panic(expected = "whole rows of 3")]
fn rows_must_be_whole() {
    let weights = LinearWeights {
        weight: &[1.0; 6],
        bias: &[0.0; 2],
    };
    let layer = PackedLinear::new(weights, Level::Portable, Precision::F32);
    layer.forward(&[1.0; 4], &mut [0.0; 2]);
}

//! Encoder blocks at every level and precision, against the plain version in f64.

mod support;

use maskmill_kernels::VitBlock;
use support::{OwnBlock, Random, error, variants, widen};

/// Largest error over all variants, each of which must be within its own limit.
fn check(sizes: [usize; 3], window: Option<usize>, grid: [usize; 2], images: usize) {
    let mut random = Random::new(grid[0] as u64 * 31 + sizes[0] as u64);
    let block = OwnBlock::random(&mut random, sizes, window, grid);
    let len = grid[0] * grid[1] * sizes[0];
    let x = random.values(images * len, 2.0);
    let expected: Vec<f64> = x
        .chunks_exact(len)
        .flat_map(|x| block.of(&widen(x)))
        .collect();
    for (level, precision, limit) in variants() {
        let kernel = VitBlock::new(&block.get(), level, precision);
        let mut y = x.clone();
        kernel.forward(&mut y);
        let error = error(&y, &expected);
        println!("{sizes:?} {window:?} {grid:?} {level} {precision}: {error:.1e}");
        assert!(
            error < limit,
            "{level} {precision}: {error:e} for {sizes:?}, {window:?}, {grid:?}"
        );
    }
}

#[test]
fn windows_that_reach_over_the_end() {
    check([64, 2, 128], Some(7), [9, 13], 1);
    check([96, 3, 384], Some(14), [16, 20], 2);
}

#[test]
fn one_window_and_one_token() {
    check([32, 1, 64], Some(14), [3, 2], 1);
    check([32, 2, 40], None, [1, 1], 3);
    check([32, 2, 64], Some(1), [4, 3], 1);
}

#[test]
fn all_tokens_in_blocks_of_keys() {
    check([64, 1, 64], None, [16, 32], 1);
    check([48, 3, 100], None, [33, 30], 1);
    check([80, 1, 33], None, [5, 70], 1);
}

#[test]
fn odd_channels() {
    check([30, 2, 50], Some(5), [6, 7], 1);
    check([21, 3, 9], None, [3, 5], 2);
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    let mut random = Random::new(3);
    let block = OwnBlock::random(&mut random, [64, 2, 128], Some(7), [9, 8]);
    let x = random.values(3 * 72 * 64, 2.0);
    for (level, precision, _) in variants() {
        let kernel = VitBlock::new(&block.get(), level, precision);
        let mut together = x.clone();
        kernel.forward(&mut together);
        let mut alone = x[72 * 64..2 * 72 * 64].to_vec();
        kernel.forward(&mut alone);
        assert_eq!(alone, together[72 * 64..2 * 72 * 64], "{level} {precision}");
    }
}

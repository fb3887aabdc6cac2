//! The mask decoder at every level and precision, against the plain version in f64.

mod support;

use maskmill_kernels::{Decoder, Wanted};
use support::{OwnDecoder, Random, error, variants, widen};

fn all_of(iou: &[f32]) -> Vec<usize> {
    (0..iou.len()).collect()
}

struct Case {
    decoder: OwnDecoder,
    image: Vec<f32>,
    positions: Vec<f32>,
    tokens: Vec<f32>,
    dim: usize,
    prompts: usize,
    count: usize,
}

fn case(sizes: [usize; 4], depth: usize, grid: [usize; 2], prompts: usize, count: usize) -> Case {
    let mut random = Random::new(grid[0] as u64 * 7 + count as u64);
    let decoder = OwnDecoder::random(&mut random, sizes, depth, 4, grid);
    let (dim, image_len) = (sizes[0], grid[0] * grid[1] * sizes[0]);
    Case {
        decoder,
        image: random.values(image_len, 1.5),
        positions: random.values(image_len, 1.0),
        tokens: random.values(prompts * count * dim, 1.5),
        dim,
        prompts,
        count,
    }
}

impl Case {
    fn check(&self) {
        let (image, positions) = (widen(&self.image), widen(&self.positions));
        let expected: Vec<(Vec<f64>, Vec<f64>)> = self
            .tokens
            .chunks_exact(self.count * self.dim)
            .map(|tokens| self.decoder.transform(&image, &positions, &widen(tokens)))
            .collect();
        let ious: Vec<Vec<f64>> = expected
            .iter()
            .map(|(tokens, _)| self.decoder.predicted_iou(tokens))
            .collect();
        let logits: Vec<Vec<Vec<f64>>> = expected
            .iter()
            .map(|(tokens, image)| {
                (0..4)
                    .map(|mask| self.decoder.logits(tokens, image, mask))
                    .collect()
            })
            .collect();
        for (level, precision, limit) in variants() {
            let kernel = Decoder::new(&self.decoder.get(), level, precision);
            let image = kernel.image(&self.image, &self.positions);
            let (tokens, images) = image.transform(&self.tokens, self.count);
            let all_tokens: Vec<f64> = expected.iter().flat_map(|one| one.0.clone()).collect();
            let all_images: Vec<f64> = expected.iter().flat_map(|one| one.1.clone()).collect();
            let errors = [error(&tokens, &all_tokens), error(&images, &all_images)];
            println!(
                "{:?} {level} {precision}: {errors:?}",
                (self.dim, self.prompts, self.count)
            );
            assert!(
                errors.iter().all(|&e| e < limit),
                "{level} {precision}: {errors:?}"
            );

            let wanted = Wanted {
                masks: 1..4,
                choose: &all_of,
            };
            let decoded = image.decode(&self.tokens, self.count, &wanted);
            assert_eq!(decoded.len(), self.prompts);
            for ((one, iou), logits) in decoded.iter().zip(&ious).zip(&logits) {
                assert!(
                    error(&one.predicted_iou, &iou[1..]) < limit * 3.0,
                    "{level} {precision}"
                );
                for (found, expected) in one.logits.iter().zip(&logits[1..]) {
                    let error = error(found.as_ref().unwrap(), expected);
                    assert!(error < limit * 3.0, "{level} {precision}: logits {error:e}");
                }
            }
        }
    }
}

#[test]
fn as_sam_has_it_but_small() {
    case([64, 32, 8, 80], 2, [8, 8], 11, 7).check();
}

#[test]
fn odd_sizes() {
    case([48, 24, 4, 33], 2, [5, 7], 3, 7).check();
    case([32, 16, 8, 64], 1, [13, 11], 2, 5).check();
    case([40, 40, 5, 17], 3, [1, 3], 2, 6).check();
}

#[test]
fn one_image_token_and_many_prompt_tokens() {
    case([32, 16, 8, 64], 2, [1, 1], 1, 5).check();
    case([64, 32, 8, 64], 2, [12, 12], 2, 19).check();
}

#[test]
fn only_wanted_masks_are_made() {
    let case = case([64, 32, 8, 80], 2, [6, 9], 12, 7);
    for (level, precision, _) in variants() {
        let kernel = Decoder::new(&case.decoder.get(), level, precision);
        let image = kernel.image(&case.image, &case.positions);
        let all = image.decode(
            &case.tokens,
            case.count,
            &Wanted {
                masks: 0..4,
                choose: &all_of,
            },
        );
        let mut values: Vec<f32> = all
            .iter()
            .flat_map(|one| one.predicted_iou[1..].to_vec())
            .collect();
        values.sort_by(f32::total_cmp);
        let threshold = values[values.len() / 2];
        let above = |iou: &[f32]| (0..iou.len()).filter(|&i| iou[i] > threshold).collect();
        let wanted = Wanted {
            masks: 1..4,
            choose: &above,
        };
        let some = image.decode(&case.tokens, case.count, &wanted);
        for (all, some) in all.iter().zip(&some) {
            assert_eq!(all.predicted_iou[1..], some.predicted_iou);
            for ((iou, all), some) in some
                .predicted_iou
                .iter()
                .zip(&all.logits[1..])
                .zip(&some.logits)
            {
                assert_eq!(some.is_some(), *iou > threshold);
                assert!(some.is_none() || some == all, "{level} {precision}");
            }
        }
    }
}

#[test]
fn a_prompt_does_not_depend_on_the_others() {
    let case = case([64, 32, 8, 80], 2, [9, 7], 13, 7);
    let prompt = case.count * case.dim;
    for (level, precision, _) in variants() {
        let kernel = Decoder::new(&case.decoder.get(), level, precision);
        let image = kernel.image(&case.image, &case.positions);
        let wanted = Wanted {
            masks: 0..4,
            choose: &all_of,
        };
        let together = image.decode(&case.tokens, case.count, &wanted);
        for i in [0, 5, 12] {
            let alone = image.decode(&case.tokens[i * prompt..][..prompt], case.count, &wanted);
            assert!(alone[0] == together[i], "prompt {i}, {level} {precision}");
        }
    }
}

//! Pixels that belong together: a loss of the image embedding alone, without prompts.
//!
//! What is far away is told apart by its place; what an object looks like matters beside it. So half of what is unlike is
//! near.
//!
//! A mask is read from the upscaled embedding as its product with a prompt's vector. Here the vector of a pixel takes the
//! prompt's place: it is to be like those of its own object's pixels, and unlike all others. Of every image hundreds of
//! such questions can be asked for the price of one prompt, which is how an encoder without pretraining learns to tell
//! objects apart before it can learn to answer prompts. Metric learning of instance embeddings by pixels follows Fathi et
//! al., "Semantic Instance Segmentation via Deep Metric Learning" (2017).

use burn::tensor::{Int, Tensor, TensorData};
use fastrand::Rng;
use maskmill_sam::TrainableSam;

use crate::losses::cross_entropy;

/// The logit of a pair is `STEEPNESS (cosine - SAME)`, of vectors whose mean over the image is taken from them.
const SAME: f64 = 0.5;
const STEEPNESS: f64 = 6.0;
/// How far near pixels are from an object's box, at least, in pixels of the decoder's logits; otherwise half its sides.
const NEAR: usize = 3;
/// Kept away from 0 where vectors are divided by their length.
const TINY: f64 = 1e-4;

/// Pixels of a batch that are compared with all pixels of their image.
pub(crate) struct PixelQueries {
    per_image: usize,
    /// Of each image `per_image`: where they are among the image's pixels.
    pixels: Vec<i64>,
    /// `[queries, pixels]`: above 0 for those of the query's object, below 0 for those that are not, 0 for neither; each side
    /// sums to 1 in size, and of the second half is near the object.
    weights: Vec<f32>,
}

impl PixelQueries {
    /// Draws an image's queries. A pixel is of the smallest mask that it lies in; pixels of an object's parts are neither
    /// like nor unlike those of the whole.
    ///
    /// `masks`: at the decoder's resolution, row-major, none empty.
    pub(crate) fn draw(masks: &[Vec<bool>], per_image: usize, rng: &mut Rng) -> Self {
        let mut queries = Self {
            per_image,
            pixels: Vec::with_capacity(per_image),
            weights: Vec::new(),
        };
        let pixels = masks[0].len();
        let area = |mask: &Vec<bool>| mask.iter().filter(|inside| **inside).count();
        let areas: Vec<usize> = masks.iter().map(area).collect();
        let mut by_size: Vec<usize> = (0..masks.len()).collect();
        by_size.sort_by_key(|mask| std::cmp::Reverse(areas[*mask]));
        let mut owner = vec![usize::MAX; pixels];
        for &mask in &by_size {
            for (owner, inside) in owner.iter_mut().zip(&masks[mask]) {
                if *inside {
                    *owner = mask;
                }
            }
        }
        let mut own = vec![Vec::new(); masks.len()];
        for (pixel, owner) in owner.iter().enumerate() {
            if let Some(own) = own.get_mut(*owner) {
                own.push(pixel);
            }
        }
        let mut own: Vec<(usize, Vec<usize>)> = own.into_iter().enumerate().collect();
        own.retain(|(_, own)| !own.is_empty());
        let near: Vec<Surroundings> = masks.iter().map(|mask| Surroundings::of(mask)).collect();
        rng.shuffle(&mut own);
        for (mask, own) in own.iter().cycle().take(per_image) {
            queries.pixels.push(own[rng.usize(0..own.len())] as i64);
            let inside = &masks[*mask];
            let near = &near[*mask];
            let others = (0..pixels).filter(|pixel| !inside[*pixel]);
            let beside = others.filter(|pixel| near.contains(*pixel)).count();
            let away = pixels - areas[*mask] - beside;
            let part = |count: usize| (count.max(1) as f32).recip();
            // One of the two has all where the other has none.
            let share = if away == 0 || beside == 0 { 1.0 } else { 0.5 };
            let weight = |pixel: usize| match (owner[pixel] == *mask, inside[pixel]) {
                (true, _) => part(own.len()),
                (false, true) => 0.0,
                (false, false) if near.contains(pixel) => -share * part(beside),
                (false, false) => -share * part(away),
            };
            queries.weights.extend((0..pixels).map(weight));
        }
        queries
    }

    /// The queries of images and those of the next.
    pub(crate) fn and(mut self, next: Self) -> Self {
        self.pixels.extend(next.pixels);
        self.weights.extend(next.weights);
        self
    }

    /// The mean over queries of the cross entropy of both sides, halved; `[1]`. `embeddings`: `[images, grid, grid, dim]`.
    pub(crate) fn loss(self, sam: &TrainableSam, embeddings: Tensor<4>) -> Tensor<1> {
        self.loss_of(sam.pixels(embeddings))
    }

    /// `vectors`: `[images, height, width, channels]`
    fn loss_of(self, vectors: Tensor<4>) -> Tensor<1> {
        let device = &vectors.device();
        let [images, height, width, channels] = vectors.dims();
        let pixels = height * width;
        let vectors = vectors.reshape([images, pixels, channels]);
        let vectors = vectors.clone() - vectors.mean_dim(1);
        let length = vectors.clone().square().sum_dim(2).add_scalar(TINY).sqrt();
        let vectors = vectors / length;
        let queries = self.pixels.len();
        let places = self.pixels.iter().enumerate();
        let places = places.map(|(query, pixel)| (query / self.per_image * pixels) as i64 + pixel);
        let places = TensorData::new(places.collect::<Vec<_>>(), [queries]);
        let asked = vectors
            .clone()
            .reshape([images * pixels, channels])
            .select(0, Tensor::<1, Int>::from_data(places, device))
            .reshape([images, self.per_image, channels]);
        let cosines = asked.matmul(vectors.swap_dims(1, 2));
        let logits = (cosines - SAME).mul_scalar(STEEPNESS);
        let weights = TensorData::new(self.weights, [images, self.per_image, pixels]);
        let weights = Tensor::<3>::from_data(weights, device);
        let margin = logits * weights.clone().sign();
        (cross_entropy(margin) * weights.abs())
            .sum()
            .div_scalar(2.0 * queries as f64)
    }
}

/// The box around a mask of a square, twice as long and as wide.
struct Surroundings {
    side: usize,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

impl Surroundings {
    /// `mask`: row-major `[side, side]`, not empty.
    fn of(mask: &[bool]) -> Self {
        let side = mask.len().isqrt();
        let inside = || (0..mask.len()).filter(|pixel| mask[*pixel]);
        let around = |place: fn(usize, usize) -> usize| {
            let places = || inside().map(|pixel| place(pixel, side));
            let (first, last) = (places().min(), places().max());
            let [first, last] = [first, last].map(|place| place.expect("a mask has pixels"));
            let more = ((last + 1 - first) / 2).max(NEAR);
            first.saturating_sub(more)..(last + 1 + more).min(side)
        };
        Self {
            rows: around(|pixel, side| pixel / side),
            columns: around(|pixel, side| pixel % side),
            side,
        }
    }

    fn contains(&self, pixel: usize) -> bool {
        self.rows.contains(&(pixel / self.side)) && self.columns.contains(&(pixel % self.side))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// A square of ten pixels a side with a whole of four in its corner, of which two are a part.
    fn masks() -> Vec<Vec<bool>> {
        let [mut whole, mut part] = [vec![false; 100], vec![false; 100]];
        for pixel in [0, 1, 10, 11] {
            whole[pixel] = true;
            part[pixel] = pixel < 10;
        }
        vec![whole, part]
    }

    #[test]
    fn parts_are_neither_like_nor_unlike_their_whole() {
        let queries = PixelQueries::draw(&masks(), 2, &mut Rng::with_seed(1));
        assert_eq!(queries.pixels.len(), 2);
        let rows: Vec<&[f32]> = queries.weights.chunks_exact(100).collect();
        for (pixel, row) in queries.pixels.iter().zip(rows) {
            match pixel {
                10 | 11 => assert_eq!([row[0], row[1], row[10], row[11]], [0.0, 0.0, 0.5, 0.5]),
                0 | 1 => {
                    assert_eq!([row[0], row[1]], [0.5, 0.5]);
                    assert!(row[10] < 0.0 && row[11] < 0.0);
                }
                _ => panic!("no object has pixel {pixel}"),
            }
        }
    }

    #[test]
    fn half_of_what_is_unlike_is_near() {
        let queries = PixelQueries::draw(&masks(), 2, &mut Rng::with_seed(1));
        let rows: Vec<&[f32]> = queries.weights.chunks_exact(100).collect();
        for (pixel, row) in queries.pixels.iter().zip(rows) {
            let sum = |rows: usize, columns: usize| -> f32 {
                (0..100)
                    .filter(|p| p / 10 < rows && p % 10 < columns)
                    .map(|p| row[p].min(0.0))
                    .sum()
            };
            // The whole is two pixels high, the part one.
            let rows = if *pixel < 10 { 4 } else { 5 };
            assert!((sum(10, 10) + 1.0).abs() < 1e-5, "{}", sum(10, 10));
            assert!((sum(rows, 5) + 0.5).abs() < 1e-5, "{}", sum(rows, 5));
        }
        // A mask that is all around leaves nothing near or nothing far.
        let mut frame = vec![true; 100];
        frame[55] = false;
        let queries = PixelQueries::draw(&[frame], 1, &mut Rng::with_seed(1));
        assert_eq!(queries.weights[55], -1.0);
    }

    #[test]
    fn the_loss_is_the_cross_entropy_of_pairs() {
        let vectors = [[3.0, 4.0], [4.0, 3.0], [0.0, 2.0], [-3.0, 1.0]];
        let queries = PixelQueries {
            per_image: 2,
            pixels: vec![0, 2],
            weights: vec![0.5, 0.5, -0.5, -0.5, -1.0, 0.0, 0.75, 0.25],
        };
        let weights = queries.weights.clone();
        let flat: Vec<f32> = vectors.concat().iter().map(|v: &f64| *v as f32).collect();
        let tensor = TensorData::new(flat, [1, 2, 2, 2]);
        let tensor = Tensor::from_data(tensor, &Device::flex());
        let found = f64::from(queries.loss_of(tensor).into_scalar::<f32>());
        let vectors = vectors.map(|[x, y]| [x - 1.0, y - 2.5]);
        let mut expected = 0.0;
        for (query, row) in [0, 2].into_iter().zip(weights.chunks_exact(4)) {
            for (other, weight) in vectors.iter().zip(row) {
                let dot = |a: [f64; 2], b: [f64; 2]| a[0] * b[0] + a[1] * b[1];
                let length = |a: [f64; 2]| dot(a, a).sqrt();
                let cosine = dot(vectors[query], *other) / length(vectors[query]) / length(*other);
                let margin = STEEPNESS * (cosine - SAME) * f64::from(weight.signum());
                expected += f64::from(weight.abs()) * (1.0 + (-margin).exp()).ln() / 4.0;
            }
        }
        assert!((found - expected).abs() < 1e-3, "{found} {expected}");
    }
}

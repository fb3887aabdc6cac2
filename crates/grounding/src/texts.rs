//! Texts to embeddings on the host, and arithmetic with them.

use maskmill_weights::to_host;

use crate::tokenizer::{ClipTokenizer, Tokens};
use crate::towers::TextTower;

/// Texts encoded at once. More bring no speed on a CPU; on a GPU this many keep it busy.
const TEXTS_PER_BATCH: usize = 64;

/// Vectors of one length, `[count, dim]` row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    values: Vec<f32>,
    dim: usize,
}

impl Embeddings {
    /// Takes over `[count, dim]` values.
    ///
    /// # Panics
    /// When their number is no multiple of `dim`.
    pub fn new(values: Vec<f32>, dim: usize) -> Self {
        assert!(dim > 0 && values.len().is_multiple_of(dim));
        Self { values, dim }
    }

    /// Length of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many vectors.
    pub fn count(&self) -> usize {
        self.values.len() / self.dim
    }

    /// The vectors in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim)
    }

    /// All values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Every vector divided by its length; one of length 0 stays as it is.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        for row in self.values.chunks_exact_mut(self.dim) {
            let norm = dot(row, row).sqrt();
            if norm > 0.0 {
                row.iter_mut().for_each(|value| *value /= norm);
            }
        }
        self
    }

    /// The mean of each `group` successive vectors, normalised.
    ///
    /// # Panics
    /// When the count is no multiple of `group`.
    #[must_use]
    pub fn group_means(&self, group: usize) -> Self {
        assert!(group > 0 && self.count().is_multiple_of(group));
        let mut values = Vec::with_capacity(self.values.len() / group);
        for rows in self.values.chunks_exact(group * self.dim) {
            for channel in 0..self.dim {
                let sum: f32 = rows.iter().skip(channel).step_by(self.dim).sum();
                values.push(sum / group as f32);
            }
        }
        Self::new(values, self.dim).normalised()
    }
}

/// Sum of products, in a fixed order of eight partial sums.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// A text that was longer than the model's context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlong {
    /// The whole text.
    pub text: String,
    /// Its end, which the model does not see.
    pub cut: String,
    /// Tokens that the model takes, start and end included.
    pub context: usize,
}

impl std::fmt::Display for Overlong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} is longer than the {} tokens that the model reads; it does not see {:?}",
            self.text, self.context, self.cut
        )
    }
}

/// The text side of a model.
#[derive(Clone, Copy)]
pub struct TextEncoder<'m> {
    pub(crate) tower: &'m TextTower,
    pub(crate) tokenizer: &'m ClipTokenizer,
    pub(crate) context: usize,
}

impl TextEncoder<'_> {
    /// Tokens of a text, at most the model's context.
    pub fn tokens(&self, text: &str) -> Tokens {
        self.tokenizer.encode(text, self.context)
    }

    /// Projected embeddings of texts, in their order, not normalised (`get_text_features`); and those that
    /// were longer than the context.
    ///
    /// Texts of equal length are encoded together, so an embedding does not depend on the other texts.
    ///
    /// # Panics
    /// When `texts` is empty.
    pub fn embed(&self, texts: &[String]) -> (Embeddings, Vec<Overlong>) {
        assert!(!texts.is_empty(), "there are texts to embed");
        let tokens: Vec<Tokens> = texts.iter().map(|text| self.tokens(text)).collect();
        let overlong = texts.iter().zip(&tokens).filter_map(|(text, tokens)| {
            Some(Overlong {
                text: text.clone(),
                cut: tokens.cut.clone()?,
                context: self.context,
            })
        });
        let overlong = overlong.collect();
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| tokens[index].ids.len());
        let mut values = Vec::new();
        let mut dim = 0;
        for same_length in order.chunk_by(|&a, &b| tokens[a].ids.len() == tokens[b].ids.len()) {
            for batch in same_length.chunks(TEXTS_PER_BATCH) {
                let batch_tokens: Vec<&Tokens> = batch.iter().map(|&i| &tokens[i]).collect();
                let embedded = self.tower.forward(&batch_tokens, self.tokenizer.end());
                dim = embedded.dims()[1];
                values.resize(texts.len() * dim, 0.0);
                let embedded = to_host(embedded);
                for (&index, row) in batch.iter().zip(embedded.chunks_exact(dim)) {
                    values[index * dim..][..dim].copy_from_slice(row);
                }
            }
        }
        (Embeddings::new(values, dim), overlong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_successive_vectors_and_have_length_one() {
        let vectors = Embeddings::new(vec![1.0, 0.0, 0.0, 1.0, 3.0, 0.0, 5.0, 0.0], 2);
        let means = vectors.group_means(2);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(means.count(), 2);
        for (got, expected) in means.values().iter().zip([half, half, 1.0, 0.0]) {
            assert!((got - expected).abs() < 1e-6, "{means:?}");
        }
    }

    #[test]
    fn a_vector_of_zeros_stays() {
        let zeros = Embeddings::new(vec![0.0, 0.0, 3.0, 4.0], 2).normalised();
        assert_eq!(zeros.values(), [0.0, 0.0, 0.6, 0.8]);
    }

    #[test]
    fn dot_takes_all_of_odd_lengths() {
        for length in [0, 1, 7, 8, 9, 31] {
            let ones = vec![1.0; length];
            assert_eq!(dot(&ones, &ones), length as f32);
        }
    }
}

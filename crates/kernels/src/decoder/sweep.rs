//! What a prompt takes along while the image's tokens go by, a chunk at a time.

use crate::aligned::Scratch;
use crate::engine::{Ahead, Engine, STRIP, padded_rows, product_ahead};

use super::CHUNK;

/// The attention of tokens to the image, while chunks of the image go by.
pub(super) struct Gathered<E: Engine> {
    /// What scores are the products with, a right factor `[channels, heads of tokens]`.
    pub(super) asked: Scratch<E::Element>,
    pub(super) most: Vec<f32>,
    pub(super) total: Vec<f32>,
    pub(super) factors: Vec<f32>,
    /// `[heads of tokens, value channels]`
    pub(super) sums: Scratch<f32>,
    pub(super) channels: usize,
    pub(super) value_channels: usize,
    pub(super) columns: usize,
    pub(super) empty: bool,
}

impl<E: Engine> Gathered<E> {
    /// `asked(j)`: what token and head j are multiplied with.
    ///
    /// # Safety
    /// The CPU has the engine's level.
    pub(super) unsafe fn new<'a>(
        columns: usize,
        channels: usize,
        value_channels: usize,
        asked: impl FnMut(usize) -> &'a [f32],
    ) -> Self {
        let stride = columns.next_multiple_of(STRIP);
        let mut right = Scratch::take(E::right_len(channels, columns));
        // SAFETY: the caller promises the level.
        unsafe { E::pack_columns(&mut right, channels, columns, asked) };
        Self {
            asked: right,
            most: vec![f32::NEG_INFINITY; stride],
            total: vec![0.0; stride],
            factors: vec![0.0; stride],
            sums: Scratch::take(padded_rows(columns) * value_channels.next_multiple_of(STRIP)),
            channels,
            value_channels,
            columns,
            empty: true,
        }
    }

    /// Takes a chunk of the image: keys as a left factor, values as a right one. Meanwhile `ahead` is brought near.
    ///
    /// # Safety
    /// The CPU has the engine's level; factors have `rows` rows and this attention's channels.
    pub(super) unsafe fn take(
        &mut self,
        rows: usize,
        keys: &[E::Element],
        values: &[E::Element],
        scores: &mut [f32],
        weights: &mut [E::Element],
        ahead: &mut Ahead,
    ) {
        let stride = self.columns.next_multiple_of(STRIP);
        let width = self.value_channels.next_multiple_of(STRIP);
        let depths = self.channels.div_ceil(E::DEPTH);
        // SAFETY: as the caller promises.
        unsafe {
            product_ahead::<E>(
                scores,
                stride,
                rows,
                stride,
                keys,
                &self.asked,
                depths,
                0..depths,
                false,
                ahead,
            );
            (E::KERNELS.columns_softmax)(
                &mut scores[..rows * stride],
                stride,
                &mut self.most,
                &mut self.total,
                &mut self.factors,
            );
            if !self.empty {
                for (sums, &factor) in self
                    .sums
                    .chunks_exact_mut(width)
                    .zip(&self.factors[..self.columns])
                {
                    if factor != 1.0 {
                        (E::KERNELS.scale)(sums, factor);
                    }
                }
            }
            E::pack_transposed(weights, scores, stride, rows, self.columns);
            let depths = rows.div_ceil(E::DEPTH);
            product_ahead::<E>(
                &mut self.sums,
                width,
                self.columns,
                width,
                weights,
                values,
                depths,
                0..depths,
                !self.empty,
                ahead,
            );
        }
        self.empty = false;
    }

    /// The averages of values, `[heads of tokens, value channels]`.
    pub(super) fn finish(&mut self) -> Vec<f32> {
        let width = self.value_channels.next_multiple_of(STRIP);
        let rows = self
            .sums
            .chunks_exact(width)
            .zip(&self.total[..self.columns]);
        let rows = rows
            .flat_map(|(sums, total)| sums[..self.value_channels].iter().map(move |v| v / total));
        rows.collect()
    }
}

/// The attention of the image to a prompt's tokens.
pub(super) struct Answer<E: Engine> {
    /// Keys of heads of tokens, a right factor `[channels, heads of tokens]`.
    pub(super) keys: Scratch<E::Element>,
    /// What each head of a token adds to the image, a right factor `[heads of tokens, dim]`.
    pub(super) values: Scratch<E::Element>,
    /// Added to scores; minus infinity for columns that fill the last strip.
    pub(super) bias: Vec<f32>,
    pub(super) channels: usize,
    pub(super) columns: usize,
}

/// Working memory of a sweep.
pub(super) struct Buffers<E: Engine> {
    pub(super) scores: Scratch<f32>,
    pub(super) weights: Scratch<E::Element>,
    pub(super) transposed: Scratch<E::Element>,
    pub(super) answers: Scratch<f32>,
    pub(super) positioned: Scratch<f32>,
    pub(super) left: Scratch<E::Element>,
    pub(super) right: Scratch<E::Element>,
}

impl<E: Engine> Buffers<E> {
    pub(super) fn new(columns: usize, dim: usize) -> Self {
        let stride = columns.next_multiple_of(STRIP);
        let rows = padded_rows(CHUNK);
        Self {
            scores: Scratch::take(rows * stride),
            weights: Scratch::take(E::left_len(CHUNK, stride)),
            transposed: Scratch::take(E::left_len(columns, CHUNK)),
            answers: Scratch::take(rows * dim.next_multiple_of(STRIP)),
            positioned: Scratch::take(CHUNK * dim),
            left: Scratch::take(E::left_len(CHUNK, dim)),
            right: Scratch::take(E::right_len(CHUNK, dim)),
        }
    }
}

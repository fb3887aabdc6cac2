//! The matrix product of layers that see few rows.

use burn::tensor::Tensor;

/// Up to this many rows and columns the CPU's product (`gemm` 0.19) cuts its sums at other places than beyond.
const SMALL: usize = 64;
/// Up to this many results it takes another path over a transposed view.
const FEW_RESULTS: usize = 16 * 16;

/// `x` times `weight`, each row's result bit for bit the same whatever the other rows and their number.
///
/// The CPU's product sums in another order for a single row, and where rows and columns are few. There rows of zeros
/// are added.
///
/// # Shapes
/// - `x`: `[rows, inputs]`
/// - `weight`: `[inputs, outputs]`
/// - output: `[rows, outputs]`
pub fn row_product(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let [rows, inputs] = x.dims();
    let [_, outputs] = weight.dims();
    let too_few = if outputs <= SMALL { SMALL } else { 1 };
    let least = too_few.max(FEW_RESULTS / outputs) + 1;
    if rows >= least {
        return x.matmul(weight);
    }
    let zeros = Tensor::zeros([least - rows, inputs], (&x.device(), x.dtype()));
    let product = Tensor::cat(vec![x, zeros], 0).matmul(weight);
    product.narrow(0, 0, rows)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// `[rows, columns]` of values that do not sum exactly.
    fn matrix(rows: usize, columns: usize) -> Tensor<2> {
        let values = (0..rows * columns).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5);
        let data = TensorData::new(values.collect::<Vec<f32>>(), [rows, columns]);
        Tensor::from_data(data, &Device::flex())
    }

    fn values(x: Tensor<2>) -> Vec<f32> {
        x.try_into_vec_as().unwrap()
    }

    #[test]
    fn a_row_does_not_know_the_others() {
        let all = matrix(200, 768);
        for outputs in [1, 3, 64, 65, 512] {
            for transposed in [false, true] {
                let weight = match transposed {
                    true => matrix(outputs, 768).transpose(),
                    false => matrix(768, outputs),
                };
                let together = values(row_product(all.clone(), weight.clone()));
                for (start, rows) in [(0, 1), (5, 1), (0, 2), (7, 16), (0, 63), (3, 64), (9, 65)] {
                    let part = all.clone().narrow(0, start, rows);
                    let part = values(row_product(part, weight.clone()));
                    let expected = &together[start * outputs..][..rows * outputs];
                    assert!(
                        part == expected,
                        "{rows} rows, {outputs} outputs, {transposed}"
                    );
                }
            }
        }
    }
}

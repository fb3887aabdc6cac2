//! Values from the device, and how often they were asked for.
//!
//! A read waits until the device has computed all that stands before it, so on a GPU the number of reads matters more
//! than the number of values. Every read of a tensor's values goes through here and is counted.

use std::cell::Cell;

use burn::tensor::{Tensor, TensorData, Transaction};

thread_local! {
    static READS: Cell<u64> = const { Cell::new(0) };
}

/// Reads from devices that the current thread has made so far, of any number of values each.
pub fn reads() -> u64 {
    READS.get()
}

/// The values of one tensor, row-major and as 32-bit floats: one read.
///
/// # Panics
/// When the device fails while computing: its driver is gone or it is out of memory.
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    READS.set(READS.get() + 1);
    floats(tensor.try_into_data().unwrap_or_else(|error| fail(&error)))
}

/// The values of several tensors, each as by [`to_host`]: one read together, or none for no tensors.
///
/// # Panics
/// As [`to_host`].
pub fn all_to_host<const D: usize>(tensors: Vec<Tensor<D>>) -> Vec<Vec<f32>> {
    if tensors.is_empty() {
        return Vec::new();
    }
    READS.set(READS.get() + 1);
    let together = tensors
        .into_iter()
        .fold(Transaction::default(), Transaction::register);
    let data = together.try_execute().unwrap_or_else(|error| fail(&error));
    data.into_iter().map(floats).collect()
}

fn floats(data: TensorData) -> Vec<f32> {
    let values = data.try_into_vec_as();
    values.expect("values of a float tensor become 32-bit floats")
}

fn fail(error: &dyn std::fmt::Debug) -> ! {
    panic!("the device failed while computing: {error:?}")
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;

    #[test]
    fn reads_are_counted_by_thread() {
        let device = Device::flex();
        let tensor = |values: [f32; 3]| Tensor::<1>::from_floats(values, &device);
        let before = reads();
        assert_eq!(to_host(tensor([1.0, 2.0, 3.0])), [1.0, 2.0, 3.0]);
        assert_eq!(reads() - before, 1);
        let halves = tensor([0.5, 1.5, -2.0]).cast(DType::BF16);
        let values = all_to_host(vec![tensor([4.0, 5.0, 6.0]), halves]);
        assert_eq!(values, [[4.0, 5.0, 6.0], [0.5, 1.5, -2.0]]);
        assert_eq!(reads() - before, 2);
        assert!(all_to_host(Vec::<Tensor<1>>::new()).is_empty());
        assert_eq!(reads() - before, 2);
        let elsewhere = std::thread::spawn(move || {
            to_host(Tensor::<1>::from_floats([1.0], &device));
            reads()
        });
        assert_eq!(elsewhere.join().unwrap(), 1);
        assert_eq!(reads() - before, 2);
    }
}

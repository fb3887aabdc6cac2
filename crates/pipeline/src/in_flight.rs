//! Bounds what is between the first byte read and the last mask written: images and bytes.
//!
//! Every image carries a [`Ticket`] from the reader to the assembler. The reader waits when the images or
//! the bytes out are as many as the config allows, so memory does not depend on how many images a job
//! has, nor on which stage is slow.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in this unit: a semaphore counts in u32.
const UNIT: u64 = 1 << 10;

/// The budget of a running job.
#[derive(Clone)]
pub(crate) struct InFlight {
    images: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_units: u32,
    runtime: Handle,
}

/// The right of one image to be in memory; given back when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    _image: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl InFlight {
    pub(crate) fn new(max_images: usize, max_bytes: u64, runtime: Handle) -> Self {
        let max_units = u32::try_from(max_bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Self {
            images: Arc::new(Semaphore::new(max_images.max(1))),
            bytes: Arc::new(Semaphore::new(max_units as usize)),
            max_units,
            runtime,
        }
    }

    /// Waits until an image of `bytes` fits. One larger than the whole budget passes alone.
    pub(crate) fn admit(&self, bytes: u64) -> Ticket {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let units = units.min(self.max_units);
        let admitted = self.runtime.block_on(async {
            let image = self.images.clone().acquire_owned().await?;
            let bytes = self.bytes.clone().acquire_many_owned(units).await?;
            Ok::<_, tokio::sync::AcquireError>(Ticket {
                _image: image,
                _bytes: bytes,
            })
        });
        admitted.expect("the semaphores are never closed")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap()
    }

    #[test]
    fn an_image_larger_than_the_budget_passes_alone() {
        let runtime = runtime();
        let in_flight = InFlight::new(8, 10 * UNIT, runtime.handle().clone());
        let huge = in_flight.admit(1000 * UNIT);
        let admitted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                drop(in_flight.admit(1));
                admitted.fetch_add(1, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(admitted.load(Ordering::SeqCst), 0, "the budget is used up");
            drop(huge);
        });
        assert_eq!(admitted.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn images_are_counted_as_well_as_bytes() {
        let runtime = runtime();
        let in_flight = InFlight::new(2, 1 << 30, runtime.handle().clone());
        let tickets = [in_flight.admit(0), in_flight.admit(0)];
        assert_eq!(in_flight.images.available_permits(), 0);
        drop(tickets);
        assert_eq!(in_flight.images.available_permits(), 2);
    }
}

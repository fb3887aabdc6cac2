//! Bounds what is between the first byte read and the last mask written: images and bytes.
//!
//! The bytes are two budgets, so that no image can wait for what only itself could free:
//!
//! - *encoded*, a quarter: from the first byte fetched until the image is decoded ([`FetchPermit`]);
//! - *pixels*, the rest: from before decoding until the masks are selected ([`Ticket`]).
//!
//! Whoever has the first may wait for the second; whoever has the second waits for nothing but stages
//! further on. So memory does not depend on how many images a job has, nor on which stage is slow.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in this unit: a semaphore counts in u32.
const UNIT: u64 = 1 << 10;

/// The budget of a running job. Cheap to clone.
#[derive(Clone)]
pub(crate) struct InFlight {
    images: Arc<Semaphore>,
    encoded: Budget,
    pixels: Budget,
    runtime: Handle,
}

/// The right of one image's encoded bytes to be in memory; given back when dropped.
#[derive(Debug)]
pub(crate) struct FetchPermit {
    _bytes: OwnedSemaphorePermit,
}

/// The right of one image to be in memory; given back when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    _image: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl InFlight {
    pub(crate) fn new(max_images: usize, max_bytes: u64, runtime: Handle) -> Self {
        Self {
            images: Arc::new(Semaphore::new(max_images.max(1))),
            encoded: Budget::new(max_bytes / 4),
            pixels: Budget::new(max_bytes - max_bytes / 4),
            runtime,
        }
    }

    /// Waits until `bytes` of an encoded image fit. One larger than the whole budget passes alone.
    pub(crate) async fn fetch(&self, bytes: u64) -> FetchPermit {
        FetchPermit {
            _bytes: self.encoded.take(bytes).await,
        }
    }

    /// [`InFlight::fetch`] for threads outside the runtime.
    pub(crate) fn fetch_blocking(&self, bytes: u64) -> FetchPermit {
        self.runtime.block_on(self.fetch(bytes))
    }

    /// Waits until an image whose pixels take `bytes` fits. One larger than the whole budget passes
    /// alone.
    pub(crate) fn admit(&self, bytes: u64) -> Ticket {
        self.runtime.block_on(async {
            let image = self.images.clone().acquire_owned().await;
            Ticket {
                _image: image.expect("the semaphore is never closed"),
                _bytes: self.pixels.take(bytes).await,
            }
        })
    }

    /// How many bytes of encoded images may be in memory.
    pub(crate) fn encoded_bytes(&self) -> u64 {
        u64::from(self.encoded.max_units) * UNIT
    }
}

/// A number of bytes to share.
#[derive(Clone)]
struct Budget {
    units: Arc<Semaphore>,
    max_units: u32,
}

impl Budget {
    fn new(bytes: u64) -> Self {
        let max_units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Self {
            units: Arc::new(Semaphore::new(max_units as usize)),
            max_units,
        }
    }

    async fn take(&self, bytes: u64) -> OwnedSemaphorePermit {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let units = units.min(self.max_units);
        let taken = self.units.clone().acquire_many_owned(units).await;
        taken.expect("the semaphore is never closed")
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
        let in_flight = InFlight::new(8, 40 * UNIT, runtime.handle().clone());
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

    /// Encoded images that fill their budget leave the pixels' alone: one of them can go on.
    #[test]
    fn fetched_images_do_not_keep_each_other_from_being_decoded() {
        let runtime = runtime();
        let in_flight = InFlight::new(8, 40 * UNIT, runtime.handle().clone());
        let fetched = [6, 4].map(|units| in_flight.fetch_blocking(units * UNIT));
        assert_eq!(in_flight.encoded.units.available_permits(), 0);
        drop(in_flight.admit(30 * UNIT));
        drop(fetched);
        assert_eq!(in_flight.encoded_bytes(), 10 * UNIT);
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

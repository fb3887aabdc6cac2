//! CPU work of stages that have threads of their own, on the threads that do all other CPU work.

/// Runs `work` on a thread of rayon's pool, and waits for it.
///
/// The pool has a thread per core, and kernels and selection keep all of them at work. With images decoded on threads
/// beside it there would be more threads than cores: kernels would be pushed off the cores in the middle of a product,
/// whose other threads then wait, and find the caches full of pixels when they go on.
///
/// `work` only computes. A thread of the pool that waited for a channel, a permit or the runtime could wait for work that
/// needs this very thread; so stages receive before it and send after it, on their own threads. A panic of `work` goes on
/// in the caller.
pub(crate) fn in_pool<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use rayon::prelude::*;

    use super::*;

    /// Many stages at once, each with work that divides itself, as kernels do.
    #[test]
    fn work_is_done_on_as_many_threads_as_the_pool_has() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |n: usize| {
            assert!(rayon::current_thread_index().is_some());
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let sum: usize = (0..10_000_usize).map(|i| i * n % 7).sum();
            running.fetch_sub(1, Ordering::SeqCst);
            sum
        };
        thread::scope(|scope| {
            for n in 0..4 * rayon::current_num_threads() {
                let work = &work;
                scope.spawn(move || {
                    for _ in 0..50 {
                        in_pool(|| work(n));
                        (0..8_usize).into_par_iter().for_each(|i| {
                            work(n + i);
                        });
                    }
                });
            }
        });
        assert!((1..=rayon::current_num_threads()).contains(&most.into_inner()));
    }

    #[test]
    fn a_panic_comes_back_to_the_stage() {
        let caught = catch_unwind(AssertUnwindSafe(|| in_pool(|| panic!("no such codec"))));
        let message = crate::flow::panic_message(caught.unwrap_err().as_ref());
        assert_eq!(message, "no such codec");
        assert_eq!(in_pool(|| 3), 3);
    }
}

//! The C library's allocator, for programs that free and ask again for the same large blocks.

/// Has it keep what is freed, for the rest of the program.
///
/// A training step frees tensors of megabytes and asks for the same sizes again. By default each goes back to the kernel,
/// which clears every page anew: of a step of sam-nano that is a seventh of the time. Without effect outside of glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        // No block of its own for a large allocation.
        (libc::M_MMAP_MAX, 0),
        // Nothing that is free goes back; and the heap grows in steps of as much.
        (libc::M_TRIM_THRESHOLD, i32::MAX),
        (libc::M_TOP_PAD, 64 << 20),
    ] {
        // SAFETY: sets a number of the allocator, under its lock; any value is allowed, and one it does not know is
        // refused without harm.
        unsafe { libc::mallopt(parameter, value) };
    }
}

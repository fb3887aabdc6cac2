//! Memory for packed matrices: on cache lines, zeroed, and used again.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Mutex;

/// A cache line, and a row of an AMX tile.
const ALIGNMENT: usize = 64;

/// Plain numbers, for which all bits zero are a value.
pub(crate) trait Number: Copy + Send + Sync + 'static {}
impl Number for u16 {}
impl Number for f32 {}

/// A slice of numbers that begins on a cache line.
pub(crate) struct Aligned<T: Number> {
    data: NonNull<T>,
    length: usize,
    capacity_bytes: usize,
}

// SAFETY: the memory is owned by this value alone, and `Number`s can be sent and shared.
unsafe impl<T: Number> Send for Aligned<T> {}
// SAFETY: as above; access to the numbers follows the borrow of this value.
unsafe impl<T: Number> Sync for Aligned<T> {}

impl<T: Number> Aligned<T> {
    /// `length` zeros.
    pub(crate) fn zeros(length: usize) -> Self {
        let bytes = (length * size_of::<T>()).max(ALIGNMENT);
        let data = allocate(bytes).cast();
        Self {
            data,
            length,
            capacity_bytes: bytes,
        }
    }
}

/// Large blocks are whole pages of this size, if the operating system has them. Products jump through megabytes of packed
/// factors; with pages of 4 KiB much of their time would go into looking up pages, twice over in a virtual machine.
const HUGE_PAGE: usize = 2 << 20;
/// Blocks from this size on are rounded up to huge pages.
const LARGE: usize = 256 << 10;

/// What is allocated for `bytes`.
fn layout(bytes: usize) -> Layout {
    let (bytes, alignment) = match bytes {
        bytes if bytes < LARGE => (bytes, ALIGNMENT),
        bytes => (bytes.next_multiple_of(HUGE_PAGE), HUGE_PAGE),
    };
    Layout::from_size_align(bytes, alignment).expect("sizes of tensors fit the address space")
}

fn allocate(bytes: usize) -> NonNull<u8> {
    let layout = layout(bytes);
    // SAFETY: the size is not zero; both callers ask for at least one cache line.
    let data = unsafe { alloc(layout) };
    let data = NonNull::new(data).unwrap_or_else(|| handle_alloc_error(layout));
    #[cfg(target_os = "linux")]
    if layout.align() == HUGE_PAGE {
        // SAFETY: advice about pages of this block, which begins and ends on huge pages. That it may be refused
        // changes nothing but the time that products take.
        unsafe { libc::madvise(data.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
    }
    // SAFETY: `layout.size()` bytes from `data` on were just allocated.
    unsafe { data.as_ptr().write_bytes(0, layout.size()) };
    data
}

impl<T: Number> Drop for Aligned<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `allocate` with this layout.
        unsafe { dealloc(self.data.as_ptr().cast(), layout(self.capacity_bytes)) };
    }
}

impl<T: Number> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `length` initialised numbers (zeroed at allocation) that this value owns.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.length) }
    }
}

impl<T: Number> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.length) }
    }
}

/// Blocks that kernels have given back, largest last. At most a few per thread are ever out at once.
static BLOCKS: Mutex<Vec<Aligned<f32>>> = Mutex::new(Vec::new());

/// Working memory of a kernel: taken from the blocks of kernels before it, so that their pages are not asked of the
/// operating system again and again; given back when dropped. Holds whatever was in it.
pub(crate) struct Scratch<T: Number> {
    block: Option<Aligned<f32>>,
    length: usize,
    _numbers: std::marker::PhantomData<T>,
}

impl<T: Number> Scratch<T> {
    pub(crate) fn take(length: usize) -> Self {
        let floats = (length * size_of::<T>()).div_ceil(size_of::<f32>());
        let mut blocks = BLOCKS
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let fit = blocks.partition_point(|block| block.len() < floats);
        let block = (fit < blocks.len()).then(|| blocks.remove(fit));
        // A block that is too small would stay unused for ever: the largest makes room for the new one.
        if block.is_none() {
            blocks.pop();
        }
        drop(blocks);
        let block = block.unwrap_or_else(|| Aligned::zeros(floats));
        Self {
            block: Some(block),
            length,
            _numbers: std::marker::PhantomData,
        }
    }
}

impl<T: Number> Deref for Scratch<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        let block = self.block.as_ref().expect("held until dropped");
        // SAFETY: the block holds at least `length` numbers' bytes, aligned for any `Number`, initialised, and every
        // pattern of bits is a value of a `Number`.
        unsafe { std::slice::from_raw_parts(block.as_ptr().cast(), self.length) }
    }
}

impl<T: Number> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let block = self.block.as_mut().expect("held until dropped");
        // SAFETY: as in `deref`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(block.as_mut_ptr().cast(), self.length) }
    }
}

impl<T: Number> Drop for Scratch<T> {
    fn drop(&mut self) {
        let block = self.block.take().expect("held until dropped");
        let mut blocks = BLOCKS
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let place = blocks.partition_point(|other| other.len() < block.len());
        blocks.insert(place, block);
    }
}

/// Room for `length` numbers, each of which is to be written: zeros would be written twice.
///
/// # Safety
/// Every number is written before it is read.
#[allow(clippy::uninit_vec, reason = "the caller promises to write first")]
pub(crate) unsafe fn unwritten(length: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(length);
    // SAFETY: within the capacity; any bits are a float, and the caller writes before it reads.
    unsafe { values.set_len(length) };
    values
}

/// Lets threads write to parts of a slice that do not overlap.
pub(crate) struct Shared<'a, T> {
    data: *mut T,
    length: usize,
    _slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: only hands out memory through `part`, whose callers promise that parts do not overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            data: slice.as_mut_ptr(),
            length: slice.len(),
            _slice: std::marker::PhantomData,
        }
    }

    /// # Safety
    /// No element of the part is in another part that is alive.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, length: usize) -> &mut [T] {
        assert!(
            start + length <= self.length,
            "a part lies within its whole"
        );
        // SAFETY: in bounds; the caller promises that nothing else refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_aligned_and_used_again() {
        let mut first = Scratch::<u16>::take(1000);
        assert_eq!(first.len(), 1000);
        assert_eq!(first.as_ptr() as usize % ALIGNMENT, 0);
        first[999] = 7;
        drop(first);
        let zeros = Aligned::<f32>::zeros(5);
        assert!(zeros.iter().all(|&v| v == 0.0));
    }
}

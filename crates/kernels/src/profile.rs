//! Where the kernels' time goes: counted while a profile runs, at the cost of a branch while none does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// A part of the networks whose work is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Patches to tokens.
    PatchEmbed,
    /// A block's first norm, and its queries, keys and values.
    Projection,
    /// Packing of keys and values.
    Keys,
    /// Scores, softmax and averages within windows.
    WindowAttention,
    /// The same among all tokens.
    GlobalAttention,
    /// A block's output projection, second norm and MLP.
    Mlp,
    /// The neck.
    Neck,
    /// What all prompts on an image share.
    Shared,
    /// Prompts, whole: what follows is within.
    Prompts,
    /// Attention between prompts and image.
    Transformer,
    /// Transposed convolutions and logits of wanted masks.
    Upscaling,
    /// A linear layer by itself.
    Linear,
}

impl Part {
    /// All parts, in the order of the networks.
    pub const ALL: [Self; 12] = [
        Self::PatchEmbed,
        Self::Projection,
        Self::Keys,
        Self::WindowAttention,
        Self::GlobalAttention,
        Self::Mlp,
        Self::Neck,
        Self::Shared,
        Self::Prompts,
        Self::Transformer,
        Self::Upscaling,
        Self::Linear,
    ];
}

/// What was counted of a part, over all threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartProfile {
    /// The part.
    pub part: Part,
    /// Time that threads spent in it: their sum.
    pub busy_seconds: f64,
    /// Multiplications and additions of its matrix products, each, with f32 factors.
    pub flops: f64,
    /// Bytes of activations and packed weights that it read and wrote beyond its own buffers.
    pub bytes: f64,
}

struct Counters {
    nanoseconds: AtomicU64,
    flops: AtomicU64,
    bytes: AtomicU64,
}

static RUNNING: AtomicBool = AtomicBool::new(false);
static COUNTERS: [Counters; Part::ALL.len()] = [const {
    Counters {
        nanoseconds: AtomicU64::new(0),
        flops: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    }
}; Part::ALL.len()];

/// Starts counting, from zero, all that this process computes.
pub fn start() {
    for counters in &COUNTERS {
        for counter in [&counters.nanoseconds, &counters.flops, &counters.bytes] {
            counter.store(0, Ordering::Relaxed);
        }
    }
    RUNNING.store(true, Ordering::Relaxed);
}

/// Stops counting; what was counted of each part.
pub fn stop() -> Vec<PartProfile> {
    RUNNING.store(false, Ordering::Relaxed);
    let parts = Part::ALL.iter().zip(&COUNTERS);
    parts
        .map(|(&part, counters)| PartProfile {
            part,
            busy_seconds: counters.nanoseconds.load(Ordering::Relaxed) as f64 * 1e-9,
            flops: counters.flops.load(Ordering::Relaxed) as f64,
            bytes: counters.bytes.load(Ordering::Relaxed) as f64,
        })
        .collect()
}

/// Runs `work` and counts it to `part`.
pub(crate) fn count<T>(part: Part, flops: usize, bytes: usize, work: impl FnOnce() -> T) -> T {
    if !RUNNING.load(Ordering::Relaxed) {
        return work();
    }
    let start = Instant::now();
    let result = work();
    let counters = &COUNTERS[part as usize];
    let nanoseconds = start.elapsed().as_nanos() as u64;
    counters
        .nanoseconds
        .fetch_add(nanoseconds, Ordering::Relaxed);
    counters.flops.fetch_add(flops as u64, Ordering::Relaxed);
    counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    result
}

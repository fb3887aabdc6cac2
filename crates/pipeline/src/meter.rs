//! What a running job is busy with: seconds per stage, queue depths, rates, and what is left.
//!
//! Counters are atomics that every stage adds to; nobody waits for anybody. The same numbers go three
//! ways: into a [`Snapshot`] for the progress line, into Prometheus metrics (through the `metrics`
//! facade, which does nothing without an exporter), and, per shard, into its commit marker.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};

/// A stage of the running job, in the order of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Reads encoded images from the source.
    Fetch,
    /// Decodes, turns upright, crops and resizes.
    Decode,
    /// Runs the model.
    Device,
    /// Upscales, filters, removes duplicates.
    Select,
    /// Encodes rows and writes parts.
    Commit,
}

impl Stage {
    /// All stages.
    pub const ALL: [Stage; 5] = [
        Stage::Fetch,
        Stage::Decode,
        Stage::Device,
        Stage::Select,
        Stage::Commit,
    ];

    /// The name in logs, metrics and markers.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Fetch => "fetch",
            Stage::Decode => "decode",
            Stage::Device => "device",
            Stage::Select => "select",
            Stage::Commit => "commit",
        }
    }
}

/// Time spent per stage, on one image or one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct StageTimes([Duration; 5]);

impl StageTimes {
    pub(crate) fn add(&mut self, stage: Stage, spent: Duration) {
        self.0[stage as usize] += spent;
    }

    pub(crate) fn merge(&mut self, other: &StageTimes) {
        for (sum, spent) in self.0.iter_mut().zip(other.0) {
            *sum += spent;
        }
    }

    /// What an image's row calls its time: the work on it, without waiting for its bytes.
    pub(crate) fn on_image(&self) -> Duration {
        [Stage::Decode, Stage::Device, Stage::Select]
            .iter()
            .map(|stage| self.0[*stage as usize])
            .sum()
    }

    pub(crate) fn seconds(&self) -> BTreeMap<String, f64> {
        let seconds = |stage: Stage| self.0[stage as usize].as_secs_f64();
        let named = Stage::ALL.map(|stage| (stage.as_str().to_owned(), seconds(stage)));
        named.into_iter().collect()
    }
}

/// The counters of one run.
#[derive(Debug)]
pub(crate) struct Meter {
    started: Instant,
    /// How many threads or requests a stage has.
    width: [AtomicUsize; 5],
    busy_nanos: [AtomicU64; 5],
    /// Items waiting in front of a stage.
    queued: [AtomicUsize; 5],
    images: AtomicU64,
    rejected: AtomicU64,
    masks: AtomicU64,
    bytes: AtomicU64,
    device_waited_nanos: AtomicU64,
    device_warm_nanos: AtomicU64,
    /// Less as others do some of it.
    plan: Mutex<Planned>,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, Default)]
struct Planned {
    images: Option<u64>,
    bytes: u64,
}

/// A running job at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Since the stages began.
    pub elapsed: Duration,
    /// Images that have their rows, rejected ones too.
    pub images: u64,
    /// Rejected ones.
    pub rejected: u64,
    /// Masks so far.
    pub masks: u64,
    /// Encoded bytes of those images.
    pub bytes: u64,
    /// Images a second since the beginning.
    pub images_per_second: f64,
    /// Share of the time each stage was busy, 0 to 1, of all its threads.
    pub load: Vec<(Stage, f64)>,
    /// The stage that the others wait for.
    pub bottleneck: Stage,
    /// How long what is left takes at this pace; unknown before the first image.
    pub eta: Option<Duration>,
    /// Share of the time in which the warm device waited for input; unknown before its second image.
    pub device_idle: Option<f64>,
}

impl Meter {
    pub(crate) fn new(images: Option<u64>, bytes: u64) -> Self {
        Self {
            started: Instant::now(),
            width: Default::default(),
            busy_nanos: Default::default(),
            queued: Default::default(),
            images: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            masks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            device_waited_nanos: AtomicU64::new(0),
            device_warm_nanos: AtomicU64::new(0),
            plan: Mutex::new(Planned { images, bytes }),
        }
    }

    /// States how many threads or requests a stage has at once.
    pub(crate) fn set_width(&self, stage: Stage, width: usize) {
        self.width[stage as usize].store(width.max(1), Ordering::Relaxed);
    }

    /// Counts work of a stage.
    pub(crate) fn busy(&self, stage: Stage, spent: Duration) {
        let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        self.busy_nanos[stage as usize].fetch_add(nanos, Ordering::Relaxed);
        counter!("maskmill_stage_microseconds_total", "stage" => stage.as_str())
            .increment(nanos / 1000);
    }

    /// States how many items wait in front of a stage.
    pub(crate) fn queue(&self, stage: Stage, depth: usize) {
        self.queued[stage as usize].store(depth, Ordering::Relaxed);
        gauge!("maskmill_queue_depth", "stage" => stage.as_str()).set(depth as f64);
    }

    /// Counts an image with its rows.
    pub(crate) fn image(&self, bytes: u64, masks: usize, rejected: Option<&str>) {
        self.images.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.masks.fetch_add(masks as u64, Ordering::Relaxed);
        counter!("maskmill_masks_total").increment(masks as u64);
        counter!("maskmill_source_bytes_total").increment(bytes);
        match rejected {
            None => counter!("maskmill_images_total", "status" => "ok").increment(1),
            Some(reason) => {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                counter!("maskmill_images_total", "status" => "rejected").increment(1);
                counter!("maskmill_rejects_total", "reason" => reason.to_owned()).increment(1);
            }
        }
    }

    /// Images of an attempt that was given up will come again: they do not count for what is left. What
    /// metrics count is work, and stays.
    pub(crate) fn take_back(&self, images: u64, bytes: u64) {
        self.images.fetch_sub(images, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts the device's waiting for an image, and its work on it. The first image warms it up.
    pub(crate) fn device_turn(&self, waited: Duration, worked: Duration) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.device_waited_nanos
            .fetch_add(nanos(waited), Ordering::Relaxed);
        self.device_warm_nanos
            .fetch_add(nanos(waited + worked), Ordering::Relaxed);
    }

    /// A shard turned out to be done by another worker, or was given up: less is left.
    pub(crate) fn drop_planned(&self, images: Option<u64>, bytes: u64) {
        let mut plan = self.plan.lock().expect("no panic while it is held");
        plan.bytes = plan.bytes.saturating_sub(bytes);
        plan.images = plan.images.map(|n| n.saturating_sub(images.unwrap_or(0)));
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let elapsed = self.started.elapsed();
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let load: Vec<(Stage, f64)> = Stage::ALL
            .iter()
            .map(|&stage| {
                let busy = self.busy_nanos[stage as usize].load(Ordering::Relaxed) as f64 / 1e9;
                let width = self.width[stage as usize].load(Ordering::Relaxed).max(1);
                (stage, (busy / (seconds * width as f64)).min(1.0))
            })
            .collect();
        let bottleneck = load
            .iter()
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map_or(Stage::Device, |(stage, _)| *stage);
        let images = self.images.load(Ordering::Relaxed);
        let bytes = self.bytes.load(Ordering::Relaxed);
        let plan = *self.plan.lock().expect("no panic while it is held");
        let images_per_second = images as f64 / seconds;
        gauge!("maskmill_images_per_second").set(images_per_second);
        let waited = self.device_waited_nanos.load(Ordering::Relaxed) as f64;
        let warm = self.device_warm_nanos.load(Ordering::Relaxed) as f64;
        Snapshot {
            elapsed,
            images,
            rejected: self.rejected.load(Ordering::Relaxed),
            masks: self.masks.load(Ordering::Relaxed),
            bytes,
            images_per_second,
            load,
            bottleneck,
            eta: eta(elapsed, images, bytes, plan),
            device_idle: (warm > 0.0).then(|| waited / warm),
        }
    }
}

/// By images where their number is known, else by bytes, which tars tell.
fn eta(elapsed: Duration, images: u64, bytes: u64, plan: Planned) -> Option<Duration> {
    let (done, all) = match plan.images {
        Some(all) => (images, all),
        None => (bytes, plan.bytes),
    };
    if done == 0 {
        return None;
    }
    let left = all.saturating_sub(done) as f64 / done as f64;
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * left).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stage_for_its_width_is_the_bottleneck() {
        let meter = Meter::new(Some(10), 1000);
        meter.set_width(Stage::Decode, 8);
        meter.set_width(Stage::Device, 1);
        std::thread::sleep(Duration::from_millis(5));
        meter.busy(Stage::Decode, Duration::from_millis(4));
        meter.busy(Stage::Device, Duration::from_millis(3));
        assert_eq!(meter.snapshot().bottleneck, Stage::Device);
    }

    #[test]
    fn what_is_left_is_counted_in_images_or_else_in_bytes() {
        let second = Duration::from_secs(1);
        let images = |done, all| {
            let plan = Planned {
                images: Some(all),
                bytes: 0,
            };
            eta(second, done, 999, plan)
        };
        assert_eq!(images(0, 4), None);
        assert_eq!(images(1, 4), Some(3 * second));
        assert_eq!(images(4, 4), Some(Duration::ZERO));
        let tars = Planned {
            images: None,
            bytes: 300,
        };
        assert_eq!(eta(second, 7, 100, tars), Some(2 * second));
    }

    #[test]
    fn the_idle_share_is_of_the_warm_device() {
        let meter = Meter::new(None, 0);
        assert_eq!(meter.snapshot().device_idle, None);
        meter.device_turn(Duration::from_millis(1), Duration::from_millis(99));
        let idle = meter.snapshot().device_idle.unwrap();
        assert!((idle - 0.01).abs() < 1e-9, "{idle}");
    }
}

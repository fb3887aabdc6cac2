//! What a running job shows: a bar on a terminal, JSON lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use maskmill_job::{Config, Log, Progress};
use maskmill_pipeline::{Event, Snapshot};
use serde_json::{Value, json};

/// Shows events.
pub(crate) struct Reporter {
    bar: ProgressBar,
    lines: bool,
}

impl Reporter {
    pub(crate) fn new(config: &Config) -> Self {
        let (bar, lines) = new_bar(&config.log);
        Self { bar, lines }
    }

    pub(crate) fn report(&self, event: &Event<'_>) {
        match event {
            Event::Planned {
                shards,
                committed,
                failed,
                images,
                bytes,
            } => {
                // Tars tell their number of images only when they are read.
                let template = match images {
                    Some(_) => "{bar:30} {pos}/{len} images {msg}",
                    None => "{spinner} {pos} images {msg}",
                };
                let style = ProgressStyle::with_template(template).expect("a constant template");
                self.bar.set_style(style);
                if let Some(images) = images {
                    self.bar.set_length(*images);
                }
                self.line(
                    json!({"event": "planned", "shards": shards, "committed": committed,
                    "failed_before": failed, "images": images, "bytes": bytes}),
                );
            }
            Event::Image { .. } => self.bar.inc(1),
            Event::Tick(now) => self.bar.set_message(words(now)),
            Event::Committed { marker, now } => {
                self.line(json!({"event": "committed", "shard": marker.shard,
                    "images": marker.images_ok, "rejected": marker.images_rejected,
                    "rejects": marker.rejects, "masks": marker.masks.rows,
                    "bytes": marker.stats.bytes, "stage_seconds": marker.stats.stage_seconds,
                    "seconds": marker.seconds, "images_per_second": now.images_per_second,
                    "bottleneck": now.bottleneck.as_str(),
                    "eta_seconds": now.eta.map(|eta| eta.as_secs())}));
            }
            Event::Again {
                shard,
                attempt,
                cause,
            } => self.always(
                json!({"event": "again", "shard": shard.0, "attempt": attempt,
                "detail": cause}),
            ),
            Event::Failed { shard, cause } => {
                self.always(json!({"event": "failed", "shard": shard.0, "detail": cause}));
            }
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self, value: Value) {
        line(self.lines, &value);
    }

    /// A line for both.
    fn always(&self, line: Value) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

/// A bar, drawn on a terminal unless the config has none; and whether there are lines instead.
pub(crate) fn new_bar(log: &Log) -> (ProgressBar, bool) {
    let draw = std::io::stderr().is_terminal() && log.progress == Progress::Auto;
    let target = match draw {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    (ProgressBar::with_draw_target(None, target), !draw)
}

/// A line for machines, where there is no bar for people.
pub(crate) fn line(lines: bool, value: &Value) {
    if lines {
        eprintln!("{value}");
    }
}

/// `2.31/s, 4 minutes left, waiting for device (98 %)`
fn words(now: &Snapshot) -> String {
    let eta = now.eta.map_or(String::new(), |eta| {
        let eta = Duration::from_secs(eta.as_secs());
        format!(", {} left", HumanDuration(eta))
    });
    let busy = now
        .load
        .iter()
        .find(|(stage, _)| *stage == now.bottleneck)
        .map_or(0.0, |(_, busy)| *busy);
    format!(
        "{:.2}/s{eta}, bottleneck: {} ({:.0} % busy)",
        now.images_per_second,
        now.bottleneck.as_str(),
        100.0 * busy
    )
}

//! The first stage: shards to samples, within the memory budget.
//!
//! A shard is attempted as a whole. What belongs to an image (it is gone, it changed, it may not be
//! read) becomes a rejected row. What belongs to the store (no answer after all retries) ends the
//! attempt; the shard goes to the end of the queue and is begun again, `run.shard_attempts` times.
//! What belongs to everything (credentials that are not accepted) ends the job: rows must not say
//! that images cannot be read because a token ran out.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Sender;
use maskmill_formats::decode::{DecodeLimits, dimensions};
use maskmill_formats::image_table::{ImageTable, ImageTableColumns, TableItem};
use maskmill_formats::rows::{ImageStatus, read_images};
use maskmill_formats::tar_shard::{TarError, TarItem, TarLimits, TarReader};
use maskmill_job::{Item, ItemKind, Limits, Shard, ShardId};
use maskmill_masks::ImageSize;
use maskmill_storage::{Blob, CommitStore, Expect, ReadError, StorageError, layout, read_error};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::blob_table::BlobTable;
use crate::describe::describe;
use crate::in_flight::{FetchPermit, InFlight};
use crate::meter::{Meter, Stage};
use crate::open_source::OpenSource;
use crate::plan_items::{PlanItems, PlanItemsError};
use crate::source::{row_key, shown};
use crate::stages::{
    Assembled, Attempt, Carried, FinishedImage, ImageFacts, ImageId, Rejection, Sample,
};

/// Most bytes of a tar that one request asks for.
const TAR_CHUNK: u64 = 8 << 20;
/// Chunks of a tar that are asked for ahead of the one being read.
const TAR_CHUNKS_AHEAD: usize = 3;

/// Why a shard was not read to its end.
enum Interrupted {
    /// A stage behind this one is gone: the job is ending.
    Stopped,
    /// Nothing can be read any more.
    Job(String),
    /// This attempt is over; `may_pass` if another one may do better.
    Shard { cause: String, may_pass: bool },
}

/// A shard to be read, and when.
struct Turn<'a> {
    shard: &'a Shard,
    number: u32,
    not_before: Instant,
}

/// How often a shard is begun, and how long is waited in between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    pub most: u32,
    pub first_backoff: Duration,
    pub longest_backoff: Duration,
}

impl Attempts {
    /// The pause before attempt `number`, doubling.
    fn pause(&self, number: u32) -> Duration {
        let doublings = number.saturating_sub(2).min(20);
        (self.first_backoff * 2_u32.pow(doublings)).min(self.longest_backoff)
    }
}

pub(crate) struct Reader<'a> {
    pub source: &'a OpenSource,
    pub items: &'a PlanItems,
    /// Absent where nothing is committed.
    pub commits: Option<&'a CommitStore>,
    pub columns: &'a ImageTableColumns,
    pub limits: &'a Limits,
    pub in_flight: &'a InFlight,
    pub fetch_concurrency: usize,
    pub attempts: Attempts,
    pub samples: Sender<Sample>,
    pub assembler: Sender<Assembled>,
    pub runtime: Handle,
    pub meter: &'a Meter,
}

/// The next place in a shard; rows come in this order.
struct Places {
    attempt: Attempt,
    next: usize,
    /// Images of an earlier shard that are not to be repeated.
    done: HashSet<String>,
}

impl Places {
    /// The place of the image `key`, unless it is done.
    fn take(&mut self, key: String, carried: Carried) -> Option<ImageId> {
        if self.done.contains(&key) {
            return None;
        }
        let index = self.next;
        self.next += 1;
        Some(ImageId {
            attempt: self.attempt,
            index,
            key,
            carried,
        })
    }
}

impl Reader<'_> {
    /// Reads shards until they end or the job does.
    pub(crate) fn run(self, shards: &[Shard]) {
        let now = Instant::now();
        let first = |shard| Turn {
            shard,
            number: 1,
            not_before: now,
        };
        let mut turns: VecDeque<Turn<'_>> = shards.iter().map(first).collect();
        while let Some(turn) = turns.pop_front() {
            std::thread::sleep(turn.not_before.saturating_duration_since(Instant::now()));
            let attempt = Attempt {
                shard: turn.shard.id,
                number: turn.number,
            };
            let sent = match self.shard(turn.shard, attempt) {
                Ok(()) => Ok(()),
                Err(Interrupted::Stopped) => Err(Interrupted::Stopped),
                Err(Interrupted::Job(cause)) => {
                    // Whoever else sends is told by the assembler's absence.
                    let _ = self.assemble(Assembled::JobFailed { cause });
                    return;
                }
                Err(Interrupted::Shard { cause, may_pass })
                    if may_pass && turn.number < self.attempts.most =>
                {
                    let number = turn.number + 1;
                    turns.push_back(Turn {
                        shard: turn.shard,
                        number,
                        not_before: Instant::now() + self.attempts.pause(number),
                    });
                    self.assemble(Assembled::ShardAgain { attempt, cause })
                }
                Err(Interrupted::Shard { cause, .. }) => {
                    self.assemble(Assembled::ShardFailed { attempt, cause })
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn shard(&self, shard: &Shard, attempt: Attempt) -> Result<(), Interrupted> {
        let _span =
            tracing::debug_span!("fetch", shard = %shard.id, attempt = attempt.number).entered();
        if self.is_committed(shard.id)? {
            return self.assemble(Assembled::ShardDone { shard: shard.id });
        }
        let items = self.runtime.block_on(self.items.of(shard));
        let items = items.map_err(|error| match error {
            PlanItemsError::Storage(error) => of_storage(&error),
            error => Interrupted::Shard {
                cause: describe(&error),
                may_pass: false,
            },
        })?;
        let mut places = Places {
            attempt,
            next: 0,
            done: self.done_before(shard)?,
        };
        let (images, files): (Vec<Item>, Vec<Item>) = items
            .into_iter()
            .partition(|item| matches!(item.kind, ItemKind::Image));
        self.images(images, &mut places)?;
        for file in files {
            match file.kind {
                ItemKind::Tar => self.tar(&file, &mut places)?,
                ItemKind::Rows { row_group, .. } => self.rows(&file, row_group, &mut places)?,
                ItemKind::Image => unreachable!("they were parted just now"),
            }
        }
        let images = places.next;
        self.assemble(Assembled::ShardRead { attempt, images })
    }

    /// Whether another worker, or an earlier run, has committed the shard meanwhile.
    fn is_committed(&self, shard: ShardId) -> Result<bool, Interrupted> {
        let Some(commits) = self.commits else {
            return Ok(false);
        };
        let marker = layout::marker(shard.0);
        let there = self.runtime.block_on(commits.store().exists(&marker));
        there.map_err(|error| of_storage(&error))
    }

    /// The images that the shard which this one repeats has done.
    fn done_before(&self, shard: &Shard) -> Result<HashSet<String>, Interrupted> {
        let (Some(earlier), Some(commits)) = (shard.retry_of, self.commits) else {
            return Ok(HashSet::new());
        };
        let failed = |cause: String| Interrupted::Shard {
            cause: format!("shard {earlier}, whose rejects it repeats: {cause}"),
            may_pass: false,
        };
        let rows = self.runtime.block_on(async {
            let marker = commits.committed(earlier.0).await;
            let marker = marker.map_err(|error| failed(describe(&error)))?;
            let marker = marker.ok_or_else(|| failed("it is not committed".to_owned()))?;
            let part = commits.store().get(&marker.images.path).await;
            let part = part.map_err(|error| of_storage(&error))?;
            let part = part.ok_or_else(|| failed(format!("{} is gone", marker.images.path)))?;
            read_images(part).map_err(|error| failed(describe(&error)))
        })?;
        let done = rows.into_iter().filter(|row| row.status == ImageStatus::Ok);
        Ok(done.map(|row| row.image_key).collect())
    }

    /// Single image objects, several requests at a time. They are passed on as they come.
    fn images(&self, items: Vec<Item>, places: &mut Places) -> Result<(), Interrupted> {
        let mut waiting = items.into_iter();
        let mut fetches = JoinSet::new();
        loop {
            while fetches.len() < self.fetch_concurrency {
                let Some(item) = waiting.next() else { break };
                let carried = carried(&item);
                let rejection = item.reject().map(|reject| Rejection {
                    reason: reject.reason.clone(),
                    detail: reject.detail.clone(),
                });
                let Some(id) = places.take(item.key.to_string(), carried) else {
                    continue;
                };
                if let Some(rejection) = rejection {
                    self.reject(id, item.bytes, rejection)?;
                    continue;
                }
                let fetch = fetch(
                    self.source.clone(),
                    self.in_flight.clone(),
                    item,
                    self.limits.max_file_bytes,
                );
                fetches.spawn_on(async move { (id, fetch.await) }, &self.runtime);
            }
            let asked = Instant::now();
            let next = self.runtime.block_on(fetches.join_next());
            self.meter.busy(Stage::Fetch, asked.elapsed());
            let Some(next) = next else {
                return Ok(());
            };
            let (id, fetched) = next.expect("a fetch does not panic");
            match fetched.bytes {
                Ok((bytes, permit)) => self.pass(id, bytes, fetched.spent, permit)?,
                Err(error) => {
                    let rejection = reject_or_interrupt(&error, &fetched.at)?;
                    self.reject(id, fetched.listed_bytes, rejection)?;
                }
            }
        }
    }

    fn open(&self, item: &Item) -> Result<Blob, Interrupted> {
        let blob = self
            .runtime
            .block_on(self.source.open_blob(item.at(), expect(item)));
        blob.map_err(|error| interrupt(&error, item.at()))
    }

    /// The samples of a tar, streamed.
    fn tar(&self, item: &Item, places: &mut Places) -> Result<(), Interrupted> {
        let blob = self.open(item)?;
        let share = self.in_flight.encoded_bytes() / (TAR_CHUNKS_AHEAD as u64 + 1);
        let chunk = TAR_CHUNK.min(share).max(1 << 16);
        let stream = blob.sequential(self.runtime.clone(), chunk, TAR_CHUNKS_AHEAD);
        let limits = TarLimits {
            max_entry_bytes: self.limits.max_file_bytes,
            ..TarLimits::default()
        };
        let mut samples = TarReader::detect(stream, limits);
        loop {
            let asked = Instant::now();
            let next = samples.next();
            let spent = asked.elapsed();
            self.meter.busy(Stage::Fetch, spent);
            let key = |key: &str| format!("{}/{key}", item.key);
            match next {
                None => return Ok(()),
                Some(Ok(TarItem::Sample {
                    key: name, bytes, ..
                })) => {
                    let Some(id) = places.take(key(&name), Carried::default()) else {
                        continue;
                    };
                    let permit = self.in_flight.fetch_blocking(bytes.len() as u64);
                    self.pass(id, bytes.into(), spent, permit)?;
                }
                Some(Ok(TarItem::Rejected {
                    key: of,
                    name,
                    reason,
                    detail,
                })) => {
                    let rejection = Rejection {
                        reason: reason.as_str().to_owned(),
                        detail: format!("{name}: {detail}"),
                    };
                    if let Some(id) = places.take(key(&of), Carried::default()) {
                        self.reject(id, 0, rejection)?;
                    }
                }
                Some(Err(error)) => {
                    // The samples before the damage are kept; the row says that there were more.
                    let reason = match &error {
                        TarError::Truncated { .. } => "tar_truncated",
                        TarError::Corrupt { .. } => "tar_corrupt",
                        TarError::Bomb { .. } => "tar_bomb",
                        TarError::Io { source, .. } => return Err(of_io(source, item.at())),
                    };
                    let rejection = Rejection {
                        reason: reason.to_owned(),
                        detail: format!("{}: {error}", item.at()),
                    };
                    if let Some(id) = places.take(key("#rest"), Carried::default()) {
                        self.reject(id, 0, rejection)?;
                    }
                }
            }
        }
    }

    /// The images of a row group, a few rows at a time.
    fn rows(&self, item: &Item, row_group: u32, places: &mut Places) -> Result<(), Interrupted> {
        let blob = self.open(item)?;
        let table = BlobTable::new(&blob, self.runtime.clone(), self.in_flight.encoded_bytes());
        let damaged = |error: &maskmill_formats::image_table::ImageTableError| {
            if let Some(source) = error.io_error() {
                return Err(of_io(source, item.at()));
            }
            Ok(Rejection {
                reason: "table_corrupt".to_owned(),
                detail: format!("{}: {}", item.at(), describe(error)),
            })
        };
        let rest = format!("{}/#rest-{row_group}", item.key);
        let table = match ImageTable::open(Arc::new(table), self.columns) {
            Ok(table) => table,
            Err(error) => {
                let rejection = damaged(&error)?;
                if let Some(id) = places.take(rest, Carried::default()) {
                    self.reject(id, 0, rejection)?;
                }
                return Ok(());
            }
        };
        let mut rows = table.read(row_group as usize, self.limits.max_file_bytes);
        loop {
            let asked = Instant::now();
            let next = rows.next();
            let spent = asked.elapsed();
            self.meter.busy(Stage::Fetch, spent);
            let key = |row, key: &str| format!("{}/{}", item.key, row_key(row, key));
            match next {
                None => return Ok(()),
                Some(Ok(TableItem::Sample {
                    row,
                    key: name,
                    bytes,
                    caption,
                    boxes,
                    labels,
                    scores,
                    points,
                })) => {
                    let carried = Carried {
                        caption,
                        boxes,
                        labels,
                        scores,
                        points,
                        own_name: Some(name.clone()),
                    };
                    let Some(id) = places.take(key(row, &name), carried) else {
                        continue;
                    };
                    let permit = self.in_flight.fetch_blocking(bytes.len() as u64);
                    self.pass(id, bytes.into(), spent, permit)?;
                }
                Some(Ok(TableItem::Rejected {
                    row,
                    key: name,
                    reason,
                    detail,
                })) => {
                    let rejection = Rejection {
                        reason: reason.to_owned(),
                        detail,
                    };
                    if let Some(id) = places.take(key(row, &name), Carried::default()) {
                        self.reject(id, 0, rejection)?;
                    }
                }
                Some(Err(error)) => {
                    let rejection = damaged(&error)?;
                    if let Some(id) = places.take(rest.clone(), Carried::default()) {
                        self.reject(id, 0, rejection)?;
                    }
                }
            }
        }
    }

    /// Hands a sample on as soon as its pixels fit the budget.
    fn pass(
        &self,
        id: ImageId,
        bytes: Bytes,
        fetched_in: Duration,
        fetch: FetchPermit,
    ) -> Result<(), Interrupted> {
        let limits = decode_limits(self.limits);
        // What cannot be decoded takes no pixels.
        let pixels = dimensions(&bytes, &limits).map_or(0, ImageSize::pixels);
        let ticket = self.in_flight.admit(3 * pixels);
        let sample = Sample {
            id,
            bytes,
            fetched_in,
            fetch,
            ticket,
        };
        self.samples.send(sample).map_err(|_| Interrupted::Stopped)
    }

    fn reject(&self, id: ImageId, bytes: u64, rejection: Rejection) -> Result<(), Interrupted> {
        let finished: FinishedImage = ImageFacts::unread(id, bytes).reject(rejection);
        self.assemble(Assembled::Image(Box::new(finished)))
    }

    fn assemble(&self, message: Assembled) -> Result<(), Interrupted> {
        let sent = self.assembler.send(message);
        sent.map_err(|_| Interrupted::Stopped)
    }
}

/// What came of a request for an image.
struct Fetched {
    at: String,
    listed_bytes: u64,
    bytes: Result<(Bytes, FetchPermit), ReadError>,
    /// Waiting for memory not counted.
    spent: Duration,
}

async fn fetch(source: OpenSource, in_flight: InFlight, item: Item, max_bytes: u64) -> Fetched {
    let asked = Instant::now();
    let mut spent = Duration::ZERO;
    let bytes = async {
        let answer = source.get(item.at(), expect(&item), max_bytes).await?;
        spent = asked.elapsed();
        let permit = in_flight.fetch(answer.bytes()).await;
        let asked = Instant::now();
        let bytes = answer.body().await?;
        spent += asked.elapsed();
        Ok((bytes, permit))
    };
    let bytes = bytes.await;
    Fetched {
        at: item.at().to_owned(),
        listed_bytes: item.bytes,
        bytes,
        spent,
    }
}

/// What the plan says of an object.
pub(crate) fn expect(item: &Item) -> Expect<'_> {
    Expect {
        bytes: (item.bytes > 0 && !matches!(item.kind, ItemKind::Rows { .. }))
            .then_some(item.bytes),
        etag: item.etag.as_deref(),
    }
}

pub(crate) fn carried(item: &Item) -> Carried {
    let Some(extras) = item.extras.as_deref() else {
        return Carried::default();
    };
    Carried {
        caption: extras.caption.clone(),
        boxes: extras.boxes.clone(),
        labels: extras.labels.clone(),
        scores: extras.scores.clone(),
        points: extras.points.clone(),
        own_name: None,
    }
}

/// What cannot be read of a file that holds many images.
fn interrupt(error: &ReadError, at: &str) -> Interrupted {
    let cause = format!("{}: {}", shown(at), describe(error));
    if error.is_credentials() {
        return Interrupted::Job(cause);
    }
    let may_pass = error.reject_reason().is_none();
    Interrupted::Shard { cause, may_pass }
}

/// What cannot be read of one image: its row, if that is its own fault.
///
/// A list of addresses from the web always has servers in it that are gone. That is the images' fault,
/// where the silence of a bucket would be the store's.
fn reject_or_interrupt(error: &ReadError, at: &str) -> Result<Rejection, Interrupted> {
    let is_web = at.starts_with("http://") || at.starts_with("https://");
    let unreachable = matches!(error, ReadError::Transient { .. }) && is_web;
    match error
        .reject_reason()
        .or(unreachable.then_some("unreachable"))
    {
        None => Err(interrupt(error, at)),
        Some(reason) => Ok(Rejection {
            reason: reason.to_owned(),
            detail: format!("{}: {}", shown(at), describe(error)),
        }),
    }
}

fn of_io(error: &io::Error, at: &str) -> Interrupted {
    match read_error(error) {
        Some(error) => interrupt(error, at),
        None => Interrupted::Shard {
            cause: format!("{}: {}", shown(at), describe(error)),
            may_pass: true,
        },
    }
}

fn of_storage(error: &StorageError) -> Interrupted {
    let cause = describe(error);
    match error {
        StorageError::Credentials { .. } => Interrupted::Job(cause),
        _ => Interrupted::Shard {
            cause,
            may_pass: true,
        },
    }
}

/// The pipeline's limits as the decoder takes them.
pub fn decode_limits(limits: &Limits) -> DecodeLimits {
    DecodeLimits {
        max_pixels: limits.max_pixels,
        max_side: limits.max_side,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let attempts = Attempts {
            most: 9,
            first_backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_millis(350),
        };
        let pauses: Vec<u128> = (2..6).map(|n| attempts.pause(n).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 350, 350]);
    }

    #[test]
    fn causes_and_details_do_not_repeat_what_an_address_hides() {
        let at = "https://user:hunter2@h/a.jpg?X-Amz-Signature=hunter2";
        let lasting = reject_or_interrupt(&ReadError::Missing, at);
        let Ok(Rejection { detail, .. }) = lasting else {
            panic!("a missing image is a row")
        };
        let Interrupted::Shard { cause, .. } = interrupt(&ReadError::Missing, at) else {
            panic!("a missing tar ends its shard")
        };
        for text in [detail, cause] {
            assert!(
                text.contains("h/a.jpg") && !text.contains("hunter2"),
                "{text}"
            );
        }
    }
}

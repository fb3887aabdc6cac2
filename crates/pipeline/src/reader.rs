//! The first stage: shards to samples, in order, within the memory budget.

use std::fs::File;
use std::io::BufReader;

use crossbeam_channel::Sender;
use maskmill_formats::decode::{DecodeLimits, dimensions};
use maskmill_formats::tar_shard::{TarError, TarItem, TarLimits, TarReader};
use maskmill_job::{FileRef, Limits, Shard, ShardId, ShardItems, TarRef};
use maskmill_masks::ImageSize;
use maskmill_storage::{ReadError, read_file};

use crate::in_flight::InFlight;
use crate::stages::{Assembled, FinishedImage, ImageFacts, ImageId, Rejection, Sample};

/// Bytes a tar is read in.
const TAR_BUFFER: usize = 1 << 20;

/// A stage behind this one is gone: the job is ending.
pub(crate) struct Stopped;

pub(crate) struct Reader<'a> {
    pub limits: &'a Limits,
    pub in_flight: &'a InFlight,
    pub samples: Sender<Sample>,
    pub assembler: Sender<Assembled>,
}

impl Reader<'_> {
    /// Reads shards until they end or the job does.
    pub(crate) fn run(self, shards: &[&Shard]) {
        for shard in shards {
            let read = match &shard.items {
                ShardItems::Files(files) => self.files(shard.id, files),
                ShardItems::Tar(tar) => self.tar(shard.id, tar),
            };
            if read.is_err() {
                return;
            }
        }
    }

    fn files(&self, shard: ShardId, files: &[FileRef]) -> Result<(), Stopped> {
        for (index, file) in files.iter().enumerate() {
            let key = file.key.clone();
            let id = ImageId { shard, index, key };
            match self.file(file) {
                Ok(bytes) => self.pass(id, bytes)?,
                Err(rejection) => self.reject(id, file.bytes, rejection)?,
            }
        }
        let images = files.len();
        self.assemble(Assembled::ShardRead { shard, images })
    }

    fn file(&self, file: &FileRef) -> Result<Vec<u8>, Rejection> {
        if let Some(reject) = &file.reject {
            return Err(Rejection {
                reason: reject.reason.clone(),
                detail: reject.detail.clone(),
            });
        }
        match read_file(&file.path, self.limits.max_file_bytes) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(Rejection {
                reason: match error {
                    ReadError::TooLarge { .. } => "too_large".to_owned(),
                    ReadError::Unreadable { .. } => "unreadable".to_owned(),
                },
                detail: format!("{}: {error}", file.path.display()),
            }),
        }
    }

    fn tar(&self, shard: ShardId, tar: &TarRef) -> Result<(), Stopped> {
        let file = match File::open(&tar.path) {
            Ok(file) => BufReader::with_capacity(TAR_BUFFER, file),
            Err(error) => {
                let detail = format!("{}: {error}", tar.path.display());
                return self.assemble(Assembled::ShardFailed { shard, detail });
            }
        };
        let limits = TarLimits {
            max_entry_bytes: self.limits.max_file_bytes,
        };
        let mut images = 0;
        for item in TarReader::new(file, limits) {
            let id = |key: &str| ImageId {
                shard,
                index: images,
                key: format!("{}/{key}", tar.key),
            };
            match item {
                Ok(TarItem::Sample { key, bytes, .. }) => self.pass(id(&key), bytes)?,
                Ok(TarItem::Rejected {
                    key,
                    name,
                    reason,
                    detail,
                }) => {
                    let rejection = Rejection {
                        reason: reason.as_str().to_owned(),
                        detail: format!("{name}: {detail}"),
                    };
                    self.reject(id(&key), 0, rejection)?;
                }
                // The samples before the damage are kept; the row says that there were more.
                Err(error) => {
                    let rejection = Rejection {
                        reason: tar_reason(&error).to_owned(),
                        detail: format!("{}: {error}", tar.path.display()),
                    };
                    self.reject(id("#rest"), 0, rejection)?;
                }
            }
            images += 1;
        }
        self.assemble(Assembled::ShardRead { shard, images })
    }

    /// Hands a sample on as soon as its bytes and its pixels fit the budget.
    fn pass(&self, id: ImageId, bytes: Vec<u8>) -> Result<(), Stopped> {
        let limits = decode_limits(self.limits);
        // What cannot be decoded takes no pixels.
        let pixels = dimensions(&bytes, &limits).map_or(0, ImageSize::pixels);
        let ticket = self.in_flight.admit(bytes.len() as u64 + 3 * pixels);
        let sample = Sample { id, bytes, ticket };
        self.samples.send(sample).map_err(|_| Stopped)
    }

    fn reject(&self, id: ImageId, bytes: u64, rejection: Rejection) -> Result<(), Stopped> {
        let finished: FinishedImage = ImageFacts::unread(id, bytes).reject(rejection);
        self.assemble(Assembled::Image(Box::new(finished)))
    }

    fn assemble(&self, message: Assembled) -> Result<(), Stopped> {
        self.assembler.send(message).map_err(|_| Stopped)
    }
}

/// The pipeline's limits as the decoder takes them.
pub fn decode_limits(limits: &Limits) -> DecodeLimits {
    DecodeLimits {
        max_pixels: limits.max_pixels,
        max_side: limits.max_side,
    }
}

fn tar_reason(error: &TarError) -> &'static str {
    match error {
        TarError::Truncated { .. } => "tar_truncated",
        TarError::Corrupt { .. } => "tar_corrupt",
        TarError::Io { .. } => "tar_unreadable",
    }
}

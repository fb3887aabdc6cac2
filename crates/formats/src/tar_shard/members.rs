//! The members of a tar archive: blocks, headers and their extensions.

use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

use super::TarError;
use super::gzip::Fault;

/// A tar file is a sequence of blocks of this many bytes.
pub(super) const BLOCK: usize = 512;

/// Largest size that makes sense: beyond it are negative numbers in base 256.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Bytes set aside for a member's data before any of it arrived.
const FIRST_ALLOCATION: u64 = 1 << 20;

/// Most bytes of an extended header. Names are limited to 4096 bytes by Linux; the rest is attributes.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Reads the members of an archive in order. After [`next_member`](Self::next_member) the caller reads or skips the
/// member's data, once.
#[derive(Debug)]
pub(super) struct Members<R> {
    input: R,
    /// Bytes read from `input`.
    offset: u64,
}

/// A member's header, with what extended headers say of it applied.
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryType,
    pub(super) size: u64,
}

impl<R: Read> Members<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, offset: 0 }
    }

    /// The next member that is not an extended header, or `None` at the end of the archive.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut long_name = None;
        let mut pax_name = None;
        let mut pax_size = None;
        loop {
            let start = self.offset;
            let Some(header) = self.read_header()? else {
                return match (long_name, pax_name, pax_size) {
                    (None, None, None) => Ok(None),
                    _ => Err(TarError::Truncated {
                        offset: self.offset,
                        inside: "an extended header's member".to_owned(),
                    }),
                };
            };
            let corrupt = |error: io::Error| TarError::Corrupt {
                offset: start,
                detail: error.to_string(),
            };
            let kind = header.entry_type();
            let size = header.entry_size().map_err(corrupt)?;
            match kind {
                EntryType::GNULongName | EntryType::XHeader => {
                    let extension = self.read_extension(start, size)?;
                    if kind == EntryType::GNULongName {
                        let end = extension.iter().position(|&byte| byte == 0);
                        long_name = Some(extension[..end.unwrap_or(extension.len())].to_vec());
                        continue;
                    }
                    for record in PaxExtensions::new(&extension) {
                        let record = record.map_err(corrupt)?;
                        match record.key_bytes() {
                            b"path" => pax_name = Some(record.value_bytes().to_vec()),
                            b"size" => {
                                let size = record
                                    .value()
                                    .ok()
                                    .and_then(|size| size.parse::<u64>().ok());
                                pax_size = Some(size.ok_or_else(|| {
                                    corrupt(io::Error::other("pax size is not a number"))
                                })?);
                            }
                            _ => {}
                        }
                    }
                }
                EntryType::GNULongLink | EntryType::XGlobalHeader => {
                    self.read_extension(start, size)?;
                }
                EntryType::GNUSparse => {
                    return Err(TarError::Corrupt {
                        offset: start,
                        detail:
                            "sparse members are not supported; write the archive without --sparse"
                                .to_owned(),
                    });
                }
                _ => {
                    let size = pax_size.unwrap_or(size);
                    if size > MAX_SIZE {
                        return Err(TarError::Corrupt {
                            offset: start,
                            detail: format!("a member of {size} bytes"),
                        });
                    }
                    return Ok(Some(Member {
                        name: pax_name
                            .or(long_name)
                            .unwrap_or_else(|| header.path_bytes().into_owned()),
                        kind,
                        size,
                    }));
                }
            }
        }
    }

    /// The next header, or `None` at the end of the archive.
    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        let start = self.offset;
        let mut header = Header::new_old();
        let filled = self.fill(header.as_mut_bytes())?;
        if filled == 0 && start > 0 {
            return Ok(None);
        }
        if filled < BLOCK {
            return Err(TarError::Truncated {
                offset: self.offset,
                inside: if start == 0 {
                    "the first header"
                } else {
                    "a member's header"
                }
                .to_owned(),
            });
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        // The checksum counts its own eight bytes as spaces.
        let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
        let own: u32 = bytes[148..156].iter().map(|&byte| u32::from(byte)).sum();
        if header.cksum().ok() == Some(sum - own + 8 * u32::from(b' ')) {
            return Ok(Some(header));
        }
        Err(TarError::Corrupt {
            offset: start,
            detail: match bytes {
                [0x1F, 0x8B, ..] if start == 0 => "it is compressed with gzip; decompress it first",
                [0x28, 0xB5, 0x2F, 0xFD, ..] if start == 0 => {
                    "it is compressed with zstd; decompress it first"
                }
                _ if start == 0 => "no tar header (its checksum is wrong)",
                _ => "a member's header has a wrong checksum",
            }
            .to_owned(),
        })
    }

    fn read_extension(&mut self, start: u64, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(TarError::Corrupt {
                offset: start,
                detail: format!(
                    "an extended header of {size} bytes; at most {MAX_EXTENSION_BYTES} make sense"
                ),
            });
        }
        let member = Member {
            name: Vec::new(),
            kind: EntryType::XHeader,
            size,
        };
        self.read_data(&member, "an extended header")
    }

    /// The data of a member whose size is within limits, and past its padding. Holds no more than arrived.
    pub(super) fn read_data(&mut self, member: &Member, name: &str) -> Result<Vec<u8>, TarError> {
        let mut bytes = Vec::with_capacity(member.size.min(FIRST_ALLOCATION) as usize);
        let read = self
            .input
            .by_ref()
            .take(member.size)
            .read_to_end(&mut bytes);
        self.offset += bytes.len() as u64;
        read.map_err(|error| self.failed(error))?;
        if (bytes.len() as u64) < member.size {
            return Err(self.cut_inside(name));
        }
        self.discard(padding(member.size), name)?;
        Ok(bytes)
    }

    pub(super) fn skip_data(&mut self, member: &Member, name: &str) -> Result<(), TarError> {
        // Links and directories have no data, whatever their size field says.
        let has_data = !matches!(
            member.kind,
            EntryType::Link
                | EntryType::Symlink
                | EntryType::Directory
                | EntryType::Char
                | EntryType::Block
                | EntryType::Fifo
        );
        if has_data {
            self.discard(member.size.saturating_add(padding(member.size)), name)?;
        }
        Ok(())
    }

    fn discard(&mut self, count: u64, name: &str) -> Result<(), TarError> {
        let copied = io::copy(&mut self.input.by_ref().take(count), &mut io::sink());
        let copied = copied.map_err(|error| self.failed(error))?;
        self.offset += copied;
        if copied < count {
            return Err(self.cut_inside(name));
        }
        Ok(())
    }

    /// Reads until `buffer` is full or the input ends; returns the number of bytes read.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(filled)
    }

    fn failed(&self, error: io::Error) -> TarError {
        let offset = self.offset;
        match Fault::of(&error) {
            None => TarError::Io {
                offset,
                source: error,
            },
            Some(Fault::Cut) => TarError::Truncated {
                offset,
                inside: "its gzip stream".to_owned(),
            },
            Some(fault @ Fault::Damaged(_)) => TarError::Corrupt {
                offset,
                detail: fault.to_string(),
            },
            Some(&Fault::Bomb {
                compressed,
                expanded,
            }) => TarError::Bomb {
                compressed,
                expanded,
            },
        }
    }

    fn cut_inside(&self, name: &str) -> TarError {
        TarError::Truncated {
            offset: self.offset,
            inside: format!("{name:?}"),
        }
    }
}

/// Bytes that fill the last block of `size` bytes of data.
pub(super) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

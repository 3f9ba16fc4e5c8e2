//! A prompt cache as a file, so that the next process need not compute it again.
//!
//! ```text
//!   magic and version, 8 bytes
//!   fingerprint, 32 bytes: of the model file and of how it is computed
//!   longest, u64 | number of positions, u64
//!   positions, 37 bytes each: 0, id, zeros, or 1, row, hash of the picture; 2 instead of 0 for a
//!     token that was computed as an answer's
//!   keys and values, as the cache has them
//!   SHA-256 of all that
//! ```
//!
//! The content of a file is used only after its length and checksum are verified, and only with the
//! same model, program version and instruction set. The checksum detects accidents only: whoever can
//! write to the file can change answers, so it must be trusted like the program.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{CachedPosition, PictureKey, Position, PromptCache, no_sequence};
use crate::atomic_file::{self, BUFFER_BYTES};
use crate::error::{Error, Result};
use crate::files;
use crate::model::Model;
use crate::ops::RowRole;
use crate::session::Sequence;

/// The first bytes of every file of this kind.
const MAGIC: [u8; 6] = *b"owl2kv";
/// What follows them. Files of other versions are as if they were not there.
const VERSION: [u8; 2] = [0, 2];
/// Bytes before the positions.
const HEADER_BYTES: u64 = 8 + 32 + 8 + 8;
/// Bytes of a position.
const POSITION_BYTES: u64 = 37;
/// Bytes of the checksum.
const DIGEST_BYTES: u64 = 32;

/// What became of a file that was to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// So many positions were read.
    Positions(usize),
    /// There is no such file yet.
    Absent,
    /// The file holds nothing that can be used here, for this reason.
    Unusable(&'static str),
}

impl PromptCache {
    /// Writes what is held to `path`, in place of what is there: all of it or nothing.
    /// `fingerprint` says what the positions were computed with.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where it cannot be written.
    pub fn save(&self, path: &Path, fingerprint: &[u8; 32]) -> Result<()> {
        let Some(sequence) = &self.sequence else {
            return Ok(());
        };
        atomic_file::write(path, |out| self.write(sequence, fingerprint, out))
    }

    fn write(
        &self,
        sequence: &Sequence,
        fingerprint: &[u8; 32],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut out = Hashing::new(out);
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION)?;
        out.write_all(fingerprint)?;
        out.write_all(&(self.longest as u64).to_le_bytes())?;
        out.write_all(&(self.held.len() as u64).to_le_bytes())?;
        for position in &self.held {
            out.write_all(&position.to_bytes())?;
        }
        sequence.cache().save(&mut out)?;
        let digest = out.digest();
        out.inner.write_all(&digest)
    }

    /// Reads what [`PromptCache::save`] wrote with the same `fingerprint`, into a sequence with room for
    /// `room` positions. A file that cannot be used leaves the memory empty.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where `path` is a file of another kind, which should not
    /// be replaced, [`Kind::Io`](crate::Kind::Io) where it cannot be read, and as
    /// [`PromptCache::reserve`].
    pub fn restore(
        &mut self,
        model: &Model,
        room: usize,
        path: &Path,
        fingerprint: &[u8; 32],
    ) -> Result<Restored> {
        let Some(file) = files::open_if_there(path)? else {
            return Ok(Restored::Absent);
        };
        self.room = room;
        self.reserve_in(model, room, 0, 0)?;
        let sequence = self.sequence.as_mut().ok_or_else(no_sequence)?;
        match read(file, sequence, fingerprint) {
            Ok((held, longest)) => {
                self.held = held;
                self.longest = longest;
                Ok(Restored::Positions(self.held.len()))
            }
            Err(refusal) => {
                self.truncate(0);
                match refusal {
                    Refusal::Unusable(reason) => Ok(Restored::Unusable(reason)),
                    Refusal::Foreign => Err(Error::input(
                        "holds something else than the saved state of a conversation; name \
                         another file, or remove it",
                    )
                    .in_parameter("cache")
                    .in_file(path)),
                    Refusal::Unreadable(e) => Err(Error::io("cannot read", path, e)),
                }
            }
        }
    }
}

/// Why nothing was read.
enum Refusal {
    /// The file is of another kind.
    Foreign,
    /// The file is of this kind, but of no use here.
    Unusable(&'static str),
    /// The system refused.
    Unreadable(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Unreadable(error)
    }
}

const DAMAGED: Refusal = Refusal::Unusable("it is damaged");

/// Reads a file into the cache of `sequence`; what stands at its positions, and the longest that
/// the sequence has been.
fn read(
    file: File,
    sequence: &mut Sequence,
    fingerprint: &[u8; 32],
) -> Result<(Vec<CachedPosition>, usize), Refusal> {
    let n_bytes = file.metadata()?.len();
    let mut input = Hashing::new(BufReader::with_capacity(BUFFER_BYTES, file));
    check_beginning(&mut input, n_bytes, fingerprint)?;
    let longest = usize::try_from(u64::from_le_bytes(take(&mut input)?)).map_err(|_| DAMAGED)?;
    let n_positions = u64::from_le_bytes(take(&mut input)?);
    let cache = sequence.cache_mut();
    let wanted_bytes = n_positions
        .checked_mul(POSITION_BYTES + cache.position_bytes() as u64)
        .and_then(|n| n.checked_add(HEADER_BYTES + DIGEST_BYTES));
    if wanted_bytes != Some(n_bytes) {
        return Err(DAMAGED);
    }
    if n_positions > cache.capacity() as u64 {
        return Err(Refusal::Unusable("it is longer than the context"));
    }
    let mut held = Vec::with_capacity(n_positions as usize);
    for _ in 0..n_positions {
        held.push(CachedPosition::from_bytes(take(&mut input)?).ok_or(DAMAGED)?);
    }
    cache.restore(held.len(), &mut input)?;
    let digest = input.digest();
    match take(&mut input.inner)? == digest {
        true => Ok((held, longest)),
        false => Err(DAMAGED),
    }
}

/// Checks magic, version and fingerprint of a file of `n_bytes`, and that its header is whole.
fn check_beginning(
    input: &mut impl Read,
    n_bytes: u64,
    fingerprint: &[u8; 32],
) -> Result<(), Refusal> {
    if n_bytes < (MAGIC.len() + VERSION.len()) as u64 || take(input)? != MAGIC {
        return Err(Refusal::Foreign);
    }
    if take(input)? != VERSION {
        return Err(Refusal::Unusable("another version of owl2 wrote it"));
    }
    if n_bytes < HEADER_BYTES + DIGEST_BYTES {
        return Err(DAMAGED);
    }
    match take(input)? == *fingerprint {
        true => Ok(()),
        false => Err(Refusal::Unusable(
            "it belongs to another model or another way of computing",
        )),
    }
}

/// What the first byte of a position says.
mod kind {
    pub const TOKEN_OF_PROMPT: u8 = 0;
    pub const PICTURE: u8 = 1;
    pub const TOKEN_OF_ANSWER: u8 = 2;
}

impl CachedPosition {
    fn to_bytes(self) -> [u8; POSITION_BYTES as usize] {
        let mut bytes = [0; POSITION_BYTES as usize];
        let (kind, number) = match (self.position, self.role) {
            (Position::Token(id), RowRole::Prompt) => (kind::TOKEN_OF_PROMPT, id),
            (Position::Token(id), RowRole::Answer) => (kind::TOKEN_OF_ANSWER, id),
            (Position::Picture { key, row }, _) => {
                bytes[5..].copy_from_slice(&key.0);
                (kind::PICTURE, row)
            }
        };
        bytes[0] = kind;
        bytes[1..5].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; POSITION_BYTES as usize]) -> Option<Self> {
        let (head, key) = bytes.split_first_chunk::<5>()?;
        let [kind, number @ ..] = *head;
        let number = u32::from_le_bytes(number);
        let (position, role) = match kind {
            kind::TOKEN_OF_PROMPT => (Position::Token(number), RowRole::Prompt),
            kind::TOKEN_OF_ANSWER => (Position::Token(number), RowRole::Answer),
            kind::PICTURE => {
                let key = PictureKey(key.try_into().ok()?);
                (Position::Picture { key, row: number }, RowRole::Prompt)
            }
            _ => return None,
        };
        Some(CachedPosition { position, role })
    }
}

fn take<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Hashing {
            inner,
            hash: Sha256::new(),
        }
    }

    fn digest(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
}

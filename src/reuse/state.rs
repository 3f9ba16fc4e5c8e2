//! A memory as a file, so that the next process need not compute it again.
//!
//! ```text
//!   magic and version, 8 bytes
//!   fingerprint, 32 bytes: of the model file and of how it is computed
//!   longest, u64 | number of positions, u64
//!   positions, 37 bytes each: 0, id, zeros, or 1, row, hash of the picture
//!   keys and values, as the cache has them
//!   SHA-256 of all that
//! ```
//!
//! Nothing of a file is believed before its length and checksum are right, and nothing of a file
//! of another model, program version or instruction set is used.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Memory, PictureKey, Position};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::session::Session;

/// The first bytes of every file of this kind.
const MAGIC: [u8; 6] = *b"owl2kv";
/// What follows them. Files of other versions are as if they were not there.
const VERSION: [u8; 2] = [0, 1];
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

impl<'m> Memory<'m> {
    /// Writes what is held to `path`, in place of what is there: all of it or nothing.
    /// `fingerprint` says what the positions were computed with.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where it cannot be written.
    pub fn save(&self, path: &Path, fingerprint: &[u8; 32]) -> Result<()> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let in_file = |e| Error::io("cannot write", path, e);
        let file = tempfile::Builder::new()
            .prefix(".owl2-")
            .suffix(".part")
            .tempfile_in(directory)
            .map_err(in_file)?;
        self.write(session, fingerprint, &file).map_err(in_file)?;
        file.persist(path).map_err(|e| in_file(e.error))?;
        Ok(())
    }

    fn write(&self, session: &Session, fingerprint: &[u8; 32], file: impl Write) -> io::Result<()> {
        let mut out = Hashing::new(BufWriter::with_capacity(1 << 20, file));
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION)?;
        out.write_all(fingerprint)?;
        out.write_all(&(self.longest as u64).to_le_bytes())?;
        out.write_all(&(self.held.len() as u64).to_le_bytes())?;
        for position in &self.held {
            out.write_all(&position.to_bytes())?;
        }
        session.cache().save(&mut out)?;
        let digest = out.digest();
        out.inner.write_all(&digest)?;
        out.inner.flush()
    }

    /// Reads what [`Memory::save`] wrote with the same `fingerprint`, into a session with room for
    /// `room` positions. A file that cannot be used leaves the memory empty.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where `path` is a file of another kind, which should not
    /// be replaced, [`Kind::Io`](crate::Kind::Io) where it cannot be read, and as
    /// [`Memory::reserve`].
    pub fn restore(
        &mut self,
        model: &'m Model,
        room: usize,
        path: &Path,
        fingerprint: &[u8; 32],
    ) -> Result<Restored> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Restored::Absent),
            Err(e) => return Err(Error::io("cannot open", path, e)),
        };
        self.room = room;
        self.reserve(model, room)?;
        self.truncate(0);
        let restored = self.read(file, path, fingerprint);
        if !matches!(restored, Ok(Restored::Positions(_))) {
            self.truncate(0);
        }
        restored
    }

    fn read(&mut self, file: File, path: &Path, fingerprint: &[u8; 32]) -> Result<Restored> {
        let failed = |e| Error::io("cannot read", path, e);
        let n_bytes = file.metadata().map_err(failed)?.len();
        let mut input = Hashing::new(BufReader::with_capacity(1 << 20, file));
        let mut start = [0; 8];
        let is_ours =
            n_bytes >= 8 && input.read_exact(&mut start).is_ok() && start.starts_with(&MAGIC);
        if !is_ours {
            return Err(Error::input(
                "holds something else than the saved state of a conversation; name another file, \
                 or remove it",
            )
            .in_flag("--cache")
            .in_file(path));
        }
        if start[MAGIC.len()..] != VERSION {
            return Ok(Restored::Unusable("another version of owl2 wrote it"));
        }
        if n_bytes < HEADER_BYTES + DIGEST_BYTES {
            return Ok(Restored::Unusable(DAMAGED));
        }
        if read::<32>(&mut input).map_err(failed)? != *fingerprint {
            return Ok(Restored::Unusable(
                "it belongs to another model or to another way of computing",
            ));
        }
        let longest = u64::from_le_bytes(read(&mut input).map_err(failed)?);
        let n_positions = u64::from_le_bytes(read(&mut input).map_err(failed)?);
        self.read_positions(&mut input, n_bytes, n_positions, longest)
            .map_err(failed)
    }

    /// Reads what comes after the header of a file of `n_bytes`.
    fn read_positions(
        &mut self,
        input: &mut Hashing<BufReader<File>>,
        n_bytes: u64,
        n_positions: u64,
        longest: u64,
    ) -> io::Result<Restored> {
        let Some(session) = &mut self.session else {
            return Ok(Restored::Positions(0));
        };
        let cache = session.cache_mut();
        let wanted_bytes = n_positions
            .checked_mul(POSITION_BYTES + cache.position_bytes() as u64)
            .and_then(|n| n.checked_add(HEADER_BYTES + DIGEST_BYTES));
        if wanted_bytes != Some(n_bytes) {
            return Ok(Restored::Unusable(DAMAGED));
        }
        if n_positions > cache.capacity() as u64 {
            return Ok(Restored::Unusable("it is longer than the context"));
        }
        let mut held = Vec::with_capacity(n_positions as usize);
        for _ in 0..n_positions {
            let Some(position) = Position::from_bytes(read(input)?) else {
                return Ok(Restored::Unusable(DAMAGED));
            };
            held.push(position);
        }
        cache.restore(held.len(), input)?;
        let digest = input.digest();
        if read::<32>(&mut input.inner)? != digest {
            return Ok(Restored::Unusable(DAMAGED));
        }
        self.held = held;
        self.longest = longest as usize;
        Ok(Restored::Positions(self.held.len()))
    }
}

const DAMAGED: &str = "it is damaged";

impl Position {
    fn to_bytes(self) -> [u8; POSITION_BYTES as usize] {
        let mut bytes = [0; POSITION_BYTES as usize];
        let number = match self {
            Position::Token(id) => id,
            Position::Picture { key, row } => {
                bytes[0] = 1;
                bytes[5..].copy_from_slice(&key.0);
                row
            }
        };
        bytes[1..5].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; POSITION_BYTES as usize]) -> Option<Self> {
        let (head, key) = bytes.split_first_chunk::<5>()?;
        let [kind, number @ ..] = *head;
        let number = u32::from_le_bytes(number);
        match kind {
            0 => Some(Position::Token(number)),
            1 => Some(Position::Picture {
                key: PictureKey(key.try_into().ok()?),
                row: number,
            }),
            _ => None,
        }
    }
}

fn read<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
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

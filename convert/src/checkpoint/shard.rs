//! One weight file, read at explicit offsets.
//!
//! Not mapped: pages of a map count as resident memory, and a checkpoint is far larger than what
//! the converter may use.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use owl2::gguf::lfs;
use owl2::{Error, Result, files};

/// An open weight file. Reads from several threads run at once.
#[derive(Debug)]
pub(crate) struct ShardFile {
    path: PathBuf,
    file: File,
    n_bytes: u64,
}

impl ShardFile {
    /// Opens the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>> {
        let file = files::open(path)?;
        let metadata = file
            .metadata()
            .map_err(|e| Error::io("cannot examine", path, e))?;
        let shard = ShardFile {
            path: path.to_owned(),
            file,
            n_bytes: metadata.len(),
        };
        let mut start = [0; lfs::POINTER.len()];
        if shard.n_bytes >= start.len() as u64 {
            shard.read_at(&mut start, 0)?;
        }
        lfs::check(&start).map_err(|e| e.in_file(path))?;
        Ok(Arc::new(shard))
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its size when it was opened.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Fills `out` from byte `offset` on.
    pub(crate) fn read_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        let read = read_exact_at(&self.file, out, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), "the file ends too early"),
            _ => e,
        });
        read.map_err(|e| Error::io("cannot read", &self.path, e))
    }

    /// A second handle, for readers that want a stream.
    pub(crate) fn stream(&self) -> Result<File> {
        self.file
            .try_clone()
            .map_err(|e| Error::io("cannot read", &self.path, e))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !out.is_empty() {
        match file.seek_read(out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                out = &mut out[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

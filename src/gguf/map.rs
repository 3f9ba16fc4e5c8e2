//! The bytes of a model file, memory-mapped: the one place outside `kernels` with `unsafe` code.
//!
//! If another process truncates a mapped file, an access raises SIGBUS. If another process overwrites
//! it, the bytes change. No check at open time can prevent this. Writers of this project therefore
//! replace files by renaming, which leaves existing maps intact. [`Bytes::check_unchanged`] detects
//! other changes before each request.
//!
//! On Linux the file is read in huge pages, if the system allows it (`MADV_HUGEPAGE`). With small pages
//! the first token about a picture came 0.2 to 0.5 s later with a file of 4.8 GiB. No other advice is
//! given: with less memory than the file, `MADV_SEQUENTIAL`, `MADV_RANDOM` and `MADV_WILLNEED` made
//! answers 1.5 to over 4 times slower.
#![allow(unsafe_code)]

use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::files;

/// Bytes at the beginning of a file that are looked at again to see whether it has changed.
const CHECKED_BYTES: usize = 1 << 16;

/// Immutable bytes of a whole model file, aligned to at least 8 bytes.
#[derive(Debug)]
pub struct Bytes(Storage);

#[derive(Debug)]
enum Storage {
    Mapped {
        map: memmap2::Mmap,
        origin: Origin,
    },
    /// Part of the program.
    Static(&'static [u8]),
    /// Words, so that tensors at aligned offsets can be viewed as floats.
    Heap {
        words: Vec<Word>,
        len: usize,
    },
}

/// Eight bytes at an address that is a multiple of 8, which that of a `u64` is not everywhere.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(8))]
struct Word([u8; 8]);

/// The file that is mapped, and how it was then.
#[derive(Debug)]
struct Origin {
    file: File,
    path: PathBuf,
    len: u64,
    /// Where the system tells.
    modified: Option<SystemTime>,
    /// Of the first [`CHECKED_BYTES`].
    hash: u64,
}

impl Origin {
    fn is_unchanged(&self, metadata: &Metadata) -> bool {
        metadata.len() == self.len && metadata.modified().ok() == self.modified
    }
}

impl Bytes {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where it cannot be opened or mapped,
    /// [`Kind::Model`](crate::Kind::Model) where it is no regular file or empty,
    /// [`Kind::Capacity`](crate::Kind::Capacity) where there is no room for it in the address
    /// space.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::model(format!(
                "is a directory, not a GGUF file; pack a checkpoint with `owl2-convert {} -o model.gguf`",
                path.display()
            ))
            .in_file(path));
        }
        let file = files::open(path)?;
        let metadata = file
            .metadata()
            .map_err(|e| Error::io("cannot read its size", path, e))?;
        if metadata.len() == 0 {
            return Err(Error::model("is empty").in_file(path));
        }
        if isize::try_from(metadata.len()).is_err() {
            return Err(Error::capacity(format!(
                "has {} bytes, more than a program can address on this machine; run one that was \
                 built for 64 bits",
                metadata.len()
            ))
            .in_file(path));
        }
        // SAFETY: the map is private to this value and read-only. Its bytes can only change if
        // another process writes to the file in place; the module header says what follows.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| match e.kind() {
            io::ErrorKind::OutOfMemory => Error::capacity(format!(
                "its {} bytes do not fit the address space that this process may have (ulimit -v)",
                metadata.len()
            ))
            .in_file(path)
            .caused_by(e),
            _ => Error::io("cannot map", path, e),
        })?;
        #[cfg(target_os = "linux")]
        {
            // A wish: a system without huge pages for files refuses it, and reads as it always did.
            let _refused = map.advise(memmap2::Advice::HugePage).err();
        }
        let origin = Origin {
            file,
            path: path.to_owned(),
            len: metadata.len(),
            modified: metadata.modified().ok(),
            hash: hash_of_beginning(&map),
        };
        Ok(Bytes(Storage::Mapped { map, origin }))
    }

    /// Fails where the file is no longer as it was when it was mapped. That a file of the same name
    /// took its place does no harm.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model), or [`Kind::Io`](crate::Kind::Io) where the system does
    /// not tell.
    pub fn check_unchanged(&self) -> Result<()> {
        let Storage::Mapped { map, origin } = &self.0 else {
            return Ok(());
        };
        let metadata = origin.file.metadata();
        let metadata = metadata.map_err(|e| Error::io("cannot examine", &origin.path, e))?;
        // What is beyond the end of a shorter file must not be touched.
        if origin.is_unchanged(&metadata) && hash_of_beginning(map) == origin.hash {
            return Ok(());
        }
        Err(Error::model(
            "was changed after it had been opened; start the program again, and replace model \
             files by renaming, not by writing over them",
        )
        .in_file(&origin.path))
    }

    /// The file that is mapped, if one is.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Storage::Mapped { origin, .. } => Some(&origin.path),
            Storage::Static(_) | Storage::Heap { .. } => None,
        }
    }

    /// Bytes that are part of the program; copied where they are not aligned to 8 bytes.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        match bytes.as_ptr().cast::<Word>().is_aligned() {
            true => Bytes(Storage::Static(bytes)),
            false => Self::from_slice(bytes),
        }
    }

    /// Bytes that are not in a file, copied to aligned memory.
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut words = vec![Word::zeroed(); bytes.len().div_ceil(size_of::<Word>())];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Bytes(Storage::Heap {
            words,
            len: bytes.len(),
        })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Storage::Mapped { map, .. } => map,
            Storage::Static(bytes) => bytes,
            Storage::Heap { words, len } => &bytemuck::cast_slice(words)[..*len],
        }
    }
}

fn hash_of_beginning(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes[..bytes.len().min(CHECKED_BYTES)]);
    hasher.finish()
}

/// The bytes of one tensor, kept alive together with the map they lie in.
#[derive(Clone, Debug)]
pub struct TensorBytes {
    bytes: Arc<Bytes>,
    range: Range<usize>,
}

impl TensorBytes {
    /// A view of `range`, which must lie inside `bytes`.
    pub(crate) fn new(bytes: Arc<Bytes>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= bytes.len());
        TensorBytes { bytes, range }
    }
}

impl From<Bytes> for TensorBytes {
    /// A tensor that is all there is.
    fn from(bytes: Bytes) -> Self {
        let range = 0..bytes.len();
        TensorBytes::new(Arc::new(bytes), range)
    }
}

impl Deref for TensorBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_bytes_keep_length_and_alignment() {
        for len in [0usize, 1, 7, 8, 9, 4096] {
            let source: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let bytes = Bytes::from_slice(&source);
            assert_eq!(&*bytes, source.as_slice());
            assert_eq!(bytes.as_ptr() as usize % 8, 0);
        }
    }

    #[test]
    #[cfg(target_pointer_width = "32")]
    fn a_file_beyond_all_addresses_is_refused_with_its_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for len in [1 << 31, 1 << 32, (1 << 32) + 64] {
            // Of a sparse file nothing is written.
            file.as_file().set_len(len).unwrap();
            let error = Bytes::open(file.path()).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Capacity);
            assert!(error.to_string().contains(&len.to_string()), "{error}");
        }
    }

    #[test]
    fn a_directory_is_refused_with_the_way_out() {
        let error = Bytes::open(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_err();
        assert!(error.to_string().contains("owl2-convert"));
    }

    #[test]
    fn a_file_that_was_written_over_is_noticed() {
        use std::io::{Seek, Write};
        use std::time::Duration;

        type Change<'a> = &'a dyn Fn(&mut File, SystemTime);

        let check_after = |change: Change| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(b"content").unwrap();
            let bytes = Bytes::open(file.path()).unwrap();
            let modified = file.as_file().metadata().unwrap().modified().unwrap();
            change(file.as_file_mut(), modified);
            bytes.check_unchanged()
        };
        check_after(&|_, _| {}).unwrap();
        let changes: [(&str, Change); 3] = [
            ("another length", &|file, modified| {
                file.set_len(100).unwrap();
                file.set_modified(modified).unwrap();
            }),
            ("other bytes", &|file, modified| {
                file.rewind().unwrap();
                file.write_all(b"CONTENT").unwrap();
                file.set_modified(modified).unwrap();
            }),
            ("another time", &|file, modified| {
                file.set_modified(modified + Duration::from_secs(1))
                    .unwrap();
            }),
        ];
        for (what, change) in changes {
            let error = check_after(change).expect_err(what).to_string();
            assert!(error.contains("was changed"), "{what}: {error}");
        }
        Bytes::from_slice(b"content").check_unchanged().unwrap();
    }
}

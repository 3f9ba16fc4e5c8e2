//! Files that are there whole or not at all: written under another name first, then renamed.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Bytes that are gathered before they are written.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;

/// A temporary file in the directory of `target`, so that it can take that name. It is removed
/// unless it does.
pub(crate) fn temporary_beside(target: &Path) -> Result<NamedTempFile> {
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    tempfile::Builder::new()
        .prefix(".owl2-")
        .suffix(".part")
        .tempfile_in(directory)
        .map_err(|e| Error::io("cannot create a file in this directory", directory, e))
}

/// Puts a file that `fill` writes in the place of `target`.
pub(crate) fn write(
    target: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let in_target = |e| Error::io("cannot write", target, e);
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, temporary_beside(target)?);
    fill(&mut out).map_err(in_target)?;
    let file = out.into_inner().map_err(|e| in_target(e.into_error()))?;
    file.persist(target).map_err(|e| in_target(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_fails_leaves_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("file");
        write(&target, |out| out.write_all(b"old")).unwrap();
        let full = write(&target, |out| {
            out.write_all(b"new")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        let error = full.unwrap_err().to_string();
        assert!(error.contains("file: cannot write"), "{error}");
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        write(&target, |out| out.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

//! Files that are there whole or not at all: written under another name first, then renamed.
//!
//! A process that is killed outright cannot remove its unfinished file; the next one that writes
//! into the same directory does.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Bytes that are gathered before they are written.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;

/// What the names of unfinished files begin and end with.
const PREFIX: &str = ".owl2-";
const SUFFIX: &str = ".part";
/// An unfinished file that nobody has locked may be one that was just made, unless it is older.
const MIN_STALE_AGE: Duration = Duration::from_secs(60);

/// A temporary file in the directory of `target`, so that it can take that name. It is removed
/// unless it does, and locked until then.
pub(crate) fn temporary_beside(target: &Path) -> Result<NamedTempFile> {
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |e| Error::io("cannot create a file in this directory", directory, e);
    remove_stale(directory);
    let file = tempfile::Builder::new()
        .prefix(PREFIX)
        .suffix(SUFFIX)
        .tempfile_in(directory)
        .map_err(failed)?;
    match file.as_file().lock() {
        // Without locks, others keep their hands off it for the time that a stale file must have.
        Err(e) if e.kind() != io::ErrorKind::Unsupported => Err(failed(e)),
        _ => Ok(file),
    }
}

/// Removes what killed processes left unfinished. A directory may be written to but not listed, a
/// file belong to somebody else, or another process be quicker: then it stays or is gone already,
/// which is no reason not to write.
fn remove_stale(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if is_ours && is_stale(&entry.path()) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Whether nobody writes to an unfinished file any more. One that cannot be examined is somebody
/// else's.
fn is_stale(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age > MIN_STALE_AGE) && file.try_lock().is_ok()
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
    fn what_a_killed_process_left_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, age: u64| {
            let path = directory.path().join(name);
            let file = File::create(&path).unwrap();
            let age = Duration::from_secs(age);
            let modified = std::time::SystemTime::now() - age;
            file.set_modified(modified).unwrap();
            (file, path)
        };
        let (stale, fresh) = (make(".owl2-a.part", 3600), make(".owl2-b.part", 0));
        let (held, other) = (make(".owl2-c.part", 3600), make(".owl2-d", 3600));
        held.0.lock().unwrap();
        write(&directory.path().join("file"), |out| out.write_all(b"x")).unwrap();
        assert!(!stale.1.exists());
        assert!(fresh.1.exists() && held.1.exists() && other.1.exists());
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_removed_does_not_keep_others_from_writing() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let directory = tempfile::tempdir().unwrap();
        // To be removed like a file, but it is none.
        let old = directory.path().join(".owl2-a.part");
        fs::create_dir(&old).unwrap();
        let an_hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        File::open(&old).unwrap().set_modified(an_hour_ago).unwrap();
        assert!(is_stale(&old));
        symlink("nowhere", directory.path().join(".owl2-b.part")).unwrap();
        let hidden = directory.path().join("hidden");
        fs::create_dir(&hidden).unwrap();
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o300)).unwrap();
        for target in [directory.path().join("file"), hidden.join("file")] {
            write(&target, |out| out.write_all(b"x")).unwrap();
            assert_eq!(fs::read(target).unwrap(), b"x");
        }
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).unwrap();
    }

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

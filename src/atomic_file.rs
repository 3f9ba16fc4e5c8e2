//! Files that are replaced as a whole: written under another name first, then renamed.
//!
//! A process that is killed cannot remove its unfinished file; the next one that writes into the same
//! directory removes it. If the target is a link, the file that it points to is replaced. Anything
//! that is not an ordinary file is refused.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use tempfile::NamedTempFile;

#[cfg(all(feature = "cli", feature = "serve"))]
use crate::error::Kind;
use crate::error::{Error, Result};
use crate::files;

/// Bytes that are gathered before they are written.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;

/// What the names of unfinished files begin and end with.
const PREFIX: &str = ".owl2-";
const SUFFIX: &str = ".part";
/// An unfinished file that nobody has locked may be one that was just made, unless it is older.
const MIN_STALE_AGE: Duration = Duration::from_secs(60);

/// A temporary file in the directory of `target`, so that it can take that name, which should come
/// from [`files::place`]. It is removed unless it does, and locked until then.
pub(crate) fn temporary_beside(target: &Path) -> Result<NamedTempFile> {
    remove_stale(directory(target));
    temporary_in(directory(target), tempfile::Builder::new())
}

fn temporary_in(directory: &Path, mut builder: tempfile::Builder) -> Result<NamedTempFile> {
    let failed = |e| Error::io("cannot create a file in this directory", directory, e);
    let builder = builder.prefix(PREFIX).suffix(SUFFIX);
    let file = builder.tempfile_in(directory).map_err(failed)?;
    match file.as_file().lock() {
        // Without locks, others keep their hands off it for the time that a stale file must have.
        Err(e) if e.kind() != io::ErrorKind::Unsupported => Err(failed(e)),
        _ => Ok(file),
    }
}

/// The directory that a file is in.
pub(crate) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Removes what killed processes left unfinished. A directory may be written to but not listed, a
/// file belong to somebody else, or another process be quicker: then it stays or is gone already,
/// which is no reason not to write.
pub(crate) fn remove_stale(directory: &Path) {
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
    let is_file = path.symlink_metadata().is_ok_and(|data| data.is_file());
    let Ok(file) = files::open(path) else {
        return false;
    };
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|time| time.elapsed().ok());
    is_file && age.is_some_and(|age| age > MIN_STALE_AGE) && file.try_lock().is_ok()
}

/// Puts a file that `fill` writes in the place of `target`: what was there before, or all of the new
/// one, even if the power fails. Who may read the old file may read the new one; a new one is its
/// owner's.
pub(crate) fn write(
    target: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let in_target = |e| Error::io("cannot write", target, e);
    let place = files::place(target)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, temporary_beside(&place)?);
    fill(&mut out).map_err(in_target)?;
    let file = out.into_inner().map_err(|e| in_target(e.into_error()))?;
    if let Ok(old) = fs::metadata(&place) {
        let permissions = file.as_file().set_permissions(old.permissions());
        permissions.map_err(in_target)?;
    }
    file.as_file().sync_all().map_err(in_target)?;
    file.persist(&place).map_err(|e| in_target(e.error))?;
    sync_directory(&place);
    Ok(())
}

/// Makes a new file of `bytes`, all of it or none, which is read by whom the process lets read its
/// files. One of many in a directory, where [`remove_stale`] is called once.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io), also where something of that name is there already.
#[cfg(all(feature = "cli", feature = "serve"))]
pub(crate) fn write_new(target: &Path, bytes: &[u8]) -> Result<()> {
    let in_target = |e| Error::io("cannot write", target, e);
    #[allow(unused_mut)]
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut file = temporary_in(directory(target), builder)?;
    file.write_all(bytes).map_err(in_target)?;
    file.as_file().sync_all().map_err(in_target)?;
    file.persist_noclobber(target)
        .map_err(|e| in_target(e.error))?;
    sync_directory(target);
    Ok(())
}

/// Puts `bytes` in the place of a file that is there, unless it is not what it was: `is_unchanged` is
/// asked at the last moment. Otherwise as [`write_new`].
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io), also where it has changed.
#[cfg(all(feature = "cli", feature = "serve"))]
pub(crate) fn replace(
    target: &Path,
    bytes: &[u8],
    is_unchanged: &mut dyn FnMut() -> Result<bool>,
) -> Result<()> {
    let in_target = |e| Error::io("cannot write", target, e);
    let place = files::place(target)?;
    let mut file = temporary_in(directory(&place), tempfile::Builder::new())?;
    file.write_all(bytes).map_err(in_target)?;
    let permissions = fs::metadata(&place).map_err(in_target)?.permissions();
    file.as_file()
        .set_permissions(permissions)
        .map_err(in_target)?;
    file.as_file().sync_all().map_err(in_target)?;
    if !is_unchanged()? {
        let message = "was changed by another program meanwhile, and left as that made it";
        return Err(Error::new(Kind::Io, message).in_file(target));
    }
    file.persist(&place).map_err(|e| in_target(e.error))?;
    sync_directory(&place);
    Ok(())
}

/// Makes a new name last. Some file systems cannot, and the file is whole under either name.
pub(crate) fn sync_directory(path: &Path) {
    if cfg!(unix)
        && let Ok(directory) = File::open(directory(path))
    {
        let _ = directory.sync_all();
    }
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
        let path = |name: &str| directory.path().join(name);
        let an_hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        fs::create_dir(path(".owl2-a.part")).unwrap();
        fs::write(path("other"), "x").unwrap();
        for name in [".owl2-a.part", "other"] {
            File::open(path(name))
                .unwrap()
                .set_modified(an_hour_ago)
                .unwrap();
        }
        symlink("nowhere", path(".owl2-b.part")).unwrap();
        symlink("other", path(".owl2-c.part")).unwrap();
        // Opening it would wait for ever.
        nix::unistd::mkfifo(&path(".owl2-d.part"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(
            ['a', 'b', 'c', 'd']
                .iter()
                .all(|c| !is_stale(&path(&format!(".owl2-{c}.part"))))
        );
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

    #[cfg(unix)]
    #[test]
    fn links_stay_and_lead_to_the_new_file_which_who_read_the_old_one_may_read() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mode = |name| fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
        fs::create_dir(path("folder")).unwrap();
        symlink("folder/file", path("link")).unwrap();
        write(&path("link"), |out| out.write_all(b"first")).unwrap();
        assert_eq!(mode("folder/file"), 0o600);
        let readable = fs::Permissions::from_mode(0o644);
        fs::set_permissions(path("folder/file"), readable).unwrap();
        write(&path("link"), |out| out.write_all(b"second")).unwrap();
        assert!(path("link").is_symlink());
        assert_eq!(fs::read(path("folder/file")).unwrap(), b"second");
        assert_eq!(mode("folder/file"), 0o644);
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = write(&path("pipe"), |out| out.write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("is a named pipe"), "{error}");
    }
}

//! Reads files from untrusted places without blocking and without reading more than a bound.
//!
//! A name may be a pipe without a writer, an endless device, or a device that acts when it is opened.
//! [`open`] accepts only ordinary files. [`open_argument`] also accepts descriptors from a shell, as in
//! `<(command)`.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// The byte order mark that some editors put before a text in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Opens an ordinary file, or what a link to one points to.
///
/// # Errors
/// [`Kind::Io`] where it cannot be opened, or is a directory, pipe, socket or device.
pub fn open(path: &Path) -> Result<File> {
    // Opening is enough to make some devices do something, so this looks before.
    let metadata = fs::metadata(path).map_err(|e| Error::io("cannot open", path, e))?;
    open_as(path, &metadata)
}

/// [`open`], with `None` where there is nothing of that name.
///
/// # Errors
/// As [`open`].
pub fn open_if_there(path: &Path) -> Result<Option<File>> {
    match fs::metadata(path) {
        Ok(metadata) => open_as(path, &metadata).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("cannot open", path, e)),
    }
}

/// Opens what was an ordinary file when its `metadata` were read, or fails for anything else.
fn open_as(path: &Path, metadata: &Metadata) -> Result<File> {
    let cannot_open = |e| Error::io("cannot open", path, e);
    check_ordinary(path, metadata)?;
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        // A pipe may have taken the name meanwhile; opening it must not wait for a writer.
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NONBLOCK);
    }
    let file = options.open(path).map_err(cannot_open)?;
    check_ordinary(path, &file.metadata().map_err(cannot_open)?)?;
    Ok(file)
}

/// Opens what a person names on the command line: an ordinary file, or a descriptor that the
/// process was started with.
///
/// # Errors
/// As [`open`].
pub fn open_argument(path: &Path) -> Result<File> {
    match is_descriptor(path) {
        true => File::open(path).map_err(|e| Error::io("cannot open", path, e)),
        false => open(path),
    }
}

/// The path in a `file://` address, where `%20` stands for a space. The host `localhost` may precede
/// it. `None` for anything else.
#[cfg(any(feature = "cli", feature = "serve"))]
pub(crate) fn of_address(address: &str) -> Option<PathBuf> {
    let address = address.strip_prefix("file://")?;
    let address = address.strip_prefix("localhost").unwrap_or(address);
    let mut bytes = Vec::new();
    let mut rest = address.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(byte));
        rest = &after[if code.is_some() { 2 } else { 0 }..];
    }
    Some(String::from_utf8_lossy(&bytes).into_owned().into())
}

/// Whether a path stands for an open descriptor of this process.
pub(crate) fn is_descriptor(path: &Path) -> bool {
    let folders = ["/dev/fd", "/proc/self/fd"];
    path == Path::new("/dev/stdin") || folders.iter().any(|folder| path.starts_with(folder))
}

fn check_ordinary(path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let what = what_it_is(metadata);
    Err(Error::new(Kind::Io, format!("is {what}, expected an ordinary file")).in_file(path))
}

/// What something is that is no ordinary file.
pub(crate) fn what_it_is(metadata: &Metadata) -> &'static str {
    let file_type = metadata.file_type();
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if file_type.is_fifo() {
            return "a named pipe";
        }
        if file_type.is_socket() {
            return "a socket";
        }
        if file_type.is_char_device() || file_type.is_block_device() {
            return "a device";
        }
    }
    match file_type.is_dir() {
        true => "a directory",
        false => "no file",
    }
}

/// Where a file is to be put so that it replaces `target`: `target`, or what a link there points to.
///
/// # Errors
/// [`Kind::Io`] where that is something else than an ordinary file, which is not to be replaced.
pub(crate) fn place(target: &Path) -> Result<PathBuf> {
    /// As many as Linux follows.
    const MAX_LINKS: usize = 40;
    let cannot_examine = |e| Error::io("cannot examine", target, e);
    let mut place = target.to_owned();
    for _ in 0..=MAX_LINKS {
        match fs::symlink_metadata(&place) {
            Ok(metadata) if metadata.is_symlink() => {
                let to = fs::read_link(&place).map_err(cannot_examine)?;
                place = place.parent().unwrap_or(Path::new("")).join(to);
            }
            Ok(metadata) if metadata.is_file() => return Ok(place),
            Ok(metadata) => {
                let what = what_it_is(&metadata);
                let message = format!("is {what}, which no file is to replace");
                return Err(Error::new(Kind::Io, message).in_file(&place));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(place),
            Err(e) => return Err(cannot_examine(e)),
        }
    }
    Err(Error::new(Kind::Io, "is a link that leads nowhere").in_file(target))
}

/// All bytes of `input`, or `None` where there are more than `most`. `name` is for errors.
///
/// # Errors
/// [`Kind::Io`] where the system refuses.
pub fn read_at_most(input: impl Read, name: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    input
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("cannot read", name, e))?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// The text that bytes are, without a byte order mark. `name` is for errors.
///
/// # Errors
/// [`Kind::Input`] where it is not UTF-8.
pub fn text(bytes: Vec<u8>, name: &Path) -> Result<String> {
    let is_utf_16 = matches!(bytes.as_slice(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let message = match is_utf_16 {
            true => "is UTF-16; save it as UTF-8".to_owned(),
            false => format!("holds no UTF-8 text: {}", e.utf8_error()),
        };
        Error::input(message).in_file(name).caused_by(e)
    })?;
    let n_marked = text.len() - without_mark(&text).len();
    text.drain(..n_marked);
    Ok(text)
}

/// A text without a byte order mark before it.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ends_at_the_bound() {
        let name = Path::new("x");
        let read = |most| read_at_most(&b"abc"[..], name, most).unwrap();
        assert_eq!(read(2), None);
        assert_eq!(read(3).as_deref(), Some(&b"abc"[..]));
        assert_eq!(read(u64::MAX).as_deref(), Some(&b"abc"[..]));
        assert_eq!(read_at_most(io::repeat(0), name, 1000).unwrap(), None);
    }

    #[test]
    fn texts_lose_their_mark_and_say_what_they_are() {
        let text = |bytes: &[u8]| text(bytes.to_vec(), Path::new("x.txt"));
        assert_eq!(text("\u{feff}a\u{feff}".as_bytes()).unwrap(), "a\u{feff}");
        assert_eq!(text(b"").unwrap(), "");
        for (bytes, wanted) in [
            (&b"\xff\xfea\0"[..], "x.txt: is UTF-16"),
            (b"\xfe\xff\0a", "UTF-16"),
            (b"a\xffb", "no UTF-8 text"),
        ] {
            let message = text(bytes).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn whatever_is_no_file_is_refused_without_waiting() {
        use std::os::unix::fs::symlink;
        use std::os::unix::net::UnixListener;

        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        symlink(path("pipe"), path("link")).unwrap();
        symlink("/dev/zero", path("zero")).unwrap();
        symlink("loop", path("loop")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        for (name, what) in [
            ("pipe", "a named pipe"),
            ("link", "a named pipe"),
            ("socket", "a socket"),
            ("zero", "a device"),
            ("folder", "a directory"),
        ] {
            for error in [
                open(&path(name)).unwrap_err(),
                open_argument(&path(name)).unwrap_err(),
                place(&path(name)).unwrap_err(),
            ] {
                assert_eq!(error.kind(), Kind::Io, "{name}");
                assert!(error.to_string().contains(&format!("is {what}")), "{error}");
            }
        }
        assert!(open(&path("loop")).is_err() && place(&path("loop")).is_err());
        // The system's own words, which other programs use too.
        let words = fs::metadata(path("missing")).unwrap_err().to_string();
        let message = open(&path("missing")).unwrap_err().to_string();
        assert!(
            message.ends_with(&format!("missing: cannot open: {words}")),
            "{message}"
        );
        assert!(open_if_there(&path("missing")).unwrap().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_to_what_they_point_to_even_if_it_is_not_there_yet() {
        use std::os::unix::fs::symlink;

        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("folder")).unwrap();
        symlink("folder/second", path("first")).unwrap();
        symlink("third", path("folder/second")).unwrap();
        assert_eq!(place(&path("first")).unwrap(), path("folder/third"));
        fs::write(path("folder/third"), "x").unwrap();
        assert_eq!(place(&path("first")).unwrap(), path("folder/third"));
        assert_eq!(place(&path("plain")).unwrap(), path("plain"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn descriptors_are_opened_where_a_person_names_them() {
        use std::io::Write;
        use std::os::fd::AsRawFd;

        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"from a shell").unwrap();
        drop(writer);
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        assert!(open(&path).is_err());
        let bytes = read_at_most(open_argument(&path).unwrap(), &path, 100).unwrap();
        assert_eq!(bytes.as_deref(), Some(&b"from a shell"[..]));
    }
}

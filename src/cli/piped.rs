//! A picture on standard input without `-`, as in `cat cat.png | owl2 "What is it?"`.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;

use crate::cli::setup::STANDARD_INPUT_NAME;
use crate::error::{Error, Result};
use crate::image::{self, FileContent, HEAD, Limits};

/// The picture on standard input, if one is there.
///
/// A file there is looked at without moving its position, since a loop of the shell may read its list
/// from it. A pipe cannot be looked at in this way, so text in it is an error: it would be lost.
///
/// # Errors
/// [`Kind::Usage`](crate::Kind::Usage) where a pipe holds something else than a picture,
/// [`Kind::Io`](crate::Kind::Io) where it cannot be read.
pub fn picture() -> Result<Option<Vec<u8>>> {
    use std::io::Seek;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, FileTypeExt};

    // A closed standard input has nothing to say.
    let Ok(descriptor) = io::stdin().as_fd().try_clone_to_owned() else {
        return Ok(None);
    };
    let mut file = File::from(descriptor);
    let metadata = file.metadata().map_err(failed)?;
    let file_type = metadata.file_type();
    if file_type.is_fifo() || file_type.is_socket() {
        return piped(file);
    }
    if !file_type.is_file() {
        return Ok(None);
    }
    let mut head = vec![0; HEAD];
    let position = file.stream_position().map_err(failed)?;
    let n = file.read_at(&mut head, position).map_err(failed)?;
    match image::content_of(&head[..n]) {
        FileContent::Picture(_) => rest(head[..0].to_vec(), file).map(Some),
        _ => Ok(None),
    }
}

/// The picture that a pipe brings.
fn piped(file: File) -> Result<Option<Vec<u8>>> {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use crate::cli::progress;

    /// Whoever starts a program may leave a pipe open to which nothing is ever written, so this
    /// does not wait for ever.
    const PATIENCE: Duration = Duration::from_secs(1);

    let (sender, receiver) = mpsc::channel();
    let mut first = file.try_clone().map_err(failed)?;
    thread::spawn(move || {
        let mut head = vec![0; HEAD];
        let read = first.read(&mut head).map(|n| {
            head.truncate(n);
            head
        });
        // Where nobody waits any more, nobody wants it.
        let _ = sender.send(read);
    });
    let Ok(head) = receiver.recv_timeout(PATIENCE) else {
        progress::note(
            "standard input is open, but nothing came in a second: going on without it (--image - \
             waits for a picture)",
        );
        return Ok(None);
    };
    let mut head = head.map_err(failed)?;
    if head.is_empty() {
        return Ok(None);
    }
    let missing = HEAD.saturating_sub(head.len()) as u64;
    let more = (&file).take(missing).read_to_end(&mut head);
    more.map_err(failed)?;
    match image::content_of(&head) {
        FileContent::Unknown => Err(Error::usage(format!(
            "{STANDARD_INPUT_NAME} holds text or something else that is not a picture, and the \
             prompt is given already; use -p - to read the prompt from it, or `< /dev/null` if it \
             is not meant for owl2"
        ))),
        _ => rest(head, file).map(Some),
    }
}

/// All of a picture that begins with `head`.
fn rest(head: Vec<u8>, file: File) -> Result<Vec<u8>> {
    let name = Path::new(STANDARD_INPUT_NAME);
    image::read_file(Cursor::new(head).chain(file), name, 0, &Limits::default())
}

fn failed(error: io::Error) -> Error {
    Error::io("cannot read", Path::new(STANDARD_INPUT_NAME), error)
}

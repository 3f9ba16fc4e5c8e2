//! Standard error: what the program is busy with, and a clean terminal when it is interrupted.

use std::io::{self, IsTerminal, Write};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Kind, Result};

/// Returns to the beginning of the line and empties it (ECMA-48, "erase in line").
const ERASE_LINE: &str = "\r\x1b[K";

/// Whether a progress line stands on the terminal.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Writes to standard error.
pub fn say(text: &str) {
    let mut stderr = io::stderr().lock();
    // Where nobody reads standard error, there is nobody to tell about it.
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}

/// Shows a line in place of the last one, if standard error is a terminal.
pub fn show(line: &str) {
    if io::stderr().is_terminal() {
        say(&format!("{ERASE_LINE}{line}"));
        IS_SHOWN.store(true, Ordering::Relaxed);
    }
}

/// Takes the line away, if there is one.
pub fn clear() {
    if IS_SHOWN.swap(false, Ordering::Relaxed) {
        say(ERASE_LINE);
    }
}

/// From now on, an interrupt ends the process at once with the exit status of
/// [`Kind::Interrupted`]: nothing that it does needs to be undone.
///
/// # Errors
/// [`Kind::Io`] where the system refuses.
pub fn clean_up_on_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        if IS_SHOWN.load(Ordering::Relaxed) {
            clear();
        } else if io::stderr().is_terminal() {
            // Half a line of the answer may stand there.
            say("\n");
        }
        process::exit(Kind::Interrupted.exit_code().into());
    })
    .map_err(|e| Error::new(Kind::Io, format!("cannot catch signals: {e}")).caused_by(e))
}

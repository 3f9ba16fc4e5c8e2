//! Standard error: notices, and a progress line on terminals.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, flag};
use crate::harmless;

/// Returns to the beginning of the line and empties it (ECMA-48, "erase in line").
const ERASE_LINE: &str = "\r\x1b[K";

/// Faint text (ECMA-48, "select graphic rendition").
const DIM: &str = "\x1b[2m";
/// The end of it.
const PLAIN: &str = "\x1b[0m";

/// Whether only errors are to be written.
static IS_QUIET: AtomicBool = AtomicBool::new(false);
/// Whether a progress line stands on the terminal.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

/// From now on, only errors are written.
pub fn be_quiet() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// Writes a line that is no error, unless only errors are wanted.
pub fn note(text: &str) {
    if !IS_QUIET.load(Ordering::Relaxed) {
        say(&format!("owl2: {text}\n"));
    }
}

/// Writes an error of this program, in the words of its command line.
pub fn error(error: &Error) {
    say(&format!("owl2: {}\n", error.spelled(&flag)));
}

/// Writes to standard error, where text from files and models may not command a terminal.
pub fn say(text: &str) {
    write(&harmless::text(text));
}

fn write(text: &str) {
    let mut stderr = io::stderr().lock();
    // Where nobody reads standard error, there is nobody to tell about it.
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
}

/// Writes a note of the program itself, set apart from what the model says.
pub fn notice(text: &str) {
    let has_colours = io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = harmless::text(text);
    match has_colours {
        true => write(&format!("{DIM}{text}{PLAIN}\n")),
        false => write(&format!("{text}\n")),
    }
}

/// Shows a line in place of the last one, if standard error is a terminal.
pub fn show(line: &str) {
    if io::stderr().is_terminal() && !IS_QUIET.load(Ordering::Relaxed) {
        write(&format!("{ERASE_LINE}{}", harmless::line(line)));
        IS_SHOWN.store(true, Ordering::Relaxed);
    }
}

/// Takes the line away; whether there was one.
pub fn clear() -> bool {
    let was_shown = IS_SHOWN.swap(false, Ordering::Relaxed);
    if was_shown {
        write(ERASE_LINE);
    }
    was_shown
}

//! Ctrl-C and SIGTERM. They end the process, unless work holds them back to stop by itself.

use std::io::{self, IsTerminal};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::progress;
use crate::error::{Error, Kind, Result};

/// Whether the next interrupt is only noted.
static IS_HELD: AtomicBool = AtomicBool::new(false);
/// Whether one was noted.
static IS_REQUESTED: AtomicBool = AtomicBool::new(false);

/// From now on, an interrupt ends the process at once with the exit status of `kind`, unless a [`Hold`]
/// is there to note the first.
///
/// # Errors
/// [`Kind::Io`] where the system refuses.
pub fn catch_signals(kind: Kind) -> Result<()> {
    ctrlc::set_handler(move || {
        let is_first = !IS_REQUESTED.swap(true, Ordering::Relaxed);
        if is_first && IS_HELD.load(Ordering::Relaxed) {
            return;
        }
        if !progress::clear() && io::stderr().is_terminal() {
            // Half a line of the answer may stand there.
            progress::say("\n");
        }
        process::exit(kind.exit_code().into());
    })
    .map_err(|e| Error::new(Kind::Io, format!("cannot catch signals: {e}")).caused_by(e))
}

/// Whether an interrupt came since the last [`Hold`] began.
pub fn is_requested() -> bool {
    IS_REQUESTED.load(Ordering::Relaxed)
}

/// While it lives, the first interrupt is only noted. There is one at a time.
pub struct Hold(());

impl Hold {
    /// Begins.
    pub fn new() -> Self {
        IS_REQUESTED.store(false, Ordering::Relaxed);
        IS_HELD.store(true, Ordering::Relaxed);
        Hold(())
    }

    /// Ends; whether an interrupt came.
    pub fn end(self) -> bool {
        is_requested()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        IS_HELD.store(false, Ordering::Relaxed);
    }
}

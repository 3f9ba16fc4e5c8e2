//! Ctrl-C and SIGTERM: a flag that long work looks at, so that it can clean up and stop.

use std::sync::atomic::{AtomicBool, Ordering};

use owl2::{Error, Kind, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Turns the signals into the flag, from now on and for the whole process.
///
/// # Errors
/// [`Kind::Io`] where the system refuses.
pub fn catch_signals() -> Result<()> {
    ctrlc::set_handler(|| REQUESTED.store(true, Ordering::Relaxed))
        .map_err(|e| Error::new(Kind::Io, format!("cannot catch signals: {e}")).caused_by(e))
}

/// Fails once a signal has come.
///
/// # Errors
/// [`Kind::Interrupted`].
pub fn check() -> Result<()> {
    if REQUESTED.load(Ordering::Relaxed) {
        return Err(Error::new(
            Kind::Interrupted,
            "interrupted; no file is left behind",
        ));
    }
    Ok(())
}

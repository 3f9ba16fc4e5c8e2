//! What the programs do about a panic, and where memory runs out.
//!
//! Decoders of pictures and the engine of grammars panic on some inputs; that is caught where they
//! are called, and becomes an error. Neither a person nor a script should meet the text that a panic
//! prints: [`catch`] keeps it, and prints nothing where the panic was caught in time.
//!
//! An allocation that the system refuses, or a stack that is too small, cannot be caught: the
//! standard library says so on standard error and aborts. [`set_status_of_aborts`] gives that the exit
//! status of [`Kind::Capacity`] in place of a signal.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::SIGABRT;
use signal_hook::flag;

use crate::error::{Error, Kind, Result};

/// The last panic, in any thread.
static LAST: Mutex<String> = Mutex::new(String::new());

/// From now on, an abort ends the process with an exit status. A program does this before all else: where
/// there is next to no memory, reading the command line takes more than there is.
pub fn set_status_of_aborts() {
    let always = Arc::new(AtomicBool::new(true));
    let status = Kind::Capacity.exit_code().into();
    // Without it there is the signal, as everywhere else.
    let _ = flag::register_conditional_shutdown(SIGABRT, status, always);
}

/// Runs the whole of a program. From then on, panics print nothing.
///
/// # Errors
/// Those of `work`, and [`Kind::Bug`] where it panics.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::set_hook(Box::new(|info| {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
    // Nothing of `work` is used after it.
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let what = last.replace('\n', " ");
        Err(Error::new(
            Kind::Bug,
            format!("internal error (please report it, with the output of owl2 doctor): {what}"),
        ))
    })
}

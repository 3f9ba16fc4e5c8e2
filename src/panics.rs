//! What the programs do about a panic, and where memory runs out.
//!
//! Decoders of pictures and the engine of grammars panic on some inputs; that is caught where they
//! are called, and becomes an error. Neither a person nor a script should meet the text that a panic
//! prints: [`catch`] keeps it, and prints nothing where the panic was caught in time.
//!
//! An allocation that the system refuses, or a stack that is too small, cannot be caught: the
//! standard library says so on standard error and aborts. [`catch`] gives that the exit status of
//! [`Kind::Capacity`] in place of a signal.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::SIGABRT;
use signal_hook::flag;

use crate::error::{Error, Kind, Result};

/// The last panic in any thread, as its hook was told: its place, then its message.
static LAST: Mutex<String> = Mutex::new(String::new());

/// The file, line and column of the last panic, where there was one since [`catch`] began.
pub(crate) fn last_place() -> Option<String> {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let first = last.lines().next()?;
    Some(first.trim_end_matches(':').to_owned())
}

/// Runs the whole of a program. From then on, panics print nothing.
///
/// # Errors
/// Those of `work`, and [`Kind::Bug`] where it panics.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::set_hook(Box::new(|info| {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
    let always = Arc::new(AtomicBool::new(true));
    let status = Kind::Capacity.exit_code().into();
    // Without it there is the signal, as everywhere else.
    let _ = flag::register_conditional_shutdown(SIGABRT, status, always);
    caught(work)
}

/// Runs a part of a program that the rest can do without, such as one of several requests. Of what
/// `work` changes, nothing may be used after a panic but what is made anew before it is read.
///
/// # Errors
/// Those of `work`, and [`Kind::Bug`] where it panics.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        // The hook knows the place too, where it is ours; other threads' panics may have come after it.
        let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let what = match text {
            Some(text) if !last.contains(text) => text,
            _ => &last,
        };
        Err(Error::new(
            Kind::Bug,
            format!(
                "internal error (please report it, with the output of owl2 doctor): {}",
                what.replace('\n', " ")
            ),
        ))
    })
}

//! Handles panics and failing allocations of the programs.
//!
//! Picture decoders and the grammar engine panic on some inputs. These panics are caught at the call
//! and become errors. [`catch`] also suppresses the panic message, unless the panic ends the program.
//!
//! A refused allocation or a stack overflow cannot be caught: the standard library prints a line and
//! aborts. [`set_status_of_aborts`] turns that into the exit status of [`Kind::Capacity`] instead of a signal.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::SIGABRT;
use signal_hook::flag;

use crate::error::{Error, Kind, Result};

/// The last panic in any thread, as its hook was told: its place, then its message.
static LAST: Mutex<String> = Mutex::new(String::new());

/// Where the last panic was, in any thread, since [`catch`] began: not surely the one that is handled.
#[cfg(feature = "serve")]
pub(crate) fn last_place() -> Option<String> {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let first = last.lines().next()?;
    Some(first.trim_end_matches(':').to_owned())
}

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

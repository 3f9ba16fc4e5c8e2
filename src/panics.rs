//! Handles panics and failing allocations of the programs.
//!
//! Picture decoders and the grammar engine panic on some inputs. These panics are caught at the call
//! and become errors. [`catch`] also suppresses the panic message, unless the panic ends the program.
//!
//! A refused allocation or a stack overflow cannot be caught: the standard library prints a line and
//! aborts. [`catch`] turns that into the exit status of [`Kind::Capacity`] instead of a signal.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::consts::SIGABRT;
use signal_hook::flag;

use crate::error::{Error, Kind, Result};

/// The last panic, in any thread.
static LAST: Mutex<String> = Mutex::new(String::new());

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

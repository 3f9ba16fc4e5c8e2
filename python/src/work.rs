//! Work that leaves the interpreter free, and that Ctrl-C ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use owl2::{Error, Kind, Result};
use pyo3::prelude::*;

use crate::errors::{exception, raised};

/// How often the interpreter looks for signals while it waits.
pub const PATIENCE: Duration = Duration::from_millis(50);

/// Asks work on another thread to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Does `work` on a thread of its own and waits for it. After Ctrl-C the wait ends at once, with
/// KeyboardInterrupt; `work` ends when it next looks at the [`Stop`].
pub fn run<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce(&Stop) -> Result<T> + Send + 'static,
) -> PyResult<T> {
    let (sender, mut receiver) = mpsc::sync_channel(1);
    let stop = Stop::default();
    let of_work = stop.clone();
    // Nobody waits for the result after Ctrl-C.
    spawn(py, move || drop(sender.send(work(&of_work))))?;
    loop {
        let received;
        (received, receiver) = py.detach(move || (receiver.recv_timeout(PATIENCE), receiver));
        match received {
            Ok(result) => return raised(py, result),
            Err(RecvTimeoutError::Timeout) => {
                py.check_signals().inspect_err(|_| stop.ask())?;
            }
            Err(RecvTimeoutError::Disconnected) => return Err(panicked(py)),
        }
    }
}

/// Starts a thread.
pub fn spawn(py: Python<'_>, work: impl FnOnce() + Send + 'static) -> PyResult<()> {
    let thread = thread::Builder::new().name("owl2-request".to_owned());
    let started = thread.spawn(work).map_err(|e| {
        let message = format!("cannot start a thread: {e}");
        exception(py, &Error::new(Kind::Io, message).caused_by(e))
    });
    started.map(drop)
}

/// What is raised where work ended without a result.
pub fn panicked(py: Python<'_>) -> PyErr {
    let message = "the request ended by a panic, whose message is on standard error";
    exception(py, &Error::new(Kind::Bug, message))
}

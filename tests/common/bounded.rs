//! Opening model files with an eye on what is allocated, and checks of the errors that come.

use std::alloc::System;
use std::sync::{Mutex, MutexGuard};

use owl2::error::Subject;
use owl2::gguf::{Bytes, Gguf};
use owl2::{Error, Kind, Result};
use stats_alloc::{Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: StatsAlloc<System> = StatsAlloc::system();

/// The allocator counts for the whole process, so tests that look at it take turns.
static TURN: Mutex<()> = Mutex::new(());

pub fn turn() -> MutexGuard<'static, ()> {
    // A test that failed in its turn leaves nothing behind.
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Runs `work` and fails if all that it allocated, freed again or not, is more than a file of
/// `n_bytes` justifies.
#[track_caller]
pub fn bounded<T>(n_bytes: usize, work: impl FnOnce() -> T) -> T {
    let region = Region::new(&ALLOCATOR);
    let result = work();
    let allocated = region.change().bytes_allocated;
    let limit = 64 * n_bytes + (1 << 20);
    assert!(
        allocated <= limit,
        "{allocated} bytes allocated for a file of {n_bytes}, limit {limit}"
    );
    result
}

/// Opens `bytes` as a container.
#[track_caller]
pub fn open(bytes: &[u8]) -> Result<Gguf> {
    let bytes = Bytes::from_slice(bytes);
    bounded(bytes.len(), || Gguf::from_bytes(bytes))
}

/// Checks kind and text of an error, and that it names `subject`, a key or tensor (or its end).
#[track_caller]
pub fn assert_error(error: &Error, case: &str, subject: Option<&str>, message: &str) {
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Model, "{case}: {text}");
    assert!(text.contains(message), "{case}: '{text}' lacks '{message}'");
    let named = match error.subject() {
        Some(Subject::Key(name) | Subject::Tensor(name)) => Some(name.as_str()),
        _ => None,
    };
    let matches = match (named, subject) {
        (Some(named), Some(wanted)) => named.ends_with(wanted),
        (None, None) => true,
        _ => false,
    };
    assert!(matches, "{case}: names {named:?}, wanted {subject:?}");
}

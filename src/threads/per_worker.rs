//! Buffers of the workers of a model.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A `T` for each worker. It belongs to the model and not to a thread, as the calling thread is one
/// of the workers: each that ever called would keep buffers of its own for as long as it lives.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[Mutex<T>]>);

impl<T: Default> PerWorker<T> {
    /// One for each of `n_workers`.
    pub fn new(n_workers: usize) -> Self {
        PerWorker((0..n_workers).map(|_| Mutex::default()).collect())
    }

    /// What belongs to `worker`. Nobody else asks for it in a region, so this does not wait.
    pub fn of(&self, worker: usize) -> MutexGuard<'_, T> {
        // After a panic, buffers hold any values, as they do before each use.
        self.0[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

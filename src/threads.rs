//! The worker threads of a model: how many, and how work is handed to them.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{Error, Kind, Result};
use crate::sysctl;

/// A pool of worker threads, owned by a model so that several can live in one process.
#[derive(Debug)]
pub struct Threads {
    pool: rayon::ThreadPool,
    count: usize,
}

impl Threads {
    /// Starts `count` workers; [`default_count`] is a good choice.
    ///
    /// # Errors
    /// [`Kind::Io`] where the system will not start them.
    pub fn new(count: NonZeroUsize) -> Result<Self> {
        let count = count.get();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("owl2-{i}"))
            .build()
            .map_err(|e| Error::new(Kind::Io, format!("cannot start {count} threads: {e}")))?;
        Ok(Threads { pool, count })
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Which worker this thread is; the first one where it is none.
    pub fn current(&self) -> usize {
        self.pool.current_thread_index().unwrap_or(0)
    }

    /// Runs `work` inside the pool. A whole request belongs inside one such call: regions started
    /// by [`Threads::run`] from there neither allocate nor pass through the pool's injection queue,
    /// and the workers stay awake for them.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        if self.count == 1 || self.pool.current_thread_index().is_some() {
            return self.pool.install(work);
        }
        let (n_awake, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        self.pool.scope(|scope| {
            for _ in 1..self.count {
                scope.spawn(|_| {
                    n_awake.fetch_add(1, Ordering::Relaxed);
                    stay_awake(&done);
                });
            }
            // This thread must not be the one to stay awake for others, as it could were it to
            // look for work while one of these has not begun.
            while n_awake.load(Ordering::Relaxed) < self.count - 1 {
                std::thread::yield_now();
            }
            let _wake_up = SetOnDrop(&done);
            work()
        })
    }

    /// Runs `work` once per worker, in parallel, and returns when all are done. Each call takes
    /// pieces of a shared queue until none is left, so a call that starts late does less.
    pub fn run(&self, work: impl Fn() + Sync) {
        if self.count == 1 {
            work();
        } else if self.pool.current_thread_index().is_some() {
            fork(self.count, &work);
        } else {
            self.pool.install(|| fork(self.count, &work));
        }
    }
}

/// Generation starts hundreds of short regions a token, and waking a sleeping worker takes longer
/// than many of them. Looks for work, and does it, until `done`.
fn stay_awake(done: &AtomicBool) {
    /// Searches in vain before others may have the processor.
    const PATIENCE: usize = 1 << 10;

    let mut n_idle = 0;
    while !done.load(Ordering::Relaxed) {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            n_idle = 0;
        } else if n_idle < PATIENCE {
            n_idle += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Sets a flag at the end of a scope, even one that ends by a panic.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn fork(count: usize, work: &(impl Fn() + Sync)) {
    if count == 1 {
        work();
    } else {
        let half = count / 2;
        rayon::join(|| fork(count - half, work), || fork(half, work));
    }
}

/// The physical cores this process may use: the scheduler's affinity mask and the cgroup's quota
/// are respected, and a core with two hardware threads counts once, since both share its
/// multipliers. Of an Apple processor only the performance cores count.
pub fn default_count() -> NonZeroUsize {
    let allowed = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let best = physical_cores(Path::new("/sys/devices/system/cpu")).or_else(performance_cores);
    best.map_or(allowed, |cores| cores.min(allowed))
}

/// The cores of the fastest kind as macOS counts them (level 0, says Apple's "Determining system
/// capabilities"), or all where there is but one kind; `None` elsewhere. The others would hold them
/// up: every region ends with its slowest worker.
fn performance_cores() -> Option<NonZeroUsize> {
    let of_level = sysctl::number("hw.perflevel0.physicalcpu");
    let cores = of_level.or_else(|| sysctl::number("hw.physicalcpu"))?;
    NonZeroUsize::new(cores.try_into().ok()?)
}

/// Distinct sets of sibling hardware threads as Linux lists them, or `None` elsewhere.
fn physical_cores(cpus: &Path) -> Option<NonZeroUsize> {
    let siblings: HashSet<String> = std::fs::read_dir(cpus)
        .ok()?
        .filter_map(|entry| {
            let list = entry.ok()?.path().join("topology/thread_siblings_list");
            std::fs::read_to_string(list).ok()
        })
        .collect();
    NonZeroUsize::new(siblings.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_once() {
        for count in [1, 2, 3, 5] {
            let threads = Threads::new(NonZeroUsize::new(count).unwrap()).unwrap();
            let calls = AtomicUsize::new(0);
            threads.run(|| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            threads.enter(|| {
                threads.run(|| {
                    calls.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert_eq!(calls.into_inner(), 2 * count);
        }
    }

    #[test]
    fn siblings_count_once() {
        let root = tempfile::tempdir().unwrap();
        for (cpu, siblings) in [("cpu0", "0-1"), ("cpu1", "0-1"), ("cpu2", "2-3")] {
            let topology = root.path().join(cpu).join("topology");
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
        }
        assert_eq!(physical_cores(root.path()), NonZeroUsize::new(2));
        assert_eq!(physical_cores(Path::new("no such directory")), None);
    }
}

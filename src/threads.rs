//! The worker threads of a model: how many, and how work is handed to them.

mod per_worker;
#[cfg(test)]
mod tests;
mod turns;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Kind, Result};
use crate::kernels::gang::Gang;
use crate::sysctl;
pub use per_worker::PerWorker;
use turns::Turns;

/// More workers than any machine for this has processors.
pub const MAX_THREADS: usize = 1024;
/// Workers for each processor at most, for a program that does as it is told. Those that wait look
/// for work all the time, so more of them keep one another from doing any.
const MAX_PER_PROCESSOR: usize = 4;

/// The workers of a model: the thread that asks, and threads of its own that help it. Several
/// threads may ask; they take turns in the order in which they came.
#[derive(Debug)]
pub struct Threads {
    gang: Arc<Gang>,
    turns: Turns,
    /// Starts and names the threads that serve the gang. It runs nothing else, so nobody waits in
    /// it: a thread that waits there may be given other work, which would wait in its turn.
    _pool: Option<rayon::ThreadPool>,
    count: usize,
}

thread_local! {
    /// Which gang this thread serves, by address, and as which worker.
    static SERVES: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    /// The gang that this thread leads, the innermost where it leads several.
    static LEADS: RefCell<Option<Arc<Gang>>> = const { RefCell::new(None) };
}

impl Threads {
    /// Starts `count - 1` threads, which sleep until there is work; the thread that asks is the
    /// first worker. [`default_count`] is a good choice.
    ///
    /// # Errors
    /// [`Kind::Usage`] for more than [`MAX_THREADS`], [`Kind::Io`] where the system will not start
    /// them.
    pub fn new(count: NonZeroUsize) -> Result<Self> {
        let count = count.get();
        if count > MAX_THREADS {
            let message = format!("is {count}, expected at most {MAX_THREADS}");
            return Err(Error::usage(message).in_parameter("threads"));
        }
        let gang = Arc::new(Gang::default());
        let pool = match count - 1 {
            0 => None,
            n_serving => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(n_serving)
                    .thread_name(|i| format!("owl2-{}", i + 1))
                    .build()
                    .map_err(|e| {
                        Error::new(Kind::Io, format!("cannot start {n_serving} threads: {e}"))
                    })?,
            ),
        };
        if let Some(pool) = &pool {
            let gang = gang.clone();
            pool.spawn_broadcast(move |context| {
                let worker = context.index() + 1;
                SERVES.set((address(&gang), worker));
                gang.serve(worker);
            });
        }
        Ok(Threads {
            gang,
            turns: Turns::default(),
            _pool: pool,
            count,
        })
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Runs `work` on this thread when it is its turn: when all that asked before are done. Within
    /// it, the thread may enter again, and other [`Threads`] too. A whole request belongs inside
    /// one such call, so that others do not come between its regions.
    ///
    /// `work` must not wait for another thread that enters, which waits for `work`.
    pub fn enter<R>(&self, work: impl FnOnce() -> R) -> R {
        if self.turns.is_mine() || self.worker().is_some() {
            return work();
        }
        let _turn = self.turns.take();
        let _lead = Lead::new(&self.gang);
        work()
    }

    /// Runs `work(0)` on this thread and `work(worker)` on each of the others that is free before
    /// that returns, in parallel, and returns when all are done. Each call takes pieces of a shared
    /// queue until none is left, so a call that starts late does less, or is not made at all.
    ///
    /// From within `work`, this runs on the calling thread alone.
    ///
    /// # Panics
    /// If `work` does.
    pub fn run(&self, work: impl Fn(usize) + Sync) {
        match self.worker() {
            Some(worker) => work(worker),
            None => self.enter(|| self.gang.run(&work)),
        }
    }

    /// Which of the threads that help this is.
    fn worker(&self) -> Option<usize> {
        let (gang, worker) = SERVES.get();
        (gang == address(&self.gang)).then_some(worker)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.gang.dismiss();
    }
}

/// While it lives, its thread leads a gang.
struct Lead {
    /// What it led before, such as another model's.
    before: Option<Arc<Gang>>,
}

impl Lead {
    fn new(gang: &Arc<Gang>) -> Self {
        Lead {
            before: LEADS.replace(Some(gang.clone())),
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        LEADS.set(self.before.take());
    }
}

fn address(gang: &Arc<Gang>) -> usize {
    Arc::as_ptr(gang) as usize
}

/// Calls `work` with each of `items`, in parallel on the [`Threads`] that this thread has entered,
/// one after the other elsewhere. `init` makes what belongs to one worker.
///
/// It is for code that has no model at hand, and items that take longer than a lock.
pub(crate) fn for_each<T: Send, S>(
    items: impl Iterator<Item = T> + Send,
    init: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) + Sync,
) {
    let items = Mutex::new(items);
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = |_| {
        let mut own = init();
        while let Some(item) = next() {
            work(&mut own, item);
        }
    };
    match LEADS.with_borrow(Clone::clone) {
        Some(gang) => gang.run(&work),
        None => work(0),
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

/// The most workers that a person may ask for on this machine.
pub fn max_count() -> NonZeroUsize {
    let allowed = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let most = allowed.get().saturating_mul(MAX_PER_PROCESSOR);
    NonZeroUsize::new(most.min(MAX_THREADS)).unwrap_or(NonZeroUsize::MIN)
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

//! A gang: threads that work on one piece of borrowed work at a time, together with its owner.
//!
//! The owner opens a *region* ([`Gang::run`]) and works in it itself. Other threads
//! ([`Gang::serve`]) join while it is open. When the owner is done it closes the region and waits
//! for those inside, but never for a thread that has not joined: where other programs take the
//! processor from a worker between two regions, the owner does the work without it.
//!
//! Threads that wait spin for a moment, since the next region or the end of this one is mostly
//! nearer than a call to the system, and then sleep. A thread that sleeps leaves its core to the
//! others, and the system can move a worker there that waits for another core. One that spun on
//! would hold the core against the very thread it waits for.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bit of the state: threads may join the region.
const OPEN: u64 = 1;
/// Bit of the state: the serving threads are to return.
const DISMISSED: u64 = 1 << 1;
/// Bit of the state: the owner sleeps until nobody is inside.
const AWAITED: u64 = 1 << 2;
/// One thread inside of the region, beside its owner.
const ONE_INSIDE: u64 = 1 << 3;
/// One region. Its number fills the upper half of the state.
const ONE_REGION: u64 = 1 << 32;

/// How long a worker looks for the next region before it sleeps.
const WORKER_SPINS: Duration = Duration::from_micros(50);
/// How long an owner looks whether all have left before it sleeps.
const OWNER_SPINS: Duration = Duration::from_micros(50);

type Work = dyn Fn(usize) + Sync;
type Panic = Box<dyn Any + Send>;

/// Lends work to the threads that serve it. It starts none itself.
#[derive(Default)]
pub struct Gang {
    /// Number of the region, number of threads inside, and the bits above.
    state: Padded<AtomicU64>,
    /// Whether a region has an owner.
    is_led: Padded<AtomicBool>,
    /// What is done in the region.
    work: UnsafeCell<Option<*const Work>>,
    /// What a worker panicked with in this region.
    panic: Mutex<Option<Panic>>,
    /// Workers that sleep or are about to.
    n_asleep: AtomicUsize,
    /// Held from the last look at the state until the thread sleeps.
    sleep: Mutex<()>,
    /// A region was opened, or the gang was dismissed.
    opened: Condvar,
    /// The last thread has left the region.
    left: Condvar,
}

/// Alone in its cache lines: those that wait read it all the time.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

// SAFETY: `work` alone is not thread-safe by itself. The owner of a region writes it, and there is
// one owner at a time (`is_led`). It writes while the region is closed and nobody is inside, and
// others read it only while they are counted inside.
unsafe impl Sync for Gang {}

// SAFETY: the pointer in `work` is followed between the beginning and the end of a call of `run`
// only, which borrows the gang, so a gang that moves to another thread has none in use.
unsafe impl Send for Gang {}

impl Gang {
    /// Calls `work(0)` here and `work(worker)` on the serving threads that join until this call is
    /// done, each of them once; returns when all of them have ended. Where a region is open
    /// already, and so the threads are busy, `work(0)` is all there is.
    ///
    /// `work` must therefore be complete when any one of the calls has returned and all others
    /// have ended: pieces of a shared queue are.
    ///
    /// # Panics
    /// If `work` does, here or on another thread.
    pub fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        if self.is_led.0.swap(true, Ordering::Acquire) {
            return work(0);
        }
        // SAFETY: only the lifetime changes. Others follow the pointer only while they are inside
        // of this region, and from here to the end of `close` nothing can unwind: `work` is called
        // within `catch_unwind`, and neither atomics nor locks (poisoning is ignored) panic. So
        // this function does not return before the last of them has left.
        let erased =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Work>(work) };
        // SAFETY: `is_led` makes this thread the only owner, and its predecessor has seen the
        // region closed and nobody inside, so nobody else reads or writes.
        unsafe { *self.work.get() = Some(erased) };
        self.open();
        let ended = catch_unwind(AssertUnwindSafe(|| work(0)));
        self.close();
        let panic = lock(&self.panic).take();
        self.is_led.0.store(false, Ordering::Release);
        match (ended, panic) {
            (Err(panic), _) | (Ok(()), Some(panic)) => resume_unwind(panic),
            (Ok(()), None) => {}
        }
    }

    /// Lets threads join, and wakes those that sleep.
    fn open(&self) {
        // The bit is not set and the number may wrap, so this adds both. It makes `work` visible to
        // those that join. With `n_asleep` it is sequentially consistent: either a worker that goes
        // to sleep sees the open region, or it is seen here.
        self.state.0.fetch_add(ONE_REGION | OPEN, Ordering::SeqCst);
        if self.n_asleep.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.opened.notify_all();
        }
    }

    /// Lets nobody join any more, and waits for those inside.
    fn close(&self) {
        let is_empty = || n_inside(self.state.0.load(Ordering::Acquire)) == 0;
        self.state.0.fetch_and(!OPEN, Ordering::AcqRel);
        if spin_until(OWNER_SPINS, is_empty) {
            return;
        }
        let mut guard = lock(&self.sleep);
        self.state.0.fetch_or(AWAITED, Ordering::AcqRel);
        while !is_empty() {
            guard = wait(&self.left, guard);
        }
        self.state.0.fetch_and(!AWAITED, Ordering::AcqRel);
    }

    /// Works in each region that is open when this thread looks, as number `worker`, until the gang
    /// is dismissed. A panic of the work is the owner's.
    pub fn serve(&self, worker: usize) {
        let mut last = 0;
        while let Some(work) = self.join(&mut last) {
            // SAFETY: this thread is inside of the region, so its owner has not returned from
            // `run`, which borrows the work.
            let work = unsafe { &*work };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(worker))) {
                match &mut *lock(&self.panic) {
                    first @ None => *first = Some(panic),
                    // Dropping it could panic in its turn, and the owner would wait for ever.
                    Some(_) => std::mem::forget(panic),
                }
            }
            self.leave();
            // Where others want this core, they had better take it now than within the next region,
            // whose owner would wait for this thread. Where nobody does, this returns at once.
            std::thread::yield_now();
        }
    }

    /// Waits for another region than `last` and goes inside; `None` where the gang is dismissed.
    fn join(&self, last: &mut u64) -> Option<*const Work> {
        loop {
            let state = self.state.0.load(Ordering::Acquire);
            if state & DISMISSED != 0 {
                return None;
            }
            if !is_new(state, *last) {
                if !spin_until(WORKER_SPINS, || self.is_news(*last)) {
                    self.sleep(*last);
                }
                continue;
            }
            // It fails where the region was closed meanwhile.
            let entered = self.state.0.compare_exchange_weak(
                state,
                state + ONE_INSIDE,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            if entered.is_ok() {
                *last = region(state);
                // SAFETY: the region was open when this thread was counted inside, so its owner
                // wrote `work` before and does not write again before this thread has left.
                return unsafe { *self.work.get() };
            }
        }
    }

    fn leave(&self) {
        let before = self.state.0.fetch_sub(ONE_INSIDE, Ordering::AcqRel);
        if before & AWAITED != 0 && n_inside(before) == 1 {
            drop(lock(&self.sleep));
            self.left.notify_one();
        }
    }

    /// Sleeps until there is another region than `last`, or the gang is dismissed.
    fn sleep(&self, last: u64) {
        let mut guard = lock(&self.sleep);
        self.n_asleep.fetch_add(1, Ordering::SeqCst);
        while !self.is_news(last) {
            guard = wait(&self.opened, guard);
        }
        self.n_asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether a worker that was in region `last` has something to do.
    fn is_news(&self, last: u64) -> bool {
        let state = self.state.0.load(Ordering::SeqCst);
        is_new(state, last) || state & DISMISSED != 0
    }

    /// Makes all calls of [`Gang::serve`] return, those to come as well.
    pub fn dismiss(&self) {
        self.state.0.fetch_or(DISMISSED, Ordering::SeqCst);
        drop(lock(&self.sleep));
        self.opened.notify_all();
    }
}

impl fmt::Debug for Gang {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let state = self.state.0.load(Ordering::Relaxed);
        f.debug_struct("Gang")
            .field("region", &region(state))
            .field("n_inside", &n_inside(state))
            .finish_non_exhaustive()
    }
}

fn region(state: u64) -> u64 {
    state / ONE_REGION
}

fn n_inside(state: u64) -> u64 {
    state % ONE_REGION / ONE_INSIDE
}

fn is_new(state: u64, last: u64) -> bool {
    state & OPEN != 0 && region(state) != last
}

/// Looks at `condition` again and again for some time; whether it came true.
fn spin_until(patience: Duration, condition: impl Fn() -> bool) -> bool {
    /// Looks between two at the clock, which take longer.
    const LOOKS: usize = 32;

    let start = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if condition() {
                return true;
            }
            spin_loop();
        }
        if start.elapsed() >= patience {
            return false;
        }
    }
}

/// Nothing that these locks protect is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a>(condition: &Condvar, guard: MutexGuard<'a, ()>) -> MutexGuard<'a, ()> {
    condition
        .wait(guard)
        .unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    /// `owner` while `n_serving` threads serve it.
    fn with_gang(n_serving: usize, owner: impl FnOnce(&Gang)) {
        let gang = &Gang::default();
        thread::scope(|scope| {
            for worker in 1..=n_serving {
                scope.spawn(move || gang.serve(worker));
            }
            // Else a failure would leave them serving, and this waiting for them.
            let ended = catch_unwind(AssertUnwindSafe(|| owner(gang)));
            gang.dismiss();
            if let Err(panic) = ended {
                resume_unwind(panic);
            }
        });
    }

    /// What is lent lies on the owner's stack, and is written by others until `run` returns.
    #[test]
    fn what_was_lent_is_whole_after_each_region() {
        // A round in which every thread spins takes Miri a second.
        let n_rounds = if cfg!(miri) { 45 } else { 3000 };
        for n_serving in [0, 1, 2, 4] {
            with_gang(n_serving, |gang| {
                for round in 0..n_rounds {
                    let (next, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
                    gang.run(&|_| {
                        while next.fetch_add(1, Ordering::Relaxed) < round % 40 {
                            sum.fetch_add(round, Ordering::Relaxed);
                        }
                    });
                    assert_eq!(sum.into_inner(), round * (round % 40));
                }
            });
        }
    }

    /// The worker sleeps until it is needed, and the owner until the worker is done.
    #[test]
    fn those_who_sleep_are_woken() {
        with_gang(1, |gang| {
            for _ in 0..5 {
                thread::sleep(10 * WORKER_SPINS);
                let was_there = AtomicBool::new(false);
                gang.run(&|worker| match worker {
                    0 => {
                        while !was_there.load(Ordering::Relaxed) {
                            thread::yield_now();
                        }
                    }
                    _ => {
                        was_there.store(true, Ordering::Relaxed);
                        thread::sleep(50 * OWNER_SPINS);
                    }
                });
            }
        });
    }

    #[test]
    fn a_second_owner_works_alone() {
        with_gang(1, |gang| {
            let calls = AtomicUsize::new(0);
            gang.run(&|_| {
                gang.run(&|worker| {
                    assert_eq!(worker, 0);
                    calls.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert!(matches!(calls.into_inner(), 1 | 2));
        });
    }

    #[test]
    fn a_gang_that_was_dismissed_needs_nobody() {
        let gang = Gang::default();
        gang.dismiss();
        gang.serve(1);
        let calls = AtomicUsize::new(0);
        gang.run(&|_| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.into_inner(), 1);
    }
}

//! Turns: threads that ask for the same thing get it one after another, in order of arrival.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

/// Who has the turn, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: Mutex<Waiters>,
    /// [`this_thread`] of the one that has the turn, or 0.
    holder: AtomicUsize,
}

#[derive(Debug, Default)]
struct Waiters {
    /// Number of the next that comes.
    next: u64,
    /// Number of the one whose turn it is, or that of the next that comes.
    serving: u64,
    /// Those that wait, from number `serving + 1` on.
    waiting: VecDeque<Thread>,
}

/// The turn, passed on when it is dropped.
#[derive(Debug)]
pub(super) struct TurnGuard<'a>(&'a Turns);

impl Turns {
    /// Waits until all that came before have had their turn. A thread must not ask for a second
    /// turn while it has one ([`Turns::is_mine`]).
    ///
    /// The wait blocks the thread: one of a pool must not do other work of the pool meanwhile,
    /// which could ask for a turn behind this one.
    pub(super) fn take(&self) -> TurnGuard<'_> {
        let mut queue = self.queue();
        let number = queue.next;
        queue.next += 1;
        if queue.serving != number {
            queue.waiting.push_back(thread::current());
            while queue.serving != number {
                drop(queue);
                // Others may wake this thread for reasons of their own, so it looks again.
                thread::park();
                queue = self.queue();
            }
        }
        self.holder.store(this_thread(), Ordering::Relaxed);
        TurnGuard(self)
    }

    /// Whether this thread has the turn.
    pub(super) fn is_mine(&self) -> bool {
        // Only this thread stores its own number, and it takes it back before the turn passes on,
        // so no other order is needed.
        self.holder.load(Ordering::Relaxed) == this_thread()
    }

    fn queue(&self) -> MutexGuard<'_, Waiters> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        self.0.holder.store(0, Ordering::Relaxed);
        queue.serving += 1;
        let next = queue.waiting.pop_front();
        drop(queue);
        if let Some(next) = next {
            next.unpark();
        }
    }
}

/// A number that no other living thread has; never 0.
fn this_thread() -> usize {
    thread_local! {
        static PLACE: Cell<u8> = const { Cell::new(0) };
    }
    PLACE.with(|place| std::ptr::from_ref(place) as usize)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn come_in_the_order_of_asking() {
        let turns = &Turns::default();
        let order = &Mutex::new(Vec::new());
        thread::scope(|scope| {
            let turn = turns.take();
            for number in 0..50 {
                scope.spawn(move || {
                    let _turn = turns.take();
                    order.lock().unwrap().push(number);
                });
                while turns.queue().waiting.len() <= number {
                    thread::yield_now();
                }
            }
            drop(turn);
        });
        assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn are_passed_on_by_a_panic_and_survive_foreign_wakings() {
        let turns = &Turns::default();
        thread::scope(|scope| {
            let turn = turns.take();
            assert!(turns.is_mine());
            let other = scope.spawn(|| {
                assert!(!turns.is_mine());
                let _turn = turns.take();
                panic!("with the turn");
            });
            while turns.queue().waiting.is_empty() {
                thread::yield_now();
            }
            other.thread().unpark();
            thread::sleep(Duration::from_millis(1));
            assert!(turns.is_mine() && !other.is_finished());
            drop(turn);
            assert!(!turns.is_mine());
            other.join().unwrap_err();
        });
        drop(turns.take());
    }
}

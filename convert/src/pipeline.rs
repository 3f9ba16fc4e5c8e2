//! Work items made in parallel and taken in order, with bounded memory between the two.

use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::thread;

use owl2::Result;

/// Finished items that wait for their turn, for each worker.
const QUEUED: usize = 2;

/// Makes items `0 .. n_items` on `n_threads` workers and hands them to `take` in order, on the
/// calling thread. Worker `w` makes every `n_threads`th item from `w` on, so at most
/// `n_threads * (QUEUED + 1)` made items exist besides the one being taken, and the result cannot
/// depend on which worker is faster. `buffers` makes what one worker reuses from item to item.
///
/// # Errors
/// The first error in item order, of `make` or `take`; nothing is taken after it.
pub fn ordered<B, T: Send>(
    n_items: usize,
    n_threads: NonZeroUsize,
    buffers: impl Fn() -> B + Sync,
    make: impl Fn(usize, &mut B) -> Result<T> + Sync,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let n_threads = n_threads.get();
    thread::scope(|scope| {
        let queues: Vec<_> = (0..n_threads)
            .map(|worker| {
                let (sender, receiver) = mpsc::sync_channel(QUEUED);
                let (buffers, make) = (&buffers, &make);
                scope.spawn(move || {
                    let mut buffers = buffers();
                    for item in (worker..n_items).step_by(n_threads) {
                        // Nobody receives any more where an earlier item failed.
                        if sender.send(make(item, &mut buffers)).is_err() {
                            break;
                        }
                    }
                });
                receiver
            })
            .collect();
        for item in 0..n_items {
            match queues[item % n_threads].recv() {
                Ok(made) => take(made?)?,
                // The worker panicked, which the end of the scope passes on.
                Err(mpsc::RecvError) => break,
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use owl2::Error;

    fn threads(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).unwrap()
    }

    #[test]
    fn items_come_in_order_whoever_made_them() {
        for n_threads in [1, 2, 3, 8] {
            for n_items in [0, 1, 2, 7, 100] {
                let mut taken = Vec::new();
                let make = |item: usize, _: &mut ()| Ok(item);
                let take = |item| {
                    taken.push(item);
                    Ok(())
                };
                ordered(n_items, threads(n_threads), || (), make, take).unwrap();
                assert_eq!(taken, (0..n_items).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        let mut taken = 0;
        let make = |item: usize, _: &mut ()| match item {
            5 | 6 => Err(Error::model(format!("item {item}"))),
            _ => Ok(item),
        };
        let take = |_| {
            taken += 1;
            Ok(())
        };
        let error = ordered(1000, threads(3), || (), make, take).unwrap_err();
        assert_eq!(error.to_string(), "item 5");
        assert_eq!(taken, 5);

        let fail = |_| Err(Error::model("full"));
        let error = ordered(1000, threads(3), || (), |item, ()| Ok(item), fail).unwrap_err();
        assert_eq!(error.to_string(), "full");
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_passed_on() {
        let make = |item: usize, _: &mut ()| {
            assert_ne!(item, 4);
            Ok(item)
        };
        let _ = ordered(10, threads(2), || (), make, |_| Ok(()));
    }
}

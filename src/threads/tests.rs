use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rayon::prelude::*;

use super::*;

fn threads(count: usize) -> Threads {
    Threads::new(NonZeroUsize::new(count).unwrap()).unwrap()
}

/// A region of so many pieces; how many were done.
fn pieces(threads: &Threads, n_pieces: usize) -> usize {
    let (taken, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    threads.run(|_| {
        while taken.fetch_add(1, Ordering::Relaxed) < n_pieces {
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
    done.into_inner()
}

/// A region that all workers are in at the same time.
fn together(threads: &Threads, work: impl Fn(usize) + Sync) {
    let n_inside = AtomicUsize::new(0);
    threads.run(|worker| {
        n_inside.fetch_add(1, Ordering::Relaxed);
        while n_inside.load(Ordering::Relaxed) < threads.count() {
            thread::yield_now();
        }
        work(worker);
    });
}

#[test]
fn every_worker_comes_to_a_region_that_lasts() {
    for count in [1, 2, 3, 5] {
        let threads = threads(count);
        let calls: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        let count_call = |worker: usize| {
            calls[worker].fetch_add(1, Ordering::Relaxed);
        };
        together(&threads, count_call);
        threads.enter(|| together(&threads, count_call));
        assert!(calls.into_iter().all(|calls| calls.into_inner() == 2));
    }
}

#[test]
fn callers_at_once_all_end() {
    for count in 1..=5 {
        for n_callers in [2, 3, 16] {
            let threads = threads(count);
            thread::scope(|scope| {
                for caller in 0..n_callers {
                    let threads = &threads;
                    scope.spawn(move || {
                        for round in 0..40 {
                            if (caller + round) % 2 == 0 {
                                assert_eq!(pieces(threads, 50), 50);
                            } else {
                                let done: usize =
                                    threads.enter(|| (0..5).map(|_| pieces(threads, 20)).sum());
                                assert_eq!(done, 100);
                            }
                        }
                    });
                }
            });
        }
    }
}

/// No request begins within another, so no stack grows with the number of those that wait.
#[test]
fn thousands_may_wait_on_small_stacks() {
    // Some systems do not let a process have as many threads as that.
    const N_CALLERS: usize = if cfg!(target_os = "linux") { 3500 } else { 500 };

    let threads = threads(2);
    let (n_come, n_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let call = || {
        n_come.fetch_add(1, Ordering::Relaxed);
        let done = threads.enter(|| pieces(&threads, 3));
        n_done.fetch_add(done, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        threads.enter(|| {
            for _ in 0..N_CALLERS {
                let small = thread::Builder::new().stack_size(64 << 10);
                small.spawn_scoped(scope, call).unwrap();
            }
            while n_come.load(Ordering::Relaxed) < N_CALLERS {
                thread::yield_now();
            }
        });
    });
    assert_eq!(n_done.into_inner(), 3 * N_CALLERS);
}

/// Each would take a turn behind the other if it asked for a second one.
#[test]
fn one_thread_enters_several_times() {
    let (a, b) = (threads(2), threads(3));
    let done = a.enter(|| a.enter(|| b.enter(|| a.enter(|| pieces(&a, 9) + pieces(&b, 8)))));
    assert_eq!(done, 17);
}

/// A region within a region finds all workers busy.
#[test]
fn regions_nest() {
    for count in [1, 2, 4] {
        let (a, b) = (threads(count), threads(2));
        let done = AtomicUsize::new(0);
        together(&a, |_| {
            done.fetch_add(pieces(&a, 7), Ordering::Relaxed);
            done.fetch_add(pieces(&b, 5), Ordering::Relaxed);
            done.fetch_add(a.enter(|| pieces(&a, 3)), Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 15 * count);
    }
}

/// Were a thread to do other work of its pool while it waits, a task would enter within another.
#[test]
fn the_tasks_of_another_pool_may_enter() {
    thread_local! {
        static DEPTH: Cell<usize> = const { Cell::new(0) };
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2);
    let pool = pool.build().unwrap();
    let threads = threads(3);
    let done: usize = pool.install(|| {
        (0..300)
            .into_par_iter()
            .map(|_| {
                assert_eq!(DEPTH.replace(1), 0);
                let done = threads.enter(|| {
                    let mut rows = [0; 64];
                    for_each(rows.chunks_mut(3), || (), |(), row| row.fill(1));
                    pieces(&threads, 10) + rows.iter().sum::<usize>()
                });
                DEPTH.set(0);
                done
            })
            .sum()
    });
    assert_eq!(done, 300 * 74);
}

#[test]
fn a_panic_reaches_the_caller_and_harms_nobody_else() {
    let threads = threads(3);
    for culprit in 0..3 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            together(&threads, |worker| assert_ne!(worker, culprit, "as it must"));
        }));
        let message = caught.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("as it must"));
        assert_eq!(pieces(&threads, 30), 30);
        together(&threads, |_| {});
    }
    let caught = catch_unwind(AssertUnwindSafe(|| {
        together(&threads, |_| panic!("all do"))
    }));
    assert!(caught.is_err());
    let caught = catch_unwind(AssertUnwindSafe(|| threads.enter(|| panic!("outside"))));
    assert!(caught.is_err());
    // Another thread gets its turn.
    thread::scope(|scope| scope.spawn(|| together(&threads, |_| {})).join().unwrap());
}

#[test]
fn items_are_worked_on_once_each() {
    let threads = threads(3);
    let mut items = vec![0; 100];
    let add = |by: usize, items: &mut [usize]| {
        let own = AtomicUsize::new(0);
        for_each(
            items.iter_mut(),
            || own.fetch_add(1, Ordering::Relaxed),
            |_, item| *item += by,
        );
    };
    add(1, &mut items);
    threads.enter(|| add(10, &mut items));
    assert_eq!(items, vec![11; 100]);
}

/// Those that wait for their turn neither.
#[cfg(target_os = "linux")]
#[test]
fn those_who_wait_use_no_processor() {
    use std::time::Duration;

    let threads = &threads(3);
    let tasks = &Mutex::new(Vec::new());
    let note = &|| {
        let task = std::fs::read_link("/proc/thread-self").unwrap();
        tasks.lock().unwrap().push(Path::new("/proc").join(task));
    };
    // User and system time in ticks, mostly 10 ms each.
    let ticks = || -> u64 {
        let stats = tasks.lock().unwrap();
        let stats = stats
            .iter()
            .map(|task| std::fs::read_to_string(task.join("stat")).unwrap());
        stats
            .map(|stat| {
                let fields = stat[stat.rfind(')').unwrap()..].split(' ');
                let times = fields.skip(12).take(2);
                times.map(|time| time.parse::<u64>().unwrap()).sum::<u64>()
            })
            .sum()
    };
    together(threads, |worker| {
        if worker != 0 {
            note();
        }
    });
    thread::scope(|scope| {
        threads.enter(|| {
            let (ready, is_ready) = std::sync::mpsc::channel();
            scope.spawn(move || {
                note();
                ready.send(()).unwrap();
                together(threads, |_| {});
            });
            is_ready.recv().unwrap();
            // One that has just been in a region looks for the next before it sleeps.
            together(threads, |_| {});
            thread::sleep(Duration::from_millis(20));
            let before = ticks();
            thread::sleep(Duration::from_millis(300));
            let used = ticks() - before;
            assert!(used <= 2, "three threads used {used} ticks");
        });
    });
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

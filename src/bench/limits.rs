//! What the machine can do: reading memory, and multiplying 8-bit integers.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::kernels::activations::ScaleSpan;
use crate::kernels::peak::{Peak, Read};
use crate::ops::{Compute, RowRole};

/// The most of a file that is read: far more than any cache holds.
const MAX_READ: usize = 1 << 30;
/// The least that is read, a small file several times over.
const MIN_READ: usize = 1 << 26;
/// Bytes that a thread takes at a time.
const PIECE: usize = 1 << 20;
/// How long integers are multiplied.
const MULTIPLYING: Duration = Duration::from_millis(20);
/// Rounds between two looks at the clock.
const ROUNDS: usize = 10_000;

/// Bytes a second that all threads together read of `file`, each a share of its own as one stream, as
/// products with single tokens do. Files smaller than the caches measure those.
pub(super) fn bandwidth(compute: &Compute, file: &[u8]) -> f64 {
    let file = &file[..file.len().min(MAX_READ)];
    let n_rounds = MIN_READ.div_ceil(file.len().max(1));
    let n_threads = compute.threads.count();
    // Pieces of each thread's share that were taken.
    let taken: Vec<_> = (0..n_threads).map(|_| AtomicUsize::new(0)).collect();
    let n_read = AtomicUsize::new(0);
    let start = Instant::now();
    compute.threads.run(|thread| {
        // Its own share first, then what others have left.
        for share in (thread..n_threads).chain(0..thread) {
            let range = share * file.len() / n_threads..(share + 1) * file.len() / n_threads;
            let n_pieces = range.len().div_ceil(PIECE);
            loop {
                let index = taken[share].fetch_add(1, Ordering::Relaxed);
                if index >= n_pieces * n_rounds {
                    break;
                }
                let first = range.start + index % n_pieces * PIECE;
                let piece = &file[first..range.end.min(first + PIECE)];
                black_box(compute.isa.run_int8(Read(piece)));
                n_read.fetch_add(piece.len(), Ordering::Relaxed);
            }
        }
    });
    n_read.into_inner() as f64 / start.elapsed().as_secs_f64()
}

/// 8-bit multiply-accumulates a second that all threads together reach, of files whose columns are rotated
/// or not.
pub(super) fn int8(compute: &Compute, is_rotated: bool) -> f64 {
    let span = ScaleSpan::of(RowRole::Prompt, is_rotated, false);
    let n_macs = AtomicU64::new(0);
    let start = Instant::now();
    compute.threads.run(|_| {
        loop {
            let n = compute.isa.run_int8(Peak {
                rounds: ROUNDS,
                span,
            });
            n_macs.fetch_add(n, Ordering::Relaxed);
            if start.elapsed() >= MULTIPLYING {
                break;
            }
        }
    });
    n_macs.into_inner() as f64 / start.elapsed().as_secs_f64()
}

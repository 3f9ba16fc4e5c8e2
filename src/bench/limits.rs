//! What the machine can do: reading memory, and multiplying 8-bit integers.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::kernels::peak::Peak;
use crate::ops::Compute;

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

/// Bytes a second that all threads together read of `file`. Files smaller than the caches measure
/// those.
pub(super) fn bandwidth(compute: &Compute, file: &[u8]) -> f64 {
    let pieces: Vec<&[u8]> = file[..file.len().min(MAX_READ)].chunks(PIECE).collect();
    let n_pieces = pieces.len().max(MIN_READ / PIECE);
    let (next, n_read) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Instant::now();
    compute.threads.run(|_| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= n_pieces {
                break;
            }
            let piece = pieces[index % pieces.len()];
            black_box(compute.isa.run(|| sum(piece)));
            n_read.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    n_read.into_inner() as f64 / start.elapsed().as_secs_f64()
}

/// Looks at every byte.
#[inline(always)]
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let rest = rest.iter().map(|byte| u64::from(*byte));
    words.fold(0, u64::wrapping_add) ^ rest.fold(0, u64::wrapping_add)
}

/// 8-bit multiply-accumulates a second that all threads together reach.
pub(super) fn int8(compute: &Compute) -> f64 {
    let n_macs = AtomicU64::new(0);
    let start = Instant::now();
    compute.threads.run(|_| {
        loop {
            let n = compute.isa.run_int8(Peak { rounds: ROUNDS });
            n_macs.fetch_add(n, Ordering::Relaxed);
            if start.elapsed() >= MULTIPLYING {
                break;
            }
        }
    });
    n_macs.into_inner() as f64 / start.elapsed().as_secs_f64()
}

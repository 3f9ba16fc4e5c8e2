//! The speed limits of this processor: multiplying 8-bit integers, and reading memory. [`gemm`](super::gemm)
//! and [`gemv`](super::gemv) are measured against them.
#![allow(unsafe_code)]

use std::hint::black_box;

use crate::kernels::activations::ScaleSpan;
use crate::kernels::formats::AHEAD_BYTES;
use crate::kernels::int8::{Group, Int8, Int8Op};

/// Columns of a round: those of one step of the widest instruction, so that the operands of a round
/// fit the registers that its sums leave. Where products are first summed in 16 bits, they are
/// widened each time, which formats of few bits do less often.
const GROUP: Group = Group { len: 8, bits: 4 };
/// Room for 6 rows of weights.
const MAX_WEIGHTS: usize = 6 * GROUP.len;
/// Room for two registers of 16 tokens.
const MAX_ACTIVATIONS: usize = 32 * GROUP.len;

/// Multiplies the same tile, which stays in the first-level cache, again and again, with all running sums in
/// registers; or if the instruction set takes [tile registers](super::gemm::tiled) for such scales, the same
/// block, whose sums go to memory. Returns the number of multiply-accumulates.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// How often, or with tile registers a part of that.
    pub rounds: usize,
    /// Columns that share a scale in the batches that this is the limit of.
    pub span: ScaleSpan,
}

impl Int8Op for Peak {
    type Output = u64;

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) -> u64 {
        if self.span == ScaleSpan::Coarse
            && let Some(products) = isa.peak_of_tiles(self.rounds)
        {
            return products;
        }
        // Enough sums to keep two multipliers busy through their latency, few enough to leave
        // registers for the operands, and in a shape that needs no more loads than multiplications.
        if I::TILE_VECTORS == 2 {
            self.multiply::<I, 6, 2>(isa)
        } else {
            self.multiply::<I, 4, 2>(isa)
        }
    }
}

impl Peak {
    #[inline(always)]
    fn multiply<I: Int8, const R: usize, const V: usize>(self, isa: I) -> u64 {
        let width = V * I::LANES;
        let weights = [3u8; MAX_WEIGHTS];
        let activations = [5i8; MAX_ACTIVATIONS];
        assert!(R * GROUP.len <= MAX_WEIGHTS && width * GROUP.len <= MAX_ACTIVATIONS);
        let mut sums = [[isa.zero_i32(); V]; R];
        for _ in 0..self.rounds {
            // The compiler must not know that each round sees the same numbers.
            let (weights, activations) = black_box((weights.as_ptr(), activations.as_ptr()));
            // SAFETY: there are `R` rows of a group of weights and, at multiples of `COLUMNS * width`,
            // a group of `width` tokens, as was just checked.
            sums = unsafe {
                isa.dot_group::<R, V>(GROUP, weights, activations, I::COLUMNS * width, sums)
            };
        }
        black_box(sums);
        (self.rounds * R * width * GROUP.len) as u64
    }
}

/// Reads bytes once, as [`gemv`](super::gemv) reads weights: as one stream, asking for what lies
/// [`AHEAD_BYTES`] further on. Returns a sum of them, so that none can be left out.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a>(pub &'a [u8]);

impl Int8Op for Read<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) -> u64 {
        const LINE_BYTES: usize = 64;
        const WORDS: usize = LINE_BYTES / 8;

        let (lines, rest) = self.0.as_chunks::<LINE_BYTES>();
        let mut sums = [0_u64; WORDS];
        for line in lines {
            isa.prefetch(line.as_ptr().wrapping_add(AHEAD_BYTES));
            for (sum, word) in sums.iter_mut().zip(line.as_chunks().0) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        let rest = rest.iter().map(|byte| u64::from(*byte));
        sums.into_iter().chain(rest).fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    /// A limit must have done the work that it is the limit of.
    #[test]
    fn every_byte_is_read() {
        let bytes: Vec<u8> = (0..1000_u32).map(|i| (i * 37 % 251) as u8).collect();
        for isa in Isa::available() {
            let whole = isa.run_int8(Read(&bytes));
            for i in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[i] ^= 1;
                assert_ne!(isa.run_int8(Read(&changed)), whole, "{isa} {i}");
            }
        }
    }

    #[test]
    fn work_is_counted_by_the_round() {
        for isa in Isa::available() {
            for span in [ScaleSpan::Unit, ScaleSpan::Coarse] {
                let done = |rounds| isa.run_int8(Peak { rounds, span });
                assert!(done(1) > 0);
                assert_eq!(done(7 * 64), 7 * done(64), "{isa}");
            }
        }
    }
}

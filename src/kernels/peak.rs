//! How fast this processor multiplies 8-bit integers when nothing else is in the way: the limit
//! that [`gemm`](super::gemm) is held against.
#![allow(unsafe_code)]

use std::hint::black_box;

use crate::kernels::int8::{Group, Int8, Int8Op};

/// Columns of a round: those of one step of the widest instruction, so that the operands of a round
/// fit the registers that its sums leave. Where products are first summed in 16 bits, they are
/// widened each time, which formats of few bits do less often.
const GROUP: Group = Group { len: 8, bits: 4 };
/// Room for 6 rows of weights.
const MAX_WEIGHTS: usize = 6 * GROUP.len;
/// Room for two registers of 16 tokens.
const MAX_ACTIVATIONS: usize = 32 * GROUP.len;

/// Multiplies the same tile, which stays in the first-level cache, `rounds` times, with all
/// running sums in registers. Returns the number of multiply-accumulates.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// How often.
    pub rounds: usize,
}

impl Int8Op for Peak {
    type Output = u64;

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    #[test]
    fn work_is_counted_by_the_round() {
        for isa in Isa::available() {
            let one = isa.run_int8(Peak { rounds: 1 });
            assert!(one > 0);
            assert_eq!(isa.run_int8(Peak { rounds: 7 }), 7 * one);
        }
    }
}

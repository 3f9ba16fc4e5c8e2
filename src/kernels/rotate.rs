//! Rotation of a block of columns by a Hadamard matrix behind signs, as
//! [`quant::rotation`](crate::quant::rotation) specifies it: the same bits on every instruction set.
#![allow(unsafe_code)]

use crate::kernels::int8::Int8;
use crate::quant::rotation::BLOCK_LEN;

/// Registers that pass through several stages together, which leaves room for their partners and
/// for signs where there are sixteen in all.
const TOGETHER: usize = 4;

/// `to = values * scale * factors * H`, for 32, 64 or 128 values, with the factors that
/// [`Rotation::factors`](crate::quant::rotation::Rotation::factors) has for so many.
#[inline(always)]
pub(crate) fn rotate<I: Int8>(
    isa: I,
    values: &[f32],
    scale: f32,
    factors: &[f32; BLOCK_LEN],
    to: &mut [f32],
) {
    // With a constant length all offsets are constants.
    match values.len() {
        32 => stages::<I, 32>(isa, values, scale, factors, to),
        64 => stages::<I, 64>(isa, values, scale, factors, to),
        128 => stages::<I, 128>(isa, values, scale, factors, to),
        len => panic!("a block of {len} columns"),
    }
}

#[inline(always)]
fn stages<I: Int8, const LEN: usize>(
    isa: I,
    values: &[f32],
    scale: f32,
    factors: &[f32; BLOCK_LEN],
    to: &mut [f32],
) {
    let values = values.first_chunk::<LEN>().expect("the caller matched it");
    let factors = factors.first_chunk().expect("no block is longer");
    let to = to.first_chunk_mut().expect("`to` is as long as `values`");
    let mut apart = match LEN / I::LANES {
        2 => first_stages::<I, LEN, 2>(isa, values, scale, factors, to),
        _ => first_stages::<I, LEN, TOGETHER>(isa, values, scale, factors, to),
    };
    while apart < LEN {
        apart *= match LEN / apart {
            2 => stages_of_registers::<I, LEN, 2>(isa, to, apart),
            _ => stages_of_registers::<I, LEN, TOGETHER>(isa, to, apart),
        };
    }
}

/// Multiplies with the factors, then adds and subtracts values up to half of `N` registers apart.
/// Returns how far those of the next stage are apart.
#[inline(always)]
fn first_stages<I: Int8, const LEN: usize, const N: usize>(
    isa: I,
    values: &[f32; LEN],
    scale: f32,
    factors: &[f32; LEN],
    to: &mut [f32; LEN],
) -> usize {
    assert!(LEN.is_multiple_of(N * I::LANES));
    let scale = isa.splat_f32(scale);
    for first in (0..LEN).step_by(N * I::LANES) {
        let mut registers = [isa.splat_f32(0.0); N];
        for (i, register) in registers.iter_mut().enumerate() {
            let at = first + i * I::LANES;
            // SAFETY: `first` is a multiple of `N` registers below `LEN`, itself such a multiple, so
            // `N` registers from there end within `LEN`, which both arrays have.
            let (value, factor) = unsafe {
                (
                    isa.load_f32(values.as_ptr().add(at)),
                    isa.load_f32(factors.as_ptr().add(at)),
                )
            };
            *register = isa.add_and_subtract(isa.mul(isa.mul(value, scale), factor));
        }
        let registers = combine(isa, registers);
        for (i, register) in registers.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { isa.store_f32(to.as_mut_ptr().add(first + i * I::LANES), register) };
        }
    }
    N * I::LANES
}

/// Adds and subtracts values `apart`, up to `N / 2` times `apart`, from each other, `apart` being a
/// multiple of a register's lanes. Returns `N`.
#[inline(always)]
fn stages_of_registers<I: Int8, const LEN: usize, const N: usize>(
    isa: I,
    values: &mut [f32; LEN],
    apart: usize,
) -> usize {
    assert!(LEN.is_multiple_of(N * apart) && apart.is_multiple_of(I::LANES));
    for block in (0..LEN).step_by(N * apart) {
        for first in (block..block + apart).step_by(I::LANES) {
            let mut registers = [isa.splat_f32(0.0); N];
            for (i, register) in registers.iter_mut().enumerate() {
                // SAFETY: the last register ends at `block + N * apart` at most, since `apart` is a
                // multiple of the lanes, and `LEN` is a multiple of `N * apart`.
                *register = unsafe { isa.load_f32(values.as_ptr().add(first + i * apart)) };
            }
            let registers = combine(isa, registers);
            for (i, register) in registers.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { isa.store_f32(values.as_mut_ptr().add(first + i * apart), register) };
            }
        }
    }
    N
}

/// Sums and differences of registers 1 apart, then 2 apart where there are four.
#[inline(always)]
fn combine<I: Int8, const N: usize>(isa: I, mut registers: [I::F32; N]) -> [I::F32; N] {
    const { assert!(N == 2 || N == 4) };
    let mut apart = 1;
    while apart < N {
        for i in 0..N {
            if i & apart == 0 {
                let (a, b) = (registers[i], registers[i + apart]);
                registers[i] = isa.add(a, b);
                registers[i + apart] = isa.sub(a, b);
            }
        }
        apart *= 2;
    }
    registers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::int8::Int8Op;
    use crate::quant::rotation::Rotation;

    struct Rotate<'a> {
        values: &'a mut [f32; BLOCK_LEN],
        len: usize,
        factors: &'a [f32; BLOCK_LEN],
    }

    impl Int8Op for Rotate<'_> {
        type Output = ();

        #[inline(always)]
        fn run<I: Int8>(self, isa: I) {
            let from = *self.values;
            let (from, to) = (&from[..self.len], &mut self.values[..self.len]);
            rotate(isa, from, 1.0, self.factors, to);
        }
    }

    /// Blocks by what they hold.
    fn blocks() -> Vec<(&'static str, [f32; BLOCK_LEN])> {
        let random = |seed: usize| -> [f32; BLOCK_LEN] {
            std::array::from_fn(|i| (((i + seed) * 7919) % 2003) as f32 / 1001.0 - 1.0)
        };
        let with = |place: usize, value: f32| {
            let mut block = random(3);
            block[place] = value;
            block
        };
        vec![
            ("random", random(1)),
            ("zeros", [0.0; BLOCK_LEN]),
            ("negative zeros", [-0.0; BLOCK_LEN]),
            ("equal values", [0.7; BLOCK_LEN]),
            ("every other zero", std::array::from_fn(|i| (i % 2) as f32)),
            ("denormal", random(2).map(|x| x * 1e-40)),
            ("huge", random(4).map(|x| x * 1e30)),
            ("one huge", with(17, 1e30)),
            ("one denormal", with(0, 1e-42)),
            ("NaN first", with(0, f32::NAN)),
            ("NaN within", with(29, f32::NAN)),
            ("infinity", with(5, f32::INFINITY)),
            ("overflow", [3e38; BLOCK_LEN]),
        ]
    }

    #[test]
    fn has_the_bits_of_the_specification_on_every_instruction_set() {
        let rotation = Rotation::default();
        for (name, block) in blocks() {
            for len in [32, 64, 128] {
                let mut wanted = block;
                rotation.apply(&mut wanted[..len]);
                for isa in Isa::available() {
                    let mut got = block;
                    isa.run_int8(Rotate {
                        values: &mut got,
                        len,
                        factors: rotation.factors(len),
                    });
                    for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                        // Which NaN it is may differ.
                        let same =
                            got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan();
                        assert!(same, "{isa} {name} {len} [{i}]: {got} {wanted}");
                    }
                    if block[..len].iter().any(|x| x.is_nan()) {
                        assert!(got[..len].iter().all(|x| x.is_nan()), "{isa} {name} {len}");
                    }
                }
            }
        }
    }
}

//! Sums of values, weighted by a softmax, in 16-bit integers: two products in the place of one.
//!
//! Weights are at most 1 and get 13 bits, values get 12 and a scale for each block of keys: then
//! the sums of a block's products, of at most 64, fit 32 bits.
#![allow(unsafe_code)]

use crate::kernels::Isa;
use crate::kernels::aligned::AlignedFloats;
use crate::kernels::attention::MAX_BLOCK_KEYS;
use crate::kernels::int8::{HALF, Int8, Int8Op};

/// What a weight of 1 becomes.
const ONE: i32 = (1 << 13) - 1;
/// What the largest value of a block becomes.
const LARGEST: i32 = (1 << 11) - 1;
const _: () = assert!(MAX_BLOCK_KEYS as i32 <= i32::MAX / (ONE * LARGEST));
/// Registers of queries side by side.
const VECTORS: usize = super::QUERY_VECTORS;

/// A block of values as integers; a buffer that each thread keeps.
#[derive(Debug, Default)]
pub struct Packed {
    /// `[pairs of keys, head_dim]`: a column of two keys, 16 bits each. The bits of integers.
    values: AlignedFloats,
    /// What an integer is worth.
    scale: f32,
    /// `[pairs of keys, group]`: weights of two keys likewise.
    weights: AlignedFloats,
}

/// Whether integers are faster than floats on an instruction set.
pub fn pays(isa: Isa) -> bool {
    isa.run_int8(Pays)
}

struct Pays;

impl Int8Op for Pays {
    type Output = bool;

    #[inline(always)]
    fn run<I: Int8>(self, _: I) -> bool {
        I::FAST_I16
    }
}

impl Packed {
    /// Rounds `values: [n, head_dim]`, with a `head_dim` that is a multiple of 32 and at most 64 rows.
    /// One value that is not finite makes the scale, and with it all products, not finite.
    ///
    /// # Panics
    /// For other shapes.
    pub fn load(&mut self, isa: Isa, head_dim: usize, values: &[f32]) {
        isa.run_int8(Load {
            head_dim,
            values,
            packed: self,
        });
    }

    /// `out[column][query] = out[column][query] * shrink[query] + sum of weights[key][query] *
    /// values[key][column]` for the values that were loaded, or the first of them.
    ///
    /// `weights: [n_keys, group]`, `shrink: [group]`, `out: [head_dim, group]`, with a `group` of
    /// twice as many as a register holds.
    pub fn add(&mut self, isa: Isa, weights: &[f32], shrink: &[f32], out: &mut [f32]) {
        isa.run_int8(Add {
            packed: self,
            weights,
            shrink,
            out,
        });
    }
}

struct Load<'a, 'b> {
    head_dim: usize,
    values: &'a [f32],
    packed: &'b mut Packed,
}

impl Int8Op for Load<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        let Load {
            head_dim,
            values,
            packed,
        } = self;
        assert!(head_dim.is_multiple_of(I::LANES) && head_dim.is_multiple_of(HALF));
        assert!(head_dim > 0 && values.len().is_multiple_of(head_dim));
        assert!(values.len() / head_dim <= MAX_BLOCK_KEYS);
        packed.scale = isa.largest(values.as_chunks().0) / LARGEST as f32;
        let inverse = match packed.scale > f32::MIN_POSITIVE {
            true => isa.splat_f32(1.0 / packed.scale),
            false => isa.splat_f32(0.0),
        };
        let n_pairs = values.len().div_ceil(2 * head_dim);
        packed.values.resize(n_pairs * head_dim);
        let pairs = packed.values.chunks_exact_mut(head_dim);
        for (to, keys) in pairs.zip(values.chunks(2 * head_dim)) {
            let (first, second) = keys.split_at(head_dim);
            for column in (0..head_dim).step_by(I::LANES) {
                // SAFETY: `column` and `head_dim` are multiples of the lanes, so a register from
                // `column` on lies within `head_dim` values. `to` and `first` are as long, and
                // `second` too if it is not empty, since there are whole keys only.
                unsafe {
                    let load = |key: &[f32]| {
                        isa.round(isa.mul(isa.load_f32(key.as_ptr().add(column)), inverse))
                    };
                    let upper = match second.is_empty() {
                        true => isa.zero_i32(),
                        false => load(second),
                    };
                    isa.store_i32(
                        to.as_mut_ptr().add(column).cast(),
                        isa.pack_i16(load(first), upper),
                    );
                }
            }
        }
    }
}

struct Add<'a, 'b> {
    packed: &'a mut Packed,
    weights: &'a [f32],
    shrink: &'a [f32],
    out: &'b mut [f32],
}

impl Int8Op for Add<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(mut self, isa: I) {
        let group = VECTORS * I::LANES;
        assert!(self.shrink.len() == group && self.weights.len().is_multiple_of(group));
        let n_pairs = self.weights.len().div_ceil(2 * group);
        let head_dim = self.out.len() / group;
        assert!(self.out.len() == head_dim * group);
        assert!(self.packed.values.len() >= n_pairs * head_dim);
        self.pack_weights(isa, n_pairs);
        // As many rows as leave room for a register of weights each, and one of values.
        match I::LANES {
            16 => self.add_columns::<I, 8>(isa, head_dim),
            _ => self.add_columns::<I, 4>(isa, head_dim),
        }
    }
}

impl Add<'_, '_> {
    #[inline(always)]
    fn pack_weights<I: Int8>(&mut self, isa: I, n_pairs: usize) {
        let group = VECTORS * I::LANES;
        let one = isa.splat_f32(ONE as f32);
        self.packed.weights.resize(n_pairs * group);
        let pairs = self.packed.weights.chunks_exact_mut(group);
        for (to, keys) in pairs.zip(self.weights.chunks(2 * group)) {
            let (first, second) = keys.split_at(group);
            for v in 0..VECTORS {
                let lane = v * I::LANES;
                // SAFETY: `to` and `first` have `group` weights, which are `VECTORS` registers, and
                // `second` has too if it is not empty: `run` has checked that there are whole keys.
                unsafe {
                    let load =
                        |key: &[f32]| isa.round(isa.mul(isa.load_f32(key.as_ptr().add(lane)), one));
                    let upper = match second.is_empty() {
                        true => isa.zero_i32(),
                        false => load(second),
                    };
                    isa.store_i32(
                        to.as_mut_ptr().add(lane).cast(),
                        isa.pack_i16(load(first), upper),
                    );
                }
            }
        }
    }

    #[allow(
        clippy::needless_range_loop,
        reason = "constant bounds keep the sums in registers"
    )]
    #[inline(always)]
    fn add_columns<I: Int8, const R: usize>(&mut self, isa: I, head_dim: usize) {
        let group = VECTORS * I::LANES;
        assert!(head_dim.is_multiple_of(R) && self.out.len() == head_dim * group);
        let scale = isa.splat_f32(self.packed.scale / ONE as f32);
        let weights = self.packed.weights.chunks_exact(group);
        for (first, out) in self.out.chunks_exact_mut(R * group).enumerate() {
            let mut sums = [[isa.zero_i32(); VECTORS]; R];
            let values = self.packed.values.chunks_exact(head_dim);
            for (weights, values) in weights.clone().zip(values) {
                let values: &[f32] = &values[first * R..(first + 1) * R];
                // SAFETY: `weights` are one of the chunks of `group`, `VECTORS` registers, and `values`
                // are `R` of `head_dim`.
                unsafe {
                    let mut pairs = [isa.zero_i32(); VECTORS];
                    for v in 0..VECTORS {
                        pairs[v] = isa.load_i32(weights.as_ptr().add(v * I::LANES).cast());
                    }
                    for r in 0..R {
                        let value = isa.splat_i32(values.as_ptr().add(r).cast::<i32>().read());
                        for v in 0..VECTORS {
                            sums[r][v] = isa.dot_i16(sums[r][v], pairs[v], value);
                        }
                    }
                }
            }
            for v in 0..VECTORS {
                let lane = v * I::LANES;
                // SAFETY: `out` is a chunk of `R` rows of `group` lanes, and `run` has checked that
                // `shrink` has as many lanes.
                unsafe {
                    let shrink = isa.load_f32(self.shrink.as_ptr().add(lane));
                    for r in 0..R {
                        let out = out.as_mut_ptr().add(r * group + lane);
                        let kept = isa.mul(isa.load_f32(out), shrink);
                        let sum = isa.to_f32(sums[r][v]);
                        isa.store_f32(out, isa.mul_add(sum, scale, kept));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| (((i + seed) * 7919) % 2003) as f32 / 2002.0)
            .collect()
    }

    /// What [`Packed`] computes, in integers as wide as it takes.
    fn exact(weights: &[f32], values: &[f32], head_dim: usize, group: usize) -> Vec<f32> {
        let largest = values.iter().fold(0f32, |largest, v| largest.max(v.abs()));
        let scale = largest / LARGEST as f32;
        let inverse = if largest > 0.0 { 1.0 / scale } else { 0.0 };
        let round = |x: f32| x.round_ties_even() as i64;
        let sum = |query: usize, column: usize| -> i64 {
            let keys = weights.chunks(group).zip(values.chunks(head_dim));
            keys.map(|(weights, values)| {
                round(weights[query] * ONE as f32) * round(values[column] * inverse)
            })
            .sum()
        };
        let outputs = (0..head_dim * group).map(|i| sum(i % group, i / group));
        outputs
            .map(|sum| sum as f32 * (scale / ONE as f32))
            .collect()
    }

    #[test]
    fn sums_are_those_of_the_integers_on_every_instruction_set() {
        for isa in Isa::available() {
            let group = VECTORS * isa.run_int8(Lanes);
            for (n_keys, head_dim) in [(1, 32), (2, 64), (33, 64), (MAX_BLOCK_KEYS, 128)] {
                let weights = floats(n_keys * group, 1);
                let values: Vec<f32> = floats(n_keys * head_dim, 5)
                    .iter()
                    .map(|x| 6.0 * x - 3.0)
                    .collect();
                for (weights, values) in [
                    (weights, values),
                    // The largest sums there can be.
                    (vec![1.0; n_keys * group], vec![-2.5; n_keys * head_dim]),
                    (vec![0.5; n_keys * group], vec![0.0; n_keys * head_dim]),
                ] {
                    let mut packed = Packed::default();
                    packed.load(isa, head_dim, &values);
                    let mut out = vec![8.0; head_dim * group];
                    packed.add(isa, &weights, &vec![0.25; group], &mut out);
                    for (got, sum) in out.iter().zip(exact(&weights, &values, head_dim, group)) {
                        let wanted = sum + 2.0;
                        let bound = 4e-7 * (sum.abs() + wanted.abs());
                        assert!(
                            (got - wanted).abs() <= bound,
                            "{isa} {n_keys}: {got} {wanted}"
                        );
                    }
                }
            }
        }
    }

    struct Lanes;

    impl Int8Op for Lanes {
        type Output = usize;

        #[inline(always)]
        fn run<I: Int8>(self, _: I) -> usize {
            I::LANES
        }
    }
}

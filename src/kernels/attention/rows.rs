//! The queries of answers, one after the other: the attention of generation.
//!
//! Keys and values are read once, as they are stored; registers run along the columns of a head.
#![allow(unsafe_code)]

use half::f16;
use pulp::{Simd, WithSimd};

use crate::kernels::Isa;
use crate::kernels::aligned::AlignedFloats;
use crate::kernels::attention::{Head, HeadRows, MAX_BLOCK_KEYS, MAX_LANES, Stored};
use crate::kernels::float;
use crate::kernels::int8::{Int8, Int8Op};
use crate::kernels::tiles::Tile;

/// Computes all rows of `tile`, keys in blocks of `block`. `copied` is for rows that cannot be used
/// as they are stored.
pub(super) fn attend(
    isa: Isa,
    head: Head,
    block: usize,
    tile: &mut Tile,
    copied: &mut AlignedFloats,
) {
    let head_dim = tile.cols().len();
    let mut weights = [0.0; MAX_BLOCK_KEYS];
    for query in tile.rows() {
        let q = head.queries.row(query, head_dim);
        let out = tile.row_mut(query);
        out.fill(0.0);
        let mut so_far = SoFar {
            max: f32::NEG_INFINITY,
            sum: 0.0,
        };
        let n_visible = head.n_visible(query);
        for first in (0..n_visible).step_by(block) {
            let weights = &mut weights[..block.min(n_visible - first)];
            match &head.keys {
                Stored::F32(keys) => score(isa, q, keys.from(first), head.scale, weights),
                Stored::F16(keys) => score(isa, q, keys.from(first), head.scale, weights),
                Stored::Q8_0(_) => {
                    let keys = copy(isa, &head.keys, first, weights.len(), head_dim, copied);
                    score(isa, q, keys, head.scale, weights);
                }
            }
            let shrink = isa.run(Weigh {
                weights,
                so_far: &mut so_far,
            });
            match &head.values {
                Stored::F32(values) => add(isa, weights, values.from(first), shrink, out),
                Stored::F16(values) => add(isa, weights, values.from(first), shrink, out),
                Stored::Q8_0(_) => {
                    let values = copy(isa, &head.values, first, weights.len(), head_dim, copied);
                    add(isa, weights, values, shrink, out);
                }
            }
        }
        let inverse = 1.0 / so_far.sum;
        out.iter_mut().for_each(|x| *x *= inverse);
    }
}

/// `n` rows from row `first` on as floats.
fn copy<'a>(
    isa: Isa,
    stored: &Stored,
    first: usize,
    n: usize,
    head_dim: usize,
    copied: &'a mut AlignedFloats,
) -> HeadRows<'a> {
    copied.resize(n * head_dim);
    stored.copy_to(isa, first, head_dim, copied);
    HeadRows::contiguous(copied, head_dim)
}

/// `scores[key] = q . keys[key] * scale`.
fn score<T: Element>(isa: Isa, q: &[f32], keys: HeadRows<T>, scale: f32, scores: &mut [f32]) {
    isa.run_int8(Scores {
        q,
        keys,
        scale,
        scores,
    });
}

/// `out = out * shrink + sum of weights[key] * values[key]`.
fn add<T: Element>(isa: Isa, weights: &[f32], values: HeadRows<T>, shrink: f32, out: &mut [f32]) {
    isa.run_int8(AddValues {
        weights,
        values,
        shrink,
        out,
    });
}

/// What a key or value is made of.
trait Element: Copy {
    /// Loads [`Int8::LANES`] of them.
    ///
    /// # Safety
    /// They must be readable at `from`.
    unsafe fn load<I: Int8>(isa: I, from: *const Self) -> I::F32;

    fn to_f32(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<I: Int8>(isa: I, from: *const f32) -> I::F32 {
        // SAFETY: passed on.
        unsafe { isa.load_f32(from) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<I: Int8>(isa: I, from: *const f16) -> I::F32 {
        // SAFETY: passed on.
        unsafe { isa.load_f16(from) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

/// [`score`], to be compiled for an instruction set.
struct Scores<'a, 'b, T> {
    q: &'a [f32],
    keys: HeadRows<'a, T>,
    scale: f32,
    scores: &'b mut [f32],
}

impl<T: Element> Int8Op for Scores<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        const { assert!(I::LANES <= MAX_LANES) };
        let q = self.q;
        let in_full = q.len() / I::LANES * I::LANES;
        let mut sums = [[0.0; MAX_LANES]; MAX_LANES];
        let mut columns = [[0.0; MAX_LANES]; MAX_LANES];
        for (index, scores) in self.scores.chunks_mut(I::LANES).enumerate() {
            let mut rests = [0.0; MAX_LANES];
            for i in 0..scores.len() {
                let key = self.keys.row(index * I::LANES + i, q.len());
                let mut sum = [isa.splat_f32(0.0); 2];
                for column in (0..in_full).step_by(I::LANES) {
                    // SAFETY: a key's row is as long as `q`, and `column` a multiple of the lanes
                    // below `in_full`, so a register is left in both.
                    unsafe {
                        let a = isa.load_f32(q.as_ptr().add(column));
                        let b = T::load(isa, key.as_ptr().add(column));
                        let sum = &mut sum[column / I::LANES % 2];
                        *sum = isa.mul_add(a, b, *sum);
                    }
                }
                let [even, odd] = sum;
                // SAFETY: a row of sums is as long as the widest register.
                unsafe {
                    let both = isa.mul_add(even, isa.splat_f32(1.0), odd);
                    isa.store_f32(sums[i].as_mut_ptr(), both);
                }
                for column in in_full..q.len() {
                    rests[i] += q[column] * key[column].to_f32();
                }
            }
            // The lanes of one key are added up by adding the same lane of several keys.
            // SAFETY: both have as many rows, of as many floats, as the widest register has lanes.
            unsafe {
                let (from, to) = (sums.as_ptr().cast(), columns.as_mut_ptr().cast());
                isa.transpose(from, MAX_LANES, false, to, MAX_LANES);
                let mut total = isa.load_f32(rests.as_ptr());
                for lane in columns.iter().take(I::LANES) {
                    let lane = isa.load_f32(lane.as_ptr());
                    total = isa.mul_add(lane, isa.splat_f32(1.0), total);
                }
                let total = isa.mul(total, isa.splat_f32(self.scale));
                isa.store_f32(rests.as_mut_ptr(), total);
            }
            scores.copy_from_slice(&rests[..scores.len()]);
        }
    }
}

/// The online softmax of one query.
struct SoFar {
    /// The largest score.
    max: f32,
    /// The sum of the weights relative to it.
    sum: f32,
}

/// Turns scores into weights relative to the largest so far; returns what has been summed is to be
/// multiplied with.
struct Weigh<'a, 'b> {
    weights: &'a mut [f32],
    so_far: &'b mut SoFar,
}

impl WithSimd for Weigh<'_, '_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let Weigh { weights, so_far } = self;
        let max = float::max(weights).max(so_far.max);
        let shrink = float::exp(so_far.max - max);
        let (registers, rest) = S::as_mut_simd_f32s(weights);
        for weight in registers {
            let below = simd.sub_f32s(*weight, simd.splat_f32s(max));
            *weight = float::exp_nonpositive(simd, below);
        }
        for weight in rest {
            *weight = float::exp(*weight - max);
        }
        so_far.sum = so_far.sum * shrink + float::sum(weights);
        so_far.max = max;
        shrink
    }
}

/// [`add`], to be compiled for an instruction set.
struct AddValues<'a, 'b, T> {
    weights: &'a [f32],
    values: HeadRows<'a, T>,
    shrink: f32,
    out: &'b mut [f32],
}

impl<T: Element> Int8Op for AddValues<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(mut self, isa: I) {
        /// Registers of the output that are summed together.
        const AT_ONCE: usize = 8;

        let head_dim = self.out.len();
        let mut column = 0;
        while column + AT_ONCE * I::LANES <= head_dim {
            self.add_columns::<I, AT_ONCE>(isa, column);
            column += AT_ONCE * I::LANES;
        }
        while column + I::LANES <= head_dim {
            self.add_columns::<I, 1>(isa, column);
            column += I::LANES;
        }
        for column in column..head_dim {
            let mut sum = self.out[column] * self.shrink;
            for (key, weight) in self.weights.iter().enumerate() {
                sum += weight * self.values.row(key, head_dim)[column].to_f32();
            }
            self.out[column] = sum;
        }
    }
}

impl<T: Element> AddValues<'_, '_, T> {
    /// Computes the columns of `N` registers from `first` on.
    #[inline(always)]
    fn add_columns<I: Int8, const N: usize>(&mut self, isa: I, first: usize) {
        let head_dim = self.out.len();
        // All accesses below rest on this: the output and the rows of values have `head_dim` columns.
        assert!(first + N * I::LANES <= head_dim);
        let out = self.out[first..].as_mut_ptr();
        let shrink = isa.splat_f32(self.shrink);
        let mut sums = [shrink; N];
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: register `i` of `N` ends within `head_dim`, as asserted.
            *sum = unsafe { isa.mul(isa.load_f32(out.add(i * I::LANES)), shrink) };
        }
        for (key, weight) in self.weights.iter().enumerate() {
            let value = self.values.row(key, head_dim)[first..].as_ptr();
            let weight = isa.splat_f32(*weight);
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: as above; `row` has returned `head_dim` columns.
                unsafe {
                    let value = T::load(isa, value.add(i * I::LANES));
                    *sum = isa.mul_add(weight, value, *sum);
                }
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            // SAFETY: register `i` of `N` ends within `head_dim`, as asserted.
            unsafe { isa.store_f32(out.add(i * I::LANES), sum) };
        }
    }
}

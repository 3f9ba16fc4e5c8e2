//! Sixteen sub-blocks side by side, as the searches of `Q4_K` and `Q6_K` work on them.
//!
//! A lane is a sub-block. So no sum runs across a register, whose order would depend on the
//! register's width: every lane goes through the same operations on every instruction set.

use pulp::Simd;

/// Sub-blocks that are searched together: the widest register, and a multiple of all others.
pub const N_LANES: usize = 16;

/// One number for each sub-block.
pub type Lanes = [f32; N_LANES];

/// Registers that [`Lanes`] fill.
#[inline(always)]
pub fn n_registers<S: Simd>() -> usize {
    const { assert!(N_LANES.is_multiple_of(S::F32_LANES)) };
    N_LANES / S::F32_LANES
}

/// Register `r` of `lanes`.
#[inline(always)]
pub fn load<S: Simd>(lanes: &Lanes, r: usize) -> S::f32s {
    S::as_simd_f32s(lanes).0[r]
}

/// Puts register `r` of `lanes`.
#[inline(always)]
pub fn store<S: Simd>(lanes: &mut Lanes, r: usize, values: S::f32s) {
    S::as_mut_simd_f32s(lanes).0[r] = values;
}

/// Register `r` of every column.
#[inline(always)]
pub fn load_columns<S: Simd, const SUB: usize>(columns: &[Lanes; SUB], r: usize) -> [S::f32s; SUB] {
    std::array::from_fn(|i| load::<S>(&columns[i], r))
}

/// Puts the sub-blocks of `values` into the lanes from `first` on.
#[inline(always)]
pub fn transpose<const SUB: usize>(values: &[f32; 256], first: usize, columns: &mut [Lanes; SUB]) {
    for (i, column) in columns.iter_mut().enumerate() {
        for n in 0..256 / SUB {
            column[first + n] = values[n * SUB + i];
        }
    }
}

/// Vector form of [`round_within`](super::round_within).
#[inline(always)]
pub fn round_within<S: Simd>(simd: S, x: S::f32s, low: S::f32s, high: S::f32s) -> S::f32s {
    let round = simd.splat_f32s(super::ROUND);
    let x = simd.select_f32s(simd.less_than_f32s(low, x), x, low);
    let x = simd.select_f32s(simd.less_than_f32s(x, high), x, high);
    simd.sub_f32s(simd.add_f32s(x, round), round)
}

/// Vector form of [`reciprocal`](super::reciprocal).
#[inline(always)]
pub fn reciprocal<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let inverse = simd.div_f32s(simd.splat_f32s(1.0), x);
    let is_finite = simd.less_than_f32s(simd.abs_f32s(inverse), simd.splat_f32s(f32::INFINITY));
    simd.select_f32s(is_finite, inverse, simd.splat_f32s(0.0))
}

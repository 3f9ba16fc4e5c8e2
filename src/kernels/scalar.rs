//! Portable code: the specification of what every instruction set computes, for both cases of
//! [`Int8::WHOLE_BYTES`](super::int8::Int8::WHOLE_BYTES).
#![allow(unsafe_code)]

use half::f16;

use crate::kernels::activations::ScaleSpan;
use crate::kernels::attention::scores::{KeyScores, score};
use crate::kernels::formats::Format;
use crate::kernels::gemm::panel::place;
use crate::kernels::gemm::tiled::{self, COLUMNS, TileRegisters, multiply_tiled};
use crate::kernels::gemm::{GemmTile, multiply};
use crate::kernels::int8::{BLOCK, Group, HALF, Int8, Int8Op, UNIT, UNIT_LANES, read_u16};

/// No vector instructions. What [`Int8::WHOLE_BYTES`] decides, it computes either way; and batches perhaps
/// through [`PlainTiles`].
#[derive(Clone, Copy, Debug)]
pub struct Scalar<const WHOLE_BYTES: bool, const TILES: bool = false>;

/// Tile registers in plain Rust, which go through memory as those of processors do.
#[derive(Clone, Copy, Debug)]
pub struct PlainTiles;

// SAFETY: every processor runs it; it reads and writes what the trait documents.
unsafe impl TileRegisters for PlainTiles {
    const ROWS: usize = 3;
    const LANES: usize = LANES;
    const WIDTH: usize = 2 * LANES;
    const UNSIGNED_WEIGHTS: bool = false;

    unsafe fn dot_block<const V: usize>(
        &self,
        weights: *const u8,
        tokens: *const i8,
        sums: *mut i32,
    ) {
        for row in 0..Self::ROWS {
            for token in 0..V * LANES {
                let products = (0..BLOCK).map(|column| {
                    let weight = (column / COLUMNS * Self::ROWS + row) * COLUMNS + column % COLUMNS;
                    let of_token = (column / 4 * Self::WIDTH + token) * 4 + column % 4;
                    // SAFETY: the caller vouches for both.
                    let (w, a) =
                        unsafe { (weights.add(weight).read(), tokens.add(of_token).read()) };
                    i32::from(w as i8) * i32::from(a)
                });
                // SAFETY: the caller vouches for the sums.
                unsafe { sums.add(row * Self::WIDTH + token).write(products.sum()) };
            }
        }
    }
}

const LANES: usize = 4;

/// The larger of two sizes, NaN where one is: [`f32::max`] would pass over it.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

type Pair = [[u8; UNIT]; 2];
type Sums = [f32; 2 * UNIT_LANES];

impl<const WHOLE_BYTES: bool, const TILES: bool> Scalar<WHOLE_BYTES, TILES> {
    fn has_tiles(span: ScaleSpan, n_cols: usize) -> bool {
        TILES && WHOLE_BYTES && tiled::takes(span, n_cols)
    }
}

// SAFETY: every processor runs it; lanes are arrays of four, and each method reads or writes the arrays that
// its documentation names.
unsafe impl<const WHOLE_BYTES: bool, const TILES: bool> Int8 for Scalar<WHOLE_BYTES, TILES> {
    const FAST_I16: bool = false;
    const UNSIGNED_WEIGHTS: bool = false;
    const WHOLE_BYTES: bool = WHOLE_BYTES;
    const LANES: usize = LANES;
    const TILE_VECTORS: usize = 2;
    const TILE_ROWS: usize = 2;
    type I32 = [i32; LANES];
    type F32 = [f32; LANES];
    type Pair = Pair;
    type PairF32 = Sums;
    type Eight = [f32; 8];
    type ChunkScales = Sums;
    type Words = [u16; 16];

    #[inline(always)]
    fn vectorize<Op: Int8Op>(self, op: Op) -> Op::Output {
        op.run(self)
    }

    #[inline(always)]
    fn gemm<F: Format>(self, tile: GemmTile) {
        match Self::has_tiles(tile.batch.layout.span, tile.weight.n_cols) {
            true => multiply_tiled::<Self, _, F, { PlainTiles::ROWS }, 2>(self, &PlainTiles, tile),
            false => multiply::<Self, F, 2, 2>(self, tile),
        }
    }

    #[inline(always)]
    fn tile_rows(self, span: ScaleSpan, n_cols: usize) -> usize {
        match Self::has_tiles(span, n_cols) {
            true => PlainTiles::ROWS,
            false => Self::TILE_ROWS,
        }
    }

    #[inline(always)]
    fn score(self, work: KeyScores) {
        score::<Self, 2, 2>(self, work);
    }

    #[inline(always)]
    fn largest(self, values: &[[f32; HALF]]) -> f32 {
        let sizes = values.as_flattened().iter().map(|value| value.abs());
        sizes.fold(0.0, larger)
    }

    #[inline(always)]
    fn quantize(self, values: &[f32; HALF], inverse: f32) -> ([i8; HALF], i32) {
        let quants = values.map(|value| (value * inverse).round_ties_even() as i8);
        (quants, quants.iter().map(|&quant| i32::from(quant)).sum())
    }

    #[inline(always)]
    unsafe fn load_i32(self, from: *const i32) -> [i32; LANES] {
        // SAFETY: the caller vouches for the integers.
        unsafe { from.cast::<[i32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> [f32; LANES] {
        // SAFETY: the caller vouches for the floats.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> [f32; LANES] {
        // SAFETY: the caller vouches for the halves.
        let halves = unsafe { from.cast::<[f16; LANES]>().read_unaligned() };
        halves.map(f16::to_f32)
    }

    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32, values: [f32; LANES]) {
        // SAFETY: the caller vouches for the floats.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(values) }
    }

    #[inline(always)]
    unsafe fn store_i32(self, to: *mut i32, values: [i32; LANES]) {
        // SAFETY: the caller vouches for the integers.
        unsafe { to.cast::<[i32; LANES]>().write_unaligned(values) }
    }

    #[inline(always)]
    fn zero_i32(self) -> [i32; LANES] {
        [0; LANES]
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> [i32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn splat_f32(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn add_i32(self, a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn shift_left(self, a: [i32; LANES], bits: u32) -> [i32; LANES] {
        a.map(|a| a << bits)
    }

    #[inline(always)]
    fn to_f32(self, a: [i32; LANES]) -> [f32; LANES] {
        a.map(|a| a as f32)
    }

    #[inline(always)]
    fn round(self, a: [f32; LANES]) -> [i32; LANES] {
        a.map(|a| a.round_ties_even() as i32)
    }

    #[inline(always)]
    fn pack_i16(self, lower: [i32; LANES], upper: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|i| lower[i] & 0xffff | upper[i] << 16)
    }

    #[inline(always)]
    fn dot_i16(self, sum: [i32; LANES], a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        let lower = |x: i32| i32::from(x as i16);
        std::array::from_fn(|i| {
            let products = lower(a[i]) * lower(b[i]) + (a[i] >> 16) * (b[i] >> 16);
            sum[i].wrapping_add(products)
        })
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn add_and_subtract(self, [a, b, c, d]: [f32; LANES]) -> [f32; LANES] {
        let [a, b, c, d] = [a + b, a - b, c + d, c - d];
        [a + c, b + d, a - c, b - d]
    }

    #[inline(always)]
    unsafe fn dot_group<const R: usize, const V: usize>(
        self,
        kind: Group,
        weights: *const u8,
        activations: *const i8,
        stride: usize,
        mut sums: [[[i32; LANES]; V]; R],
    ) -> [[[i32; LANES]; V]; R] {
        for column in 0..kind.len {
            for (r, of_row) in sums.iter_mut().enumerate() {
                let at = place::<Self>(kind.len, R, r, column);
                // SAFETY: the caller vouches for `R * kind.len` weights.
                let w = unsafe { weights.add(at).cast::<i8>().read() };
                for (v, lanes) in of_row.iter_mut().enumerate() {
                    for (lane, sum) in lanes.iter_mut().enumerate() {
                        let at = column / 4 * stride + (v * LANES + lane) * 4 + column % 4;
                        // SAFETY: the caller vouches for `[V][LANES][4]` at each stride.
                        let a = unsafe { activations.add(at).read() };
                        *sum += i32::from(w) * i32::from(a);
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        accumulate: bool,
        to: *mut f32,
        to_stride: usize,
    ) {
        for row in 0..LANES {
            for col in 0..LANES {
                // SAFETY: the caller vouches for the squares.
                unsafe {
                    let value = from.add(row * from_stride + col).read();
                    let to = to.add(col * to_stride + row);
                    *to = if accumulate { *to + value } else { value };
                }
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn prefetch_to_write(self, _: *const u8) {}

    #[inline(always)]
    unsafe fn load_pair(self, first: *const u8, second: *const u8) -> Pair {
        // SAFETY: the caller vouches for the bytes.
        unsafe { [first, second].map(|from| from.cast::<[u8; UNIT]>().read()) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, first: *const u8, second: *const u8) -> Pair {
        [first, second].map(|from| {
            // SAFETY: the caller vouches for the bytes.
            let bytes = unsafe { from.cast::<[u8; UNIT / 2]>().read() };
            std::array::from_fn(|i| match i {
                0..16 => bytes[i] & 0x0f,
                _ => bytes[i - 16] >> 4,
            })
        })
    }

    #[inline(always)]
    unsafe fn load_split_nibbles(self, from: *const u8) -> Pair {
        // SAFETY: the caller vouches for the bytes.
        let bytes = unsafe { from.cast::<[u8; UNIT]>().read() };
        [bytes.map(|byte| byte & 0x0f), bytes.map(|byte| byte >> 4)]
    }

    #[inline(always)]
    unsafe fn load_half_bytes<const UPPER: bool>(self, from: *const u8) -> Pair {
        // SAFETY: the caller vouches for the bytes.
        let bytes = unsafe { from.cast::<Pair>().read() };
        bytes.map(|unit| unit.map(|byte| if UPPER { byte >> 4 } else { byte & 0x0f }))
    }

    #[inline(always)]
    unsafe fn with_high_bits<const UPPER: bool>(self, nibbles: Pair, high: *const u8) -> Pair {
        // SAFETY: the caller vouches for the bytes.
        let high = unsafe { high.cast::<[u8; UNIT]>().read() };
        let first_bit = if UPPER { 4 } else { 0 };
        std::array::from_fn(|unit| {
            let shift = first_bit + 2 * unit;
            std::array::from_fn(|i| nibbles[unit][i] | (high[i] >> shift & 3) << 4)
        })
    }

    #[inline(always)]
    fn look_up(self, numbers: Pair, table: &[u8; 16]) -> Pair {
        numbers.map(|unit| unit.map(|number| table[usize::from(number & 0x0f)]))
    }

    #[inline(always)]
    fn from_unsigned<const OFFSET: u8>(self, weights: Pair) -> Pair {
        weights.map(|unit| unit.map(|weight| weight.wrapping_sub(OFFSET)))
    }

    #[inline(always)]
    fn flip_signs(self, weights: Pair) -> Pair {
        weights.map(|unit| unit.map(|weight| weight ^ 0x80))
    }

    #[inline(always)]
    fn regroup(self, weights: Pair, pair: usize, factors: [u16; 16], offsets: [u16; 16]) -> Pair {
        std::array::from_fn(|unit| {
            std::array::from_fn(|i| {
                let half = 4 * pair + 2 * unit + i / HALF;
                let product = u16::from(weights[unit][i]).wrapping_mul(factors[half]);
                (product.wrapping_add(offsets[half]) >> 8) as u8
            })
        })
    }

    #[inline(always)]
    unsafe fn store_halves(self, to: [*mut u8; 4], _: usize, pair: Pair) {
        let halves = pair.as_flattened().as_chunks::<{ UNIT / 2 }>().0;
        for (to, half) in to.into_iter().zip(halves) {
            // SAFETY: the caller vouches for the bytes.
            unsafe { to.cast::<[u8; UNIT / 2]>().write(*half) };
        }
    }

    #[inline(always)]
    fn pair_zero(self) -> Sums {
        [0.0; 2 * UNIT_LANES]
    }

    #[inline(always)]
    fn dot_pair(self, _: Group, weights: Pair, activations: Pair) -> Sums {
        let (weights, activations) = (weights.as_flattened(), activations.as_flattened());
        std::array::from_fn(|lane| {
            let products = (4 * lane..4 * lane + 4)
                .map(|i| i32::from(weights[i] as i8) * i32::from(activations[i] as i8));
            products.sum::<i32>() as f32
        })
    }

    #[inline(always)]
    fn dot_block(self, _: u32, _: i32, weights: [Pair; 2], activations: [Pair; 2]) -> Sums {
        let (weights, activations) = (weights.as_flattened(), activations.as_flattened());
        let mut sums = [0; 2 * UNIT_LANES];
        for (unit, (weights, activations)) in weights.iter().zip(activations).enumerate() {
            for (i, (&w, &a)) in weights.iter().zip(activations).enumerate() {
                let lane = unit % 2 * UNIT_LANES + i / 4;
                sums[lane] += i32::from(w as i8) * i32::from(a as i8);
            }
        }
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    fn add_block(self, products: Sums, scale: f32, sum: Sums) -> Sums {
        std::array::from_fn(|lane| products[lane].mul_add(scale, sum[lane]))
    }

    #[inline(always)]
    fn chunk_scales(self, [lower, upper]: [[f32; 8]; 2]) -> Sums {
        let mut scales = [0.0; 16];
        scales[..8].copy_from_slice(&lower);
        scales[8..].copy_from_slice(&upper);
        scales
    }

    #[inline(always)]
    fn add_scaled(
        self,
        groups_per_unit: usize,
        products: Sums,
        scales: Sums,
        pair: usize,
        sum: Sums,
    ) -> Sums {
        let lanes_per_group = UNIT_LANES / groups_per_unit;
        std::array::from_fn(|lane| {
            let group = 2 * pair * groups_per_unit + lane / lanes_per_group;
            products[lane].mul_add(scales[group], sum[lane])
        })
    }

    #[inline(always)]
    fn pair_lanes(self, a: Sums) -> Sums {
        a
    }

    #[inline(always)]
    unsafe fn load_eight(self, from: *const f32) -> [f32; 8] {
        // SAFETY: the caller vouches for the floats.
        unsafe { from.cast::<[f32; 8]>().read() }
    }

    #[inline(always)]
    unsafe fn load_eight_i32(self, from: *const i32) -> [f32; 8] {
        // SAFETY: the caller vouches for the integers.
        unsafe { from.cast::<[i32; 8]>().read() }.map(|integer| integer as f32)
    }

    #[inline(always)]
    unsafe fn load_eight_i8(self, from: *const i8) -> [f32; 8] {
        // SAFETY: the caller vouches for the bytes.
        unsafe { from.cast::<[i8; 8]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_two_f16(self, from: *const u8) -> [[f32; 8]; 2] {
        // SAFETY: the caller vouches for the bytes.
        let bits = unsafe { [read_u16(from), read_u16(from.add(2))] };
        bits.map(|bits| [half::f16::from_bits(bits).to_f32(); 8])
    }

    #[inline(always)]
    fn eight_from_f16(self, bits: [u16; 8]) -> [f32; 8] {
        bits.map(|bits| half::f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn splat_eight(self, value: f32) -> [f32; 8] {
        [value; 8]
    }

    #[inline(always)]
    fn twice(self, a: [f32; 8]) -> [[f32; 8]; 2] {
        [0, 4].map(|first| std::array::from_fn(|i| a[first + i / 2]))
    }

    #[inline(always)]
    fn mul_eight(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn mul_add_eight(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn div_eight(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn larger_sizes(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| larger(a[i].abs(), b[i].abs()))
    }

    #[inline(always)]
    fn largest_of_fours(self, a: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i / 4 * 4..][..4].iter().copied().fold(0.0, larger))
    }

    #[inline(always)]
    fn exchange_fours(self, a: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i ^ 4])
    }

    #[inline(always)]
    fn low_words(self, a: [[f32; 8]; 2]) -> [u16; 16] {
        std::array::from_fn(|i| a[i / 8][i % 8].to_bits() as u16)
    }

    #[inline(always)]
    fn low_words_twice(self, a: [f32; 8]) -> [u16; 16] {
        std::array::from_fn(|i| a[i / 2].to_bits() as u16)
    }

    #[inline(always)]
    fn eight_values(self, a: [f32; 8]) -> [f32; 8] {
        a
    }
}

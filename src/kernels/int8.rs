//! What the int8 kernels need of an instruction set. Instruction sets differ only here.
//!
//! Both kernels multiply unsigned or signed 8-bit weights with signed 8-bit activations into
//! 32-bit sums: in [`gemm`](super::gemm) the lanes of a register are tokens, in [`gemv`](super::gemv) they
//! are columns. The algorithms are written once over the trait [`Int8`]; each instruction set implements
//! it in its best way. Every implementation computes the same integers, and the same floats in the same
//! order, as [`Scalar`](super::scalar::Scalar) with the same [`Int8::WHOLE_BYTES`].
#![allow(unsafe_code)]

use half::f16;

use crate::kernels::activations::{COARSE_UNITS, ScaleSpan};
use crate::kernels::attention::scores::KeyScores;
use crate::kernels::gemm::GemmTile;

/// Columns that most weights share a scale for.
pub const UNIT: usize = 32;
/// Columns of half a unit: the shortest group of weights that share a scale.
pub const HALF: usize = UNIT / 2;
/// Sums of four products that a unit makes. [`gemv`](super::gemv) takes units in pairs.
pub const UNIT_LANES: usize = 8;
/// Units whose scales are read together: 256 columns, the longest block.
pub const CHUNK_UNITS: usize = 8;

/// Columns that share a scale in a prompt whose columns are rotated, and of weights that
/// [`gemm`](super::gemm) has regrouped.
pub const BLOCK: usize = COARSE_UNITS * UNIT;

/// Something to be computed on a chosen instruction set.
pub trait Int8Op {
    /// What comes out.
    type Output;

    /// The computation. Must be `#[inline(always)]`, down to every function it calls, to be
    /// compiled for the instruction set.
    fn run<I: Int8>(self, isa: I) -> Self::Output;
}

/// Columns of a row that share a scale.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// How many.
    pub len: usize,
    /// Bits of an unsigned weight: 4, 6 or 8.
    pub bits: u32,
}

/// The registers and instructions of one instruction set.
///
/// # Safety
/// A value of such a type is proof that the processor has the instruction set: it can be made by
/// nothing but a check. Kernels compute addresses from the constants, and believe the methods, so that
/// all of this must hold:
/// - a register [`Int8::I32`] or [`Int8::F32`] has [`Int8::LANES`] lanes of four bytes, 1 to 16;
///   [`Int8::TILE_VECTORS`] is 1 or 2, and [`Int8::TILE_ROWS`] is not 0;
/// - [`Int8::COLUMNS`] is 4, or another divisor of [`HALF`] that is a multiple of it, and
///   [`Int8::PANEL_COLUMNS`] a divisor of [`UNIT`] that is a multiple of [`Int8::COLUMNS`], 8 at least;
/// - [`Int8::BYTE_WEIGHT_BYTES`] is 1, or 2 with [`Int8::UNSIGNED_WEIGHTS`];
/// - loads and stores touch no more than their documentation says, and no other method touches
///   memory but through references.
#[allow(
    clippy::wrong_self_convention,
    reason = "`self` is the proof, not what is converted"
)]
pub unsafe trait Int8: Copy + Send + Sync {
    /// Whether weights are taken as unsigned bytes, with a format's offset still in them, or 128 if
    /// they are regrouped; if not, they are made signed when they are unpacked.
    const UNSIGNED_WEIGHTS: bool;
    /// Whether weights of 8 bits are multiplied in the time that those of 4 take. Then all weights of a
    /// batch are [regrouped](super::gemm) to such, which rounds them once more: for formats of fewer
    /// bits, this chooses between two specifications.
    const WHOLE_BYTES: bool;
    /// Tokens side by side in a register.
    const LANES: usize;
    /// Registers of tokens side by side in a full tile of [`gemm`](super::gemm).
    const TILE_VECTORS: usize;
    /// Weight rows of a tile of [`gemm`](super::gemm).
    const TILE_ROWS: usize;
    /// Whether [`Int8::dot_i16`] takes less time than two of [`Int8::mul_add`].
    const FAST_I16: bool;
    /// Columns of a token that stay together in a batch: as many as a product takes at once.
    const COLUMNS: usize = 4;
    /// Columns of a weight row that stay together in a panel, or all of its group.
    const PANEL_COLUMNS: usize = UNIT;
    /// Bytes of a weight of 8 bits in a panel: two where products of words take less time than those of
    /// bytes, which overflow words.
    const BYTE_WEIGHT_BYTES: usize = 1;

    /// Whether [`gemv`](super::gemv) multiplies several rows together that have a scale for each
    /// [`BLOCK`], with a single token and with several: where there are the registers. With a single
    /// token it saves loads of its columns, but memory is better at one row after the other.
    const ROWS_TOGETHER: [bool; 2] = [false, false];

    /// [`Int8::LANES`] 32-bit integers.
    type I32: Copy;
    /// [`Int8::LANES`] floats.
    type F32: Copy;
    /// The bytes of two units.
    type Pair: Copy;
    /// The sums of two units, as floats.
    type PairF32: Copy;
    /// Eight floats: the scales of a chunk's units.
    type Eight: Copy;
    /// The scales of a chunk's groups.
    type ChunkScales: Copy;
    /// Sixteen integers of 16 bits: one for each half of a chunk's units.
    type Words: Copy;

    /// Weight rows that [`gemm`](super::gemm) multiplies together, of so many columns with activations
    /// of such scales.
    #[inline(always)]
    fn tile_rows(self, span: ScaleSpan, n_cols: usize) -> usize {
        let _ = (span, n_cols);
        Self::TILE_ROWS
    }

    /// Multiplies a block by [tile registers](super::gemm::tiled), if there are any, as often as `rounds`
    /// says. Returns the number of multiply-accumulates.
    #[inline(always)]
    fn peak_of_tiles(self, rounds: usize) -> Option<u64> {
        let _ = rounds;
        None
    }

    /// Runs `op` compiled for this instruction set.
    fn vectorize<Op: Int8Op>(self, op: Op) -> Op::Output;

    /// Computes a tile of a matrix product with the tile shape that suits this instruction set.
    fn gemm<F: super::formats::Format>(self, tile: GemmTile);

    /// Scores of queries with keys, with the tile shape that suits this instruction set.
    fn score(self, work: KeyScores);

    /// The largest size of a value; NaN where one is.
    fn largest(self, values: &[[f32; HALF]]) -> f32;

    /// Rounds values times `inverse`, at most 127 then, to the nearest integers, to even where two
    /// are as near; and sums them.
    fn quantize(self, values: &[f32; HALF], inverse: f32) -> ([i8; HALF], i32);

    /// Loads [`Int8::LANES`] integers.
    ///
    /// # Safety
    /// They must be readable at `from`.
    unsafe fn load_i32(self, from: *const i32) -> Self::I32;
    /// Loads [`Int8::LANES`] floats.
    ///
    /// # Safety
    /// They must be readable at `from`.
    unsafe fn load_f32(self, from: *const f32) -> Self::F32;
    /// Loads [`Int8::LANES`] half-precision floats.
    ///
    /// # Safety
    /// They must be readable at `from`.
    unsafe fn load_f16(self, from: *const f16) -> Self::F32;
    /// Stores [`Int8::LANES`] floats.
    ///
    /// # Safety
    /// They must be writable at `to`.
    unsafe fn store_f32(self, to: *mut f32, values: Self::F32);
    /// Stores [`Int8::LANES`] integers.
    ///
    /// # Safety
    /// They must be writable at `to`.
    unsafe fn store_i32(self, to: *mut i32, values: Self::I32);
    /// Zeros.
    fn zero_i32(self) -> Self::I32;
    /// The same integer in every lane.
    fn splat_i32(self, value: i32) -> Self::I32;
    /// What the sums of a tile begin with where they begin with zero, for [`Int8::sum_to_f32`].
    #[inline(always)]
    fn zero_sums<const R: usize, const V: usize>(self) -> [[Self::I32; V]; R] {
        [[self.zero_i32(); V]; R]
    }
    /// Sums that began with [`Int8::zero_sums`], below 2^22 in size, as floats.
    #[inline(always)]
    fn sum_to_f32(self, sum: Self::I32) -> Self::F32 {
        self.to_f32(sum)
    }
    /// The same float in every lane.
    fn splat_f32(self, value: f32) -> Self::F32;
    /// `a + b`.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a << bits`.
    fn shift_left(self, a: Self::I32, bits: u32) -> Self::I32;
    /// Integers as floats, rounded to nearest.
    fn to_f32(self, a: Self::I32) -> Self::F32;
    /// The nearest integers, to even where two are as near.
    fn round(self, a: Self::F32) -> Self::I32;
    /// Integers of 16 bits in the lower and the upper halves of lanes.
    fn pack_i16(self, lower: Self::I32, upper: Self::I32) -> Self::I32;
    /// Adds the product of the lower halves and that of the upper halves of each lane, which are
    /// signed integers of 16 bits.
    fn dot_i16(self, sum: Self::I32, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Replaces lanes `i` and `i + apart` by their sum and their difference, for lanes 1 apart, then
    /// 2, and so on up to half a register: the stages of a Hadamard transform within a register.
    fn add_and_subtract(self, a: Self::F32) -> Self::F32;

    /// Adds the products of a group of columns to `sums`, for `R` weight rows and `V` registers of
    /// tokens. Unsigned weights have at most `kind.bits`.
    ///
    /// An instruction set may share the `R * V` registers out among rows and tokens as it likes, if
    /// [`Int8::row_value`], [`Int8::token_values`] and [`Int8::by_rows`] follow.
    ///
    /// # Safety
    /// `weights: [kind.len / PANEL_COLUMNS][R][PANEL_COLUMNS]` must be readable, of
    /// [`Int8::BYTE_WEIGHT_BYTES`] each if `kind.bits` is 8, and of `activations`
    /// `[V][LANES][COLUMNS]` at each of `kind.len / COLUMNS` multiples of `stride`.
    unsafe fn dot_group<const R: usize, const V: usize>(
        self,
        kind: Group,
        weights: *const u8,
        activations: *const i8,
        stride: usize,
        sums: [[Self::I32; V]; R],
    ) -> [[Self::I32; V]; R];

    /// What row `row` of a tile is multiplied with, of values side by side from `from` on.
    ///
    /// # Safety
    /// There must be [`Int8::TILE_ROWS`] such floats, and `row` be below that.
    #[inline(always)]
    unsafe fn row_value(self, from: *const f32, row: usize) -> Self::F32 {
        // SAFETY: the caller vouches for the floats.
        self.splat_f32(unsafe { from.add(row).read() })
    }

    /// What the sums of row `row` are multiplied with, given a value for each token.
    #[inline(always)]
    fn token_values(self, row: usize, values: Self::F32) -> Self::F32 {
        let _ = row;
        values
    }

    /// The sums with those of row `r` and register `v` of the tokens at `[r][v]`.
    #[inline(always)]
    fn by_rows<const R: usize, const V: usize>(
        self,
        sums: [[Self::F32; V]; R],
    ) -> [[Self::F32; V]; R] {
        sums
    }

    /// Writes a square of [`Int8::LANES`] rows of floats to `to` with rows and columns exchanged,
    /// added to what is there with `accumulate`. Strides are distances of rows.
    ///
    /// # Safety
    /// The rows must be readable at `from`, and writable at `to`.
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        accumulate: bool,
        to: *mut f32,
        to_stride: usize,
    );

    /// Hints that the cache line at `address`, which need not exist, will be read soon.
    fn prefetch(self, address: *const u8);
    /// Hints that the cache line at `address` will be written to soon.
    fn prefetch_to_write(self, address: *const u8);
    /// Loads two units.
    ///
    /// # Safety
    /// [`UNIT`] bytes must be readable at either address.
    unsafe fn load_pair(self, first: *const u8, second: *const u8) -> Self::Pair;
    /// Loads 16 bytes for either unit and parts their nibbles: the lower ones first, then the
    /// upper ones.
    ///
    /// # Safety
    /// 16 bytes must be readable at either address.
    unsafe fn load_nibbles(self, first: *const u8, second: *const u8) -> Self::Pair;
    /// Loads [`UNIT`] bytes, whose lower nibbles are the first unit and upper ones the second.
    ///
    /// # Safety
    /// [`UNIT`] bytes must be readable at `from`.
    unsafe fn load_split_nibbles(self, from: *const u8) -> Self::Pair;
    /// [`Int8::load_split_nibbles`] for [`Int8::scale_block`], with weights of the second unit that
    /// may be as much larger as its scales are smaller.
    ///
    /// # Safety
    /// [`UNIT`] bytes must be readable at `from`.
    #[inline(always)]
    unsafe fn load_split_bytes(self, from: *const u8) -> Self::Pair {
        // SAFETY: passed on.
        unsafe { self.load_split_nibbles(from) }
    }
    /// Loads two units, adjacent ones, and keeps the lower or the upper nibbles of their bytes.
    ///
    /// # Safety
    /// Twice [`UNIT`] bytes must be readable at `from`.
    unsafe fn load_half_bytes<const UPPER: bool>(self, from: *const u8) -> Self::Pair;
    /// Adds bits 4 and 5 to nibbles, from [`UNIT`] bytes: for the first unit their bits 0 and 1,
    /// for the second 2 and 3, or with `UPPER` bits 4 and 5, and 6 and 7.
    ///
    /// # Safety
    /// [`UNIT`] bytes must be readable at `high`.
    unsafe fn with_high_bits<const UPPER: bool>(
        self,
        nibbles: Self::Pair,
        high: *const u8,
    ) -> Self::Pair;
    /// The bytes of `table` that `numbers`, below 16, are the numbers of.
    fn look_up(self, numbers: Self::Pair, table: &[u8; 16]) -> Self::Pair;
    /// Unsigned weights with an offset of `OFFSET` to this instruction set's weights.
    fn from_unsigned<const OFFSET: u8>(self, weights: Self::Pair) -> Self::Pair;
    /// Signed weights to unsigned ones with an offset of 128, or these to those.
    fn flip_signs(self, weights: Self::Pair) -> Self::Pair;
    /// Unsigned weights `u` of two units to this instruction set's, whose offset is 128 if they are
    /// unsigned: the upper bytes of `u * factor + offset` in 16 bits, with a factor and an offset
    /// for each half of the units of pair `pair` of a chunk.
    fn regroup(
        self,
        weights: Self::Pair,
        pair: usize,
        factors: Self::Words,
        offsets: Self::Words,
    ) -> Self::Pair;
    /// Stores the four halves of two units; of each, what is beyond [`Int8::PANEL_COLUMNS`] goes
    /// `apart` from where it starts.
    ///
    /// # Safety
    /// 16 bytes, or [`Int8::PANEL_COLUMNS`] where those are fewer, must be writable at each address
    /// and in the latter case `apart` further.
    unsafe fn store_halves(self, to: [*mut u8; 4], apart: usize, pair: Self::Pair);
    /// [`Int8::store_halves`] for weights of 8 bits.
    ///
    /// # Safety
    /// As there, with [`Int8::BYTE_WEIGHT_BYTES`] times as many bytes.
    #[inline(always)]
    unsafe fn store_byte_weights(self, to: [*mut u8; 4], apart: usize, pair: Self::Pair) {
        // SAFETY: passed on.
        unsafe { self.store_halves(to, apart, pair) }
    }
    /// Zeros.
    fn pair_zero(self) -> Self::PairF32;
    /// The products of two units' columns, a few of the same group summed to a lane. Unsigned weights
    /// have at most `kind.bits`, but for those of this instruction set's [`Int8::load_split_bytes`].
    fn dot_pair(self, kind: Group, weights: Self::Pair, activations: Self::Pair) -> Self::PairF32;
    /// The products of a [`BLOCK`]'s columns, those of several units summed to a lane, plus `start` in
    /// one lane where weights are unsigned. Unsigned weights have at most `bits`.
    fn dot_block(
        self,
        bits: u32,
        start: i32,
        weights: [Self::Pair; 2],
        activations: [Self::Pair; 2],
    ) -> Self::PairF32;
    /// Adds products of [`Int8::dot_block`] times `scale` to `sum`.
    fn add_block(self, products: Self::PairF32, scale: f32, sum: Self::PairF32) -> Self::PairF32;
    /// The scales of a chunk's groups, to be used by [`Int8::add_scaled`].
    fn chunk_scales(self, groups: [Self::Eight; 2]) -> Self::ChunkScales;
    /// Adds the products of pair `pair` of a chunk to `sum`, each times its group's scale.
    fn add_scaled(
        self,
        groups_per_unit: usize,
        products: Self::PairF32,
        scales: Self::ChunkScales,
        pair: usize,
        sum: Self::PairF32,
    ) -> Self::PairF32;
    /// The lanes: the first unit's, then the second's.
    fn pair_lanes(self, a: Self::PairF32) -> [f32; 2 * UNIT_LANES];
    /// Loads eight floats.
    ///
    /// # Safety
    /// They must be readable at `from`.
    unsafe fn load_eight(self, from: *const f32) -> Self::Eight;
    /// Loads eight integers and makes floats of them.
    ///
    /// # Safety
    /// They must be readable at `from`.
    unsafe fn load_eight_i32(self, from: *const i32) -> Self::Eight;
    /// Loads eight bytes and makes floats of them.
    ///
    /// # Safety
    /// They must be readable at `from`.
    unsafe fn load_eight_i8(self, from: *const i8) -> Self::Eight;
    /// Loads two half-precision floats, and makes each an eight.
    ///
    /// # Safety
    /// Four bytes must be readable at `from`.
    unsafe fn load_two_f16(self, from: *const u8) -> [Self::Eight; 2];
    /// Eight half-precision floats, given by their bits.
    fn eight_from_f16(self, bits: [u16; 8]) -> Self::Eight;
    /// Loads eight half-precision floats, `stride` bytes from one to the next.
    ///
    /// # Safety
    /// `8 * stride` bytes must be readable at `from`.
    #[inline(always)]
    unsafe fn load_eight_f16(self, from: *const u8, stride: usize) -> Self::Eight {
        let mut bits = [0; 8];
        for (i, bits) in bits.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the bytes.
            *bits = unsafe { read_u16(from.add(i * stride)) };
        }
        self.eight_from_f16(bits)
    }
    /// The scales and minimums, integers of 6 bits, that [`DType::Q4_K`](crate::gguf::DType::Q4_K)
    /// packs into 12 bytes.
    ///
    /// # Safety
    /// 12 bytes must be readable at `from`.
    #[inline(always)]
    unsafe fn load_six_bits(self, from: *const u8) -> [Self::Eight; 2] {
        // SAFETY: the caller vouches for the bytes.
        let words = unsafe { from.cast::<[[u8; 4]; 3]>().read() };
        let [low_scales, low_mins, nibbles] = words.map(u32::from_le_bytes);
        // Four of each have a byte; the other four have their lower nibbles in the last word and
        // their upper two bits on top of those bytes.
        let of = |low: u32, nibbles: u32| {
            let high = nibbles & 0x0f0f_0f0f | low >> 2 & 0x3030_3030;
            u64::from(low & 0x3f3f_3f3f) | u64::from(high) << 32
        };
        let scales = of(low_scales, nibbles).to_le_bytes();
        let mins = of(low_mins, nibbles >> 4).to_le_bytes();
        // SAFETY: either is eight bytes.
        unsafe {
            [
                self.load_eight_i8(scales.as_ptr().cast()),
                self.load_eight_i8(mins.as_ptr().cast()),
            ]
        }
    }
    /// The scales of a block of [`DType::Q4_K`](crate::gguf::DType::Q4_K) times those of a token,
    /// for [`Int8::add_scaled`] and weights of [`Int8::load_split_bytes`] alone; and `excess` plus its minimums times the token's scales and sums.
    ///
    /// # Safety
    /// There must be a block at `block`, and eight floats at `scales` and `sums`.
    #[inline(always)]
    unsafe fn scale_block(
        self,
        block: *const u8,
        scales: *const f32,
        sums: *const f32,
        excess: Self::Eight,
    ) -> (Self::ChunkScales, Self::Eight) {
        // SAFETY: the caller vouches for all of them.
        unsafe {
            let [scale, min] = self.load_two_f16(block);
            let [integers, mins] = self.load_six_bits(block.add(4));
            let of_token = self.load_eight(scales);
            let scales = self.mul_eight(self.mul_eight(integers, scale), of_token);
            let mins = self.mul_eight(self.mul_eight(mins, min), of_token);
            let excess = self.mul_add_eight(mins, self.load_eight(sums), excess);
            (self.chunk_scales([scales, self.splat_eight(0.0)]), excess)
        }
    }
    /// The same float eight times.
    fn splat_eight(self, value: f32) -> Self::Eight;
    /// Each of the eight twice, side by side.
    fn twice(self, a: Self::Eight) -> [Self::Eight; 2];
    /// `a * b`.
    fn mul_eight(self, a: Self::Eight, b: Self::Eight) -> Self::Eight;
    /// `a * b + c`, rounded once.
    fn mul_add_eight(self, a: Self::Eight, b: Self::Eight, c: Self::Eight) -> Self::Eight;
    /// `a / b`.
    fn div_eight(self, a: Self::Eight, b: Self::Eight) -> Self::Eight;
    /// The larger of the sizes of `a` and `b`; NaN where one is.
    fn larger_sizes(self, a: Self::Eight, b: Self::Eight) -> Self::Eight;
    /// The largest of the first four in their places, that of the other four in theirs; NaN where one
    /// is. None may be negative.
    fn largest_of_fours(self, a: Self::Eight) -> Self::Eight;
    /// The other four in the places of the first four, and these in theirs.
    fn exchange_fours(self, a: Self::Eight) -> Self::Eight;
    /// The lower halves of the floats' bits.
    fn low_words(self, a: [Self::Eight; 2]) -> Self::Words;
    /// The lower halves of the floats' bits, each twice, side by side.
    fn low_words_twice(self, a: Self::Eight) -> Self::Words;
    /// The eight.
    fn eight_values(self, a: Self::Eight) -> [f32; 8];
}

/// What the lanes of a register are multiplied with before their partners, `apart` lanes away, are
/// added: 1 in the first lane of a pair, which becomes the sum, -1 in the second, which becomes the
/// difference. Products with either are exact, so a fused multiply-add rounds as the sum does.
pub const fn butterfly_signs<const LANES: usize>(apart: usize) -> [f32; LANES] {
    let mut signs = [1.0; LANES];
    let mut lane = 0;
    while lane < LANES {
        if lane & apart != 0 {
            signs[lane] = -1.0;
        }
        lane += 1;
    }
    signs
}

/// The half-precision float, given by its bits, or other 16-bit integer at `at`.
///
/// # Safety
/// Two bytes must be readable there.
#[inline(always)]
pub unsafe fn read_u16(at: *const u8) -> u16 {
    // SAFETY: as above.
    u16::from_le_bytes(unsafe { at.cast::<[u8; 2]>().read() })
}

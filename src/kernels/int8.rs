//! What the int8 kernels need of an instruction set: the one room where instruction sets differ.
//!
//! Both kernels multiply unsigned or signed 8-bit weights with signed 8-bit activations into
//! 32-bit sums, [`gemm`](super::gemm) with a register's lanes over tokens, [`gemv`](super::gemv)
//! with its lanes over columns. Whatever an instruction set does best is an implementation of
//! [`Int8`]; the algorithms are written once over it. Every implementation computes the same
//! integers, and the same floats in the same order, as [`Scalar`](super::scalar::Scalar).
#![allow(unsafe_code)]

use crate::kernels::gemm::GemmTile;

/// Lanes of the vectors over columns, eight sums of four products each: one block of 32 columns.
pub const UNIT_LANES: usize = 8;
/// Columns of one such vector.
pub const UNIT: usize = 32;

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
/// A value of such a type is proof that the processor has the instruction set.
pub trait Int8: Copy + Send + Sync {
    /// Whether weights are taken as unsigned bytes, with a format's offset still in them; if not,
    /// the offset is subtracted when they are unpacked.
    const UNSIGNED_WEIGHTS: bool;
    /// Tokens side by side in a register.
    const LANES: usize;
    /// Registers of tokens side by side in a full tile of [`gemm`](super::gemm).
    const TILE_VECTORS: usize;
    /// Weight rows of a tile of [`gemm`](super::gemm).
    const TILE_ROWS: usize;

    /// [`Int8::LANES`] 32-bit integers.
    type I32: Copy;
    /// [`Int8::LANES`] floats.
    type F32: Copy;
    /// [`UNIT`] bytes.
    type Unit: Copy;
    /// [`UNIT_LANES`] floats.
    type UnitF32: Copy;

    /// Runs `op` compiled for this instruction set.
    fn vectorize<Op: Int8Op>(self, op: Op) -> Op::Output;

    /// Computes a tile of a matrix product with the tile shape that suits this instruction set.
    fn gemm<F: super::formats::Format>(self, tile: GemmTile);

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
    /// Stores [`Int8::LANES`] floats.
    ///
    /// # Safety
    /// They must be writable at `to`.
    unsafe fn store_f32(self, to: *mut f32, values: Self::F32);
    /// Zeros.
    fn zero_i32(self) -> Self::I32;
    /// The same float in every lane.
    fn splat_f32(self, value: f32) -> Self::F32;
    /// `a + b`.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a << bits`.
    fn shift_left(self, a: Self::I32, bits: u32) -> Self::I32;
    /// Integers as floats, rounded to nearest.
    fn to_f32(self, a: Self::I32) -> Self::F32;
    /// `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `c - a * b`, rounded once.
    fn neg_mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;

    /// Adds the products of a group of columns to `sums`, for `R` weight rows and `V` registers of
    /// tokens. Unsigned weights have at most `kind.bits`.
    ///
    /// # Safety
    /// `weights: [R][kind.len]` must be readable, and of `activations` `[V][LANES][4]` at each of
    /// `kind.len / 4` multiples of `stride`.
    unsafe fn dot_group<const R: usize, const V: usize>(
        self,
        kind: Group,
        weights: *const u8,
        activations: *const i8,
        stride: usize,
        sums: [[Self::I32; V]; R],
    ) -> [[Self::I32; V]; R];

    /// Loads [`UNIT`] bytes.
    ///
    /// # Safety
    /// They must be readable at `from`.
    unsafe fn load_unit(self, from: *const u8) -> Self::Unit;
    /// Loads 16 bytes and parts their nibbles: the lower ones first, then the upper ones.
    ///
    /// # Safety
    /// 16 bytes must be readable at `from`.
    unsafe fn load_nibbles(self, from: *const u8) -> Self::Unit;
    /// Loads [`UNIT`] bytes and keeps their lower (`SHIFT` 0) or upper (`SHIFT` 4) nibbles.
    ///
    /// # Safety
    /// [`UNIT`] bytes must be readable at `from`.
    unsafe fn load_half_bytes<const SHIFT: i32>(self, from: *const u8) -> Self::Unit;
    /// Adds two bits of each byte of `high`, from bit `SHIFT` on, to nibbles as bits 4 and 5.
    fn with_high_bits<const SHIFT: i32>(self, nibbles: Self::Unit, high: Self::Unit) -> Self::Unit;
    /// Unsigned weights with an offset of `OFFSET` to this instruction set's weights.
    fn from_unsigned<const OFFSET: u8>(self, weights: Self::Unit) -> Self::Unit;
    /// Signed weights to this instruction set's, whose offset is 128 if they are unsigned.
    fn from_signed(self, weights: Self::Unit) -> Self::Unit;
    /// Zeros.
    fn unit_zero(self) -> Self::UnitF32;
    /// Stores [`UNIT`] bytes.
    ///
    /// # Safety
    /// They must be writable at `to`.
    unsafe fn store_unit(self, to: *mut u8, unit: Self::Unit);
    /// The products of a unit's columns, summed four at a time. Unsigned weights have at most
    /// `bits`.
    fn dot_unit(self, bits: u32, weights: Self::Unit, activations: Self::Unit) -> Self::UnitF32;
    /// The first scale in the lower half of the lanes, the second in the upper one.
    fn unit_scales(self, lower: f32, upper: f32) -> Self::UnitF32;
    /// `a * b + c`, rounded once.
    fn unit_mul_add(self, a: Self::UnitF32, b: Self::UnitF32, c: Self::UnitF32) -> Self::UnitF32;
    /// The lanes.
    fn unit_lanes(self, a: Self::UnitF32) -> [f32; UNIT_LANES];
    /// Eight half-precision floats, given by their bits.
    fn from_f16(self, bits: [u16; 8]) -> [f32; 8];
}

//! AMX: registers of 16 rows of 64 bytes. It serves batches of the level above AVX-512, whose other
//! operations are AVX-512's.
//!
//! Intrinsics are not stable in Rust yet, so that instructions are written out.
#![allow(unsafe_code)]

use std::arch::asm;
use std::hint::black_box;
use std::marker::PhantomData;

use crate::kernels::gemm::tiled::TileRegisters;
use crate::kernels::int8::BLOCK;

/// Rows of a tile register.
const REGISTER_ROWS: usize = 16;
/// Bytes of a row of a tile register.
const ROW_BYTES: usize = 64;

/// Proof that the processor has AMX for bytes, and that this process may use it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(all(target_os = "linux", not(miri))),
    allow(dead_code, reason = "no other system is asked for leave")
)]
pub struct Amx(());

impl Amx {
    /// Asks the processor, and the system, which saves the registers only of processes that have leave.
    /// Leave is for good: from then on the system refuses a thread an alternate stack for signals that is
    /// too small to save these registers, as it refuses leave where there is such a stack.
    #[cfg(all(target_os = "linux", not(miri)))]
    pub fn try_new() -> Option<Self> {
        use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

        /// Bit of leaf 1: `xgetbv` may be used.
        const OSXSAVE: u32 = 1 << 27;
        /// Bits of leaf 7: tile registers, and products of bytes in them.
        const TILE_AND_INT8: u32 = 0b11 << 24;
        /// Bits of register 0 for `xgetbv`: the system saves the shapes of tiles, and their data.
        const TILE_STATE: u64 = 0b11 << 17;
        /// The call that asks for leave to use a state component, and which: the tiles' data. From
        /// Linux's arch/x86/include/uapi/asm/prctl.h.
        const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
        const XFEATURE_XTILE_DATA: libc::c_ulong = 18;

        #[target_feature(enable = "xsave")]
        fn saved_states() -> u64 {
            // SAFETY: register 0 exists wherever `xgetbv` does.
            unsafe { _xgetbv(0) }
        }

        let has_leaf_7 = __cpuid(0).eax >= 7;
        let has_tiles = has_leaf_7 && __cpuid_count(7, 0).edx & TILE_AND_INT8 == TILE_AND_INT8;
        if !has_tiles || __cpuid(1).ecx & OSXSAVE == 0 || !is_x86_feature_detected!("xsave") {
            return None;
        }
        // SAFETY: the processor has `xgetbv`, as was just asked; the system call takes no address.
        unsafe {
            if saved_states() & TILE_STATE != TILE_STATE {
                return None;
            }
            let leave = libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_XTILE_DATA,
            );
            (leave == 0).then_some(Amx(()))
        }
    }

    /// Only Linux is asked for leave here, and Miri knows no such instructions.
    #[cfg(not(all(target_os = "linux", not(miri))))]
    pub fn try_new() -> Option<Self> {
        None
    }

    /// Sets up this thread's registers, all of one shape, which they keep until the value is dropped.
    ///
    /// # Safety
    /// The thread must not have another such value, whose end would take the registers from this one, and
    /// nothing else on it may use tile registers meanwhile.
    pub(super) unsafe fn set_up(self) -> TilesOfThread {
        /// The layout of palette 1, from Intel's manual, volume 1, 18.3: eight registers of up to 16 rows
        /// of 64 bytes.
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }

        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.row_bytes[..8].fill(ROW_BYTES as u16);
        config.rows[..8].fill(REGISTER_ROWS as u8);
        // SAFETY: `self` proves AMX; the configuration has its 64 bytes.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &config,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
        TilesOfThread(PhantomData)
    }

    /// Multiplies the same block, which stays in the first-level cache, `rounds` times. Its sums go to
    /// memory, as they must before they get their scales. Returns the number of multiply-accumulates.
    pub(super) fn peak(self, rounds: usize) -> u64 {
        /// Bytes of a block of `ROWS` weight rows or `WIDTH` tokens, or its sums.
        #[repr(align(64))]
        struct Operand([u8; ROWS * BLOCK]);
        const { assert!(ROWS == WIDTH && BLOCK == size_of::<i32>() * WIDTH) };

        let (weights, tokens) = (Operand([3; _]), Operand([5; _]));
        let mut sums = Operand([0; _]);
        // SAFETY: an operation does not run within another one on the same thread.
        let tiles = unsafe { self.set_up() };
        for _ in 0..rounds {
            let (weights, tokens) = (weights.0.as_ptr(), tokens.0.as_ptr().cast());
            // SAFETY: each is as large as the documented shape.
            unsafe { tiles.dot_block::<2>(weights, tokens, sums.0.as_mut_ptr().cast()) };
        }
        black_box(sums);
        (rounds * ROWS * WIDTH * BLOCK) as u64
    }
}

/// A thread's registers, all of 16 rows of 64 bytes, until this is dropped. It stays on its thread.
pub struct TilesOfThread(PhantomData<*const ()>);

impl Drop for TilesOfThread {
    fn drop(&mut self) {
        // SAFETY: it was made by `set_up`. Empty registers need not be saved when threads take turns.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem),
            );
        }
    }
}

/// Two registers of weights.
const ROWS: usize = 2 * REGISTER_ROWS;
/// Two registers of tokens.
const WIDTH: usize = 2 * REGISTER_ROWS;
/// From 16 weight rows to the next, in a panel.
const WEIGHTS_APART: usize = REGISTER_ROWS * ROW_BYTES;
/// From 64 columns of `ROWS` weight rows to the next.
const WEIGHT_COLUMNS_APART: usize = ROWS * ROW_BYTES;
/// From four columns of a record's tokens to the next.
const TOKEN_STRIDE: usize = 4 * WIDTH;
/// From 64 columns of a record's tokens to the next.
const TOKEN_COLUMNS_APART: usize = REGISTER_ROWS * TOKEN_STRIDE;
/// From a row of sums to the next.
const SUM_STRIDE: usize = size_of::<i32>() * WIDTH;
/// From 16 rows of sums to the next.
const SUMS_APART: usize = REGISTER_ROWS * SUM_STRIDE;

// SAFETY: a value is made by `set_up` alone; strides and offsets are those of the documented shapes.
unsafe impl TileRegisters for TilesOfThread {
    const ROWS: usize = ROWS;
    const LANES: usize = REGISTER_ROWS;
    const WIDTH: usize = WIDTH;
    const UNSIGNED_WEIGHTS: bool = true;

    /// Sums of the first and the other 16 rows are in registers 0 and 2 for the first 16 tokens, in 1 and
    /// 3 for the others; weights in 4 and 5, tokens in 6 and 7.
    #[inline(always)]
    unsafe fn dot_block<const V: usize>(
        &self,
        weights: *const u8,
        tokens: *const i8,
        sums: *mut i32,
    ) {
        const { assert!(V == 1 || V == 2) };
        // SAFETY: the caller vouches for the bytes, `self` for the registers. A register is read and
        // written whole: rows of 64 bytes, a stride apart.
        unsafe {
            if V == 2 {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "tileloadd tmm4, [{weights} + {row}]",
                    "tileloadd tmm6, [{tokens} + {stride}]",
                    "tileloadd tmm7, [{tokens} + {stride} + {row_bytes}]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{weights} + {row} + {weights_apart}]",
                    "tdpbusd tmm1, tmm4, tmm7",
                    "tileloadd tmm4, [{weights} + {row} + {weight_columns_apart}]",
                    "tdpbusd tmm2, tmm5, tmm6",
                    "tileloadd tmm6, [{tokens} + {stride} + {token_columns_apart}]",
                    "tdpbusd tmm3, tmm5, tmm7",
                    "tileloadd tmm7, [{tokens} + {stride} + {token_columns_apart} + {row_bytes}]",
                    "tileloadd tmm5, [{weights} + {row} + {weight_columns_apart} + {weights_apart}]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tdpbusd tmm1, tmm4, tmm7",
                    "tdpbusd tmm2, tmm5, tmm6",
                    "tdpbusd tmm3, tmm5, tmm7",
                    "tilestored [{sums} + {stride}], tmm0",
                    "tilestored [{sums} + {stride} + {row_bytes}], tmm1",
                    "tilestored [{sums} + {stride} + {sums_apart}], tmm2",
                    "tilestored [{sums} + {stride} + {sums_apart} + {row_bytes}], tmm3",
                    weights = in(reg) weights,
                    tokens = in(reg) tokens,
                    sums = in(reg) sums,
                    row = in(reg) ROW_BYTES,
                    stride = in(reg) TOKEN_STRIDE,
                    row_bytes = const ROW_BYTES,
                    weights_apart = const WEIGHTS_APART,
                    weight_columns_apart = const WEIGHT_COLUMNS_APART,
                    token_columns_apart = const TOKEN_COLUMNS_APART,
                    sums_apart = const SUMS_APART,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            } else {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm2",
                    "tileloadd tmm4, [{weights} + {row}]",
                    "tileloadd tmm6, [{tokens} + {stride}]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{weights} + {row} + {weights_apart}]",
                    "tdpbusd tmm2, tmm5, tmm6",
                    "tileloadd tmm4, [{weights} + {row} + {weight_columns_apart}]",
                    "tileloadd tmm7, [{tokens} + {stride} + {token_columns_apart}]",
                    "tdpbusd tmm0, tmm4, tmm7",
                    "tileloadd tmm5, [{weights} + {row} + {weight_columns_apart} + {weights_apart}]",
                    "tdpbusd tmm2, tmm5, tmm7",
                    "tilestored [{sums} + {stride}], tmm0",
                    "tilestored [{sums} + {stride} + {sums_apart}], tmm2",
                    weights = in(reg) weights,
                    tokens = in(reg) tokens,
                    sums = in(reg) sums,
                    row = in(reg) ROW_BYTES,
                    stride = in(reg) TOKEN_STRIDE,
                    weights_apart = const WEIGHTS_APART,
                    weight_columns_apart = const WEIGHT_COLUMNS_APART,
                    token_columns_apart = const TOKEN_COLUMNS_APART,
                    sums_apart = const SUMS_APART,
                    out("tmm0") _, out("tmm2") _, out("tmm4") _,
                    out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }
}

// One register serves for both strides.
const _: () = assert!(TOKEN_STRIDE == SUM_STRIDE);

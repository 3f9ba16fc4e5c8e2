//! The arithmetic: one entry per operation, each compiled for several instruction sets.
//!
//! Kernels neither allocate nor start threads; they work on the piece of the output that they are
//! given. The instruction set is a value, [`Isa`], chosen once and passed down.
//!
//! `unsafe` is allowed only here and in [`crate::gguf::map`]. Only [`Isa`] leaves the crate, so no other
//! crate can break what unsafe code relies on.

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
pub(crate) mod activations;
pub(crate) mod aligned;
pub(crate) mod attention;
pub(crate) mod float;
pub(crate) mod formats;
pub(crate) mod gang;
pub(crate) mod gemm;
pub(crate) mod gemv;
pub(crate) mod int8;
pub(crate) mod matmul;
pub(crate) mod peak;
pub(crate) mod role;
pub(crate) mod rotate;
pub(crate) mod scalar;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod tiles;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use std::fmt;

use crate::error::{Error, Result};
use int8::{Int8, Int8Op};

/// Environment variable that forces a lower instruction set, for tests and bug reports.
pub const ISA_VARIABLE: &str = "OWL2_ISA";

/// Raised when kernels come to compute other numbers on the same instruction set: positions that were
/// saved before must not be continued with new ones.
pub(crate) const ARITHMETIC: u32 = 4;

/// The name of the level of AVX-512 with AMX.
const AMX: &str = "amx";

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Level);

/// Two tokens each: one for the kernels in floats, one for those in integers.
#[derive(Clone, Copy, Debug)]
enum Level {
    Scalar(pulp::Scalar, scalar::Scalar<true>),
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3, x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(pulp::x86::V3, x86::AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4, x86::Avx512),
    #[cfg(target_arch = "x86_64")]
    Amx(pulp::x86::V4, x86::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon, aarch64::Neon),
    #[cfg(target_arch = "aarch64")]
    DotProd(pulp::aarch64::Neon, aarch64::DotProd),
    #[cfg(target_arch = "aarch64")]
    I8mm(pulp::aarch64::Neon, aarch64::I8mm),
}

impl Isa {
    /// Portable code. It specifies what all others compute, but for prompts with rotated columns where
    /// there are no dot products of bytes: weights of 4 and 6 bits keep their groups there.
    pub fn scalar() -> Self {
        Isa(Level::Scalar(pulp::Scalar::new(), scalar::Scalar))
    }

    /// Every instruction set this processor has, the best one last.
    pub fn available() -> Vec<Isa> {
        Self::available_if(|_| true)
    }

    /// Those whose names are wanted. The system is asked for leave to use no other.
    fn available_if(is_wanted: impl Fn(&str) -> bool) -> Vec<Isa> {
        let mut levels = vec![Isa::scalar()];
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = pulp::x86::V3::try_new();
            let v4 = pulp::x86::V4::try_new();
            levels.extend(
                v3.zip(x86::Avx2::try_new())
                    .map(|(f, i)| Isa(Level::Avx2(f, i))),
            );
            levels.extend(
                v3.zip(x86::AvxVnni::try_new())
                    .map(|(f, i)| Isa(Level::AvxVnni(f, i))),
            );
            let avx512 = v4.zip(x86::Avx512::try_new());
            levels.extend(avx512.map(|(f, i)| Isa(Level::Avx512(f, i))));
            if is_wanted(AMX) {
                levels.extend(avx512.and_then(|(f, i)| Some(Isa(Level::Amx(f, i.with_tiles()?)))));
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            let neon = pulp::aarch64::Neon::try_new();
            levels.extend(
                neon.zip(aarch64::Neon::try_new())
                    .map(|(f, i)| Isa(Level::Neon(f, i))),
            );
            levels.extend(
                neon.zip(aarch64::DotProd::try_new())
                    .map(|(f, i)| Isa(Level::DotProd(f, i))),
            );
            levels.extend(
                neon.zip(aarch64::I8mm::try_new())
                    .map(|(f, i)| Isa(Level::I8mm(f, i))),
            );
        }
        levels.retain(|isa| is_wanted(isa.name()));
        levels
    }

    /// The best instruction set, or the one that `OWL2_ISA` names.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) where the variable names one that does not exist or
    /// that this processor lacks.
    pub fn detect() -> Result<Self> {
        let wanted = std::env::var(ISA_VARIABLE).unwrap_or_default();
        Self::choose(&wanted)
    }

    fn choose(wanted: &str) -> Result<Self> {
        let chosen = Self::available_if(|name| wanted.is_empty() || name == wanted);
        chosen.last().copied().ok_or_else(|| {
            let available = Self::available();
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            Error::usage(format!(
                "'{wanted}' is not an instruction set of this processor, which has {}",
                names.join(", ")
            ))
            .in_parameter(ISA_VARIABLE)
        })
    }

    /// Its name, as `OWL2_ISA` takes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar(..) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(..) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni(..) => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(..) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Amx(..) => AMX,
            #[cfg(target_arch = "aarch64")]
            Level::Neon(..) => "neon",
            #[cfg(target_arch = "aarch64")]
            Level::DotProd(..) => "dotprod",
            #[cfg(target_arch = "aarch64")]
            Level::I8mm(..) => "i8mm",
        }
    }

    /// The name of the first instruction set that computes the same bits.
    pub(crate) fn arithmetic(self) -> &'static str {
        match self.name() {
            AMX => "avx512",
            name => name,
        }
    }

    /// Runs `operation` compiled for this instruction set. A closure is vectorised by the
    /// compiler as far as it is inlined.
    #[inline]
    pub(crate) fn run<Op: pulp::WithSimd>(self, operation: Op) -> Op::Output {
        use pulp::Simd;
        match self.0 {
            Level::Scalar(simd, _) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd, _) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni(simd, _) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd, _) | Level::Amx(simd, _) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(simd, _) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "aarch64")]
            Level::DotProd(simd, _) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "aarch64")]
            Level::I8mm(simd, _) => Simd::vectorize(simd, operation),
        }
    }

    /// Runs an operation on 8-bit integers compiled for this instruction set.
    #[inline]
    pub(crate) fn run_int8<Op: Int8Op>(self, operation: Op) -> Op::Output {
        match self.0 {
            Level::Scalar(_, isa) => isa.vectorize(operation),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_, isa) => isa.vectorize(operation),
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni(_, isa) => isa.vectorize(operation),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_, isa) | Level::Amx(_, isa) => isa.vectorize(operation),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(_, isa) => isa.vectorize(operation),
            #[cfg(target_arch = "aarch64")]
            Level::DotProd(_, isa) => isa.vectorize(operation),
            #[cfg(target_arch = "aarch64")]
            Level::I8mm(_, isa) => isa.vectorize(operation),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

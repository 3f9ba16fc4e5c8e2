//! The arithmetic: one entry per operation, each compiled for several instruction sets.
//!
//! Kernels neither allocate nor start threads; they work on the piece of the output that they are
//! given. The instruction set is a value, [`Isa`], chosen once and passed down.
//!
//! This is the one room, beside [`crate::gguf::map`], where `unsafe` is allowed.

pub mod attention;
pub mod float;
pub mod matmul;
pub mod tiles;

use std::fmt;

use crate::error::{Error, Result};

/// Environment variable that forces a lower instruction set, for tests and bug reports.
pub const ISA_VARIABLE: &str = "OWL2_ISA";

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug)]
enum Level {
    Scalar(pulp::Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
}

impl Isa {
    /// Portable code, which specifies what all others compute.
    pub fn scalar() -> Self {
        Isa(Level::Scalar(pulp::Scalar::new()))
    }

    /// Every instruction set this processor has, the best one last.
    pub fn available() -> Vec<Isa> {
        let mut levels = vec![Level::Scalar(pulp::Scalar::new())];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(pulp::x86::V3::try_new().map(Level::Avx2));
            levels.extend(pulp::x86::V4::try_new().map(Level::Avx512));
        }
        #[cfg(target_arch = "aarch64")]
        levels.extend(pulp::aarch64::Neon::try_new().map(Level::Neon));
        levels.into_iter().map(Isa).collect()
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
        let available = Self::available();
        let chosen = match wanted {
            "" => available.last(),
            name => available.iter().find(|isa| isa.name() == name),
        };
        chosen.copied().ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            Error::usage(format!(
                "'{wanted}' is not an instruction set of this processor, which has {}",
                names.join(", ")
            ))
            .in_flag(ISA_VARIABLE)
        })
    }

    /// Its name, as `OWL2_ISA` takes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Level::Neon(_) => "neon",
        }
    }

    /// Runs `operation` compiled for this instruction set. A closure is vectorised by the
    /// compiler as far as it is inlined.
    #[inline]
    pub fn run<Op: pulp::WithSimd>(self, operation: Op) -> Op::Output {
        use pulp::Simd;
        match self.0 {
            Level::Scalar(simd) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => Simd::vectorize(simd, operation),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(simd) => Simd::vectorize(simd, operation),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_set_is_chosen_by_name() {
        assert_eq!(Isa::choose("scalar").unwrap().name(), "scalar");
        let best = Isa::choose("").unwrap();
        assert_eq!(best.name(), Isa::available().last().unwrap().name());
        let error = Isa::choose("sse9").unwrap_err().to_string();
        assert!(
            error.contains("OWL2_ISA") && error.contains("scalar"),
            "{error}"
        );
    }
}

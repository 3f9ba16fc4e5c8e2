//! Inputs for tests of kernels: values that were hard for them, and the instruction sets to run on.

use crate::kernels::Isa;

/// The instruction sets to test: all that the processor has. Of an emulated one, which is slow, the best:
/// each has a processor whose best it is, and scalar code is tested where nothing is emulated.
pub(crate) fn instruction_sets() -> Vec<Isa> {
    let mut all = Isa::available();
    if std::env::var_os("OWL2_TEST_RUNNER").is_some() {
        all.drain(..all.len() - 1);
    }
    all
}

/// A kind of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Data {
    /// Even between -1 and 1.
    Uniform,
    /// Whole blocks of 128 zeros, one after the other and at the end, among others.
    ZeroBlocks,
    /// Nothing but zeros.
    Zeros,
    /// Each 128 values 2^-58 times those before.
    SteepDecline,
    /// As steep, upwards.
    SteepRise,
    /// One channel of 128 so many times as large as the others.
    Spikes(f32),
    /// One value that is not zero, in the middle.
    Single,
    /// The largest half-precision floats, and next to the smallest.
    HalfExtremes,
    /// Numbers below the normal ones.
    Denormals,
}

/// All kinds.
pub(crate) const FINITE: [Data; 11] = [
    Data::Uniform,
    Data::ZeroBlocks,
    Data::Zeros,
    Data::SteepDecline,
    Data::SteepRise,
    Data::Spikes(10.0),
    Data::Spikes(100.0),
    Data::Spikes(1000.0),
    Data::Single,
    Data::HalfExtremes,
    Data::Denormals,
];

/// What no sum may swallow.
pub(crate) const NOT_FINITE: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

impl Data {
    /// `n` values; others for another `seed`.
    pub(crate) fn values(self, n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9) ^ 0x85eb_ca6b;
        let mut even = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n)
            .map(|i| {
                let x = even();
                let block = i / 128;
                match self {
                    Data::Uniform => x,
                    Data::ZeroBlocks if block % 4 == 0 => x,
                    Data::ZeroBlocks | Data::Zeros => 0.0,
                    Data::SteepDecline => x * (-58.0 * (block % 3) as f32).exp2(),
                    Data::SteepRise => x * (-58.0 * (2 - block % 3) as f32).exp2(),
                    Data::Spikes(size) if i % 128 == 37 => size * x,
                    Data::Spikes(_) => x,
                    Data::Single if i == n / 2 => x,
                    Data::Single => 0.0,
                    Data::HalfExtremes if i % 61 == 0 => 65504.0 * x.signum(),
                    Data::HalfExtremes => 6.1e-5 * x,
                    Data::Denormals => 1e-39 * x,
                }
            })
            .collect()
    }
}

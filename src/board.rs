//! Estimates the time that a machine would need for a model. It is a model of the time, not a measurement.
//!
//! Multiplications of 8-bit integers limit pictures and prompts; reading the weights limits
//! generation. The time of a stage is its work, divided by the machine's limit and by the share of
//! that limit that this program reached where both were measured. `owl2 bench` prints this estimate
//! for its own machine beside the measured times.
//!
//! # Limits
//! The limits of a [`Board`] are published ones. No board exceeds them and few reach them, above all
//! for memory. Weights that are floats are not modelled.

mod work;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::Model;
pub(crate) use work::{DecoderWork, PictureWork};

/// Share of the multiplications that matrix products reach, with all that goes with them: what
/// `owl2 bench` measures of prompts on x86-64, and what static analysis gives for the loops on ARM.
const MULTIPLYING_SHARE: f64 = 0.7;
/// Share of the bandwidth that generation reaches, as `owl2 bench` measures.
const READING_SHARE: f64 = 0.9;

/// What limits a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// 8-bit multiply-accumulates a second, of all cores together.
    pub macs_per_s: f64,
    /// Bytes a second that all cores together can read from memory.
    pub bytes_per_s: f64,
}

/// What a model asks of a machine.
#[derive(Clone, Debug)]
pub struct Work {
    decoder: DecoderWork,
    picture: Option<PictureWork>,
}

impl Work {
    /// Counts the work of `model`, whose file is `gguf`.
    pub fn new(gguf: &Gguf, model: &Model) -> Self {
        let visual = model.config().visual.as_ref();
        Work {
            decoder: DecoderWork::new(gguf, model),
            picture: visual.map(|visual| PictureWork::new(model.config(), visual)),
        }
    }
}

impl Machine {
    /// Seconds to encode a picture, where the model takes any.
    pub fn picture_s(self, work: &Work) -> Option<f64> {
        let macs = |picture: &PictureWork| picture.vit_macs + picture.abstractor_macs;
        work.picture
            .as_ref()
            .map(|picture| self.multiplying_s(macs(picture) as f64))
    }

    /// Seconds to read a prompt of `n` tokens, pictures' positions among them.
    pub fn prefill_s(self, work: &Work, n: usize) -> f64 {
        // A short prompt waits for the weights, which are read once, rather than for the multipliers.
        let reading = self.reading_s(work.decoder.bytes_per_token(0, n.min(1), 1));
        self.multiplying_s(work.decoder.prefill_macs(n))
            .max(reading)
    }

    /// Seconds to generate a token, on the average of `n` after `depth` positions.
    pub fn token_s(self, work: &Work, depth: usize, n: usize) -> f64 {
        self.reading_s(work.decoder.bytes_per_token(depth, n, 1))
    }

    /// Seconds for each token where `n_sequences` generate at once: those of a step by their number.
    pub fn parallel_token_s(self, work: &Work, depth: usize, n: usize, n_sequences: usize) -> f64 {
        let bytes = work.decoder.bytes_per_token(depth, n, n_sequences);
        // Many share a reading of the weights until the multipliers hold them up.
        self.reading_s(bytes)
            .max(self.multiplying_s(work.decoder.macs_per_token()))
    }

    fn multiplying_s(self, macs: f64) -> f64 {
        macs / (self.macs_per_s * MULTIPLYING_SHARE)
    }

    fn reading_s(self, bytes: f64) -> f64 {
        bytes / (self.bytes_per_s * READING_SHARE)
    }
}

/// A machine that is known by its data sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// Raspberry Pi 4 B.
    Pi4,
    /// Raspberry Pi 5.
    Pi5,
    /// Apple's M1.
    M1,
    /// Apple's M2.
    M2,
}

/// The data sheet of a [`Board`].
struct Sheet {
    name: &'static str,
    description: &'static str,
    n_cores: f64,
    /// Cycles a second.
    clock: f64,
    /// 8-bit multiply-accumulates that a core does in a cycle.
    macs_per_cycle: f64,
    bytes_per_s: f64,
}

impl Board {
    /// All of them.
    pub const ALL: [Board; 4] = [Board::Pi4, Board::Pi5, Board::M1, Board::M2];

    fn sheet(self) -> Sheet {
        match self {
            // Broadcom BCM2711: four Cortex-A72 at 1.8 GHz (1.5 in older ones), LPDDR4-3200 of 32
            // bits: 12.8 GB/s (Raspberry Pi, "Processors" and the product brief). One of a core's two
            // vector pipelines multiplies integers, eight at a time into 16 bits (Arm, "Cortex-A72
            // Software Optimization Guide").
            Board::Pi4 => Sheet {
                name: "pi4",
                description: "Raspberry Pi 4, four Cortex-A72 at 1.8 GHz",
                n_cores: 4.0,
                clock: 1.8e9,
                macs_per_cycle: 8.0,
                bytes_per_s: 12.8e9,
            },
            // Broadcom BCM2712: four Cortex-A76 at 2.4 GHz, LPDDR4X-4267 of 32 bits: 17.1 GB/s
            // (Raspberry Pi 5 product brief). Both vector pipelines do dot products of 16 integers
            // (Arm, "Cortex-A76 Software Optimization Guide", version 8.0).
            Board::Pi5 => Sheet {
                name: "pi5",
                description: "Raspberry Pi 5, four Cortex-A76 at 2.4 GHz",
                n_cores: 4.0,
                clock: 2.4e9,
                macs_per_cycle: 2.0 * 16.0,
                bytes_per_s: 17.1e9,
            },
            // Four performance cores at 3.2 GHz, LPDDR4X-4266 of 128 bits: 68.3 GB/s. Four vector
            // units do dot products of 16 integers each (Dougall Johnson, "Apple Microarchitecture
            // Research", Firestorm, SDOT).
            Board::M1 => Sheet {
                name: "m1",
                description: "Apple M1, four performance cores at 3.2 GHz",
                n_cores: 4.0,
                clock: 3.2e9,
                macs_per_cycle: 4.0 * 16.0,
                bytes_per_s: 68.3e9,
            },
            // Four performance cores at 3.5 GHz, 100 GB/s (Apple's announcement of M2). How often a
            // core starts a product of matrices is not published; as many multiplications as M1 has
            // are the least.
            Board::M2 => Sheet {
                name: "m2",
                description: "Apple M2, four performance cores at 3.5 GHz",
                n_cores: 4.0,
                clock: 3.5e9,
                macs_per_cycle: 4.0 * 16.0,
                bytes_per_s: 100e9,
            },
        }
    }

    /// Its limits.
    pub fn machine(self) -> Machine {
        let sheet = self.sheet();
        Machine {
            macs_per_s: sheet.n_cores * sheet.clock * sheet.macs_per_cycle,
            bytes_per_s: sheet.bytes_per_s,
        }
    }

    /// What it is.
    pub fn description(self) -> &'static str {
        self.sheet().description
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sheet().name)
    }
}

impl FromStr for Board {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Board::ALL
            .into_iter()
            .find(|board| board.to_string() == text);
        found.ok_or_else(|| {
            let names = Board::ALL.map(|board| board.to_string()).join(", ");
            Error::usage(format!("unknown board '{text}' (expected one of {names})"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::ops::Compute;

    /// As fast as one operation and one byte a second, so that times are amounts of work.
    const UNIT: Machine = Machine {
        macs_per_s: 1.0 / MULTIPLYING_SHARE,
        bytes_per_s: 1.0 / READING_SHARE,
    };

    #[test]
    fn names_are_read_as_they_are_written() {
        for board in Board::ALL {
            assert_eq!(board.to_string().parse::<Board>().unwrap(), board);
        }
        let error = "pi3".parse::<Board>().unwrap_err().to_string();
        assert!(error.contains("pi4, pi5, m1, m2"), "{error}");
    }

    #[test]
    fn limits_are_those_of_the_data_sheets() {
        let pi5 = Board::Pi5.machine();
        assert!((pi5.macs_per_s / 307.2e9 - 1.0).abs() < 1e-9);
        let ascending = Board::ALL.map(Board::machine);
        for [slower, faster] in ascending.array_windows() {
            assert!(slower.macs_per_s < faster.macs_per_s);
            assert!(slower.bytes_per_s < faster.bytes_per_s);
        }
    }

    #[cfg(feature = "tiny")]
    #[test]
    fn times_are_the_work_over_the_limits() {
        let gguf = crate::builtin::open().unwrap();
        let model = Model::new(&gguf, Compute::new(NonZeroUsize::MIN).unwrap()).unwrap();
        let work = Work::new(&gguf, &model);
        let config = &model.config().decoder;
        // A block has at least these weights for each token.
        let least = config.n_layers * config.hidden_size * config.intermediate_size * 3;
        let macs = UNIT.prefill_s(&work, 100) - UNIT.prefill_s(&work, 99);
        assert!(macs > least as f64, "{macs}");
        // A prompt of one token cannot be read faster than the weights.
        assert!(UNIT.prefill_s(&work, 1) >= UNIT.token_s(&work, 0, 1));
        let bytes = UNIT.token_s(&work, 0, 1);
        assert!(
            bytes < gguf.file_bytes() as f64 && bytes > least as f64 * 0.5,
            "{bytes}"
        );
        assert!(UNIT.token_s(&work, 100, 1) > bytes);
        let double = Machine {
            macs_per_s: 2.0 * UNIT.macs_per_s,
            ..UNIT
        };
        let ratio = UNIT.picture_s(&work).unwrap() / double.picture_s(&work).unwrap();
        assert!((ratio - 2.0).abs() < 1e-9);
    }
}

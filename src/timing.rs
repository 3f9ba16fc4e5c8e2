//! How long each stage of a request took.

use std::time::{Duration, Instant};

/// A stage of a request, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening and checking the model file. Its weights are only mapped: they are read from the
    /// disk by the stages that first use them.
    Load,
    /// Picture files to RGB.
    DecodeImage,
    /// RGB to the pixels that the vision tower takes.
    Preprocess,
    /// The vision transformer.
    Vit,
    /// The visual abstractor and the projection to the decoder's width.
    Abstractor,
    /// The decoder on the whole prompt.
    Prefill,
    /// The decoder on one generated token after the other, choice and output included.
    Decode,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Stage; 7] = [
        Stage::Load,
        Stage::DecodeImage,
        Stage::Preprocess,
        Stage::Vit,
        Stage::Abstractor,
        Stage::Prefill,
        Stage::Decode,
    ];

    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Load => "load",
            Stage::DecodeImage => "decode_image",
            Stage::Preprocess => "preprocess",
            Stage::Vit => "vit",
            Stage::Abstractor => "abstractor",
            Stage::Prefill => "prefill",
            Stage::Decode => "decode",
        }
    }
}

/// The time that each stage took so far, of all pictures and tokens together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings([Duration; Stage::ALL.len()]);

impl Timings {
    /// The time of `stage`.
    pub fn of(&self, stage: Stage) -> Duration {
        self.0[stage as usize]
    }

    /// The time of all stages.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// Does `work` and adds the time it takes to `stage`.
    pub fn measure<R>(&mut self, stage: Stage, work: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = work();
        self.add(stage, start.elapsed());
        result
    }

    /// Adds to the time of `stage`.
    pub fn add(&mut self, stage: Stage, time: Duration) {
        self.0[stage as usize] += time;
    }

    /// Adds all of `other`.
    pub fn add_all(&mut self, other: &Timings) {
        for stage in Stage::ALL {
            self.add(stage, other.of(stage));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_stand_at_their_numbers_and_add_up() {
        for (i, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, i);
        }
        let mut timings = Timings::default();
        let pause = Duration::from_millis(2);
        for _ in 0..2 {
            timings.measure(Stage::Vit, || std::thread::sleep(pause));
        }
        assert!(timings.of(Stage::Vit) >= 2 * pause);
        assert_eq!(timings.of(Stage::Decode), Duration::ZERO);
        assert_eq!(timings.total(), timings.of(Stage::Vit));
        let once = timings;
        timings.add(Stage::Load, pause);
        timings.add_all(&once);
        assert_eq!(timings.of(Stage::Vit), 2 * once.of(Stage::Vit));
        assert_eq!(timings.total(), 2 * once.total() + pause);
    }
}

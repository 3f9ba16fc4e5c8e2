//! Numbers for which -1 has a meaning of its own, as in llama.cpp.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

use crate::request::UNLIMITED;

/// What `-n` and the like take for "no limit" and "at random".
const MINUS_ONE: &str = "-1";

/// A seed, or the wish for any.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) enum Seed {
    Fixed(u64),
    Random,
}

impl Seed {
    /// The seed to use. A random one is short enough to be typed again.
    pub fn value(self) -> u64 {
        match self {
            Seed::Fixed(seed) => seed,
            // The standard library takes the keys of its hash maps from the system's random numbers.
            Seed::Random => RandomState::new().hash_one(()) >> 32,
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seed::Fixed(seed) => write!(f, "{seed}"),
            Seed::Random => f.write_str(MINUS_ONE),
        }
    }
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == MINUS_ONE {
            return Ok(Seed::Random);
        }
        let seed = text.parse().map(Seed::Fixed);
        seed.map_err(|_| "expected a number from 0, or -1 for a random seed".to_owned())
    }
}

/// The longest answer, in tokens; [`UNLIMITED`] for as many as the context has room for.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Length(pub usize);

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == MINUS_ONE {
            return Ok(Length(UNLIMITED));
        }
        let length = text.parse().ok().filter(|&n| n > 0).map(Length);
        length.ok_or_else(|| "expected 1 or more, or -1 for no limit".to_owned())
    }
}

/// How many of the likeliest tokens count; 0 and -1 are all of them.
pub(in crate::cli) fn top_k(text: &str) -> Result<usize, String> {
    if text == MINUS_ONE {
        return Ok(0);
    }
    let number = text.parse();
    number.map_err(|_| "expected 0 or more, or -1 for all tokens".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_has_the_meaning_of_llama_cpp() {
        assert_eq!(top_k("-1"), Ok(0));
        assert_eq!(top_k("5"), Ok(5));
        assert_eq!("-1".parse::<Length>().unwrap().0, UNLIMITED);
        assert_eq!("7".parse::<Length>().unwrap().0, 7);
        assert!(matches!("3".parse(), Ok(Seed::Fixed(3))));
        for text in ["-2", "", "x", "1.5"] {
            assert!(top_k(text).is_err(), "{text}");
            assert!(text.parse::<Length>().is_err(), "{text}");
            assert!(text.parse::<Seed>().is_err(), "{text}");
        }
        assert!("0".parse::<Length>().is_err());
    }

    #[test]
    fn random_seeds_differ_and_are_short() {
        let random: Seed = "-1".parse().unwrap();
        let seeds: std::collections::HashSet<u64> = (0..8).map(|_| random.value()).collect();
        assert!(seeds.len() > 1);
        assert!(seeds.iter().all(|&seed| seed <= u64::from(u32::MAX)));
        // As the help shows a default.
        assert_eq!(random.to_string(), "-1");
        assert_eq!(Seed::Fixed(7).to_string(), "7");
    }
}

//! Videos as lists of pictures: which frames are used, and the frames of animated pictures.
//!
//! All frames of a clip stand in one picture slot of the prompt, one after another, as in Q-Align.
//! This equals one slot per frame with nothing between the slots.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::image::{self, Aspect, Reading};
use crate::request::{Assistant, Source};

/// The frames that Q-Align rates a video of `n_frames` by: one a second, of `fps` frames each.
/// None where it is shorter than a second.
pub fn one_a_second(n_frames: usize, fps: f64) -> Vec<usize> {
    let n_seconds = match fps.is_finite() && fps > 0.0 {
        true => (n_frames as f64 / fps) as usize,
        false => 0,
    };
    // Seconds without a frame of their own add nothing that a model could see.
    let indices = (0..n_seconds).map(|second| (fps * second as f64) as usize);
    let mut indices: Vec<usize> = indices.take(MAX_SECONDS).collect();
    indices.retain(|&index| index < n_frames);
    indices
}

/// More frames than any context has room for.
const MAX_SECONDS: usize = 1 << 20;

/// Sorts the files of frames as their numbers say: `frame9` comes before `frame10`.
pub fn sort_frames(frames: &mut [PathBuf]) {
    frames.sort_by(|a, b| by_number(&a.to_string_lossy(), &b.to_string_lossy()));
}

fn by_number(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    loop {
        let (part_a, after_a) = next_part(rest_a);
        let (part_b, after_b) = next_part(rest_b);
        let is_number = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
        let order = match is_number(part_a) && is_number(part_b) {
            true => {
                let (a, b) = (
                    part_a.trim_start_matches('0'),
                    part_b.trim_start_matches('0'),
                );
                a.len().cmp(&b.len()).then_with(|| a.cmp(b))
            }
            false => part_a.cmp(part_b),
        };
        if order.is_ne() || part_a.is_empty() {
            // Equal numbers may be written with more zeros or fewer.
            return order.then_with(|| a.cmp(b));
        }
        (rest_a, rest_b) = (after_a, after_b);
    }
}

/// The digits that a text begins with, or what stands before its first one; and the rest.
fn next_part(text: &str) -> (&str, &str) {
    let begins_with_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != begins_with_digit);
    text.split_at(end.unwrap_or(text.len()))
}

/// Whether a file is an animation, whose frames [`Assistant::animation`] takes for a clip.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io) where it cannot be read.
#[cfg(feature = "cli")]
pub fn is_animation(path: &Path) -> Result<bool> {
    image::is_animation(path)
}

impl Assistant {
    /// The frames of the animated GIF or WebP at `path`, one for each whole second that it lasts, at
    /// least one.
    ///
    /// # Errors
    /// As [`Assistant::pixels`], and [`Kind::Input`](crate::Kind::Input) for one that lasts longer
    /// than a thousand seconds.
    pub fn animation(
        &self,
        path: &Path,
        aspect: Option<Aspect>,
        reading: Reading,
    ) -> Result<Vec<Source>> {
        let mut frames = Vec::new();
        image::seconds(path, reading, &mut |picture| {
            frames.push(Source::Pixels(self.picture_pixels(picture, aspect)?));
            Ok(())
        })?;
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_ordered_by_their_numbers() {
        let names = [
            "f10.png", "f9.png", "f1b.png", "f01.png", "f1.png", "e", "f1a2.png",
        ];
        let mut frames = names.map(PathBuf::from);
        sort_frames(&mut frames);
        let sorted = [
            "e", "f01.png", "f1.png", "f1a2.png", "f1b.png", "f9.png", "f10.png",
        ];
        assert_eq!(frames, sorted.map(PathBuf::from));
        assert_eq!(by_number("a1", "a1"), Ordering::Equal);
    }

    #[test]
    fn impossible_rates_choose_nothing() {
        for fps in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(one_a_second(100, fps).is_empty());
        }
        assert!(one_a_second(0, 25.0).is_empty());
        assert_eq!(one_a_second(50, 25.0), [0, 25]);
        assert_eq!(one_a_second(3, 0.5), [0, 0, 1, 1, 2, 2]);
        assert!(one_a_second(3, 1e-300).len() <= MAX_SECONDS);
    }
}

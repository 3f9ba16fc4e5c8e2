//! The metrics of benchmarks, equal to the originals in every digit.
//!
//! [`answers`] extracts a letter, yes or no, or a normalised text from an answer. [`tables`] adds up the
//! results as each benchmark does. [`correlation`] and [`distribution`] compare scores with those of
//! people.

pub mod answers;
pub mod correlation;
pub mod distribution;
pub mod tables;
pub mod vqa;

/// Words of a text as Python's `split` finds them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// A text without the space around it, as Python's `strip` leaves it.
fn stripped(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Whether Python takes a character for space; it does so for four separators that Unicode does
/// not.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// The mean; not a number of nothing.
fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut n) = (0.0, 0);
    for value in values {
        sum += value;
        n += 1;
    }
    sum / f64::from(n)
}

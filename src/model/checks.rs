//! Checks that hyper-parameters of the decoder and of the image branch share.

use crate::error::{Error, Result};

/// No dimension or count of a real model comes near this. Products of two cannot overflow; where
/// addresses have 32 bits, that takes a closer limit.
const MAX_DIMENSION: usize = match usize::BITS {
    32 => (1 << 15) - 1,
    _ => 1 << 24,
};
/// More layers than any model of this family has.
const MAX_LAYERS: usize = 1 << 12;

/// Fails with the key's name unless `1 <= value <= max`.
pub(crate) fn check_range(name: &str, value: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&value) {
        Ok(())
    } else {
        Err(Error::model(format!("is {value}, expected 1 to {max}")).in_key(name))
    }
}

/// [`check_range`] for a width or another dimension.
pub(crate) fn check_dimension(name: &str, value: usize) -> Result<()> {
    check_range(name, value, MAX_DIMENSION)
}

/// [`check_range`] for a number of layers.
pub(crate) fn check_layers(name: &str, value: usize) -> Result<()> {
    check_range(name, value, MAX_LAYERS)
}

/// Fails unless `value` is a positive finite number below 1.
pub(crate) fn check_epsilon(name: &str, value: f32) -> Result<()> {
    if value > 0.0 && value < 1.0 {
        Ok(())
    } else {
        Err(Error::model(format!("is {value}, expected a small positive number")).in_key(name))
    }
}

/// Fails unless `whole` is a multiple of `part`; both must have been checked to be positive.
pub(crate) fn check_divides(name: &str, part: usize, whole_name: &str, whole: usize) -> Result<()> {
    if whole.is_multiple_of(part) {
        Ok(())
    } else {
        Err(Error::model(format!(
            "is {part}, which does not divide {whole_name} ({whole})"
        ))
        .in_key(name))
    }
}

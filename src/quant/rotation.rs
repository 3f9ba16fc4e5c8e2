//! Rotation of a matrix's columns, which spreads outliers before values are rounded.
//!
//! A product `x W^T` does not change when the columns of both factors are multiplied by the same
//! orthogonal matrix `R`: `(x R) (W R)^T = x W^T`. With Hadamard matrices behind random signs, a
//! channel that is far larger than its neighbours is spread over all columns of its block, so that
//! one scale serves the block well. (QuaRot, arXiv:2404.00456; QuIP#, arXiv:2402.04396.)
//!
//! `R` is block-diagonal. Blocks have [`BLOCK_LEN`] columns; what is left of a row is cut into
//! blocks of the next smaller powers of two, down to [`MIN_BLOCK_LEN`]. A block of `n` columns is
//! `diag(signs) H / sqrt(n)`, with the signs of its place in a block of [`BLOCK_LEN`] and `H` the
//! Hadamard matrix in Sylvester's order: `H[i][j] = (-1)^popcount(i & j)`.
//!
//! This is the specification, which kernels follow bit by bit: each value times `sign / sqrt(n)`,
//! then sums and differences of values 1 apart, 2 apart, and so on up to `n / 2`.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::names;
use crate::gguf::write::Metadata;

/// Columns of a block.
pub const BLOCK_LEN: usize = 128;
/// Columns of the smallest block at the end of a row, the columns of a quantized block.
pub const MIN_BLOCK_LEN: usize = 32;
/// Lengths of blocks: 128, 64 and 32.
const N_LENGTHS: usize = 3;

/// The signs that [`Rotation::default`] has, one bit a column: the first 128 bits of the
/// fractional part of pi (FIPS 46's and Blowfish's source of bits that nobody chose).
const PI_BITS: [u32; BLOCK_LEN / 32] = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];

/// The rotation of a file's quantized matrices.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// `sign / sqrt(n)` of each column, for blocks of 128, 64 and 32.
    factors: [[f32; BLOCK_LEN]; N_LENGTHS],
}

impl Default for Rotation {
    /// What `owl2-convert` uses.
    fn default() -> Self {
        Rotation::new(std::array::from_fn(|i| {
            PI_BITS[i / 32] >> (i % 32) & 1 == 1
        }))
    }
}

impl Rotation {
    /// A rotation that negates these columns of each block first.
    pub fn new(negative: [bool; BLOCK_LEN]) -> Self {
        let factors = std::array::from_fn(|length| {
            let len = (BLOCK_LEN >> length) as f64;
            let size = (1.0 / len.sqrt()) as f32;
            negative.map(|negative| if negative { -size } else { size })
        });
        Rotation { factors }
    }

    /// Reads how a file's matrices are rotated, if they are.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) for a rotation that this version does not know.
    pub fn read(gguf: &Gguf) -> Result<Option<Self>> {
        let Some(len) = gguf.find::<usize>(names::rotation::BLOCK_LENGTH)? else {
            return Ok(None);
        };
        if len != BLOCK_LEN {
            return Err(Error::model(format!(
                "is {len}; this version knows rotations of {BLOCK_LEN} columns"
            ))
            .in_key(names::rotation::BLOCK_LENGTH));
        }
        let signs: Vec<i32> = gguf.get(names::rotation::SIGNS)?;
        let signs: [i32; BLOCK_LEN] = signs.try_into().map_err(|signs: Vec<i32>| {
            Error::model(format!("has {} values, expected {BLOCK_LEN}", signs.len()))
                .in_key(names::rotation::SIGNS)
        })?;
        if let Some(sign) = signs.iter().find(|sign| sign.abs() != 1) {
            return Err(
                Error::model(format!("has the value {sign}, expected 1 and -1"))
                    .in_key(names::rotation::SIGNS),
            );
        }
        Ok(Some(Rotation::new(signs.map(|sign| sign < 0))))
    }

    /// Adds the rotation to the metadata of a file to be written.
    pub fn write(&self, metadata: &mut Metadata) {
        metadata.set(names::rotation::BLOCK_LENGTH, BLOCK_LEN as u32);
        let signs = self.factors[0].map(|factor| if factor < 0.0 { -1 } else { 1 });
        metadata.set(names::rotation::SIGNS, signs.to_vec());
    }

    /// Reads which quantized tensors of a file with a rotation are not rotated.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) where the key holds anything but names of tensors.
    pub fn read_exceptions(gguf: &Gguf) -> Result<BTreeSet<String>> {
        let key = names::rotation::EXCEPT;
        let names: Vec<&str> = gguf.find(key)?.unwrap_or_default();
        if let Some(name) = names.iter().find(|name| gguf.tensor(name).is_none()) {
            let problem = format!("names '{name}', but the file has no such tensor");
            return Err(Error::model(problem).in_key(key));
        }
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    /// Adds the names of quantized tensors that are not rotated, if there are any.
    pub fn write_exceptions(metadata: &mut Metadata, tensors: Vec<String>) {
        if !tensors.is_empty() {
            metadata.set(names::rotation::EXCEPT, tensors);
        }
    }

    /// What each column of a block of `len` is multiplied with, [`BLOCK_LEN`] or a smaller power
    /// of two.
    #[inline]
    pub fn factors(&self, len: usize) -> &[f32; BLOCK_LEN] {
        &self.factors[(BLOCK_LEN / len).trailing_zeros() as usize]
    }

    /// `row = row R`, for rows of a multiple of [`MIN_BLOCK_LEN`] columns.
    ///
    /// # Panics
    /// For other rows.
    pub fn apply(&self, row: &mut [f32]) {
        for block in blocks_mut(row) {
            let factors = self.factors(block.len());
            for (x, factor) in block.iter_mut().zip(factors) {
                *x *= factor;
            }
            add_and_subtract(block);
        }
    }

    /// `row = row R^T`, which undoes [`Rotation::apply`] but for rounding.
    ///
    /// # Panics
    /// As [`Rotation::apply`].
    pub fn undo(&self, row: &mut [f32]) {
        for block in blocks_mut(row) {
            add_and_subtract(block);
            let factors = self.factors(block.len());
            for (x, factor) in block.iter_mut().zip(factors) {
                *x *= factor;
            }
        }
    }
}

/// Length of the block that begins where `n_left` columns of a row are left, a multiple of
/// [`MIN_BLOCK_LEN`].
#[inline]
pub fn block_len(n_left: usize) -> usize {
    let mut len = BLOCK_LEN;
    while len > n_left {
        len /= 2;
    }
    len
}

fn blocks_mut(row: &mut [f32]) -> impl Iterator<Item = &mut [f32]> {
    assert!(row.len().is_multiple_of(MIN_BLOCK_LEN));
    let mut rest = row;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = block_len(rest.len());
        let (block, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        Some(block)
    })
}

/// `block = block H`, by sums and differences of values 1, 2, 4, ... apart.
fn add_and_subtract(block: &mut [f32]) {
    let mut apart = 1;
    while apart < block.len() {
        for pair in block.chunks_exact_mut(2 * apart) {
            let (first, second) = pair.split_at_mut(apart);
            for (a, b) in first.iter_mut().zip(second) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        apart *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0)
            .collect()
    }

    /// `row R` by the definition, in `f64`.
    fn by_definition(rotation: &Rotation, row: &[f32]) -> Vec<f64> {
        let mut out = Vec::new();
        while out.len() < row.len() {
            let len = block_len(row.len() - out.len());
            let block = &row[out.len()..][..len];
            let factors = rotation.factors(len);
            out.extend((0..len).map(|j| {
                let terms = block.iter().zip(factors).enumerate();
                terms
                    .map(|(i, (x, factor))| {
                        let sign = if (i & j).count_ones() % 2 == 1 {
                            -1.0
                        } else {
                            1.0
                        };
                        sign * f64::from(*x) * f64::from(*factor)
                    })
                    .sum::<f64>()
            }));
        }
        out
    }

    #[test]
    fn rows_of_any_length_are_rotated_and_back() {
        let rotation = Rotation::default();
        for n in [32, 64, 96, 128, 160, 224, 576, 352, 1536] {
            let row = values(n);
            let mut rotated = row.clone();
            rotation.apply(&mut rotated);
            for (got, wanted) in rotated.iter().zip(by_definition(&rotation, &row)) {
                assert!((f64::from(*got) - wanted).abs() < 1e-5, "{n}");
            }
            let length = |row: &[f32]| row.iter().map(|x| f64::from(x * x)).sum::<f64>();
            assert!((length(&rotated) / length(&row) - 1.0).abs() < 1e-6, "{n}");
            rotation.undo(&mut rotated);
            for (back, x) in rotated.iter().zip(&row) {
                assert!((back - x).abs() < 1e-6, "{n}");
            }
        }
    }

    #[test]
    fn a_spike_is_spread_over_its_block() {
        let mut row = vec![0.0; 256];
        row[130] = 1.0;
        Rotation::default().apply(&mut row);
        assert!(row[..128].iter().all(|x| *x == 0.0));
        assert!(
            row[128..]
                .iter()
                .all(|x| (x.abs() - 0.088_388_35).abs() < 1e-8)
        );
    }

    #[test]
    fn the_standard_signs_are_those_of_pi() {
        let factors = *Rotation::default().factors(BLOCK_LEN);
        // 0x243f6a88, lowest bit first.
        let first: Vec<bool> = factors[..8].iter().map(|x| *x < 0.0).collect();
        assert_eq!(
            first,
            [false, false, false, true, false, false, false, true]
        );
        assert_eq!(factors.iter().filter(|x| **x < 0.0).count(), 52);
    }
}

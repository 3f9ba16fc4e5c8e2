//! Writes the file: rows are read, quantized and written in pieces that pass through a pipeline.
//!
//! Workers read and quantize whole pieces, so disk, conversion and quantization of different
//! pieces overlap and every core is busy; the calling thread writes them in order. A piece depends
//! on nothing but its rows, so the file is the same whatever the number of threads, and memory is
//! a few MiB for each of them.

use std::num::NonZeroUsize;
use std::path::Path;

use owl2::gguf::DType;
use owl2::gguf::names::general;
use owl2::gguf::write::{Metadata, Writer};
use owl2::quant::{self, Rotation};
use owl2::{Error, Result};

use crate::checkpoint::TensorSource;
use crate::input::ConversionInput;
use crate::interrupt;
use crate::mapping::Mapped;
use crate::pipeline;
use crate::plan::{ConversionPlan, Planned};
use crate::progress::Progress;
use crate::recipe::Quant;

/// Values of one piece, unless a single row has more: 1 MiB of floats.
const PIECE_VALUES: usize = 1 << 18;

/// `general.quantization_version` of ggml's present block formats (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

/// The largest number of the 16-bit IEEE format, which F16 values and block scales are stored in.
const MAX_F16: f32 = 65504.0;

/// A run of whole rows of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TensorPiece {
    /// Number of the tensor.
    pub tensor: usize,
    /// First value.
    pub start: usize,
    /// Number of values.
    pub len: usize,
}

/// Cuts tensors of these shapes into pieces, in order.
pub(crate) fn pieces<'a>(shapes: impl Iterator<Item = &'a [usize]>) -> Vec<TensorPiece> {
    let mut pieces = Vec::new();
    for (tensor, shape) in shapes.enumerate() {
        let n_values: usize = shape.iter().product();
        let row_len = row_len(shape).max(1);
        let step = (PIECE_VALUES / row_len).max(1) * row_len;
        pieces.extend((0..n_values).step_by(step).map(|start| TensorPiece {
            tensor,
            start,
            len: step.min(n_values - start),
        }));
    }
    pieces
}

/// Values of a row of a tensor: a matrix of higher rank has its trailing dimensions flattened, as
/// where the model binds it, and a vector is one row.
pub(crate) fn row_len(shape: &[usize]) -> usize {
    match shape {
        [n] => *n,
        [_, inner @ ..] => inner.iter().product(),
        [] => 1,
    }
}

/// Everything but the tensors.
pub fn metadata(input: &ConversionInput, quant: Quant, plan: &ConversionPlan) -> Metadata {
    let mut metadata = Metadata::default();
    input.config.write(&mut metadata, plan.rotation.as_ref());
    Rotation::write_exceptions(&mut metadata, plan.exceptions());
    metadata.set(general::NAME, input.name.as_str());
    metadata.set(general::FILE_TYPE, quant.file_type());
    metadata.set(general::QUANTIZATION_VERSION, QUANTIZATION_VERSION);
    let from = format!("{}.", input.config.architecture(false));
    let to = format!("{}.", input.config.architecture(plan.rotation.is_some()));
    let others = input.metadata.pairs().iter().map(|(key, value)| {
        let key = match key.strip_prefix(&from) {
            Some(name) => format!("{to}{name}"),
            None => key.clone(),
        };
        (key, value.clone())
    });
    metadata.add_missing(others);
    metadata
}

/// Writes `target`, whose tensors are `plan`'s, each made from its counterpart in `mapped`.
/// Returns the size of the file in bytes.
///
/// # Errors
/// Those of reading and writing; [`Kind::Model`](owl2::Kind::Model), naming tensor and element,
/// for a weight that is not finite or that its type cannot hold;
/// [`Kind::Interrupted`](owl2::Kind::Interrupted) after a signal. No file is left behind.
///
/// # Panics
/// Where `plan` and `mapped` are not of the same model.
pub fn pack(
    source: &dyn TensorSource,
    mapped: &[Mapped],
    plan: &ConversionPlan,
    mut writer: Writer,
    n_threads: NonZeroUsize,
    progress: &mut Progress,
) -> Result<u64> {
    assert!(
        mapped
            .iter()
            .map(|tensor| &tensor.spec)
            .eq(plan.tensors.iter().map(|tensor| &tensor.spec)),
        "plan and mapping belong together"
    );
    let pieces = pieces(plan.tensors.iter().map(|t| t.spec.shape.as_slice()));
    let make = |i: usize, values: &mut Vec<f32>| {
        let piece = pieces[i];
        values.resize(piece.len, 0.0);
        mapped[piece.tensor].read(source, piece.start, values)?;
        let tensor = &plan.tensors[piece.tensor];
        encode(tensor, plan.rotation_of(tensor), piece.start, values)
    };
    let take = |bytes: Vec<u8>| {
        interrupt::check()?;
        writer.write(&bytes)?;
        progress.advance(bytes.len());
        Ok(())
    };
    pipeline::ordered(pieces.len(), n_threads, Vec::new, make, take)?;
    let written = writer.written();
    writer.finish()?;
    Ok(written)
}

/// The bytes of `values`, whole rows that start at element `start` of `tensor`. Afterwards `values`
/// are what was quantized.
fn encode(
    tensor: &Planned,
    rotation: Option<&Rotation>,
    start: usize,
    values: &mut [f32],
) -> Result<Vec<u8>> {
    let limit = match tensor.dtype {
        DType::F32 | DType::BF16 => f32::MAX,
        _ => MAX_F16,
    };
    if let Some(i) = first_beyond(values, limit) {
        let (index, value) = (start + i, values[i]);
        let problem = if value.is_finite() {
            format!(
                "element {index} is {value}, which {} cannot hold; choose f32 for it",
                tensor.dtype
            )
        } else {
            format!("element {index} is {value}; the checkpoint is damaged")
        };
        return Err(Error::model(problem).in_tensor(&tensor.spec.name));
    }
    let n_bytes = values.len() / tensor.dtype.block_len() * tensor.dtype.block_bytes();
    let mut bytes = vec![0; n_bytes];
    if let Some(rotation) = rotation {
        let row_len = row_len(&tensor.spec.shape);
        values
            .chunks_exact_mut(row_len)
            .for_each(|row| rotation.apply(row));
        // Many large values of a row can add up to one that no scale holds.
        if let Some(i) = first_beyond(values, MAX_F16) {
            return Err(Error::model(format!(
                "row {} has the value {} once rotated, which {} cannot hold; choose f32 for it or pass --no-rotate",
                (start + i) / row_len,
                values[i],
                tensor.dtype
            ))
            .in_tensor(&tensor.spec.name));
        }
        quant::quantize_rotated(tensor.dtype, values, row_len, &mut bytes);
    } else {
        quant::quantize(tensor.dtype, values, &mut bytes);
    }
    Ok(bytes)
}

/// The first value that is not finite or larger than `limit` either way.
pub(crate) fn first_beyond(values: &[f32], limit: f32) -> Option<usize> {
    let beyond = |x: &f32| x.is_nan() || x.abs() > limit;
    // Nearly always there is none; without an early exit that is found at memory speed.
    let any = values.iter().fold(false, |any, x| any | beyond(x));
    any.then(|| values.iter().position(beyond)).flatten()
}

/// Starts the file at `target`.
///
/// # Errors
/// As [`Writer::create`].
pub fn create(
    target: &Path,
    input: &ConversionInput,
    quant: Quant,
    plan: &ConversionPlan,
    force: bool,
) -> Result<Writer> {
    let metadata = metadata(input, quant, plan);
    Writer::create(target, &metadata, &plan.declarations(), force)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_rows_and_cover_everything() {
        let shapes: [&[usize]; 4] = [&[5], &[3, PIECE_VALUES + 1], &[1000, 1000], &[2, 3, 7, 7]];
        let pieces = pieces(shapes.into_iter());
        for (tensor, shape) in shapes.iter().enumerate() {
            let mut at = 0;
            for piece in pieces.iter().filter(|piece| piece.tensor == tensor) {
                assert_eq!(piece.start, at);
                assert!(piece.len.is_multiple_of(row_len(shape)));
                at += piece.len;
            }
            assert_eq!(at, shape.iter().product::<usize>());
        }
        assert_eq!(pieces.len(), 1 + 3 + 4 + 1);
    }

    #[test]
    fn the_first_bad_value_is_found() {
        let mut values = vec![1.0; 1000];
        assert_eq!(first_beyond(&values, MAX_F16), None);
        values[900] = f32::NAN;
        values[700] = -7e4;
        assert_eq!(first_beyond(&values, MAX_F16), Some(700));
        assert_eq!(first_beyond(&values, f32::MAX), Some(900));
        values[3] = f32::NEG_INFINITY;
        assert_eq!(first_beyond(&values, f32::MAX), Some(3));
    }
}

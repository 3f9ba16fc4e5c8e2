//! Finds matrices that are better not rotated.
//!
//! Rotation reduces the rounding error of activations. It can increase that of weights: weights that
//! were quantized before lie on a grid that rotation destroys, and rotation evens out columns that
//! differ in size. With few bits the weights matter more. So some rows of each such matrix are
//! quantized both ways and compared.

use std::collections::BTreeMap;

use owl2::Result;
use owl2::gguf::DType;
use owl2::model::layout;
use owl2::quant::{self, Rotation};

use crate::checkpoint::TensorSource;
use crate::interrupt;
use crate::mapping::Mapped;
use crate::pack::row_len;
use crate::plan::{ConversionPlan, Planned};

/// Rows of a matrix that are tried, or all if it has fewer.
const SAMPLED_ROWS: usize = 32;
/// How much larger rotation may make the mean square error of an input's matrices: 10% of its root. Errors
/// of weights without any pattern differ by 1% or less.
const MOST_HARM: f64 = 1.21;

/// Sums of squared errors.
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    as_it_is: f64,
    rotated: f64,
}

/// Leaves the matrices of those inputs as they are that rotation would make worse.
///
/// # Errors
/// Those of reading.
pub fn leave_out(
    plan: &mut ConversionPlan,
    source: &dyn TensorSource,
    mapped: &[Mapped],
) -> Result<()> {
    let Some(rotation) = plan.rotation.clone() else {
        return Ok(());
    };
    let mut inputs = BTreeMap::<String, Errors>::new();
    for (tensor, mapped) in plan.tensors.iter().zip(mapped) {
        if tensor.is_rotated && has_few_bits(tensor.dtype) {
            interrupt::check()?;
            let errors = inputs
                .entry(layout::input_of(&tensor.spec.name))
                .or_default();
            try_rows(tensor, &rotation, source, mapped, errors)?;
        }
    }
    for tensor in &mut plan.tensors {
        let errors = inputs.get(&layout::input_of(&tensor.spec.name));
        let is_worse = errors.is_some_and(|e| e.rotated > MOST_HARM * e.as_it_is);
        tensor.is_rotated &= !is_worse;
        if !tensor.is_rotated {
            tensor.dtype = without_rotation(tensor.dtype);
        }
    }
    if !plan.tensors.iter().any(|tensor| tensor.is_rotated) {
        plan.rotation = None;
        plan.is_rotation_harmful = true;
    }
    Ok(())
}

/// The type of a tensor that is not rotated after all: one scale for 128 columns is for rotated ones.
fn without_rotation(dtype: DType) -> DType {
    match dtype {
        DType::H4 => DType::Q4_0,
        DType::H8 => DType::Q8_0,
        dtype => dtype,
    }
}

/// Whether the rounding of weights outweighs that of activations, which have 8 bits.
fn has_few_bits(dtype: DType) -> bool {
    match dtype {
        DType::Q4_0 | DType::Q4_K | DType::Q6_K | DType::H4 => true,
        DType::Q8_0 | DType::H8 | DType::F32 | DType::F16 | DType::BF16 => false,
    }
}

/// Adds the errors of some rows of a tensor.
fn try_rows(
    tensor: &Planned,
    rotation: &Rotation,
    source: &dyn TensorSource,
    mapped: &Mapped,
    errors: &mut Errors,
) -> Result<()> {
    let row_len = row_len(&tensor.spec.shape);
    let n_rows = tensor.spec.shape.iter().product::<usize>() / row_len;
    let n_sampled = n_rows.min(SAMPLED_ROWS);
    let mut row = vec![0.0; row_len];
    let mut stored = vec![0.0; row_len];
    let mut bytes = vec![0; row_len / tensor.dtype.block_len() * tensor.dtype.block_bytes()];
    for i in 0..n_sampled {
        mapped.read(source, i * n_rows / n_sampled * row_len, &mut row)?;
        quant::quantize(tensor.dtype, &row, &mut bytes);
        quant::dequantize(tensor.dtype, &bytes, &mut stored);
        errors.as_it_is += squared_error(&row, &stored);
        rotation.apply(&mut row);
        quant::quantize_rotated(tensor.dtype, &row, row_len, &mut bytes);
        quant::dequantize(tensor.dtype, &bytes, &mut stored);
        errors.rotated += squared_error(&row, &stored);
    }
    Ok(())
}

fn squared_error(wanted: &[f32], stored: &[f32]) -> f64 {
    let errors = wanted.iter().zip(stored).map(|(a, b)| f64::from(a - b));
    errors.map(|error| error * error).sum()
}

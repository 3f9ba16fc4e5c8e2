//! Stub.
#![allow(missing_docs)]
use crate::gguf::DType;
#[inline(always)]
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => out.copy_from_slice(bytemuck::cast_slice(bytes)),
        _ => {}
    }
}
pub fn quantize(_dtype: DType, values: &[f32], out: &mut [u8]) {
    out.copy_from_slice(bytemuck::cast_slice(values))
}

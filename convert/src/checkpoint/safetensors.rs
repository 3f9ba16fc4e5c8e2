//! safetensors files: a JSON header with names, types, shapes and offsets, then the values.
//!
//! The `safetensors` package decodes and validates the header (offsets must tile the data exactly,
//! products are checked); the values are read where they lie.

use std::path::Path;

use owl2::{Error, Result};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::shard::ShardFile;
use super::stored::{Stored, row_major};
use super::{ElementType, Listed, Tensor, TensorMeta, is_ignored, unsupported_type};

/// Bytes of the header's length, which comes first.
const LENGTH_BYTES: u64 = 8;
/// A header takes some 120 bytes a tensor; the format itself allows 100 MB, of which a hostile one
/// would take fifteen times as much memory.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Lists the tensors of the file at `path`.
pub(crate) fn open(path: &Path) -> Result<Vec<Listed>> {
    let shard = ShardFile::open(path)?;
    let (header, data_start) = read_header(&shard).map_err(|e| e.in_file(path))?;
    header
        .tensors()
        .into_iter()
        .filter(|(name, _)| !is_ignored(name))
        .map(|(name, info)| {
            let element = match element_type(info.dtype) {
                Ok(element) => element,
                Err(e) => return Ok(Err(e.in_tensor(name).in_file(path))),
            };
            let (start, end) = absolute(info, data_start);
            let stored = Stored::new(
                shard.clone(),
                element,
                start,
                end,
                &info.shape,
                &row_major(&info.shape),
            )
            .map_err(|e| e.in_tensor(name.as_str()).in_file(path))?;
            let meta = TensorMeta {
                name,
                shape: info.shape.clone(),
                element,
            };
            Ok(Ok(Tensor::new(meta, stored)))
        })
        .collect()
}

/// The decoded header, and where the data starts.
fn read_header(shard: &ShardFile) -> Result<(Metadata, u64)> {
    let mut length = [0; LENGTH_BYTES as usize];
    if shard.n_bytes() < LENGTH_BYTES {
        return Err(Error::model(
            "is shorter than any safetensors file; it is truncated",
        ));
    }
    shard.read_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    let rest = shard.n_bytes() - LENGTH_BYTES;
    if length > rest.min(MAX_HEADER_BYTES) {
        return Err(Error::model(format!(
            "says that its header has {length} bytes, but {rest} follow, and no header needs more \
             than {MAX_HEADER_BYTES}; it is truncated or no safetensors file"
        )));
    }
    let mut header = vec![0; length as usize];
    shard.read_at(&mut header, LENGTH_BYTES)?;
    let header: Metadata = serde_json::from_slice(&header)
        .map_err(|e| Error::model(format!("has a damaged safetensors header: {e}")).caused_by(e))?;
    let n_data = header.data_len() as u64;
    if n_data != rest - length {
        return Err(Error::model(format!(
            "holds {} bytes of tensors, but its header describes {n_data}; it is truncated or damaged",
            rest - length
        )));
    }
    Ok((header, LENGTH_BYTES + length))
}

/// First byte and end of a tensor in the file. The header was checked to describe no more data than there is.
fn absolute(info: &TensorInfo, data_start: u64) -> (u64, u64) {
    let (start, end) = info.data_offsets;
    (data_start + start as u64, data_start + end as u64)
}

fn element_type(dtype: Dtype) -> Result<ElementType> {
    match dtype {
        Dtype::F32 => Ok(ElementType::F32),
        Dtype::F16 => Ok(ElementType::F16),
        Dtype::BF16 => Ok(ElementType::BF16),
        other => Err(unsupported_type(other)),
    }
}

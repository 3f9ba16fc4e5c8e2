//! A GGUF file of floats: a plain LLaMA model that another program made, or one of our own.
//!
//! Names, shapes and the order of rows are already those of the file to be written, so tensors are
//! read as they are, and whatever the file says beside its hyper-parameters is copied, such as a
//! tokenizer that this program cannot run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use owl2::gguf::header::ALIGNMENT_KEY;
use owl2::gguf::names::{general, rotation};
use owl2::gguf::write::Metadata;
use owl2::gguf::{DType, Gguf, TensorInfo};
use owl2::model::config::Config;
use owl2::{Error, Result};

use super::{ConversionInput, Naming};
use crate::checkpoint::{
    ElementType, ShardFile, Stored, Tensor, TensorMeta, TensorSource, row_major,
};
use crate::mapping::Extra;

/// Keys that say how the tensors of the file at hand are stored, which the new one says for itself.
const NOT_COPIED: [&str; 4] = [
    ALIGNMENT_KEY,
    rotation::BLOCK_LENGTH,
    rotation::SIGNS,
    rotation::EXCEPT,
];

/// The tensors of a file.
struct GgufTensors(BTreeMap<String, Tensor>);

pub(super) fn open(path: &Path) -> Result<ConversionInput> {
    let gguf = Gguf::open(path)?;
    let config = Config::read(&gguf)?;
    gguf.check_types()?;
    // Read, not mapped: see the head of `ShardFile`.
    let shard = ShardFile::open(path)?;
    let tensors = gguf
        .tensors()
        .iter()
        .map(|info| {
            let tensor = tensor(&shard, info).map_err(|e| e.in_tensor(&info.name))?;
            Ok((info.name.clone(), tensor))
        })
        .collect::<Result<_>>()?;
    let name = match gguf.find::<&str>(general::NAME)? {
        Some(name) => name.to_owned(),
        None => path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    };
    let mut metadata = Metadata::default();
    let copied = gguf
        .encoded_metadata()
        .filter(|(key, _)| !NOT_COPIED.contains(key))
        .map(|(key, value)| (key.to_owned(), value));
    metadata.add_missing(copied);
    Ok(ConversionInput {
        tensors: Box::new(GgufTensors(tensors)),
        naming: Naming::Gguf,
        config,
        metadata,
        name,
        extra: Extra::Refuse,
    })
}

fn tensor(shard: &Arc<ShardFile>, info: &TensorInfo) -> Result<Tensor> {
    let element = match info.dtype {
        DType::F32 => ElementType::F32,
        DType::F16 => ElementType::F16,
        DType::BF16 => ElementType::BF16,
        dtype => {
            return Err(Error::model(format!(
                "is quantized already ({dtype}), and what was lost then does not come back; start from a file of F32, F16 or BF16"
            )));
        }
    };
    let (start, end) = (info.range.start as u64, info.range.end as u64);
    let strides = row_major(&info.shape);
    let stored = Stored::new(shard.clone(), element, start, end, &info.shape, &strides)?;
    let meta = TensorMeta {
        name: info.name.clone(),
        shape: info.shape.clone(),
        element,
    };
    Ok(Tensor::new(meta, stored))
}

impl TensorSource for GgufTensors {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.0.keys().map(String::as_str))
    }

    fn meta(&self, name: &str) -> Option<&TensorMeta> {
        self.0.get(name).map(|tensor| &tensor.meta)
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let tensor = self
            .0
            .get(name)
            .ok_or_else(|| Error::model("is not in the file").in_tensor(name))?;
        tensor.read(start, out).map_err(|e| e.in_tensor(name))
    }
}

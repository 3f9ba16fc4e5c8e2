//! A checkpoint directory: named tensors that are read piece by piece, and what describes them.
//!
//! [`Checkpoint::open`] reads the small files and the headers of the weight files; values are read
//! from the disk only when [`TensorSource::read`] asks for them, so memory does not depend on the
//! size of the model.
//!
//! Left out of the list of tensors are those that the reference stores but never reads, or that
//! have to be computed: rotary frequencies (rounded in 16-bit checkpoints), position ids, and the
//! second set of position tables.

mod index;
mod names;
mod pickle;
mod recognise;
mod safetensors;
mod shard;
mod stored;
mod torch;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use owl2::model::config::Config;
use owl2::sampler::Sampling;
use owl2::tokenizer::Vocabulary;
use owl2::{Error, Result};

pub(crate) use index::open_file;
pub(crate) use names::{unwrapped, without_wrappers};
pub(crate) use recognise::check_file;
pub(crate) use shard::ShardFile;
pub(crate) use stored::{Stored, row_major};

use crate::lora::{self, Adapter, Delta};
use crate::preprocessor::PREPROCESSOR_FILE;
use crate::{config, mapping, sampling, tokenizer};

/// A tensor of a file, or, with its name as the subject, why its elements are none of weights.
pub(crate) type Listed = Result<Tensor>;

/// What to say of elements of another type.
fn unsupported_type(found: impl std::fmt::Debug) -> Error {
    Error::model(format!(
        "has elements of type {found:?}; weights have to be F32, F16 or BF16 (of a checkpoint that \
         is quantized, take the one of 16 bits that it was made from)"
    ))
}

/// How the elements of a tensor are stored in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    BF16,
}

impl ElementType {
    /// Bytes of one element.
    pub fn n_bytes(self) -> usize {
        match self {
            ElementType::F32 => 4,
            ElementType::F16 | ElementType::BF16 => 2,
        }
    }
}

/// What a tensor is called and looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMeta {
    /// Its name in the checkpoint.
    pub name: String,
    /// Dimensions in row-major order, slowest first.
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub element: ElementType,
}

/// Something that has named tensors which can be read piece by piece as f32.
pub trait TensorSource: Sync {
    /// The names of all tensors, in any order.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// What is known of the tensor called `name`.
    fn meta(&self, name: &str) -> Option<&TensorMeta>;

    /// Reads elements `start .. start + out.len()` of the row-major flattened tensor, converted
    /// to f32.
    ///
    /// # Errors
    /// [`Kind::Model`](owl2::Kind::Model) where there is no such tensor or range,
    /// [`Kind::Io`](owl2::Kind::Io) where the file cannot be read.
    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()>;
}

/// A tensor of a checkpoint: its values in a file, and what is added to them.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) meta: TensorMeta,
    pub(crate) stored: Stored,
    delta: Option<Delta>,
}

impl Tensor {
    pub(crate) fn new(meta: TensorMeta, stored: Stored) -> Self {
        Tensor {
            meta,
            stored,
            delta: None,
        }
    }

    pub(crate) fn read(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let end = start.checked_add(out.len());
        if end.is_none_or(|end| end > self.stored.n_elements()) {
            return Err(Error::model(format!(
                "has {} elements, fewer than {start} and {} more",
                self.stored.n_elements(),
                out.len()
            )));
        }
        self.stored.read(start, out)?;
        match &self.delta {
            Some(delta) => delta.add(start, out),
            None => Ok(()),
        }
    }
}

/// A checkpoint of mPLUG-Owl2, with an adapter merged into it or not.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    name: String,
    config: Config,
    vocabulary: Vocabulary,
    sampling: Sampling,
    tensors: BTreeMap<String, Tensor>,
    /// Tensors of other types than weights have, of which the model needs none.
    others: BTreeSet<String>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir`, whichever of the known layouts it has.
    ///
    /// # Errors
    /// [`Kind::Io`](owl2::Kind::Io) where a file cannot be read, [`Kind::Model`](owl2::Kind::Model)
    /// where one is missing, damaged or describes something that cannot be converted; the message
    /// names the file, and the key or tensor.
    pub fn open(dir: &Path) -> Result<Self> {
        // First what says whether this is the right model at all.
        recognise::check(dir)?;
        let config = config::read(dir, dir)?;
        let listed = with_own_names(index::open_all(dir)?).map_err(|e| e.in_file(dir))?;
        let (tensors, others) = weights_and_others(listed, &config)?;
        Ok(Checkpoint {
            dir: dir.to_owned(),
            name: names::of_model(dir),
            vocabulary: tokenizer::read(dir, config.decoder.vocab_size)?,
            sampling: sampling::read(dir)?,
            config,
            tensors,
            others,
        })
    }

    /// Merges the LoRA adapter in `adapter_dir`, as the reference's loader does.
    ///
    /// The directory's `config.json` and `preprocessor_config.json` win where it has them, its
    /// `non_lora_trainables.bin` replaces tensors of the base, and its adapter is added to what
    /// is there then. The tokenizer and the sampling defaults stay the base's.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], and [`Kind::Model`](owl2::Kind::Model) where the adapter does not
    /// fit the base or is of a kind that cannot be merged.
    pub fn with_lora(mut self, adapter_dir: &Path) -> Result<Self> {
        let adapter = Adapter::open(adapter_dir)?;
        let dir_of = |file: &str| {
            let has_it = adapter_dir.join(file).exists();
            if has_it { adapter_dir } else { &self.dir }
        };
        self.config = config::read(dir_of(config::CONFIG_FILE), dir_of(PREPROCESSOR_FILE))?;
        self.vocabulary = tokenizer::read(&self.dir, self.config.decoder.vocab_size)?;
        self.name = names::of_model(adapter_dir);
        for tensor in lora::open_replacements(adapter_dir)? {
            self.replace(tensor).map_err(|e| e.in_file(adapter_dir))?;
        }
        for (name, delta) in adapter.into_deltas()? {
            self.add(name, delta).map_err(|e| e.in_file(adapter_dir))?;
        }
        Ok(self)
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The vocabulary, with one piece per row of the embedding.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// How tokens are chosen by default.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// The model's name: that of its directory, and of the one above where it is `checkpoint-N`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts a tensor in the place of the base's. As the reference does, others are passed over,
    /// except for position tables, which a base may leave out.
    fn replace(&mut self, tensor: Tensor) -> Result<()> {
        let name = tensor.meta.name.clone();
        match self.tensors.get(&name) {
            Some(base) if base.meta.shape != tensor.meta.shape => {
                return Err(Error::model(format!(
                    "has shape {:?}, but the base has {:?}",
                    tensor.meta.shape, base.meta.shape
                ))
                .in_tensor(name));
            }
            None if !is_position_table(&name) => return Ok(()),
            _ => {}
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    fn add(&mut self, name: String, delta: Delta) -> Result<()> {
        let Some(tensor) = self.tensors.get_mut(&name) else {
            return Err(Error::model(
                "is adapted, but the base has no such tensor; it is another model's adapter",
            )
            .in_tensor(name));
        };
        if tensor.meta.shape != delta.shape() {
            return Err(Error::model(format!(
                "has shape {:?}, but the adapter is made for {:?}",
                tensor.meta.shape,
                delta.shape()
            ))
            .in_tensor(name));
        }
        tensor.delta = Some(delta);
        Ok(())
    }
}

impl TensorSource for Checkpoint {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        let names = self.tensors.keys().chain(&self.others);
        Box::new(names.map(String::as_str))
    }

    fn meta(&self, name: &str) -> Option<&TensorMeta> {
        self.tensors.get(name).map(|tensor| &tensor.meta)
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let tensor = self.tensors.get(name).ok_or_else(|| {
            Error::model("is not in the checkpoint")
                .in_tensor(name)
                .in_file(&self.dir)
        })?;
        tensor.read(start, out).map_err(|e| e.in_tensor(name))
    }
}

/// The tensors under the names that the model itself has for them.
fn with_own_names(tensors: BTreeMap<String, Listed>) -> Result<BTreeMap<String, Listed>> {
    let names: Vec<_> = tensors.keys().cloned().collect();
    let own_names = unwrapped(&names);
    let mut renamed = BTreeMap::new();
    for ((old, name), tensor) in names.into_iter().zip(own_names).zip(tensors.into_values()) {
        let tensor = tensor.map(|mut tensor| {
            tensor.meta.name.clone_from(&name);
            tensor
        });
        if renamed.insert(name.clone(), tensor).is_some() {
            return Err(Error::model(format!(
                "is there twice: once without what a wrapper puts around it, '{name}'"
            ))
            .in_tensor(old));
        }
    }
    Ok(renamed)
}

/// Parts weights from tensors of other types, which the model must not need.
fn weights_and_others(
    listed: BTreeMap<String, Listed>,
    config: &Config,
) -> Result<(BTreeMap<String, Tensor>, BTreeSet<String>)> {
    let (mut tensors, mut others) = (BTreeMap::new(), BTreeMap::new());
    for (name, tensor) in listed {
        match tensor {
            Ok(tensor) => drop(tensors.insert(name, tensor)),
            Err(error) => drop(others.insert(name, error)),
        }
    }
    if !others.is_empty() {
        let required: HashSet<_> = mapping::required(config)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let needed = others.iter().find(|(name, _)| required.contains(*name));
        if let Some(name) = needed.map(|(name, _)| name.clone())
            && let Some(error) = others.remove(&name)
        {
            return Err(error);
        }
    }
    Ok((tensors, others.into_keys().collect()))
}

/// Whether the tensor is one that is never read; see the head of this file.
fn is_ignored(name: &str) -> bool {
    [
        ".rotary_emb.inv_freq",
        ".embeddings.position_ids",
        ".crossattention.q_pos_embed",
        ".crossattention.k_pos_embed",
    ]
    .iter()
    .any(|suffix| name.ends_with(suffix))
}

/// Whether the tensor is a position table of the abstractor, which a checkpoint may leave out.
fn is_position_table(name: &str) -> bool {
    [
        ".crossattention.attention.q_pos_embed",
        ".crossattention.attention.k_pos_embed",
    ]
    .iter()
    .any(|suffix| name.ends_with(suffix))
}

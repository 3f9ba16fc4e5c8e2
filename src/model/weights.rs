//! Binds the tensors of a file to the parts of the model: the one place where names meet shapes.
//!
//! [`Binder::new`] compares the whole file with [`layout::tensors`] and reports every difference
//! at once; after that, binding cannot fail.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gguf::{DType, Gguf, names};
use crate::model::config::Config;
use crate::model::layout::{self, TensorKind, TensorSpec};
use crate::ops::Floats;
use crate::ops::linear::{Linear, Matrix, Shared};
use crate::ops::norm::{LayerNorm, RmsNorm};
use crate::quant::Rotation;

/// Problems listed in one error; the rest are counted.
const MAX_LISTED: usize = 20;
/// Tensors of the smallest kind of block: a LLaMA block's two norms and seven matrices.
const MIN_BLOCK_TENSORS: usize = 9;

/// Hands out the checked weights of a file.
pub(super) struct Binder<'a> {
    gguf: &'a Gguf,
    /// How the quantized matrices are rotated, if they are.
    rotation: Option<Arc<Rotation>>,
    /// Inputs, as [`layout::input_of`] names them, that are not rotated all the same.
    not_rotated: BTreeSet<String>,
    /// Inputs of which all quantized matrices that read them have coarse scales.
    coarse: BTreeSet<String>,
}

impl<'a> Binder<'a> {
    /// Checks that `gguf` holds every tensor of `config`, with its shape and an allowed type.
    /// Tensors beyond those are allowed, as some LLaMA files have them, and ignored.
    pub fn new(gguf: &'a Gguf, config: &Config) -> Result<Self> {
        gguf.check_types()?;
        check_block_counts(gguf, config)?;
        let rotation = Rotation::read(gguf)?.map(Arc::new);
        let specs = layout::tensors(config);
        let problems: Vec<_> = specs
            .iter()
            .filter_map(|spec| problem(gguf, spec))
            .collect();
        match problems.as_slice() {
            [] => Ok(Binder {
                gguf,
                rotation,
                not_rotated: not_rotated(gguf, &specs)?,
                coarse: coarse(gguf, &specs),
            }),
            [(name, what)] => Err(Error::model(what).in_tensor(name)),
            [(first, _), ..] => {
                let lines: Vec<_> = problems
                    .iter()
                    .take(MAX_LISTED)
                    .map(|(name, what)| format!("\n  tensor '{name}': {what}"))
                    .collect();
                let more = match problems.len() - lines.len() {
                    0 => String::new(),
                    n => format!("\n  and {n} more"),
                };
                Err(Error::model(format!(
                    "and {} others do not fit the file's own hyper-parameters:{}{more}",
                    problems.len() - 1,
                    lines.concat()
                ))
                .in_tensor(first))
            }
        }
    }

    /// An F32 tensor.
    pub fn floats(&self, name: &str) -> Floats {
        let tensor = self.gguf.tensor(name).expect("checked to be there");
        Floats::new(self.gguf.data(tensor)).expect("checked to be aligned floats")
    }

    /// A matrix; a tensor of higher rank is one with the trailing dimensions flattened.
    pub fn matrix(&self, name: &str) -> Matrix {
        let tensor = self.gguf.tensor(name).expect("checked to be there");
        let n_cols = tensor.shape[1..].iter().product();
        let input = layout::input_of(name);
        let is_rotated = !self.not_rotated.contains(&input);
        let shared = Shared {
            rotation: self.rotation.clone().filter(|_| is_rotated),
            is_coarse: self.coarse.contains(&input),
        };
        let bytes = self.gguf.data(tensor);
        Matrix::new(bytes, tensor.dtype, tensor.shape[0], n_cols, shared)
    }

    /// A projection, with its bias if it has one.
    pub fn linear(&self, stem: &str) -> Linear {
        let bias = names::bias(stem);
        Linear {
            weight: self.matrix(&names::weight(stem)),
            bias: self.gguf.tensor(&bias).map(|_| self.floats(&bias)),
        }
    }

    /// An RMSNorm.
    pub fn rms_norm(&self, stem: &str, eps: f32) -> RmsNorm {
        RmsNorm {
            weight: self.floats(&names::weight(stem)),
            eps,
        }
    }

    /// A LayerNorm.
    pub fn layer_norm(&self, stem: &str, eps: f32) -> LayerNorm {
        LayerNorm {
            weight: self.floats(&names::weight(stem)),
            bias: self.floats(&names::bias(stem)),
            eps,
        }
    }
}

/// Refuses more blocks than the file's tensors can make up, so that a hostile count cannot make
/// the list of wanted tensors outgrow the file.
fn check_block_counts(gguf: &Gguf, config: &Config) -> Result<()> {
    let n_tensors = gguf.tensors().len();
    if n_tensors == 0 {
        return Err(Error::model(
            "holds no tensors: it is a vocabulary or a description, not a model",
        ));
    }
    let mut counts = vec![(names::decoder::BLOCK_COUNT, config.decoder.n_layers)];
    if let Some(visual) = &config.visual {
        counts.push((names::visual::BLOCK_COUNT, visual.vit.n_layers));
        counts.push((
            names::visual::ABSTRACTOR_BLOCK_COUNT,
            visual.abstractor.n_layers,
        ));
    }
    for (key, n_blocks) in counts {
        if n_blocks * MIN_BLOCK_TENSORS > n_tensors {
            return Err(Error::model(format!(
                "is {n_blocks}, but the file has only {n_tensors} tensors; it is incomplete or damaged"
            ))
            .in_key(key));
        }
    }
    Ok(())
}

/// Inputs that are not rotated though others are. All quantized matrices that read one must agree.
fn not_rotated(gguf: &Gguf, specs: &[TensorSpec]) -> Result<BTreeSet<String>> {
    let exceptions = Rotation::read_exceptions(gguf)?;
    let inputs: BTreeSet<_> = exceptions
        .iter()
        .map(|name| layout::input_of(name))
        .collect();
    let is_odd = |spec: &&TensorSpec| {
        let is_quantized = gguf
            .tensor(&spec.name)
            .is_some_and(|tensor| !tensor.dtype.is_float());
        spec.kind == TensorKind::Matrix
            && is_quantized
            && inputs.contains(&layout::input_of(&spec.name))
            && !exceptions.contains(&spec.name)
    };
    match specs.iter().find(is_odd) {
        None => Ok(inputs),
        Some(spec) => Err(Error::model(format!(
            "lacks '{}', which has the same input as a tensor that is named",
            spec.name
        ))
        .in_key(names::rotation::EXCEPT)),
    }
}

/// Inputs of which all quantized matrices that read them have one scale for 128 columns.
fn coarse(gguf: &Gguf, specs: &[TensorSpec]) -> BTreeSet<String> {
    let (mut all, mut others) = (BTreeSet::new(), BTreeSet::new());
    for spec in specs.iter().filter(|spec| spec.kind == TensorKind::Matrix) {
        match gguf.tensor(&spec.name).map(|tensor| tensor.dtype) {
            Some(DType::H8 | DType::H4) => all.insert(layout::input_of(&spec.name)),
            Some(dtype) if !dtype.is_float() => others.insert(layout::input_of(&spec.name)),
            _ => continue,
        };
    }
    &all - &others
}

/// What is wrong with the tensor that `spec` asks for, if anything.
fn problem(gguf: &Gguf, spec: &TensorSpec) -> Option<(String, String)> {
    let Some(tensor) = gguf.tensor(&spec.name) else {
        return Some((spec.name.clone(), "is missing from the file".into()));
    };
    let what = if tensor.shape != spec.shape {
        format!("has shape {:?}, expected {:?}", tensor.shape, spec.shape)
    } else if spec.kind == TensorKind::Float && tensor.dtype != DType::F32 {
        format!("has type {}, expected F32", tensor.dtype)
    } else if spec.kind == TensorKind::Float && Floats::new(gguf.data(tensor)).is_none() {
        "is not aligned for 32-bit floats".into()
    } else {
        return None;
    };
    Some((spec.name.clone(), what))
}

//! LoRA adapters in the format of the reference's fine-tuning script: low-rank updates of the decoder's
//! matrices, and whole tensors that were trained too.
//!
//! Neither an update nor its factors are held in memory as a whole. The rows of an update are computed
//! from the factors in their file, in f32, when they are needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use owl2::{Error, Result};
use serde_json::Value;

use crate::checkpoint::{Stored, Tensor, open_file, unwrapped, without_wrappers};
use crate::config::foreign::is_set;
use crate::json::Object;

/// Name of the file that says how to apply the adapter.
pub(crate) const CONFIG_FILE: &str = "adapter_config.json";
/// The files that the adapter can be in, in PEFT's order.
const ADAPTER_FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// The file with the other tensors that were trained.
const REPLACEMENTS_FILE: &str = "non_lora_trainables.bin";
/// What PEFT puts before the names of the model's modules.
const PREFIX: &str = "base_model.model.";

/// Keys of PEFT's `LoraConfig` that do not change what is merged, or that are read here.
const HARMLESS_KEYS: [&str; 26] = [
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
];
/// Ways to begin training that leave the base as it is.
const INITS_OF_FACTORS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Columns of A that are worked on at a time, so that they stay in cache over all rows.
const COLUMNS: usize = 512;

/// An open adapter.
pub(crate) struct Adapter {
    path: PathBuf,
    tensors: Vec<Tensor>,
    rank: usize,
    scale: f32,
}

impl Adapter {
    /// Opens the adapter in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let config = dir.join(CONFIG_FILE);
        if !config.exists() {
            return Err(Error::model(format!(
                "has no {CONFIG_FILE}, so it is not a LoRA adapter; a whole model is given as the checkpoint"
            ))
            .in_file(dir));
        }
        let json = Object::read(&config)?;
        check_config(&json)?;
        let rank = json.count("r")?.filter(|&rank| rank > 0);
        let rank = rank.ok_or_else(|| json.error("r", "has to be a positive integer"))?;
        let alpha = json
            .number("lora_alpha")?
            .ok_or_else(|| json.error("lora_alpha", "is missing"))?;
        let path = ADAPTER_FILES
            .iter()
            .map(|file| dir.join(file))
            .find(|path| path.exists())
            .ok_or_else(|| {
                Error::model(format!("has neither {}", ADAPTER_FILES.join(" nor "))).in_file(dir)
            })?;
        Ok(Adapter {
            tensors: open_file(&path)?,
            path,
            rank,
            scale: match json.flag("use_rslora")?.unwrap_or(false) {
                true => (alpha / (rank as f64).sqrt()) as f32,
                false => (alpha / rank as f64) as f32,
            },
        })
    }

    /// The update of each weight, by its name in the model.
    pub(crate) fn into_deltas(self) -> Result<Vec<(String, Delta)>> {
        let mut modules: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
        for tensor in self.tensors {
            let name = without_wrappers(&tensor.meta.name);
            let (module, factor) = parse_name(&name).ok_or_else(|| {
                Error::model("is not a factor of a plain LoRA adapter")
                    .in_tensor(&tensor.meta.name)
                    .in_file(&self.path)
            })?;
            let factors: &mut [Option<Tensor>; 2] = modules.entry(module.to_owned()).or_default();
            factors[factor] = Some(tensor);
        }
        modules
            .into_iter()
            .map(|(module, factors)| {
                let delta = Delta::new(factors, self.rank, self.scale)
                    .map_err(|e| e.in_tensor(&module).in_file(&self.path))?;
                Ok((format!("{module}.weight"), delta))
            })
            .collect()
    }
}

/// Refuses variants of LoRA that change the result and that the reference never makes.
fn check_config(json: &Object) -> Result<()> {
    if let Some(kind) = json.text("peft_type")?
        && kind != "LORA"
    {
        return Err(json.error("peft_type", format!("is '{kind}'; only LORA can be merged")));
    }
    if let Some(bias) = json.text("bias")?
        && bias != "none"
    {
        return Err(json.error("bias", format!("is '{bias}'; only 'none' can be merged")));
    }
    let changes_base = |how: &str| !INITS_OF_FACTORS.contains(&how);
    if let Some(Value::String(how)) = json.get("init_lora_weights")
        && changes_base(how)
    {
        return Err(json.error(
            "init_lora_weights",
            format!(
                "is '{how}', which changes the base too; convert the adapter to plain LoRA first"
            ),
        ));
    }
    for (key, value) in json.iter() {
        if !HARMLESS_KEYS.contains(&key) && is_set(value) {
            return Err(json.error(
                key,
                "is set; adapters that need it, or that have keys unknown to this program, cannot be \
                 merged (merge it with PEFT, `merge_and_unload`, and convert the result)",
            ));
        }
    }
    Ok(())
}

/// The module and which factor of its update (0 for A, 1 for B) a name stands for.
fn parse_name(name: &str) -> Option<(&str, usize)> {
    let name = name.strip_prefix(PREFIX)?;
    let a = name
        .strip_suffix(".lora_A.weight")
        .map(|module| (module, 0));
    a.or_else(|| {
        name.strip_suffix(".lora_B.weight")
            .map(|module| (module, 1))
    })
}

/// The whole tensors in `dir` that replace those of the base, under the model's names.
pub(crate) fn open_replacements(dir: &Path) -> Result<Vec<Tensor>> {
    let path = dir.join(REPLACEMENTS_FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut tensors = open_file(&path)?;
    let names: Vec<_> = tensors.iter().map(|t| t.meta.name.clone()).collect();
    for (tensor, name) in tensors.iter_mut().zip(unwrapped(&names)) {
        tensor.meta.name = name;
    }
    Ok(tensors)
}

/// A low-rank update of a matrix `[out, in]`: `scale * B A`, with A `[rank, in]` and B `[out, rank]`.
#[derive(Debug)]
pub(crate) struct Delta {
    a: Stored,
    b: Stored,
    shape: [usize; 2],
    rank: usize,
    scale: f32,
}

impl Delta {
    fn new(factors: [Option<Tensor>; 2], rank: usize, scale: f32) -> Result<Self> {
        let [Some(a), Some(b)] = factors else {
            return Err(Error::model("has only one of lora_A and lora_B"));
        };
        let (&[rank_a, n_in], &[n_out, rank_b]) = (&a.meta.shape[..], &b.meta.shape[..]) else {
            return Err(Error::model(
                "has an adapter that is not a pair of matrices",
            ));
        };
        if rank_a != rank || rank_b != rank {
            return Err(Error::model(format!(
                "has an adapter of ranks {rank_a} and {rank_b}, but r is {rank}"
            )));
        }
        Ok(Delta {
            a: a.stored,
            b: b.stored,
            shape: [n_out, n_in],
            rank,
            scale,
        })
    }

    /// The shape of the matrix that it updates.
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Adds elements `start .. start + out.len()` of the update, which must exist, to `out`.
    pub(crate) fn add(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let [_, n_in] = self.shape;
        if out.is_empty() {
            return Ok(());
        }
        let mut a = vec![0.0; self.rank * n_in];
        self.a.read(0, &mut a)?;
        let first_row = start / n_in;
        let n_rows = (start + out.len()).div_ceil(n_in) - first_row;
        let mut b = vec![0.0; n_rows * self.rank];
        self.b.read(first_row * self.rank, &mut b)?;

        let end = start + out.len();
        let mut sums = [0.0; COLUMNS];
        for block in (0..n_in).step_by(COLUMNS) {
            for (row, b_row) in (first_row..).zip(b.chunks_exact(self.rank)) {
                let row_start = row * n_in;
                let from = (row_start + block).max(start);
                let to = (row_start + n_in.min(block + COLUMNS)).min(end);
                if from >= to {
                    continue;
                }
                let sums = &mut sums[..to - from];
                sums.fill(0.0);
                for (factor, a_row) in b_row.iter().zip(a.chunks_exact(n_in)) {
                    let a_row = &a_row[from - row_start..to - row_start];
                    for (sum, x) in sums.iter_mut().zip(a_row) {
                        *sum += factor * x;
                    }
                }
                for (x, sum) in out[from - start..to - start].iter_mut().zip(sums) {
                    *x += self.scale * *sum;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_told_by_their_names() {
        assert_eq!(
            parse_name("base_model.model.model.layers.0.self_attn.k_proj.multiway.1.lora_B.weight"),
            Some(("model.layers.0.self_attn.k_proj.multiway.1", 1))
        );
        assert_eq!(parse_name("base_model.model.x.lora_embedding_A"), None);
    }
}

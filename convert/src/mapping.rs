//! From a checkpoint's tensors to the file's: which one is made from which, and how.
//!
//! [`layout::tensors`] says what the file must hold; the tables here say where each of those comes
//! from. The mapping is total both ways: every tensor of the layout has a source, and every tensor
//! of the checkpoint is used, or the conversion does not start, unless [`Extra::Ignore`] is asked for.

mod check;
mod positions;
mod rows;

pub use check::Extra;
pub use rows::RowOrder;

use owl2::Result;
use owl2::gguf::names::{self, tensor};
use owl2::model::config::Config;
use owl2::model::layout::{self, TensorSpec};
use owl2::model::visual_config::VisualConfig;

use crate::checkpoint::TensorSource;
use check::Check;

/// Whole names: these have no `.weight` in the checkpoint.
const NAMES: [(&str, &str); 4] = [
    (
        tensor::CLASS_EMBEDDING,
        "model.vision_model.embeddings.cls_token",
    ),
    (
        tensor::POSITION_EMBEDDING,
        "model.vision_model.embeddings.position_embedding",
    ),
    (
        tensor::QUERY_EMBEDDING,
        "model.visual_abstractor.query_embeds",
    ),
    (tensor::END_OF_IMAGE, "model.visual_abstractor.vit_eos"),
];

/// Stems of tensors that exist once; `.weight` or `.bias` follows on both sides.
const STEMS: [(&str, &str); 7] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
    ("v.patch_embd", "model.vision_model.embeddings.patch_embed"),
    (
        tensor::PRE_LAYER_NORM,
        "model.vision_model.embeddings.pre_layernorm",
    ),
    (tensor::POST_LAYER_NORM, "model.vision_model.post_layernorm"),
    (tensor::PROJECTION, "model.visual_abstractor.visual_fc"),
];

/// A stack of layers: the prefixes of its tensors' names before the layer's number, and the stems
/// within a layer, the file's first.
struct Stack {
    prefix: &'static str,
    source_prefix: &'static str,
    stems: &'static [(&'static str, &'static str)],
}

const STACKS: [Stack; 3] = [
    Stack {
        prefix: "blk.",
        source_prefix: "model.layers.",
        stems: &DECODER,
    },
    Stack {
        prefix: "v.blk.",
        source_prefix: "model.vision_model.encoder.layers.",
        stems: &VIT,
    },
    Stack {
        prefix: "mm.blk.",
        source_prefix: ABSTRACTOR_LAYERS,
        stems: &ABSTRACTOR,
    },
];

const ABSTRACTOR_LAYERS: &str = "model.visual_abstractor.encoder.layers.";

const DECODER: [(&str, &str); 13] = [
    ("attn_norm", "input_layernorm.multiway.0"),
    ("attn_norm_image", "input_layernorm.multiway.1"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj.multiway.0"),
    ("attn_k_image", "self_attn.k_proj.multiway.1"),
    ("attn_v", "self_attn.v_proj.multiway.0"),
    ("attn_v_image", "self_attn.v_proj.multiway.1"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm.multiway.0"),
    ("ffn_norm_image", "post_attention_layernorm.multiway.1"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const VIT: [(&str, &str); 6] = [
    ("ln1", "input_layernorm"),
    ("attn_qkv", "self_attn.query_key_value"),
    ("attn_out", "self_attn.dense"),
    ("ln2", "post_attention_layernorm"),
    ("ffn_up", "mlp.fc1"),
    ("ffn_down", "mlp.fc2"),
];

const ABSTRACTOR: [(&str, &str); 11] = [
    ("ln_q", "crossattention.norm1"),
    ("ln_kv", "crossattention.normk"),
    ("attn_q", "crossattention.attention.query"),
    ("attn_k", "crossattention.attention.key"),
    ("attn_v", "crossattention.attention.value"),
    ("attn_out", "crossattention.output.out_proj"),
    ("ln_ffn", "crossattention.output.norm2"),
    ("ffn_gate", "crossattention.output.mlp.w1"),
    ("ffn_up", "crossattention.output.mlp.w3"),
    ("ffn_norm", "crossattention.output.mlp.ffn_ln"),
    ("ffn_down", "crossattention.output.mlp.w2"),
];

/// The abstractor's tables, which a checkpoint may or may not have.
const QUERY_POSITIONS: &str = "crossattention.attention.q_pos_embed";
const KEY_POSITIONS: &str = "crossattention.attention.k_pos_embed";

/// Where the values of one tensor of the file come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// Rows of one tensor of the checkpoint.
    Rows { name: String, order: RowOrder },
    /// The ViT's table of 16 by 16 positions, resized.
    ResizedGrid { name: String, grid: usize },
    /// The abstractor's tables, queries first; `None` is computed.
    Positions {
        queries: Option<String>,
        keys: Option<String>,
        n_queries: usize,
        grid: usize,
        has_class_token: bool,
    },
}

/// A tensor of the file and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// What the file holds.
    pub spec: TensorSpec,
    origin: Origin,
}

impl Mapped {
    /// Reads elements `start .. start + out.len()` of the file's tensor, flattened. Both must be
    /// multiples of a row (`shape[1..]` values; a vector is one of single values).
    ///
    /// # Errors
    /// As [`TensorSource::read`].
    pub fn read(&self, source: &dyn TensorSource, start: usize, out: &mut [f32]) -> Result<()> {
        let row_len: usize = self.spec.shape[1..].iter().product();
        match &self.origin {
            Origin::Rows {
                name,
                order: RowOrder::Same,
            } => source.read(name, start, out),
            Origin::Rows { name, order } => {
                let first = start / row_len;
                out.chunks_exact_mut(row_len)
                    .enumerate()
                    .try_for_each(|(i, row)| {
                        source.read(name, order.source_row(first + i) * row_len, row)
                    })
            }
            Origin::ResizedGrid { name, grid } => {
                let n_stored = positions::STORED_GRID * positions::STORED_GRID;
                let mut table = vec![0.0; n_stored * row_len];
                source.read(name, 0, &mut table)?;
                positions::resized_rows(&table, row_len, *grid, start / row_len, out);
                Ok(())
            }
            Origin::Positions {
                queries,
                keys,
                n_queries,
                grid,
                has_class_token,
            } => {
                let rows = out.chunks_exact_mut(row_len);
                for (token, row) in (start / row_len..).zip(rows) {
                    match (token.checked_sub(*n_queries), queries, keys) {
                        (None, Some(name), _) => source.read(name, token * row_len, row)?,
                        (None, None, _) => positions::line_row(token, row),
                        (Some(key), _, Some(name)) => source.read(name, key * row_len, row)?,
                        (Some(key), _, None) => {
                            positions::grid_row(key, *grid, *has_class_token, row);
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

/// What the file is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Every tensor of the file, in its order.
    pub tensors: Vec<Mapped>,
    /// Names of the source's tensors that are left out, in order.
    pub left_out: Vec<String>,
}

/// Maps every tensor of a model with this configuration.
///
/// # Errors
/// [`Kind::Model`](owl2::Kind::Model), listing tensors of `source` that are missing, have
/// another shape, or, unless they are to be ignored, are not part of such a model.
pub fn map(config: &Config, source: &dyn TensorSource, extra: Extra) -> Result<Mapping> {
    let mut check = Check::new(source);
    let tensors = layout::tensors(config)
        .into_iter()
        .map(|spec| {
            let origin = match position_layer(&spec.name) {
                Some(layer) => check.positions(&spec, layer, visual(config)),
                None => check.rows(&spec, config),
            };
            Mapped { spec, origin }
        })
        .collect();
    if config.decoder.tie_word_embeddings {
        // Some programs save the shared matrix under both names.
        check.allow("lm_head.weight");
    }
    let left_out = check.finish(extra)?;
    Ok(Mapping { tensors, left_out })
}

/// [`map`] for a source that has the names and shapes of the file to be written.
///
/// # Errors
/// As [`map`].
pub fn map_same(config: &Config, source: &dyn TensorSource, extra: Extra) -> Result<Mapping> {
    let mut check = Check::new(source);
    let tensors = layout::tensors(config)
        .into_iter()
        .map(|spec| {
            let name = spec.name.clone();
            check.require(&name, &spec.shape);
            let order = RowOrder::Same;
            Mapped {
                spec,
                origin: Origin::Rows { name, order },
            }
        })
        .collect();
    let left_out = check.finish(extra)?;
    Ok(Mapping { tensors, left_out })
}

/// Name and shape of every tensor that a checkpoint with this configuration must have.
pub fn required(config: &Config) -> Vec<(String, Vec<usize>)> {
    layout::tensors(config)
        .iter()
        .filter(|spec| position_layer(&spec.name).is_none())
        .map(|spec| (source_name(&spec.name), source_shape(spec, config)))
        .collect()
}

impl Check<'_> {
    fn rows(&mut self, spec: &TensorSpec, config: &Config) -> Origin {
        let name = source_name(&spec.name);
        let shape = source_shape(spec, config);
        self.require(&name, &shape);
        if spec.name == tensor::POSITION_EMBEDDING && shape.len() == 2 && shape[0] != spec.shape[0]
        {
            let grid = visual(config).vit.grid_size();
            return Origin::ResizedGrid { name, grid };
        }
        let order = row_order(&spec.name, config);
        Origin::Rows { name, order }
    }

    fn positions(&mut self, spec: &TensorSpec, layer: &str, visual: &VisualConfig) -> Origin {
        let n_queries = visual.abstractor.n_queries;
        let width = spec.shape[1];
        let mut stored = |part: &str, n_rows: usize| {
            let name = format!("{ABSTRACTOR_LAYERS}{layer}.{part}");
            self.has(&name, &[n_rows, width]).then_some(name)
        };
        Origin::Positions {
            queries: stored(QUERY_POSITIONS, n_queries),
            keys: stored(KEY_POSITIONS, visual.vit.n_tokens()),
            n_queries,
            grid: visual.vit.grid_size(),
            has_class_token: visual.vit.use_cls_token,
        }
    }
}

fn visual(config: &Config) -> &VisualConfig {
    config
        .visual
        .as_ref()
        .expect("only a model with an image branch has such tensors")
}

/// The layer number and the rest of `PREFIX` `LAYER` `.REST`.
pub(crate) fn in_stack<'a>(name: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    name.strip_prefix(prefix)?.split_once('.')
}

/// The layer of an abstractor position table.
fn position_layer(name: &str) -> Option<&str> {
    let (layer, rest) = in_stack(name, "mm.blk.")?;
    (rest == names::weight("pos_embd")).then_some(layer)
}

/// The checkpoint's name of the file's tensor `name`, which is in the layout and no table.
fn source_name(name: &str) -> String {
    find_source_name(name).expect("every tensor of the layout has a source")
}

fn find_source_name(name: &str) -> Option<String> {
    if let Some((_, source)) = NAMES.iter().find(|(ours, _)| *ours == name) {
        return Some((*source).to_owned());
    }
    let lookup = |table: &[(&str, &str)], stem: &str| {
        let found = table.iter().find(|(ours, _)| *ours == stem);
        found.map(|(_, source)| (*source).to_owned())
    };
    let (stem, suffix) = name.rsplit_once('.')?;
    for stack in STACKS {
        if let Some((layer, part)) = in_stack(stem, stack.prefix) {
            let source = lookup(stack.stems, part)?;
            return Some(format!("{}{layer}.{source}.{suffix}", stack.source_prefix));
        }
    }
    Some(format!("{}.{suffix}", lookup(&STEMS, stem)?))
}

/// The shape that the checkpoint has for `spec`: parameters of single vectors have unit
/// dimensions in front, and a position table without class token is always 16 by 16.
fn source_shape(spec: &TensorSpec, config: &Config) -> Vec<usize> {
    let shape = &spec.shape;
    match spec.name.as_str() {
        tensor::CLASS_EMBEDDING | tensor::END_OF_IMAGE => vec![1, 1, shape[0]],
        tensor::QUERY_EMBEDDING => vec![1, shape[0], shape[1]],
        tensor::POSITION_EMBEDDING if visual(config).vit.use_cls_token => {
            vec![1, shape[0], shape[1]]
        }
        tensor::POSITION_EMBEDDING => {
            vec![positions::STORED_GRID * positions::STORED_GRID, shape[1]]
        }
        _ => shape.clone(),
    }
}

fn row_order(name: &str, config: &Config) -> RowOrder {
    let part = |prefix| {
        let (_, rest) = in_stack(name, prefix)?;
        rest.split_once('.').map(|(part, _)| part)
    };
    if let Some("attn_q" | "attn_k" | "attn_k_image") = part("blk.") {
        return RowOrder::RotaryPairs {
            head_dim: config.decoder.head_dim(),
        };
    }
    if part("v.blk.") == Some("attn_qkv") {
        let vit = &visual(config).vit;
        return RowOrder::FusedQkv {
            n_heads: vit.n_heads,
            head_dim: vit.head_dim(),
        };
    }
    RowOrder::Same
}

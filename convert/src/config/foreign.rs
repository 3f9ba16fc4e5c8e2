//! Keys of `config.json` that change what a model computes, but are not supported here.
//!
//! The reference's classes ignore unknown keys, and so does this program: a checkpoint has a hundred
//! keys about training. But with one of these keys, the model would silently give wrong answers.

use owl2::Result;
use serde_json::Value;

use crate::json::Object;

/// Keys that other models of the family of LLaMA have, and what they would need.
const FOREIGN: [(&str, &str); 23] = [
    ("mlp_bias", "biases in the MLP"),
    ("partial_rotary_factor", "partial rotation"),
    ("sliding_window", "a window of attention"),
    ("layer_types", "layers of several kinds"),
    ("no_rope_layers", "layers without rotation"),
    ("attn_logit_softcapping", "bounded scores"),
    ("final_logit_softcapping", "bounded logits"),
    ("logit_scale", "scaled logits"),
    ("logits_scaling", "scaled logits"),
    ("embedding_multiplier", "scaled embeddings"),
    ("residual_multiplier", "scaled residuals"),
    ("attention_multiplier", "scaled attention"),
    ("query_pre_attn_scalar", "scaled attention"),
    ("scale_emb", "scaled embeddings"),
    ("scale_depth", "scaled residuals"),
    ("qk_layernorm", "normed queries and keys"),
    ("use_qk_norm", "normed queries and keys"),
    ("clip_qkv", "bounded queries and keys"),
    ("alibi", "another kind of positions"),
    ("num_experts", "a mixture of experts"),
    ("num_local_experts", "a mixture of experts"),
    ("n_routed_experts", "a mixture of experts"),
    (
        "text_config",
        "a decoder that is described in an object of its own",
    ),
];

/// Other models' names of numbers that would get a default without a word, and the name here.
const SPELLINGS: [(&str, &str); 8] = [
    ("norm_eps", "rms_norm_eps"),
    ("rms_norm_epsilon", "rms_norm_eps"),
    ("layer_norm_epsilon", "rms_norm_eps"),
    ("hidden_activation", "hidden_act"),
    ("activation_function", "hidden_act"),
    ("n_positions", "max_position_embeddings"),
    ("n_ctx", "max_position_embeddings"),
    ("seq_length", "max_position_embeddings"),
];
const VISUAL_SPELLINGS: [(&str, &str); 6] = [
    ("norm_eps", "layer_norm_eps"),
    ("layernorm_eps", "layer_norm_eps"),
    ("layer_norm_epsilon", "layer_norm_eps"),
    ("hidden_activation", "hidden_act"),
    ("activation_function", "hidden_act"),
    ("num_queries", "num_learnable_queries"),
];
const PICTURE_SPELLINGS: [(&str, &str); 4] = [
    ("mean", "image_mean"),
    ("std", "image_std"),
    ("interpolation", "resample"),
    ("scale", "rescale_factor"),
];

/// What other processors of pictures do, and the reference's does not.
const FOREIGN_PICTURES: [&str; 8] = [
    "do_pad",
    "do_flip_channel_order",
    "do_thumbnail",
    "do_align_long_axis",
    "do_image_splitting",
    "do_reduce_labels",
    "image_grid_pinpoints",
    "size_divisor",
];

/// Keys about rotation that are read elsewhere.
const KNOWN_ROTATION: [&str; 3] = ["rope_theta", "rope_scaling", "rope_parameters"];

/// Fails where `json`, a whole `config.json`, has a key that matters and is not followed.
pub(super) fn check(json: &Object) -> Result<()> {
    if json.get("quantization_config").is_some_and(is_set) {
        return Err(json.error(
            "quantization_config",
            "says that the checkpoint is quantized; take the one of 16 bits that it was made from",
        ));
    }
    check_keys(json)?;
    check_spellings(json, &SPELLINGS)?;
    let head_dim = json.count("head_dim")?;
    let (width, n_heads) = (
        json.count("hidden_size")?,
        json.count("num_attention_heads")?,
    );
    if let (Some(head_dim), Some(width), Some(n_heads)) = (head_dim, width, n_heads)
        && head_dim.checked_mul(n_heads) != Some(width)
    {
        return Err(json.error(
            "head_dim",
            format!(
                "is {head_dim}, which is not hidden_size / num_attention_heads; that is not supported"
            ),
        ));
    }
    Ok(())
}

/// The same for a part of the image branch.
pub(super) fn check_visual(json: &Object) -> Result<()> {
    check_keys(json)?;
    check_spellings(json, &VISUAL_SPELLINGS)?;
    match json.count("num_channels")? {
        None | Some(3) => Ok(()),
        Some(n) => Err(json.error("num_channels", format!("is {n}; pictures have 3"))),
    }
}

/// The same for a `preprocessor_config.json`.
pub(crate) fn check_pictures(json: &Object) -> Result<()> {
    check_spellings(json, &PICTURE_SPELLINGS)?;
    let is_foreign = |key: &&str| json.get(key).is_some_and(is_set);
    match FOREIGN_PICTURES.into_iter().find(is_foreign) {
        None => Ok(()),
        Some(key) => Err(json.error(
            key,
            "is set, but this preparation of pictures is not supported",
        )),
    }
}

/// Fails where a number stands under another name than the one that is read.
fn check_spellings(json: &Object, spellings: &[(&str, &str)]) -> Result<()> {
    let misspelt = spellings
        .iter()
        .find(|(foreign, own)| json.get(foreign).is_some() && json.get(own).is_none());
    match misspelt {
        None => Ok(()),
        Some((foreign, own)) => Err(json.error(
            foreign,
            format!("is another model's name of '{own}', which is missing; rename it"),
        )),
    }
}

fn check_keys(json: &Object) -> Result<()> {
    for (key, value) in json.iter().filter(|(_, value)| is_set(value)) {
        let foreign = FOREIGN.iter().find(|(name, _)| *name == key);
        let is_rotation = key.starts_with("rope_") || key.contains("rotary");
        let needs = match foreign {
            Some((_, needs)) => *needs,
            None if is_rotation && !KNOWN_ROTATION.contains(&key) => "other rotary positions",
            None => continue,
        };
        if !has_no_effect(json, key, value) {
            return Err(json.error(
                key,
                format!("is set: the model needs {needs}, which is not supported"),
            ));
        }
    }
    Ok(())
}

/// Whether the value of a key that is set changes nothing all the same.
fn has_no_effect(json: &Object, key: &str, value: &Value) -> bool {
    match key {
        "layer_types" => value
            .as_array()
            .is_some_and(|types| types.iter().all(|kind| kind == "full_attention")),
        "sliding_window" => json.get("use_sliding_window") == Some(&Value::Bool(false)),
        _ => value.as_f64() == Some(1.0),
    }
}

/// Python's truth of a value.
pub(crate) fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
    }
}

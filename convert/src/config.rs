//! `config.json` and `preprocessor_config.json` to the hyper-parameters of a model.
//!
//! Missing keys get the defaults of the reference's configuration classes
//! (`configuration_mplug_owl2.py`, and transformers 4.31's `LlamaConfig` under it). Those are not
//! LLaMA-2's own numbers: epsilon 1e-6 and 2048 positions are right for this model.

pub(crate) mod foreign;
mod rope;

use std::path::Path;

use owl2::image::Aspect;
use owl2::model::config::{Config, DecoderConfig};
use owl2::model::visual_config::{AbstractorConfig, VisualConfig, VitConfig};
use owl2::{Error, Result};

use crate::json::Object;
use crate::preprocessor;

/// Name of the file with the hyper-parameters.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// Reads the configuration of the checkpoint in `dir`; `preprocessor_dir` has the preprocessor's.
pub(crate) fn read(dir: &Path, preprocessor_dir: &Path) -> Result<Config> {
    let path = dir.join(CONFIG_FILE);
    let json = Object::read(&path)?;
    check_model_type(&json)?;
    foreign::check(&json)?;
    let visual = json.object("visual_config")?;
    let vit_json = visual.object("visual_model")?;
    let abstractor_json = visual.object("visual_abstractor")?;
    foreign::check_visual(&vit_json)?;
    foreign::check_visual(&abstractor_json)?;
    let vit = read_vit(&vit_json)?;
    let config = Config {
        decoder: read_decoder(&json)?,
        visual: Some(VisualConfig {
            vit: vit.clone(),
            abstractor: read_abstractor(&abstractor_json)?,
            preprocess: preprocessor::read(preprocessor_dir)?,
            aspect: read_aspect(&json)?,
        }),
    };
    config.check().map_err(|e| e.in_file(&path))?;
    check_abstractor(&abstractor_json, &vit)?;
    Ok(config)
}

fn check_model_type(json: &Object) -> Result<()> {
    match json.text("model_type")? {
        Some("mplug_owl2") => Ok(()),
        Some("mplug_owl2_1") => Err(json.error(
            "model_type",
            "is 'mplug_owl2_1': mPLUG-Owl2.1 has another decoder (Qwen) and is not supported",
        )),
        Some(other) => Err(json.error(
            "model_type",
            format!("is '{other}'; only 'mplug_owl2' checkpoints can be converted"),
        )),
        None => Err(json.error(
            "model_type",
            "is missing; a checkpoint of this model says 'mplug_owl2' here",
        )),
    }
}

/// A count with a default.
fn count(json: &Object, key: &str, default: usize) -> Result<usize> {
    Ok(json.count(key)?.unwrap_or(default))
}

/// A single-precision number with a default.
fn number(json: &Object, key: &str, default: f32) -> Result<f32> {
    Ok(json.number(key)?.map_or(default, |x| x as f32))
}

/// A truth value with a default.
fn flag(json: &Object, key: &str, default: bool) -> Result<bool> {
    Ok(json.flag(key)?.unwrap_or(default))
}

fn read_decoder(json: &Object) -> Result<DecoderConfig> {
    if let Some(activation) = json.text("hidden_act")?
        && activation != "silu"
    {
        return Err(json.error(
            "hidden_act",
            format!("is '{activation}'; the decoder's MLP is only known with 'silu'"),
        ));
    }
    let n_heads = count(json, "num_attention_heads", 32)?;
    let (rope_theta, rope_scaling) = rope::read(json)?;
    Ok(DecoderConfig {
        vocab_size: count(json, "vocab_size", 32000)?,
        hidden_size: count(json, "hidden_size", 4096)?,
        intermediate_size: count(json, "intermediate_size", 11008)?,
        n_layers: count(json, "num_hidden_layers", 32)?,
        n_heads,
        n_kv_heads: count(json, "num_key_value_heads", n_heads)?,
        rms_norm_eps: number(json, "rms_norm_eps", 1e-6)?,
        rope_theta,
        rope_scaling,
        max_position_embeddings: count(json, "max_position_embeddings", 2048)?,
        attention_bias: flag(json, "attention_bias", false)?,
        tie_word_embeddings: flag(json, "tie_word_embeddings", false)?,
    })
}

fn read_vit(json: &Object) -> Result<VitConfig> {
    Ok(VitConfig {
        image_size: count(json, "image_size", 448)?,
        patch_size: count(json, "patch_size", 14)?,
        hidden_size: count(json, "hidden_size", 1024)?,
        intermediate_size: count(json, "intermediate_size", 4096)?,
        n_layers: count(json, "num_hidden_layers", 24)?,
        n_heads: count(json, "num_attention_heads", 16)?,
        layer_norm_eps: number(json, "layer_norm_eps", 1e-6)?,
        hidden_act: json
            .text("hidden_act")?
            .unwrap_or("quick_gelu")
            .parse()
            .map_err(|e: Error| json.error("hidden_act", e.to_string()))?,
        use_cls_token: flag(json, "use_cls_token", true)?,
        use_post_layernorm: flag(json, "use_post_layernorm", true)?,
    })
}

fn read_abstractor(json: &Object) -> Result<AbstractorConfig> {
    Ok(AbstractorConfig {
        intermediate_size: count(json, "intermediate_size", 2816)?,
        n_layers: count(json, "num_hidden_layers", 6)?,
        n_heads: count(json, "num_attention_heads", 16)?,
        n_queries: count(json, "num_learnable_queries", 64)?,
        layer_norm_eps: number(json, "layer_norm_eps", 1e-6)?,
    })
}

/// Checks the abstractor's numbers that have to follow from the ViT's, which is why
/// [`AbstractorConfig`] has no place for them. `vit` must have been checked.
fn check_abstractor(json: &Object, vit: &VitConfig) -> Result<()> {
    for key in ["hidden_size", "encoder_hidden_size"] {
        let width = count(json, key, 1024)?;
        if width != vit.hidden_size {
            return Err(json.error(
                key,
                format!(
                    "is {width}, but the vision tower is {} wide; queries and image tokens form one sequence",
                    vit.hidden_size
                ),
            ));
        }
    }
    // The reference takes `grid_size or 32`.
    let grid_size = match count(json, "grid_size", 0)? {
        0 => 32,
        n => n,
    };
    let n_class_tokens = usize::from(flag(json, "use_cls_token", true)?);
    let n_tokens = grid_size
        .checked_mul(grid_size)
        .and_then(|n| n.checked_add(n_class_tokens));
    if n_tokens != Some(vit.n_tokens()) {
        return Err(json.error(
            "grid_size",
            format!(
                "is {grid_size}, with {n_class_tokens} class tokens, but the vision tower makes {} tokens",
                vit.n_tokens()
            ),
        ));
    }
    Ok(())
}

/// How pictures that are not square are treated: fine-tunes name it, the released model does not.
fn read_aspect(json: &Object) -> Result<Aspect> {
    match json.text("image_aspect_ratio")? {
        None | Some("resize") => Ok(Aspect::Squash),
        Some("pad") => Ok(Aspect::Pad),
        // The training script's default; the reference's `process_images` then leaves the
        // picture to the processor, which crops it.
        Some("square") => Ok(Aspect::Crop),
        Some(other) => Err(json.error(
            "image_aspect_ratio",
            format!("is '{other}'; 'pad', 'resize' and 'square' are known"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use owl2::model::config::{RopeScaling, RopeScalingKind};
    use owl2::model::visual_config::Activation;

    const PREPROCESSOR: &str = r#"{"crop_size": 448, "size": 448, "resample": 3}"#;

    fn read_text(config: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG_FILE), config).unwrap();
        std::fs::write(
            dir.path().join(preprocessor::PREPROCESSOR_FILE),
            PREPROCESSOR,
        )
        .unwrap();
        read(dir.path(), dir.path())
    }

    fn rejects(config: &str, part: &str) {
        let message = read_text(config).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn missing_keys_get_the_class_defaults() {
        let config = read_text(r#"{"model_type": "mplug_owl2"}"#).unwrap();
        let decoder = &config.decoder;
        assert_eq!(
            (
                decoder.vocab_size,
                decoder.hidden_size,
                decoder.intermediate_size
            ),
            (32000, 4096, 11008)
        );
        assert_eq!(
            (decoder.n_layers, decoder.n_heads, decoder.n_kv_heads),
            (32, 32, 32)
        );
        assert_eq!(decoder.rms_norm_eps, 1e-6);
        assert_eq!(decoder.max_position_embeddings, 2048);
        assert_eq!(decoder.rope_theta, 10000.0);
        assert!(!decoder.attention_bias && !decoder.tie_word_embeddings);
        let visual = config.visual.unwrap();
        assert_eq!(visual.vit.n_tokens(), 1025);
        assert_eq!(visual.vit.hidden_act, Activation::QuickGelu);
        assert_eq!(visual.abstractor.n_queries, 64);
        assert_eq!(visual.abstractor.intermediate_size, 2816);
        assert_eq!(visual.aspect, Aspect::Squash);
    }

    #[test]
    fn reads_what_a_fine_tune_adds() {
        let config = read_text(
            r#"{"model_type": "mplug_owl2", "image_aspect_ratio": "pad", "unheard_of": [1],
                "rope_scaling": {"type": "dynamic", "factor": 2}, "num_key_value_heads": 8,
                "visual_config": {"visual_model": null, "visual_abstractor": {"grid_size": 0}}}"#,
        )
        .unwrap();
        assert_eq!(config.decoder.n_kv_heads, 8);
        assert_eq!(
            config.decoder.rope_scaling,
            Some(RopeScaling {
                kind: RopeScalingKind::Dynamic,
                factor: 2.0
            })
        );
        assert_eq!(config.visual.unwrap().aspect, Aspect::Pad);
    }

    #[test]
    fn keys_that_change_nothing_are_passed_over() {
        read_text(
            r#"{"model_type": "mplug_owl2", "mlp_bias": false, "sliding_window": 4096,
                "use_sliding_window": false, "layer_types": ["full_attention"],
                "embedding_multiplier": 1.0, "head_dim": 128, "hidden_size": 4096,
                "num_attention_heads": 32, "quantization_config": null,
                "partial_rotary_factor": 1.0, "visual_config": {"visual_model":
                {"qkv_bias": true, "num_channels": 3}}}"#,
        )
        .unwrap();
    }

    #[test]
    fn rotary_positions_are_read_as_every_version_writes_them() {
        let linear = Some((RopeScalingKind::Linear, 2.0));
        let dynamic = Some((RopeScalingKind::Dynamic, 2.0));
        for (keys, theta, scaling) in [
            (r#""rope_theta": 5e5"#, 5e5, None),
            (
                r#""rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}"#,
                5e5,
                None,
            ),
            (r#""rope_parameters": {"rope_theta": 5e5}"#, 5e5, None),
            (
                r#""rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}"#,
                5e5,
                linear,
            ),
            (
                r#""rope_scaling": {"rope_type": "linear", "factor": 2}"#,
                1e4,
                linear,
            ),
            (r#""rope_scaling": {"rope_type": "default"}"#, 1e4, None),
            (
                r#""rope_scaling": {"type": "default", "factor": 1.0}"#,
                1e4,
                None,
            ),
            (r#""rope_scaling": {}, "rope_parameters": null"#, 1e4, None),
            (
                r#""rope_scaling": {"rope_type": "dynamic", "type": "dynamic", "factor": 2,
                    "original_max_position_embeddings": 2048}, "max_position_embeddings": 2048"#,
                1e4,
                dynamic,
            ),
            (
                r#""rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2},
                    "rope_parameters": {"rope_theta": 1e6, "rope_type": "linear", "factor": 2}"#,
                1e6,
                linear,
            ),
        ] {
            let config = read_text(&format!(r#"{{"model_type": "mplug_owl2", {keys}}}"#)).unwrap();
            let decoder = config.decoder;
            assert_eq!(decoder.rope_theta, theta, "{keys}");
            let found = decoder.rope_scaling.map(|found| (found.kind, found.factor));
            assert_eq!(found, scaling, "{keys}");
        }
        for (keys, part) in [
            (
                r#""rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}"#,
                "contradicts",
            ),
            (
                r#""rope_scaling": {"type": "linear", "factor": 2},
                    "rope_parameters": {"rope_type": "default"}"#,
                "contradicts",
            ),
            (
                r#""rope_scaling": {"type": "linear", "rope_type": "dynamic"}"#,
                "contradicts",
            ),
            (
                r#""rope_parameters": {"rope_type": "llama3", "factor": 8}"#,
                "llama3",
            ),
            (r#""rope_parameters": {"factor": 8}"#, "rope_type"),
            (r#""rope_parameters": {"rope_type": "linear"}"#, "factor"),
            (
                r#""rope_parameters": {"partial_rotary_factor": 0.5}"#,
                "partial",
            ),
            (
                r#""rope_parameters": {"full_attention": {"rope_theta": 1e6}}"#,
                "full_attention",
            ),
            (
                r#""rope_scaling": {"type": "dynamic", "factor": 2,
                    "original_max_position_embeddings": 4096}, "max_position_embeddings": 2048"#,
                "original_max",
            ),
            (r#""rope_parameters": [1]"#, "not an object"),
        ] {
            rejects(&format!(r#"{{"model_type": "mplug_owl2", {keys}}}"#), part);
        }
    }

    #[test]
    fn refuses_other_models_and_contradictions() {
        rejects("{}", "model_type");
        rejects(r#"{"model_type": "llama"}"#, "'llama'");
        rejects(r#"{"model_type": "mplug_owl2_1"}"#, "2.1");
        let with = |rest: &str| format!(r#"{{"model_type": "mplug_owl2", {rest}}}"#);
        rejects(&with(r#""hidden_act": "gelu""#), "silu");
        rejects(&with(r#""num_attention_heads": 0"#), "is 0");
        rejects(&with(r#""num_attention_heads": 7"#), "does not divide");
        rejects(
            &with(r#""rope_scaling": {"type": "yarn", "factor": 2}"#),
            "yarn",
        );
        rejects(
            &with(r#""rope_scaling": {"type": "linear", "factor": 1}"#),
            "factor",
        );
        rejects(&with(r#""image_aspect_ratio": "anyres""#), "anyres");
        for (keys, part) in [
            (
                r#""quantization_config": {"quant_method": "gptq"}"#,
                "16 bits",
            ),
            (r#""mlp_bias": true"#, "mlp_bias"),
            (r#""sliding_window": 4096"#, "sliding_window"),
            (
                r#""layer_types": ["full_attention", "sliding_attention"]"#,
                "layer_types",
            ),
            (r#""embedding_multiplier": 12.0"#, "embedding_multiplier"),
            (
                r#""head_dim": 64, "hidden_size": 4096, "num_attention_heads": 32"#,
                "head_dim",
            ),
            (r#""rope_interleaved": true"#, "rope_interleaved"),
            (r#""rotary_pct": 0.25"#, "rotary_pct"),
            (r#""num_local_experts": 8"#, "experts"),
            (r#""norm_eps": 1e-5"#, "'rms_norm_eps'"),
            (r#""n_ctx": 4096"#, "'max_position_embeddings'"),
            (
                r#""visual_config": {"visual_model": {"layernorm_eps": 1e-5}}"#,
                "'layer_norm_eps'",
            ),
        ] {
            rejects(&with(keys), part);
        }
        let visual =
            |part: &str, rest: &str| with(&format!(r#""visual_config": {{"{part}": {{{rest}}}}}"#));
        rejects(
            &visual("visual_abstractor", r#""grid_size": 31"#),
            "grid_size",
        );
        rejects(
            &visual("visual_abstractor", r#""grid_size": 18446744073709551615"#),
            "grid_size",
        );
        rejects(
            &visual("visual_abstractor", r#""use_cls_token": false"#),
            "1025",
        );
        rejects(&visual("visual_model", r#""patch_size": 0"#), "is 0");
        rejects(
            &visual("visual_model", r#""hidden_size": 1088"#),
            "1088 wide",
        );
        rejects(&visual("visual_model", r#""hidden_act": "relu""#), "relu");
    }
}

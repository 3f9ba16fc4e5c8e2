//! LoRA adapters merged into a base.

use crate::files::*;
use owl2::image::Aspect;
use owl2_convert::checkpoint::{Checkpoint, ElementType, TensorSource};
use tempfile::TempDir;

const Q: &str = "model.layers.0.self_attn.q_proj";
const K: &str = "model.layers.0.self_attn.k_proj.multiway.1";
const TABLE: &str = "model.visual_abstractor.encoder.layers.0.crossattention.attention.k_pos_embed";
const N_OUT: usize = 3;
const N_IN: usize = 700;
const RANK: usize = 2;

fn base() -> TempDir {
    let dir = model_dir();
    let samples = [
        sample(&format!("{Q}.weight"), &[N_OUT, N_IN], ElementType::F32, 5),
        sample(&format!("{K}.weight"), &[N_OUT, N_IN], ElementType::F32, -5),
        sample("model.norm.weight", &[4], ElementType::F16, 0),
        sample("lm_head.weight", &[4, 2], ElementType::F16, 0),
    ];
    std::fs::write(dir.path().join("pytorch_model.bin"), torch_bytes(&samples)).unwrap();
    dir
}

/// The factors of one module's update.
fn factors(module: &str, rank: usize, n_in: usize) -> [Sample; 2] {
    let name = |factor: &str| format!("base_model.model.{module}.{factor}.weight");
    [
        sample(&name("lora_A"), &[rank, n_in], ElementType::F16, -3),
        sample(&name("lora_B"), &[N_OUT, rank], ElementType::F16, 2),
    ]
}

fn adapter_with(config: &str, factors: &[Sample]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_json(dir.path(), "adapter_config.json", config);
    std::fs::write(dir.path().join("adapter_model.bin"), torch_bytes(factors)).unwrap();
    dir
}

fn adapter() -> TempDir {
    let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 1, "bias": "none",
        "fan_in_fan_out": false, "modules_to_save": null, "target_modules": ["q_proj"]}"#;
    adapter_with(
        config,
        &[factors(Q, RANK, N_IN), factors(K, RANK, N_IN)].concat(),
    )
}

fn rejects(adapter: &TempDir, part: &str) {
    let base = base();
    let merged = Checkpoint::open(base.path())
        .unwrap()
        .with_lora(adapter.path());
    let message = merged.unwrap_err().to_string();
    assert!(message.contains(part), "{message}");
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let n = checkpoint.meta(name).unwrap().shape.iter().product();
    let mut out = vec![0.0; n];
    checkpoint.read(name, 0, &mut out).unwrap();
    out
}

/// `w + (alpha / r) B A`; all numbers are small enough to be exact.
fn updated(mut w: Vec<f32>) -> Vec<f32> {
    let [a, b] = factors(Q, RANK, N_IN);
    for (i, x) in w.iter_mut().enumerate() {
        let (row, column) = (i / N_IN, i % N_IN);
        let sum: f32 = (0..RANK)
            .map(|k| b.values[row * RANK + k] * a.values[k * N_IN + column])
            .sum();
        *x += 0.5 * sum;
    }
    w
}

#[test]
fn updates_are_added_to_what_replaces_the_base() {
    let (base, adapter) = (base(), adapter());
    let replacements = [
        sample(
            &format!("base_model.model.{K}.weight"),
            &[N_OUT, N_IN],
            ElementType::BF16,
            1,
        ),
        sample(
            "base_model.model.lm_head.weight",
            &[4, 2],
            ElementType::BF16,
            100,
        ),
        sample(
            &format!("base_model.model.{TABLE}"),
            &[2, 2],
            ElementType::BF16,
            9,
        ),
        sample(
            "base_model.model.model.nobody.weight",
            &[7],
            ElementType::BF16,
            9,
        ),
    ];
    std::fs::write(
        adapter.path().join("non_lora_trainables.bin"),
        torch_bytes(&replacements),
    )
    .unwrap();
    let original = Checkpoint::open(base.path()).unwrap();
    let checkpoint = Checkpoint::open(base.path())
        .unwrap()
        .with_lora(adapter.path())
        .unwrap();

    let q = values(&checkpoint, &format!("{Q}.weight"));
    assert_eq!(q, updated(values(&original, &format!("{Q}.weight"))));
    let k = values(&checkpoint, &format!("{K}.weight"));
    let replaced = replacements[0].bytes();
    let replaced = replaced
        .chunks_exact(2)
        .map(|bytes| half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32());
    assert_eq!(k, updated(replaced.collect()));
    assert_eq!(
        checkpoint.meta(&format!("{K}.weight")).unwrap().element,
        ElementType::BF16
    );
    assert_eq!(
        values(&checkpoint, "lm_head.weight"),
        replacements[1].values
    );
    assert_eq!(values(&checkpoint, TABLE), replacements[2].values);
    assert_eq!(checkpoint.names().count(), original.names().count() + 1);

    // Pieces that start and end within rows and within blocks of columns.
    for (start, len) in [(0, 1), (511, 3), (699, 2), (650, 1400), (2099, 1)] {
        let mut piece = vec![0.0; len];
        checkpoint
            .read(&format!("{Q}.weight"), start, &mut piece)
            .unwrap();
        assert_eq!(piece, q[start..start + len], "{start} {len}");
    }
}

#[test]
fn the_adapters_files_win_and_its_name_is_the_models() {
    let (base, adapter) = (base(), adapter());
    let open = || Checkpoint::open(base.path()).unwrap();
    let plain = open().with_lora(adapter.path()).unwrap();
    assert_eq!(plain.config(), open().config());
    write_json(
        adapter.path(),
        "config.json",
        r#"{"model_type": "mplug_owl2", "vocab_size": 800, "image_aspect_ratio": "pad"}"#,
    );
    write_json(
        adapter.path(),
        "preprocessor_config.json",
        r#"{"size": 448, "crop_size": 448, "image_mean": [0.5, 0.5, 0.5]}"#,
    );
    let checkpoint = open().with_lora(adapter.path()).unwrap();
    let visual = checkpoint.config().visual.as_ref().unwrap();
    assert_eq!(visual.aspect, Aspect::Pad);
    assert_eq!(visual.preprocess.mean, [0.5; 3]);
    assert_eq!(checkpoint.vocabulary().pieces.len(), 800);
    let name = adapter.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(checkpoint.name(), name);
}

#[test]
fn wrappers_around_an_adapter_are_taken_off() {
    let base = base();
    let original = Checkpoint::open(base.path()).unwrap();
    let before = values(&original, &format!("{Q}.weight"));
    let good = factors(Q, RANK, N_IN);
    for wrapped in [
        good.clone().map(|mut factor| {
            factor.name.insert_str(0, "module.");
            factor
        }),
        good.map(|mut factor| {
            factor.name = factor
                .name
                .replace("base_model.model.", "base_model.model._orig_mod.");
            factor
        }),
    ] {
        let adapter = adapter_with(r#"{"r": 2, "lora_alpha": 1}"#, &wrapped);
        let checkpoint = Checkpoint::open(base.path()).unwrap();
        let merged = checkpoint.with_lora(adapter.path()).unwrap();
        let found = values(&merged, &format!("{Q}.weight"));
        assert_eq!(found, updated(before.clone()));
    }
}

#[test]
fn an_adapter_may_be_a_safetensors_file() {
    let (base, adapter) = (base(), adapter());
    std::fs::remove_file(adapter.path().join("adapter_model.bin")).unwrap();
    std::fs::write(
        adapter.path().join("adapter_model.safetensors"),
        safetensors_bytes(&factors(Q, RANK, N_IN)),
    )
    .unwrap();
    let original = Checkpoint::open(base.path()).unwrap();
    let before = values(&original, &format!("{Q}.weight"));
    let checkpoint = original.with_lora(adapter.path()).unwrap();
    assert_eq!(values(&checkpoint, &format!("{Q}.weight")), updated(before));
}

#[test]
fn the_scale_is_that_of_peft() {
    let base = base();
    let original = Checkpoint::open(base.path()).unwrap();
    let before = values(&original, &format!("{Q}.weight"));
    // PEFT: lora_alpha / r, and lora_alpha / sqrt(r) with use_rslora; the expected scale is 0.5.
    for (r, keys) in [
        (
            2,
            r#""lora_alpha": 1, "use_rslora": false, "qalora_group_size": 16"#,
        ),
        (
            4,
            r#""lora_alpha": 1, "use_rslora": true, "init_lora_weights": "gaussian""#,
        ),
        (
            4,
            r#""lora_alpha": 2, "init_lora_weights": true, "loftq_config": {}"#,
        ),
    ] {
        let config = format!(r#"{{"r": {r}, {keys}}}"#);
        // Ranks beyond the two that `updated` knows change nothing.
        let [mut a, mut b] = factors(Q, RANK, N_IN);
        a.shape[0] = r;
        a.values.resize(r * N_IN, 7.0);
        let rows = b.values.chunks(RANK).flat_map(|row| {
            let mut row = row.to_vec();
            row.resize(r, 0.0);
            row
        });
        b.values = rows.collect();
        b.shape[1] = r;
        let adapter = adapter_with(&config, &[a, b]);
        let checkpoint = Checkpoint::open(base.path()).unwrap();
        let merged = checkpoint.with_lora(adapter.path()).unwrap();
        let found = values(&merged, &format!("{Q}.weight"));
        assert_eq!(found, updated(before.clone()), "{config}");
    }
}

#[test]
fn adapters_that_cannot_be_merged_are_refused() {
    rejects(&tempfile::tempdir().unwrap(), "adapter_config.json");
    let good = factors(Q, RANK, N_IN);
    for (rest, part) in [
        (r#""peft_type": "IA3""#, "IA3"),
        (r#""bias": "all""#, "bias"),
        (r#""fan_in_fan_out": true"#, "fan_in_fan_out"),
        (r#""use_dora": true"#, "use_dora"),
        (r#""use_rslora": 1"#, "use_rslora"),
        (
            r#""use_qalora": true, "qalora_group_size": 2"#,
            "use_qalora",
        ),
        (r#""alpha_pattern": {"q_proj": 4}"#, "alpha_pattern"),
        (r#""layer_replication": [[0, 1]]"#, "layer_replication"),
        (r#""target_parameters": ["x"]"#, "target_parameters"),
        (
            r#""trainable_token_indices": [3]"#,
            "trainable_token_indices",
        ),
        (
            r#""alora_invocation_tokens": [3]"#,
            "alora_invocation_tokens",
        ),
        (r#""lora_bias": true"#, "lora_bias"),
        (r#""init_lora_weights": "pissa_niter_16""#, "pissa_niter_16"),
        (r#""init_lora_weights": "olora""#, "olora"),
        (
            r#""use_something_of_next_year": {"x": 1}"#,
            "use_something_of_next_year",
        ),
        (r#""rank_pattern": {"q_proj": 4}"#, "rank_pattern"),
        (r#""modules_to_save": ["lm_head"]"#, "modules_to_save"),
    ] {
        let config = format!(r#"{{"r": 2, "lora_alpha": 1, {rest}}}"#);
        rejects(&adapter_with(&config, &good), part);
    }
    rejects(&adapter_with(r#"{"r": 0, "lora_alpha": 1}"#, &good), "'r'");
    rejects(&adapter_with(r#"{"r": 2}"#, &good), "lora_alpha");
    rejects(&adapter_with("[", &good), "JSON");

    let config = r#"{"r": 2, "lora_alpha": 1}"#;
    rejects(&adapter_with(config, &good[..1]), "only one");
    rejects(&adapter_with(config, &factors(Q, 4, N_IN)), "ranks 4 and 4");
    rejects(
        &adapter_with(config, &factors(Q, RANK, 5)),
        "made for [3, 5]",
    );
    rejects(
        &adapter_with(config, &factors("model.other", RANK, 5)),
        "model.other",
    );
    let mut named = factors(Q, RANK, N_IN);
    named[0].name = "base_model.model.x.lora_embedding_A".to_owned();
    rejects(&adapter_with(config, &named), "lora_embedding_A");
    let empty = adapter_with(config, &[]);
    std::fs::remove_file(empty.path().join("adapter_model.bin")).unwrap();
    rejects(&empty, "adapter_model");

    let replaced = adapter_with(config, &good);
    std::fs::write(
        replaced.path().join("non_lora_trainables.bin"),
        torch_bytes(&[sample("model.norm.weight", &[5], ElementType::F16, 0)]),
    )
    .unwrap();
    rejects(&replaced, "[5]");
}

//! Whole conversions from tensors in memory, and what stands in the file afterwards.

#[path = "../../tests/common/machine.rs"]
mod machine;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;

use owl2::gguf::write::Metadata;
use owl2::gguf::{DType, Gguf};
use owl2::model::Model;
use owl2::model::config::Config;
use owl2::ops::Compute;
use owl2::sampler::Sampling;
use owl2::tokenizer::Vocabulary;
use owl2::{Error, Kind, Result};
use owl2_convert::checkpoint::{ElementType, TensorMeta, TensorSource};
use owl2_convert::input::ConversionInput;
use owl2_convert::mapping::{self, Extra};
use owl2_convert::pack;
use owl2_convert::progress::Progress;
use owl2_convert::random::RandomShape;
use owl2_convert::recipe::{Quant, Recipe};
use owl2_convert::verify::verify;

/// Tensors in memory.
#[derive(Clone, Default)]
struct Memory(HashMap<String, (TensorMeta, Vec<f32>)>);

impl Memory {
    /// Every tensor that `config` requires; element `i` of tensor `t` is a number of its own.
    fn numbered(config: &Config) -> Self {
        let mut memory = Memory::default();
        for (t, (name, shape)) in mapping::required(config).into_iter().enumerate() {
            let n_values: usize = shape.iter().product();
            let value = |i: usize| ((t * 7919 + i) % 100_003) as f32 / 50_000.0 - 1.0;
            memory.insert(&name, &shape, (0..n_values).map(value).collect());
        }
        memory
    }

    fn insert(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        let meta = TensorMeta {
            name: name.to_owned(),
            shape: shape.to_vec(),
            element: ElementType::F32,
        };
        self.0.insert(name.to_owned(), (meta, values));
    }

    fn values(&self, name: &str) -> &[f32] {
        &self.0[name].1
    }

    fn input(&self, config: &Config) -> ConversionInput {
        ConversionInput {
            tensors: Box::new(self.clone()),
            config: config.clone(),
            ..RandomShape::Tiny.input(0)
        }
    }
}

impl TensorSource for Memory {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.0.keys().map(String::as_str))
    }

    fn meta(&self, name: &str) -> Option<&TensorMeta> {
        self.0.get(name).map(|(meta, _)| meta)
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let (_, values) = self.0.get(name).ok_or_else(|| Error::model("is unknown"))?;
        out.copy_from_slice(&values[start..start + out.len()]);
        Ok(())
    }
}

fn convert(
    input: &ConversionInput,
    recipe: &Recipe,
    n_threads: usize,
    target: &Path,
) -> Result<u64> {
    let mapped = input.map()?.tensors;
    let plan = recipe.plan(&input.config)?;
    let writer = pack::create(target, input, recipe.quant, &plan, false)?;
    let mut progress = Progress::start(plan.size().bytes, true);
    let n_threads = NonZeroUsize::new(n_threads).unwrap();
    let source = input.tensors.as_ref();
    pack::pack(source, &mapped, &plan, writer, n_threads, &mut progress)
}

fn recipe(quant: Quant) -> Recipe {
    Recipe {
        quant,
        ..Recipe::default()
    }
}

/// The tensor `name` of an F32 file.
fn floats(gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    assert_eq!(tensor.dtype, DType::F32);
    let data = gguf.data(tensor);
    let (values, _) = data.as_chunks::<4>();
    values
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// The rows of `values`, `row_len` long, in this order.
fn rows(values: &[f32], row_len: usize, order: impl IntoIterator<Item = usize>) -> Vec<f32> {
    let row = |i: usize| values[i * row_len..][..row_len].iter().copied();
    order.into_iter().flat_map(row).collect()
}

#[test]
fn every_tensor_arrives_where_it_belongs() {
    let mut config = RandomShape::Tiny.config();
    config.decoder.attention_bias = true;
    config.decoder.n_kv_heads = 2;
    let memory = Memory::numbered(&config);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.gguf");
    convert(&memory.input(&config), &recipe(Quant::F32), 2, &target).unwrap();
    let gguf = Gguf::open(&target).unwrap();

    for (ours, theirs) in [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.weight", "lm_head.weight"),
        ("output_norm.weight", "model.norm.weight"),
        (
            "blk.1.attn_norm_image.weight",
            "model.layers.1.input_layernorm.multiway.1.weight",
        ),
        (
            "blk.0.attn_v_image.weight",
            "model.layers.0.self_attn.v_proj.multiway.1.weight",
        ),
        (
            "blk.0.attn_v.bias",
            "model.layers.0.self_attn.v_proj.multiway.0.bias",
        ),
        (
            "blk.1.attn_output.bias",
            "model.layers.1.self_attn.o_proj.bias",
        ),
        (
            "blk.1.ffn_down.weight",
            "model.layers.1.mlp.down_proj.weight",
        ),
        ("v.class_embd", "model.vision_model.embeddings.cls_token"),
        (
            "v.patch_embd.weight",
            "model.vision_model.embeddings.patch_embed.weight",
        ),
        (
            "v.position_embd.weight",
            "model.vision_model.embeddings.position_embedding",
        ),
        (
            "v.pre_ln.bias",
            "model.vision_model.embeddings.pre_layernorm.bias",
        ),
        (
            "v.post_ln.weight",
            "model.vision_model.post_layernorm.weight",
        ),
        (
            "v.blk.1.ln2.weight",
            "model.vision_model.encoder.layers.1.post_attention_layernorm.weight",
        ),
        (
            "v.blk.0.ffn_up.weight",
            "model.vision_model.encoder.layers.0.mlp.fc1.weight",
        ),
        (
            "mm.query_embd.weight",
            "model.visual_abstractor.query_embeds",
        ),
        ("mm.model.fc.bias", "model.visual_abstractor.visual_fc.bias"),
        ("v.eoi", "model.visual_abstractor.vit_eos"),
        (
            "mm.blk.1.ffn_up.weight",
            "model.visual_abstractor.encoder.layers.1.crossattention.output.mlp.w3.weight",
        ),
        (
            "mm.blk.0.ln_kv.bias",
            "model.visual_abstractor.encoder.layers.0.crossattention.normk.bias",
        ),
    ] {
        assert_eq!(floats(&gguf, ours), memory.values(theirs), "{ours}");
    }

    // Heads of 16 rows: 0, 8, 1, 9 and so on.
    let pairs = |n_heads: usize| {
        (0..n_heads).flat_map(|head| (0..8).flat_map(move |t| [head * 16 + t, head * 16 + 8 + t]))
    };
    for (ours, theirs, n_heads) in [
        ("attn_q", "q_proj", 4),
        ("attn_k", "k_proj.multiway.0", 2),
        ("attn_k_image", "k_proj.multiway.1", 2),
    ] {
        for (suffix, row_len) in [("weight", 64), ("bias", 1)] {
            let original = memory.values(&format!("model.layers.1.self_attn.{theirs}.{suffix}"));
            assert_eq!(
                floats(&gguf, &format!("blk.1.{ours}.{suffix}")),
                rows(original, row_len, pairs(n_heads)),
                "{ours}.{suffix}"
            );
        }
    }

    // Four heads of 16 rows: every head's q, then every head's k, then every head's v.
    let blocks = || {
        (0..3).flat_map(|which| {
            (0..4).flat_map(move |head| (0..16).map(move |i| (head * 3 + which) * 16 + i))
        })
    };
    for (suffix, row_len) in [("weight", 64), ("bias", 1)] {
        let name =
            format!("model.vision_model.encoder.layers.0.self_attn.query_key_value.{suffix}");
        assert_eq!(
            floats(&gguf, &format!("v.blk.0.attn_qkv.{suffix}")),
            rows(memory.values(&name), row_len, blocks())
        );
    }
}

#[test]
fn position_tables_are_taken_or_computed() {
    let config = RandomShape::Tiny.config();
    let mut memory = Memory::numbered(&config);
    let stored: Vec<f32> = (0..17 * 64).map(|i| i as f32).collect();
    memory.insert(
        "model.visual_abstractor.encoder.layers.1.crossattention.attention.k_pos_embed",
        &[17, 64],
        stored.clone(),
    );
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.gguf");
    convert(&memory.input(&config), &recipe(Quant::F32), 2, &target).unwrap();
    let gguf = Gguf::open(&target).unwrap();

    let computed = floats(&gguf, "mm.blk.0.pos_embd.weight");
    let mixed = floats(&gguf, "mm.blk.1.pos_embd.weight");
    assert_eq!(computed.len(), (8 + 17) * 64);
    // Query 3: 32 sines, then 32 cosines, of 3 / 10000^(t / 32).
    let angle = |position: f64, t: i32, half: i32| {
        position / 10000_f64.powf(f64::from(t) / f64::from(half))
    };
    for t in [0, 5, 31] {
        let at = 3 * 64 + t as usize;
        assert!((f64::from(computed[at]) - angle(3.0, t, 32).sin()).abs() < 1e-6);
        assert!((f64::from(computed[at + 32]) - angle(3.0, t, 32).cos()).abs() < 1e-6);
    }
    // The class token's row is zero; patch 6 of a 4 x 4 grid is column 2 of line 1.
    assert!(computed[8 * 64..9 * 64].iter().all(|&x| x == 0.0));
    let patch = &computed[(8 + 1 + 6) * 64..];
    for t in [0, 7] {
        assert!((f64::from(patch[t as usize]) - angle(2.0, t, 16).sin()).abs() < 1e-6);
        assert!((f64::from(patch[48 + t as usize]) - angle(1.0, t, 16).cos()).abs() < 1e-6);
    }
    assert_eq!(mixed[..8 * 64], computed[..8 * 64]);
    assert_eq!(mixed[8 * 64..], stored);
}

#[test]
fn positions_without_a_class_token_are_resized() {
    let mut config = RandomShape::Tiny.config();
    config.visual.as_mut().unwrap().vit.use_cls_token = false;
    let mut memory = Memory::numbered(&config);
    let name = "model.vision_model.embeddings.position_embedding";
    assert_eq!(memory.meta(name).unwrap().shape, [256, 64]);
    let line: Vec<f32> = (0..256).flat_map(|i| vec![(i / 16) as f32; 64]).collect();
    memory.insert(name, &[256, 64], line);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.gguf");
    convert(&memory.input(&config), &recipe(Quant::F32), 2, &target).unwrap();
    let table = floats(&Gguf::open(&target).unwrap(), "v.position_embd.weight");
    assert_eq!(table.len(), 16 * 64);
    // 16 to 4: line 1 has its centre at 5.5, halfway, where the kernel is symmetric.
    for column in 0..4 {
        assert!((table[(4 + column) * 64] - 5.5).abs() < 1e-5);
    }
}

#[test]
fn the_file_does_not_depend_on_the_number_of_threads() {
    let input = RandomShape::Tiny.input(5);
    let dir = tempfile::tempdir().unwrap();
    for quant in [
        Quant::F32,
        Quant::F16,
        Quant::Q8_0,
        Quant::Q4_0,
        Quant::H4,
        Quant::Q4_K,
    ] {
        let convert = |n_threads: usize| {
            let target = dir.path().join(format!("{quant:?}-{n_threads}.gguf"));
            let n_bytes = convert(&input, &recipe(quant), n_threads, &target).unwrap();
            let bytes = std::fs::read(target).unwrap();
            assert_eq!(bytes.len() as u64, n_bytes);
            bytes
        };
        assert!(convert(1) == convert(3), "{quant:?}");
    }
}

#[test]
fn a_random_model_opens_with_everything_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.gguf");
    let input = RandomShape::Tiny.input(1);
    convert(&input, &recipe(Quant::Q4_K), 2, &target).unwrap();
    let gguf = Gguf::open(&target).unwrap();
    let model = Model::new(&gguf, Compute::new(NonZeroUsize::MIN).unwrap()).unwrap();
    assert_eq!(model.config(), &input.config);
    let mut metadata = Metadata::default();
    Vocabulary::read(&gguf).unwrap().write(&mut metadata);
    Sampling::read(&gguf).unwrap().write(&mut metadata);
    let template = gguf.get::<&str>("mplug_owl2.prompt.template").unwrap();
    metadata.set("mplug_owl2.prompt.template", template);
    assert_eq!(metadata, input.metadata);
    assert_eq!(gguf.get::<&str>("general.name").unwrap(), input.name);
    assert_eq!(gguf.get::<u32>("general.file_type").unwrap(), 15);
    assert_eq!(gguf.get::<u32>("general.quantization_version").unwrap(), 2);
    let template = gguf.get::<&str>("mplug_owl2.prompt.template").unwrap();
    assert_eq!(template, "mplug_owl2");
}

#[test]
fn problems_are_listed_all_at_once() {
    let config = RandomShape::Tiny.config();
    let mut memory = Memory::numbered(&config);
    memory.0.remove("lm_head.weight");
    memory.0.remove("model.layers.1.mlp.up_proj.weight");
    memory.insert("model.norm.weight", &[63], vec![1.0; 63]);
    memory.insert("model.layers.2.mlp.up_proj.weight", &[1], vec![1.0]);
    memory.insert("score.weight", &[1], vec![1.0]);
    let error = mapping::map(&config, &memory, Extra::Refuse).unwrap_err();
    assert_eq!(error.kind(), Kind::Model);
    let text = error.to_string();
    for expected in [
        "5 tensors",
        "lm_head.weight is missing",
        "model.layers.1.mlp.up_proj.weight is missing",
        "model.norm.weight has shape [63], expected [64]",
        "model.layers.2.mlp.up_proj.weight is not part",
        "score.weight is not part",
    ] {
        assert!(text.contains(expected), "{expected} not in: {text}");
    }
}

#[test]
fn extra_tensors_are_left_out_where_that_is_asked_for() {
    let config = RandomShape::Tiny.config();
    let mut memory = Memory::numbered(&config);
    memory.insert("score.weight", &[1], vec![1.0]);
    memory.insert("model.layers.0.extra", &[1], vec![1.0]);
    let text = mapping::map(&config, &memory, Extra::Refuse)
        .unwrap_err()
        .to_string();
    assert!(text.contains("--ignore-extra"), "{text}");
    let mapping = mapping::map(&config, &memory, Extra::Ignore).unwrap();
    assert_eq!(mapping.left_out, ["model.layers.0.extra", "score.weight"]);
    let plain = mapping::map(&config, &Memory::numbered(&config), Extra::Refuse).unwrap();
    assert_eq!(mapping.tensors, plain.tensors);
    // What is missing is an error all the same.
    memory.0.remove("lm_head.weight");
    let error = mapping::map(&config, &memory, Extra::Ignore).unwrap_err();
    assert!(
        error.to_string().contains("lm_head.weight is missing"),
        "{error}"
    );
}

#[test]
fn problems_are_told_in_a_few_lines_with_a_way_out() {
    let config = RandomShape::Tiny.config();
    let good = Memory::numbered(&config);
    let renamed = |rename: fn(&str) -> String| {
        let mut memory = Memory::numbered(&config);
        let names: Vec<_> = good.names().map(str::to_owned).collect();
        for name in names {
            let (meta, values) = memory.0.remove(&name).unwrap();
            memory.insert(&rename(&name), &meta.shape, values);
        }
        memory
    };
    for (memory, part) in [
        (
            renamed(|name| format!("student.{name}")),
            "begin with 'student.'",
        ),
        (
            renamed(|name| name.replace("q_proj.weight", "q_proj.base_layer.weight")),
            "merge_and_unload",
        ),
        (
            renamed(|name| name.replace("up_proj.weight", "up_proj.qweight")),
            "16 bits",
        ),
    ] {
        let error = mapping::map(&config, &memory, Extra::Refuse).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(part), "{text}");
        assert!(text.lines().count() < 30, "{text}");
    }
}

#[test]
fn a_shared_head_may_be_there_or_not() {
    let mut config = RandomShape::Tiny.config();
    let with_head = Memory::numbered(&config);
    config.decoder.tie_word_embeddings = true;
    let without_head = Memory::numbered(&config);
    assert!(without_head.meta("lm_head.weight").is_none());
    for memory in [with_head, without_head] {
        let mapped = mapping::map(&config, &memory, Extra::Refuse)
            .unwrap()
            .tensors;
        assert!(
            mapped
                .iter()
                .all(|tensor| tensor.spec.name != "output.weight")
        );
    }
}

#[test]
fn weights_that_are_not_finite_or_too_large_are_named_and_leave_no_file() {
    let config = RandomShape::Tiny.config();
    let name = "model.layers.0.mlp.up_proj.weight";
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.gguf");
    for (value, quant, expected) in [
        (f32::NAN, Quant::F32, "element 77 is NaN"),
        (f32::INFINITY, Quant::Q8_0, "element 77 is inf"),
        (
            1e5,
            Quant::F16,
            "element 77 is 100000, which F16 cannot hold",
        ),
    ] {
        let mut memory = Memory::numbered(&config);
        let mut values = memory.values(name).to_vec();
        values[77] = value;
        memory.insert(name, &[256, 64], values);
        let error = convert(&memory.input(&config), &recipe(quant), 2, &target).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(expected) && text.contains("blk.0.ffn_up.weight"),
            "{text}"
        );
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }
}

#[test]
fn an_existing_file_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.gguf");
    std::fs::write(&target, "precious").unwrap();
    let error = convert(&RandomShape::Tiny.input(1), &recipe(Quant::F16), 1, &target).unwrap_err();
    assert!(error.to_string().contains("force"), "{error}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
}

#[test]
fn verification_measures_the_error_of_every_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let input = RandomShape::Tiny.input(9);
    let two = NonZeroUsize::new(2).unwrap();
    let convert = |quant: Quant| {
        let target = dir.path().join(format!("{quant:?}.gguf"));
        convert(&input, &recipe(quant), 2, &target).unwrap();
        target
    };
    let exact = verify(&convert(Quant::F32), Some(&input), two, true).unwrap();
    assert!(exact.errors.unwrap().iter().all(|e| e.relative == 0.0));

    let report = verify(&convert(Quant::Q4_0), Some(&input), two, true).unwrap();
    assert!(report.text().contains("bound to the model"));
    let errors = report.errors.unwrap();
    assert!(errors.is_sorted_by(|a, b| a.relative >= b.relative));
    for error in &errors {
        // Half a step of the format's grid, over the bell curve's deviation, and some slack.
        let expected = match error.dtype {
            DType::Q4_0 => 0.05..0.13,
            DType::Q6_K => 0.008..0.03,
            DType::Q8_0 => 0.002..0.009,
            DType::F16 => 1e-5..1e-3,
            _ => 0.0..1e-9,
        };
        assert!(expected.contains(&error.relative), "{error:?}");
    }
    assert!(errors[0].dtype == DType::Q4_0);
    assert!(
        verify(&convert(Quant::F16), None, two, true)
            .unwrap()
            .errors
            .is_none()
    );
}

#[test]
fn verification_finds_damage_and_foreign_files() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.gguf");
    convert(&RandomShape::Tiny.input(1), &recipe(Quant::F32), 1, &target).unwrap();

    let mut other = RandomShape::Tiny.config();
    other.decoder.intermediate_size = 128;
    let original = Memory::numbered(&other).input(&other);
    let error = verify(&target, Some(&original), NonZeroUsize::MIN, true).unwrap_err();
    assert!(error.to_string().contains("not made from"), "{error}");

    let mut bytes = std::fs::read(&target).unwrap();
    let gguf = Gguf::open(&target).unwrap();
    let norm = gguf.tensor("blk.1.ffn_norm.weight").unwrap().range.clone();
    bytes[norm][8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    let damaged = dir.path().join("damaged.gguf");
    std::fs::write(&damaged, &bytes).unwrap();
    let error = verify(&damaged, None, NonZeroUsize::MIN, true).unwrap_err();
    assert!(
        error.to_string().contains("blk.1.ffn_norm.weight at 2"),
        "{error}"
    );

    bytes.truncate(bytes.len() - 100);
    std::fs::write(&damaged, &bytes).unwrap();
    assert!(verify(&damaged, None, NonZeroUsize::MIN, true).is_err());
}

//! `owl2 info`: hyper-parameters, sizes by part, and the memory a model needs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::board::{Board, Work};
use crate::cli::args::InfoArgs;
use crate::cli::model_file::ModelFile;
use crate::cli::{human_bytes, print, print_json};
use crate::error::Result;
use crate::gguf::names::general;
use crate::gguf::{DType, Gguf};
use crate::kernels::Isa;
use crate::model::Model;
use crate::model::config::Config;
use crate::model::layout::{self, Component};
use crate::model::visual_config::VisualConfig;
use crate::ops::Compute;
use crate::prompt::Template;
use crate::quant::{Rotation, rotation};
use crate::request::check_context;
use crate::sampler::Sampling;
use crate::score::Rule;
use crate::session::Session;
use crate::threads;

/// Bytes and weights of one part of the model.
#[derive(Default)]
struct Size {
    bytes: u64,
    weights: u64,
    dtypes: BTreeMap<DType, usize>,
}

impl Size {
    fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }

    /// Such as `192 Q4_K, 65 F32`, most frequent first.
    fn types(&self) -> String {
        let mut dtypes: Vec<_> = self.dtypes.iter().collect();
        dtypes.sort_by_key(|&(_, n)| std::cmp::Reverse(*n));
        let parts: Vec<_> = dtypes
            .iter()
            .map(|(dtype, n)| format!("{n} {dtype}"))
            .collect();
        parts.join(", ")
    }
}

/// Everything that is shown.
struct Info {
    name: Option<String>,
    architecture: String,
    config: Config,
    template: Option<Template>,
    sampling: Sampling,
    score_rule: Option<Rule>,
    rotation: Option<Rotation>,
    /// Names of quantized tensors that are not rotated though others are.
    not_rotated: BTreeSet<String>,
    sizes: BTreeMap<Component, Size>,
    file_bytes: u64,
    context: usize,
    session_bytes: u64,
    picture_bytes: u64,
    isa: Isa,
    expected: Option<Expected>,
}

impl Info {
    /// Bytes of the file, of the context, and of a picture that is being encoded.
    fn memory_bytes(&self) -> u64 {
        self.file_bytes + self.session_bytes + self.picture_bytes
    }
}

/// The times that a board would take.
struct Expected {
    board: Board,
    picture_s: Option<f64>,
    prefill_s: f64,
    token_s: f64,
}

/// Positions of the prompt that a board is given: a picture and a question.
const PROMPT: usize = 100;
/// Tokens of its answer.
const ANSWER: usize = 64;

impl Expected {
    fn new(board: Board, work: &Work) -> Self {
        let machine = board.machine();
        Expected {
            board,
            picture_s: machine.picture_s(work),
            prefill_s: machine.prefill_s(work, PROMPT),
            token_s: machine.token_s(work, PROMPT, ANSWER),
        }
    }

    fn as_text(&self) -> String {
        let limits = self.board.machine();
        let mut text = format!(
            "\nboard        {}, {:.0} G multiply-accumulates and {:.1} GB a second\n",
            self.board.description(),
            limits.macs_per_s / 1e9,
            limits.bytes_per_s / 1e9,
        );
        let mut line = |name: &str, value: String| text += &format!("  {name:<24} {value}\n");
        if let Some(seconds) = self.picture_s {
            line("picture", format!("{seconds:.2} s"));
        }
        line(
            &format!("prompt of {PROMPT}"),
            format!("{:.2} s", self.prefill_s),
        );
        line("generation", format!("{:.2} tokens/s", 1.0 / self.token_s));
        text + "  A model from published limits, not a measurement; memory gives less than they say.\n"
    }

    fn as_json(&self) -> Value {
        let limits = self.board.machine();
        json!({
            "name": self.board.to_string(),
            "is_model": true,
            "macs_per_s": limits.macs_per_s,
            "bytes_per_s": limits.bytes_per_s,
            "picture_s": self.picture_s,
            "prompt_positions": PROMPT,
            "prompt_s": self.prefill_s,
            "generate_tokens_per_s": 1.0 / self.token_s,
        })
    }
}

pub(super) fn run(args: &InfoArgs) -> Result<()> {
    let model = ModelFile::new(args.file.as_deref().or(args.model.as_deref()))?;
    let info = gather(args, model).map_err(|e| model.blame(e))?;
    if args.json {
        return print_json(&as_json(&info)).map(drop);
    }
    print(&as_text(&info)).map(drop)
}

fn gather(args: &InfoArgs, model: ModelFile) -> Result<Info> {
    let gguf = model.open()?;
    let compute = Compute::new(threads::default_count())?;
    let isa = compute.isa;
    // Not an assistant: what has a tokenizer that cannot be run can be described all the same.
    let model = Model::new(&gguf, compute)?;
    let config = model.config();
    let context = args
        .ctx_size
        .unwrap_or(config.decoder.max_position_embeddings);
    check_context(context)?;
    Ok(Info {
        name: gguf.find::<&str>(general::NAME)?.map(str::to_owned),
        architecture: gguf.get::<&str>(general::ARCHITECTURE)?.to_owned(),
        config: config.clone(),
        template: Template::read(&gguf)?,
        sampling: Sampling::read(&gguf)?,
        score_rule: Rule::read(&gguf)?,
        rotation: Rotation::read(&gguf)?,
        not_rotated: Rotation::read_exceptions(&gguf)?,
        sizes: sizes(&gguf, config),
        file_bytes: gguf.file_bytes() as u64,
        context,
        session_bytes: Session::bytes(&model, context),
        picture_bytes: model.picture_bytes(),
        isa,
        expected: args
            .board
            .map(|board| Expected::new(board, &Work::new(&gguf, &model))),
    })
}

fn as_text(info: &Info) -> String {
    let name = info.name.as_deref().unwrap_or("unnamed");
    let mut text = format!("model        {name} ({})\n", info.architecture);
    text += &describe(&info.config);
    let template = info.template.map_or("none".to_owned(), |t| t.to_string());
    text += &format!("prompt       template {template}\n");
    text += &format!(
        "sampling     top-k {}, top-p {} (with --temp above 0{})\n",
        info.sampling.top_k,
        info.sampling.top_p,
        match info.sampling.temperature {
            0.0 => String::new(),
            temperature => format!("; the model's own is {temperature}"),
        }
    );
    if let Some(rule) = info.score_rule {
        text += &format!("scores       by rule {rule}, see owl2 score\n");
    }
    if info.rotation.is_some() {
        let but = match info.not_rotated.len() {
            0 => String::new(),
            n => format!(", but for {n} tensors"),
        };
        text += &format!(
            "rotation     columns in blocks of {}{but}\n",
            rotation::BLOCK_LEN
        );
    }
    text += "\nPart         Size        Bits per weight  Tensors\n";
    let mut total = Size::default();
    for (part, size) in &info.sizes {
        text += &line(part.name(), size);
        total.bytes += size.bytes;
        total.weights += size.weights;
        for (dtype, n) in &size.dtypes {
            *total.dtypes.entry(*dtype).or_default() += n;
        }
    }
    text += &line("all", &total);
    let picture = match info.picture_bytes {
        0 => String::new(),
        n => format!(", and {} while a picture is encoded", human_bytes(n)),
    };
    text + &format!(
        "\nfile         {}\nmemory       {} with a context of {}: the file, {} for the context{picture}\n\
         instructions {}\n",
        human_bytes(info.file_bytes),
        human_bytes(info.memory_bytes()),
        info.context,
        human_bytes(info.session_bytes),
        info.isa
    ) + &info
        .expected
        .as_ref()
        .map_or(String::new(), Expected::as_text)
}

fn sizes(gguf: &Gguf, config: &Config) -> BTreeMap<Component, Size> {
    let mut sizes = BTreeMap::<Component, Size>::new();
    for spec in layout::tensors(config) {
        let Some(tensor) = gguf.tensor(&spec.name) else {
            continue;
        };
        let size = sizes.entry(spec.part).or_default();
        size.bytes += tensor.range.len() as u64;
        size.weights += tensor.shape.iter().product::<usize>() as u64;
        *size.dtypes.entry(tensor.dtype).or_default() += 1;
    }
    sizes
}

fn line(name: &str, size: &Size) -> String {
    format!(
        "{name:<12} {:<11} {:<16.2} {}\n",
        human_bytes(size.bytes),
        size.bits_per_weight(),
        size.types()
    )
}

/// The hyper-parameters, a line or two a part.
fn describe(config: &Config) -> String {
    let visual = config
        .visual
        .as_ref()
        .map_or(String::new(), describe_visual);
    let decoder = &config.decoder;
    let scaling = match decoder.rope_scaling {
        Some(scaling) => format!(", {} scaling by {}", scaling.kind, scaling.factor),
        None => String::new(),
    };
    visual
        + &format!(
            "decoder      {} layers of {}, {} heads ({} for keys), MLP {}, vocabulary {}, context {}\n\
             {:12} norm epsilon {:e}, rotary base {}{scaling}\n",
            decoder.n_layers,
            decoder.hidden_size,
            decoder.n_heads,
            decoder.n_kv_heads,
            decoder.intermediate_size,
            decoder.vocab_size,
            decoder.max_position_embeddings,
            "",
            decoder.rms_norm_eps,
            decoder.rope_theta
        )
}

fn describe_visual(visual: &VisualConfig) -> String {
    let (vit, abstractor) = (&visual.vit, &visual.abstractor);
    format!(
        "pictures     {}, mean {:?}, standard deviation {:?}\n\
         vit          {} layers of {}, {} heads, MLP {}, {} px in patches of {}, {} tokens\n\
         abstractor   {} layers, {} heads, MLP {}, {} positions a picture\n",
        visual.aspect,
        visual.preprocess.mean,
        visual.preprocess.std,
        vit.n_layers,
        vit.hidden_size,
        vit.n_heads,
        vit.intermediate_size,
        vit.image_size,
        vit.patch_size,
        vit.n_tokens(),
        abstractor.n_layers,
        abstractor.n_heads,
        abstractor.intermediate_size,
        abstractor.n_positions()
    )
}

fn as_json(info: &Info) -> Value {
    let parts: serde_json::Map<_, _> = info
        .sizes
        .iter()
        .map(|(part, size)| {
            let types: BTreeMap<_, _> = size
                .dtypes
                .iter()
                .map(|(dtype, n)| (dtype.name(), n))
                .collect();
            let value = json!({
                "bytes": size.bytes,
                "weights": size.weights,
                "bits_per_weight": size.bits_per_weight(),
                "tensors": types,
            });
            (part.name().to_owned(), value)
        })
        .collect();
    let decoder = &info.config.decoder;
    json!({
        "name": info.name,
        "architecture": info.architecture,
        "file_bytes": info.file_bytes,
        "context": info.context,
        "memory_bytes": info.memory_bytes(),
        "picture_bytes": info.picture_bytes,
        "isa": info.isa.name(),
        "board": info.expected.as_ref().map(Expected::as_json),
        "template": info.template.map(|template| template.to_string()),
        "rotation": info.rotation.as_ref().map(|_| json!({
            "block_length": rotation::BLOCK_LEN,
            "except": info.not_rotated,
        })),
        "sampling": {
            "temperature": info.sampling.temperature,
            "top_k": info.sampling.top_k,
            "top_p": info.sampling.top_p,
        },
        "score_rule": info.score_rule.map(Rule::name),
        "decoder": {
            "vocab_size": decoder.vocab_size,
            "hidden_size": decoder.hidden_size,
            "intermediate_size": decoder.intermediate_size,
            "layers": decoder.n_layers,
            "heads": decoder.n_heads,
            "kv_heads": decoder.n_kv_heads,
            "rms_norm_eps": decoder.rms_norm_eps,
            "rope_theta": decoder.rope_theta,
            "rope_scaling": decoder.rope_scaling.map(|scaling| json!({
                "kind": scaling.kind.to_string(),
                "factor": scaling.factor,
            })),
            "max_position_embeddings": decoder.max_position_embeddings,
        },
        "visual": info.config.visual.as_ref().map(visual_json),
        "parts": parts,
    })
}

fn visual_json(visual: &VisualConfig) -> Value {
    json!({
        "image_size": visual.vit.image_size,
        "patch_size": visual.vit.patch_size,
        "mean": visual.preprocess.mean,
        "std": visual.preprocess.std,
        "aspect": visual.aspect.to_string(),
        "vit_hidden_size": visual.vit.hidden_size,
        "vit_intermediate_size": visual.vit.intermediate_size,
        "vit_layers": visual.vit.n_layers,
        "vit_heads": visual.vit.n_heads,
        "vit_tokens": visual.vit.n_tokens(),
        "vit_hidden_act": visual.vit.hidden_act.to_string(),
        "abstractor_intermediate_size": visual.abstractor.intermediate_size,
        "abstractor_layers": visual.abstractor.n_layers,
        "abstractor_heads": visual.abstractor.n_heads,
        "positions_per_image": visual.abstractor.n_positions(),
    })
}

//! `owl2 info`: hyper-parameters, sizes by part, and the memory a model needs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::args::InfoArgs;
use crate::cli::{human_bytes, print, print_json};
use crate::error::Result;
use crate::gguf::{DType, Gguf};
use crate::kernels::Isa;
use crate::model::Model;
use crate::model::config::Config;
use crate::model::layout::{self, Part};
use crate::ops::Compute;
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

pub(super) fn run(args: &InfoArgs) -> Result<()> {
    let gguf = Gguf::open(&args.model)?;
    let compute = Compute::new(threads::default_count())?;
    let isa = compute.isa;
    let model = Model::new(&gguf, compute).map_err(|e| e.in_file(&args.model))?;
    let config = model.config();
    let context = args
        .ctx_size
        .unwrap_or(config.decoder.max_position_embeddings);
    let sizes = sizes(&gguf, config);
    let needed = gguf.file_bytes() as u64 + Session::bytes(&model, context);

    if args.json {
        return print_json(&as_json(&gguf, config, &sizes, context, needed, isa));
    }
    let mut text = describe(config);
    text += "\nPart         Size        Bits per weight  Tensors\n";
    let mut total = Size::default();
    for (part, size) in &sizes {
        text += &line(part.name(), size);
        total.bytes += size.bytes;
        total.weights += size.weights;
        for (dtype, n) in &size.dtypes {
            *total.dtypes.entry(*dtype).or_default() += n;
        }
    }
    text += &line("all", &total);
    text += &format!(
        "\nfile         {}\nmemory       {} with a context of {context}\ninstructions {isa}\n",
        human_bytes(gguf.file_bytes() as u64),
        human_bytes(needed),
    );
    print(&text).map(drop)
}

fn sizes(gguf: &Gguf, config: &Config) -> BTreeMap<Part, Size> {
    let mut sizes = BTreeMap::<Part, Size>::new();
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

fn describe(config: &Config) -> String {
    let decoder = &config.decoder;
    let mut text = String::new();
    if let Some(visual) = &config.visual {
        let (vit, abstractor) = (&visual.vit, &visual.abstractor);
        text += &format!(
            "vit          {} layers of {}, {} heads, MLP {}, {} px in patches of {}, {} tokens\n",
            vit.n_layers,
            vit.hidden_size,
            vit.n_heads,
            vit.intermediate_size,
            vit.image_size,
            vit.patch_size,
            vit.n_tokens()
        );
        text += &format!(
            "abstractor   {} layers, {} heads, MLP {}, {} positions a picture\n",
            abstractor.n_layers,
            abstractor.n_heads,
            abstractor.intermediate_size,
            abstractor.n_positions()
        );
    }
    text + &format!(
        "decoder      {} layers of {}, {} heads ({} for keys), MLP {}, vocabulary {}, context {}\n",
        decoder.n_layers,
        decoder.hidden_size,
        decoder.n_heads,
        decoder.n_kv_heads,
        decoder.intermediate_size,
        decoder.vocab_size,
        decoder.max_position_embeddings
    )
}

fn as_json(
    gguf: &Gguf,
    config: &Config,
    sizes: &BTreeMap<Part, Size>,
    context: usize,
    needed: u64,
    isa: Isa,
) -> Value {
    let parts: serde_json::Map<_, _> = sizes
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
    let decoder = &config.decoder;
    let visual = config.visual.as_ref().map(|visual| {
        json!({
            "image_size": visual.vit.image_size,
            "patch_size": visual.vit.patch_size,
            "vit_hidden_size": visual.vit.hidden_size,
            "vit_layers": visual.vit.n_layers,
            "vit_heads": visual.vit.n_heads,
            "vit_tokens": visual.vit.n_tokens(),
            "abstractor_layers": visual.abstractor.n_layers,
            "abstractor_heads": visual.abstractor.n_heads,
            "positions_per_image": visual.abstractor.n_positions(),
            "aspect": visual.aspect.to_string(),
        })
    });
    json!({
        "file_bytes": gguf.file_bytes(),
        "context": context,
        "memory_bytes": needed,
        "isa": isa.name(),
        "decoder": {
            "vocab_size": decoder.vocab_size,
            "hidden_size": decoder.hidden_size,
            "intermediate_size": decoder.intermediate_size,
            "layers": decoder.n_layers,
            "heads": decoder.n_heads,
            "kv_heads": decoder.n_kv_heads,
            "rms_norm_eps": decoder.rms_norm_eps,
            "rope_theta": decoder.rope_theta,
            "max_position_embeddings": decoder.max_position_embeddings,
        },
        "visual": visual,
        "parts": parts,
    })
}

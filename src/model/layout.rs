//! Which tensors a model of a given configuration consists of: names, shapes, and what they hold.
//!
//! The converter makes exactly these and the runtime binds exactly these, so neither can drift
//! from the other. The order is that of use, which is also their order in the file: picture first.

use crate::gguf::names::{self, tensor};
use crate::model::config::{Config, DecoderConfig};
use crate::model::visual_config::VisualConfig;

/// What kind of values a tensor has, which decides the types it may be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// A matrix that multiplies activations, or an embedding: any type.
    Matrix,
    /// Norms, biases, tables that are added: always F32.
    Float,
}

/// A part of the model, for size tables and quantization recipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The vision transformer.
    Vit,
    /// The visual abstractor and the projection to the decoder's width.
    Abstractor,
    /// The decoder's blocks and final norm.
    Decoder,
    /// The token embedding.
    Embedding,
    /// The output head.
    Output,
}

impl Component {
    /// Its name in tables, such as `vit`.
    pub fn name(self) -> &'static str {
        match self {
            Component::Vit => "vit",
            Component::Abstractor => "abstractor",
            Component::Decoder => "decoder",
            Component::Embedding => "embedding",
            Component::Output => "output",
        }
    }
}

/// A tensor that a model must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the GGUF file.
    pub name: String,
    /// Its dimensions, slowest first; matrices are `[out, in]`.
    pub shape: Vec<usize>,
    /// What it holds.
    pub kind: TensorKind,
    /// Where it belongs.
    pub part: Component,
}

/// Every tensor of a model with this configuration, in file order.
pub fn tensors(config: &Config) -> Vec<TensorSpec> {
    let mut list = List {
        tensors: Vec::new(),
        part: Component::Vit,
    };
    if let Some(visual) = &config.visual {
        list.vit(visual);
        list.part = Component::Abstractor;
        list.abstractor(visual, config.decoder.hidden_size);
    }
    list.decoder(&config.decoder, config.visual.is_some());
    list.tensors
}

/// What the matrix `name` multiplies: the same for all matrices that read one input, which is
/// rotated for all of them or for none.
pub fn input_of(name: &str) -> String {
    /// Parts of a block whose inputs have another part's name.
    const SHARED: [(&str, &str); 3] = [
        ("attn_k", "attn_q"),
        ("attn_v", "attn_q"),
        ("ffn_up", "ffn_gate"),
    ];

    let stem = name.strip_suffix(".weight").unwrap_or(name);
    let (block, part) = stem.rsplit_once('.').unwrap_or(("", stem));
    let part = part.strip_suffix("_image").unwrap_or(part);
    let is_vit = block.starts_with("v.");
    // The abstractor's values are computed from what has no positions added.
    let is_abstractor_value = block.starts_with("mm.") && part == "attn_v";
    let shared = SHARED.iter().find(|(shared, _)| *shared == part);
    match shared.filter(|_| !is_vit && !is_abstractor_value) {
        Some((_, first)) => format!("{block}.{first}"),
        None => format!("{block}.{part}"),
    }
}

struct List {
    tensors: Vec<TensorSpec>,
    part: Component,
}

impl List {
    fn push(&mut self, name: String, shape: &[usize], kind: TensorKind) {
        self.tensors.push(TensorSpec {
            name,
            shape: shape.to_vec(),
            kind,
            part: self.part,
        });
    }

    fn float(&mut self, name: String, shape: &[usize]) {
        self.push(name, shape, TensorKind::Float);
    }

    fn matrix(&mut self, stem: &str, n_out: usize, n_in: usize, has_bias: bool) {
        self.push(names::weight(stem), &[n_out, n_in], TensorKind::Matrix);
        if has_bias {
            self.float(names::bias(stem), &[n_out]);
        }
    }

    fn layer_norm(&mut self, stem: &str, width: usize) {
        self.float(names::weight(stem), &[width]);
        self.float(names::bias(stem), &[width]);
    }

    fn vit(&mut self, visual: &VisualConfig) {
        let vit = &visual.vit;
        let width = vit.hidden_size;
        if vit.use_cls_token {
            self.float(tensor::CLASS_EMBEDDING.into(), &[width]);
        }
        self.push(
            tensor::PATCH_EMBEDDING.into(),
            &[width, 3, vit.patch_size, vit.patch_size],
            TensorKind::Matrix,
        );
        self.float(tensor::POSITION_EMBEDDING.into(), &[vit.n_tokens(), width]);
        self.layer_norm(tensor::PRE_LAYER_NORM, width);
        for i in 0..vit.n_layers {
            let stem = |part| names::vision_block(i, part);
            self.layer_norm(&stem("ln1"), width);
            self.matrix(&stem("attn_qkv"), 3 * width, width, true);
            self.matrix(&stem("attn_out"), width, width, true);
            self.layer_norm(&stem("ln2"), width);
            self.matrix(&stem("ffn_up"), vit.intermediate_size, width, true);
            self.matrix(&stem("ffn_down"), width, vit.intermediate_size, true);
        }
        if vit.use_post_layernorm {
            self.layer_norm(tensor::POST_LAYER_NORM, width);
        }
    }

    fn abstractor(&mut self, visual: &VisualConfig, decoder_width: usize) {
        let abstractor = &visual.abstractor;
        let width = visual.vit.hidden_size;
        let n_keys = abstractor.n_queries + visual.vit.n_tokens();
        self.float(
            tensor::QUERY_EMBEDDING.into(),
            &[abstractor.n_queries, width],
        );
        for j in 0..abstractor.n_layers {
            let stem = |part| names::abstractor_block(j, part);
            self.layer_norm(&stem("ln_q"), width);
            self.layer_norm(&stem("ln_kv"), width);
            // The first rows are the queries' own positions, the rest the picture's.
            self.float(names::weight(&stem("pos_embd")), &[n_keys, width]);
            self.matrix(&stem("attn_q"), width, width, true);
            self.matrix(&stem("attn_k"), width, width, true);
            self.matrix(&stem("attn_v"), width, width, true);
            self.matrix(&stem("attn_out"), width, width, true);
            self.layer_norm(&stem("ln_ffn"), width);
            self.matrix(&stem("ffn_gate"), abstractor.intermediate_size, width, true);
            self.matrix(&stem("ffn_up"), abstractor.intermediate_size, width, true);
            self.layer_norm(&stem("ffn_norm"), abstractor.intermediate_size);
            self.matrix(&stem("ffn_down"), width, abstractor.intermediate_size, true);
        }
        self.matrix(tensor::PROJECTION, decoder_width, width, true);
        self.float(tensor::END_OF_IMAGE.into(), &[decoder_width]);
    }

    fn decoder(&mut self, decoder: &DecoderConfig, has_image_branch: bool) {
        let width = decoder.hidden_size;
        self.part = Component::Embedding;
        self.push(
            tensor::TOKEN_EMBEDDING.into(),
            &[decoder.vocab_size, width],
            TensorKind::Matrix,
        );
        self.part = Component::Decoder;
        for i in 0..decoder.n_layers {
            let stem = |part: &str| names::block(i, part);
            let bias = decoder.attention_bias;
            // Each part that the image branch has for itself stands beside the text branch's.
            let branches = |part: &str| {
                let image = has_image_branch.then(|| names::image_branch(part));
                [Some(part.to_owned()), image].into_iter().flatten()
            };
            for part in branches("attn_norm") {
                self.float(names::weight(&stem(&part)), &[width]);
            }
            self.matrix(&stem("attn_q"), width, width, bias);
            for part in branches("attn_k").chain(branches("attn_v")) {
                self.matrix(&stem(&part), decoder.kv_dim(), width, bias);
            }
            self.matrix(&stem("attn_output"), width, width, bias);
            for part in branches("ffn_norm") {
                self.float(names::weight(&stem(&part)), &[width]);
            }
            self.matrix(&stem("ffn_gate"), decoder.intermediate_size, width, false);
            self.matrix(&stem("ffn_up"), decoder.intermediate_size, width, false);
            self.matrix(&stem("ffn_down"), width, decoder.intermediate_size, false);
        }
        self.float(tensor::OUTPUT_NORM.into(), &[width]);
        if !decoder.tie_word_embeddings {
            self.part = Component::Output;
            self.push(
                tensor::OUTPUT.into(),
                &[decoder.vocab_size, width],
                TensorKind::Matrix,
            );
        }
    }
}

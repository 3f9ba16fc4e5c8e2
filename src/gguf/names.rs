//! Metadata keys and tensor names, as llama.cpp spells them wherever it has a name for the thing.
//!
//! Keys that depend on the architecture are written here without its prefix; [`key`] adds it.

/// The architecture of our own files.
pub const ARCHITECTURE: &str = "mplug_owl2";
/// The architecture of plain LLaMA files, which are read too.
pub const LLAMA_ARCHITECTURE: &str = "llama";

/// The architecture of LLaMA files with rotated weights, which programs that know nothing of the
/// rotation must not take for the former.
pub const ROTATED_LLAMA_ARCHITECTURE: &str = "owl2_llama";

/// `ARCHITECTURE.NAME`: an architecture-dependent metadata key.
pub fn key(architecture: &str, name: &str) -> String {
    format!("{architecture}.{name}")
}

/// General metadata keys.
#[allow(missing_docs, reason = "the names are llama.cpp's")]
pub mod general {
    pub const ARCHITECTURE: &str = "general.architecture";
    pub const TYPE: &str = "general.type";
    pub const NAME: &str = "general.name";
    pub const FILE_TYPE: &str = "general.file_type";
    pub const QUANTIZATION_VERSION: &str = "general.quantization_version";
    pub const SAMPLING_TEMPERATURE: &str = "general.sampling.temp";
    pub const SAMPLING_TOP_K: &str = "general.sampling.top_k";
    pub const SAMPLING_TOP_P: &str = "general.sampling.top_p";
}

/// How the columns of quantized matrices are rotated, see [`Rotation`](crate::quant::Rotation).
pub mod rotation {
    /// Columns of a block; absent where nothing is rotated.
    pub const BLOCK_LENGTH: &str = "owl2.rotation.block_length";
    /// 1 or -1 for each column of a block.
    pub const SIGNS: &str = "owl2.rotation.signs";
    /// Names of quantized tensors whose columns are as they were; absent where there are none.
    pub const EXCEPT: &str = "owl2.rotation.except";
}

/// Architecture-dependent keys of the decoder (to be prefixed with [`key`]).
#[allow(missing_docs, reason = "the names are llama.cpp's")]
pub mod decoder {
    pub const CONTEXT_LENGTH: &str = "context_length";
    pub const EMBEDDING_LENGTH: &str = "embedding_length";
    pub const FEED_FORWARD_LENGTH: &str = "feed_forward_length";
    pub const BLOCK_COUNT: &str = "block_count";
    pub const HEAD_COUNT: &str = "attention.head_count";
    pub const HEAD_COUNT_KV: &str = "attention.head_count_kv";
    pub const RMS_NORM_EPS: &str = "attention.layer_norm_rms_epsilon";
    pub const ATTENTION_BIAS: &str = "attention.bias";
    pub const ROPE_DIMENSION_COUNT: &str = "rope.dimension_count";
    pub const ROPE_FREQ_BASE: &str = "rope.freq_base";
    pub const ROPE_SCALING_TYPE: &str = "rope.scaling.type";
    pub const ROPE_SCALING_FACTOR: &str = "rope.scaling.factor";
    pub const VOCAB_SIZE: &str = "vocab_size";
    pub const EXPERT_COUNT: &str = "expert_count";
}

/// Keys of the image branch, which only [`ARCHITECTURE`] files have (to be prefixed with [`key`]).
#[allow(missing_docs, reason = "the names say it all")]
pub mod visual {
    pub const IMAGE_SIZE: &str = "vision.image_size";
    pub const PATCH_SIZE: &str = "vision.patch_size";
    pub const EMBEDDING_LENGTH: &str = "vision.embedding_length";
    pub const FEED_FORWARD_LENGTH: &str = "vision.feed_forward_length";
    pub const BLOCK_COUNT: &str = "vision.block_count";
    pub const HEAD_COUNT: &str = "vision.attention.head_count";
    pub const LAYER_NORM_EPS: &str = "vision.attention.layer_norm_epsilon";
    pub const HIDDEN_ACT: &str = "vision.hidden_act";
    pub const CLASS_TOKEN: &str = "vision.class_token";
    pub const POST_LAYER_NORM: &str = "vision.post_layer_norm";

    pub const ABSTRACTOR_FEED_FORWARD_LENGTH: &str = "abstractor.feed_forward_length";
    pub const ABSTRACTOR_BLOCK_COUNT: &str = "abstractor.block_count";
    pub const ABSTRACTOR_HEAD_COUNT: &str = "abstractor.attention.head_count";
    pub const ABSTRACTOR_QUERY_COUNT: &str = "abstractor.query_count";
    pub const ABSTRACTOR_FFN_NORM_EPS: &str = "abstractor.ffn_norm_epsilon";

    pub const ASPECT: &str = "image.aspect";
    pub const RESIZE: &str = "image.resize";
    pub const SHORTEST_EDGE: &str = "image.shortest_edge";
    pub const CENTER_CROP: &str = "image.center_crop";
    pub const CROP_HEIGHT: &str = "image.crop_height";
    pub const CROP_WIDTH: &str = "image.crop_width";
    pub const RESCALE: &str = "image.rescale";
    pub const RESCALE_FACTOR: &str = "image.rescale_factor";
    pub const NORMALIZE: &str = "image.normalize";
    pub const MEAN: &str = "image.mean";
    pub const STD: &str = "image.std";

    pub const PROMPT_TEMPLATE: &str = "prompt.template";
}

/// The rule by which the model's logits are scores, see [`Rule`](crate::score::Rule); absent where
/// it was not trained to rate (to be prefixed with [`key`]).
pub const SCORE_RULE: &str = "score.rule";

/// Keys of the tokenizer.
#[allow(missing_docs, reason = "the names are llama.cpp's")]
pub mod tokenizer {
    pub const MODEL: &str = "tokenizer.ggml.model";
    /// The value of [`MODEL`] for SentencePiece BPE.
    pub const MODEL_LLAMA: &str = "llama";
    pub const TOKENS: &str = "tokenizer.ggml.tokens";
    pub const SCORES: &str = "tokenizer.ggml.scores";
    pub const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
    pub const BOS_ID: &str = "tokenizer.ggml.bos_token_id";
    pub const EOS_ID: &str = "tokenizer.ggml.eos_token_id";
    pub const UNK_ID: &str = "tokenizer.ggml.unknown_token_id";
    pub const PAD_ID: &str = "tokenizer.ggml.padding_token_id";
    pub const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
    pub const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
    /// Ours: transformers' `legacy` flag.
    pub const LEGACY: &str = "tokenizer.ggml.legacy";
    /// Ours: ids of the tokens that were added to the vocabulary after its training.
    pub const ADDED_IDS: &str = "owl2.tokenizer.added_ids";
    /// Ours: those of them before which white space is dropped.
    pub const LEFT_STRIPPING_IDS: &str = "owl2.tokenizer.left_stripping_ids";
    /// Ours: those of them after which white space is dropped.
    pub const RIGHT_STRIPPING_IDS: &str = "owl2.tokenizer.right_stripping_ids";
}

/// `WEIGHT` of a tensor with the stem `stem`.
pub fn weight(stem: &str) -> String {
    format!("{stem}.weight")
}

/// `BIAS` of a tensor with the stem `stem`.
pub fn bias(stem: &str) -> String {
    format!("{stem}.bias")
}

/// Stem of a decoder tensor of layer `layer`.
pub fn block(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}")
}

/// The image branch's counterpart of the decoder tensor `part`: its own K, V and norms.
pub fn image_branch(part: &str) -> String {
    format!("{part}_image")
}

/// Whether the decoder tensor `name` is such a counterpart, which text never reads.
pub fn is_image_branch(name: &str) -> bool {
    name.contains("_image.")
}

/// Stem of a ViT tensor of layer `layer`.
pub fn vision_block(layer: usize, part: &str) -> String {
    format!("v.blk.{layer}.{part}")
}

/// Stem of an abstractor tensor of layer `layer`.
pub fn abstractor_block(layer: usize, part: &str) -> String {
    format!("mm.blk.{layer}.{part}")
}

/// Stems and names of single tensors.
#[allow(missing_docs, reason = "the names are llama.cpp's")]
pub mod tensor {
    pub const TOKEN_EMBEDDING: &str = "token_embd.weight";
    pub const OUTPUT_NORM: &str = "output_norm.weight";
    pub const OUTPUT: &str = "output.weight";
    /// Factors that some LLaMA files carry for longer contexts.
    pub const ROPE_FACTORS: &str = "rope_freqs.weight";

    pub const CLASS_EMBEDDING: &str = "v.class_embd";
    pub const PATCH_EMBEDDING: &str = "v.patch_embd.weight";
    pub const POSITION_EMBEDDING: &str = "v.position_embd.weight";
    pub const PRE_LAYER_NORM: &str = "v.pre_ln";
    pub const POST_LAYER_NORM: &str = "v.post_ln";

    /// The abstractor's learned queries.
    pub const QUERY_EMBEDDING: &str = "mm.query_embd.weight";
    /// The projection to the decoder's width (`visual_fc`).
    pub const PROJECTION: &str = "mm.model.fc";
    /// The learned vector after each picture's queries (`vit_eos`).
    pub const END_OF_IMAGE: &str = "v.eoi";
}

//! The LLaMA-2 decoder, with K, V and norms chosen by each position's modality.

use crate::gguf::DType;
use crate::gguf::names::{self, tensor};
use crate::model::adaptive::{PerModality, Run, rows_of, rows_of_mut};
use crate::model::config::{DecoderConfig, RopeScalingKind};
use crate::model::observer::{ForwardStage, Observer};
use crate::model::pass::{BatchRows, Pass, Span};
use crate::model::sequence::SequencePart;
use crate::model::weights::Binder;
use crate::ops::activation::silu_gate;
use crate::ops::attention::{Attention, Heads};
use crate::ops::linear::{InputBuffer, Linear, Matrix};
use crate::ops::norm::RmsNorm;
use crate::ops::rope::Rotations;
use crate::ops::{Compute, RowRole, gather};
use std::ops::Range;

/// The decoder's weights.
#[derive(Debug)]
pub(crate) struct Decoder {
    config: DecoderConfig,
    embedding: Matrix,
    blocks: Vec<Block>,
    norm: RmsNorm,
    output: Linear,
}

#[derive(Debug)]
struct Block {
    attention_norm: PerModality<RmsNorm>,
    query: Linear,
    key: PerModality<Linear>,
    value: PerModality<Linear>,
    attention_out: Linear,
    mlp_norm: PerModality<RmsNorm>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// Buffers for batches of up to a given number of positions, reused from pass to pass.
#[derive(Debug)]
pub(crate) struct DecoderScratch {
    /// `[n, hidden_size]`: the residual stream.
    pub x: Vec<f32>,
    /// `[n, hidden_size]`: a normed input, then a block's contribution.
    normed: Vec<f32>,
    /// `[n, hidden_size]`.
    queries: Vec<f32>,
    /// `[n, kv_dim]`.
    keys: Vec<f32>,
    /// `[n, kv_dim]`.
    values: Vec<f32>,
    /// `[n, hidden_size]`.
    attended: Vec<f32>,
    /// `[n, intermediate_size]`.
    gate: Vec<f32>,
    /// `[n, intermediate_size]`.
    up: Vec<f32>,
    /// The input of a projection, quantized.
    input: InputBuffer,
    rotations: Rotations,
}

impl DecoderScratch {
    /// Buffers for `n` positions.
    pub fn new(decoder: &Decoder, n: usize) -> Self {
        let config = &decoder.config;
        let matrix = |width: usize| vec![0.0; n * width];
        DecoderScratch {
            x: matrix(config.hidden_size),
            normed: matrix(config.hidden_size),
            queries: matrix(config.hidden_size),
            keys: matrix(config.kv_dim()),
            values: matrix(config.kv_dim()),
            attended: matrix(config.hidden_size),
            gate: matrix(config.intermediate_size),
            up: matrix(config.intermediate_size),
            input: InputBuffer::with_capacity(n, Self::widest_input(config)),
            rotations: Rotations::with_capacity(n, config.head_dim()),
        }
    }

    /// Bytes that buffers for `n` positions take.
    pub fn bytes(config: &DecoderConfig, n: usize) -> u64 {
        let per_position = 4 * config.hidden_size
            + 2 * config.kv_dim()
            + 2 * config.intermediate_size
            + config.head_dim();
        let input = InputBuffer::len_for(n, Self::widest_input(config));
        (n as u64 * per_position as u64 + input as u64) * size_of::<f32>() as u64
    }

    fn widest_input(config: &DecoderConfig) -> usize {
        config.hidden_size.max(config.intermediate_size)
    }
}

impl Decoder {
    pub(super) fn bind(binder: &Binder, config: &DecoderConfig, has_image_branch: bool) -> Self {
        let block = |i: usize| {
            let stem = |part: &str| names::block(i, part);
            let image_stem = |part: &str| stem(&names::image_branch(part));
            let norm = |part: &str| PerModality {
                text: binder.rms_norm(&stem(part), config.rms_norm_eps),
                image: has_image_branch
                    .then(|| binder.rms_norm(&image_stem(part), config.rms_norm_eps)),
            };
            let linear = |part: &str| PerModality {
                text: binder.linear(&stem(part)),
                image: has_image_branch.then(|| binder.linear(&image_stem(part))),
            };
            Block {
                attention_norm: norm("attn_norm"),
                query: binder.linear(&stem("attn_q")),
                key: linear("attn_k"),
                value: linear("attn_v"),
                attention_out: binder.linear(&stem("attn_output")),
                mlp_norm: norm("ffn_norm"),
                gate: binder.linear(&stem("ffn_gate")),
                up: binder.linear(&stem("ffn_up")),
                down: binder.linear(&stem("ffn_down")),
            }
        };
        let embedding = binder.matrix(tensor::TOKEN_EMBEDDING);
        let output = if config.tie_word_embeddings {
            embedding.clone()
        } else {
            binder.matrix(tensor::OUTPUT)
        };
        Decoder {
            config: config.clone(),
            embedding,
            blocks: (0..config.n_layers).map(block).collect(),
            norm: RmsNorm {
                weight: binder.floats(tensor::OUTPUT_NORM),
                eps: config.rms_norm_eps,
            },
            output: Linear {
                weight: output,
                bias: None,
            },
        }
    }

    /// Whether the weights are stored in full precision.
    pub fn is_exact(&self) -> bool {
        self.output.weight.dtype() == DType::F32
    }

    /// Writes the embedding of token `id`, which must be below `vocab_size`, to `out`.
    pub fn embed(&self, id: u32, out: &mut [f32]) {
        self.embedding.row(id as usize, out);
    }

    /// Passes the rows of `pass`, which `scratch.x` begins with, through all blocks, and stores their
    /// keys and values behind those that the sequence of each part has. `scratch.x` begins with the
    /// rows that are wanted then, and has no others. An observer sees all, so for it all stay.
    pub fn forward<O: Observer>(
        &self,
        compute: &Compute,
        role: RowRole,
        pass: &Pass,
        parts: &mut [SequencePart],
        scratch: &mut DecoderScratch,
        observer: &mut O,
    ) {
        let n_values = pass.n() * self.config.hidden_size;
        scratch.rotations.clear();
        for (span, &longest) in pass.all.spans.iter().zip(&pass.longest) {
            let (theta, divisor) = self.rope(longest);
            let n = span.rows.len();
            scratch
                .rotations
                .push(span.first_position, n, theta, divisor);
        }
        observer.observe(ForwardStage::Embeddings, &scratch.x[..n_values]);
        for (i, block) in self.blocks.iter().enumerate() {
            let is_last = i + 1 == self.blocks.len();
            let layer = Layer {
                index: i,
                role,
                pass,
                only_wanted: is_last && !O::ACTIVE && pass.n_wanted() < pass.n(),
            };
            block.forward(compute, &self.config, layer, parts, scratch);
            observer.observe(ForwardStage::DecoderLayer(i), &scratch.x[..n_values]);
        }
        for (part, span) in parts.iter_mut().zip(&pass.all.spans) {
            part.sequence.cache.advance(span.rows.len());
        }
    }

    /// Logits of the tokens after `rows` of those that are wanted of a pass that [`Decoder::forward`]
    /// has computed, to `logits: [rows, vocab_size]`. They are computed as an answer's whatever the
    /// rows are, since after a prompt one row is wanted, and it should not matter how many are.
    pub fn logits<O: Observer>(
        &self,
        compute: &Compute,
        pass: &Pass,
        rows: Range<usize>,
        scratch: &mut DecoderScratch,
        logits: &mut [f32],
        observer: &mut O,
    ) {
        let width = self.config.hidden_size;
        let normed_rows = if O::ACTIVE { 0..pass.n() } else { rows.clone() };
        let normed = &mut scratch.normed[..normed_rows.len() * width];
        self.norm
            .forward(compute, rows_of(&scratch.x, &normed_rows, width), normed);
        observer.observe(ForwardStage::FinalNorm, normed);
        if O::ACTIVE {
            gather(normed, width, &pass.indices[rows.clone()]);
        }
        let wanted = &normed[..rows.len() * width];
        let wanted = scratch
            .input
            .prepare(compute, RowRole::Answer, wanted, &self.output);
        self.output.forward(compute, wanted, logits);
    }

    /// Applies the output head to `normed: [hidden_size]`.
    pub fn head(&self, compute: &Compute, normed: &[f32], logits: &mut [f32]) {
        let mut buffer = InputBuffer::default();
        let input = buffer.prepare(compute, RowRole::Answer, normed, &self.output);
        self.output.forward(compute, input, logits);
    }

    /// Rotary base and position divisor (transformers 4.31, `LlamaRotaryEmbedding` and its two
    /// scaled forms).
    fn rope(&self, longest: usize) -> (f32, f32) {
        let config = &self.config;
        let Some(scaling) = config.rope_scaling else {
            return (config.rope_theta, 1.0);
        };
        match scaling.kind {
            RopeScalingKind::Linear => (config.rope_theta, scaling.factor),
            RopeScalingKind::Dynamic if longest <= config.max_position_embeddings => {
                (config.rope_theta, 1.0)
            }
            RopeScalingKind::Dynamic => {
                let head_dim = config.head_dim() as f32;
                let stretch = longest as f32 / config.max_position_embeddings as f32;
                let growth = scaling.factor * stretch - (scaling.factor - 1.0);
                (
                    config.rope_theta * growth.powf(head_dim / (head_dim - 2.0)),
                    1.0,
                )
            }
        }
    }
}

/// Where a block stands, and what it is to compute.
#[derive(Clone, Copy)]
struct Layer<'a> {
    index: usize,
    role: RowRole,
    pass: &'a Pass,
    /// Whether rows that are not wanted get keys and values alone.
    only_wanted: bool,
}

impl Block {
    /// `x += out(attend(rope(q), rope(k), v))` of the normed input, then
    /// `x += down(silu(gate(u)) * up(u))` of the normed result. Norms, K and V by modality; positions,
    /// cache and attention by part.
    fn forward(
        &self,
        compute: &Compute,
        config: &DecoderConfig,
        layer: Layer,
        parts: &mut [SequencePart],
        scratch: &mut DecoderScratch,
    ) {
        let Layer { role, pass, .. } = layer;
        let n = pass.n();
        let (width, kv_dim) = (config.hidden_size, config.kv_dim());
        let x = &mut scratch.x[..n * width];
        let normed = &mut scratch.normed[..n * width];
        let keys = &mut scratch.keys[..n * kv_dim];
        let values = &mut scratch.values[..n * kv_dim];
        let queries = &mut scratch.queries[..n * width];

        normalize(compute, &self.attention_norm, &pass.all.runs, x, normed);
        let input = scratch.input.prepare(compute, role, normed, &self.query);
        for (i, Run { modality, rows }) in pass.all.runs.iter().enumerate() {
            let key = self.key.of(*modality);
            let key = key.of(rows.clone(), rows_of_mut(keys, rows, kv_dim));
            let value = self.value.of(*modality);
            let value = value.of(rows.clone(), rows_of_mut(values, rows, kv_dim));
            if i == 0 && !layer.only_wanted {
                compute.project(input, [self.query.of(0..n, queries), key, value]);
            } else {
                compute.project(input, [key, value]);
            }
        }
        scratch.rotations.apply(compute, keys, kv_dim);
        for (part, span) in parts.iter_mut().zip(&pass.all.spans) {
            let (keys, values) = (
                rows_of(keys, &span.rows, kv_dim),
                rows_of(values, &span.rows, kv_dim),
            );
            let cache = part.sequence.cache.layer_mut(layer.index);
            cache.store(span.first_position, keys, values);
        }

        let rows = match layer.only_wanted {
            true => &pass.wanted,
            false => &pass.all,
        };
        let n = rows.n();
        if n == 0 {
            return;
        }
        let queries = &mut queries[..n * width];
        if layer.only_wanted {
            gather(x, width, &pass.indices);
            gather(normed, width, &pass.indices);
            scratch.rotations.gather(&pass.indices);
            let normed = &normed[..n * width];
            let input = scratch.input.prepare(compute, role, normed, &self.query);
            self.query.forward(compute, input, queries);
        }
        let x = &mut x[..n * width];
        let normed = &mut normed[..n * width];
        let attended = &mut scratch.attended[..n * width];
        let gate = &mut scratch.gate[..n * config.intermediate_size];
        let up = &mut scratch.up[..n * config.intermediate_size];
        scratch.rotations.apply(compute, queries, width);
        self.attend(compute, config, layer, rows, parts, queries, attended);
        let input = scratch
            .input
            .prepare(compute, role, attended, &self.attention_out);
        self.attention_out.add_to(compute, input, x);

        normalize(compute, &self.mlp_norm, &rows.runs, x, normed);
        let input = scratch.input.prepare(compute, role, normed, &self.gate);
        compute.project(input, [self.gate.of(0..n, gate), self.up.of(0..n, up)]);
        silu_gate(compute, gate, up, config.intermediate_size);
        let input = scratch.input.prepare(compute, role, gate, &self.down);
        self.down.add_to(compute, input, x);
    }

    /// Each part's `queries` see the positions of its own sequence up to theirs.
    #[allow(clippy::too_many_arguments, reason = "each is used as it is")]
    fn attend(
        &self,
        compute: &Compute,
        config: &DecoderConfig,
        layer: Layer,
        rows: &BatchRows,
        parts: &[SequencePart],
        queries: &[f32],
        attended: &mut [f32],
    ) {
        let (width, head_dim) = (config.hidden_size, config.head_dim());
        let part = |index: usize| {
            let Span {
                rows,
                first_position,
            } = &rows.spans[index];
            let cache = parts[index].sequence.cache.layer(layer.index);
            let attention = Attention {
                n_heads: config.n_heads,
                n_kv_heads: config.n_kv_heads,
                head_dim,
                queries: Heads::in_columns(rows_of(queries, rows, width), width, 0, head_dim),
                keys: cache.keys(),
                values: cache.values(),
                n_keys: first_position + rows.len(),
                causal_start: Some(*first_position),
                role: layer.role,
                // Files that are not rotated are computed as precisely as their format allows.
                in_integers: self.query.weight.is_rotated(),
            };
            (rows.clone(), attention)
        };
        Attention::forward_each(compute, parts.len(), part, attended);
    }
}

/// Normalises each run of `x` into `out` with its modality's norm.
fn normalize(
    compute: &Compute,
    norm: &PerModality<RmsNorm>,
    runs: &[Run],
    x: &[f32],
    out: &mut [f32],
) {
    let width = norm.text.weight.len();
    for Run { modality, rows } in runs {
        norm.of(*modality).forward(
            compute,
            rows_of(x, rows, width),
            rows_of_mut(out, rows, width),
        );
    }
}

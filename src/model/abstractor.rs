//! The visual abstractor: learned queries that gather a picture's tokens into a few rows.

use crate::gguf::names::{self, tensor};
use crate::model::observer::{ForwardStage, Observer};
use crate::model::visual_config::{ABSTRACTOR_NORM_EPS, AbstractorConfig, VisualConfig};
use crate::model::weights::Binder;
use crate::ops::activation::silu_gate;
use crate::ops::attention::{Attention, Heads};
use crate::ops::linear::{InputBuffer, Linear};
use crate::ops::norm::LayerNorm;
use crate::ops::{Compute, Floats, RowRole};

/// Cross-attention blocks over the queries and the picture's tokens, and the projection to the
/// decoder's width.
#[derive(Debug)]
pub(super) struct Abstractor {
    config: AbstractorConfig,
    /// Width of queries and picture tokens.
    width: usize,
    query_embedding: Floats,
    blocks: Vec<Block>,
    projection: Linear,
    end_of_image: Floats,
}

#[derive(Debug)]
struct Block {
    query_norm: LayerNorm,
    picture_norm: LayerNorm,
    /// `[n_queries + n_tokens, width]`, added to the inputs of queries and keys, not of values.
    positions: Floats,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_out: Linear,
    mlp_norm: LayerNorm,
    gate: Linear,
    up: Linear,
    gated_norm: LayerNorm,
    down: Linear,
}

/// Buffers of one pass; `q` queries, `n` keys (the queries, then the picture's tokens).
struct AbstractorScratch {
    /// `[n, width]`: normed queries and picture tokens; the queries' part is also the residual.
    inputs: Vec<f32>,
    /// `[n, width]`: the same with positions added.
    placed: Vec<f32>,
    /// `[q, width]`.
    queries: Vec<f32>,
    /// `[n, width]`.
    keys: Vec<f32>,
    /// `[n, width]`.
    values: Vec<f32>,
    /// `[q, width]`.
    attended: Vec<f32>,
    /// `[q, intermediate_size]`.
    gate: Vec<f32>,
    /// `[q, intermediate_size]`.
    up: Vec<f32>,
    /// The input of a projection, quantized.
    input: InputBuffer,
}

impl Abstractor {
    pub fn bind(binder: &Binder, visual: &VisualConfig) -> Self {
        let config = &visual.abstractor;
        let block = |j: usize| {
            let stem = |part| names::abstractor_block(j, part);
            let norm = |part| binder.layer_norm(&stem(part), ABSTRACTOR_NORM_EPS);
            Block {
                query_norm: norm("ln_q"),
                picture_norm: norm("ln_kv"),
                positions: binder.floats(&names::weight(&stem("pos_embd"))),
                query: binder.linear(&stem("attn_q")),
                key: binder.linear(&stem("attn_k")),
                value: binder.linear(&stem("attn_v")),
                attention_out: binder.linear(&stem("attn_out")),
                mlp_norm: norm("ln_ffn"),
                gate: binder.linear(&stem("ffn_gate")),
                up: binder.linear(&stem("ffn_up")),
                gated_norm: binder.layer_norm(&stem("ffn_norm"), config.layer_norm_eps),
                down: binder.linear(&stem("ffn_down")),
            }
        };
        Abstractor {
            config: config.clone(),
            width: visual.vit.hidden_size,
            query_embedding: binder.floats(tensor::QUERY_EMBEDDING),
            blocks: (0..config.n_layers).map(block).collect(),
            projection: binder.linear(tensor::PROJECTION),
            end_of_image: binder.floats(tensor::END_OF_IMAGE),
        }
    }

    /// Bytes that [`Abstractor::forward`] allocates, and those of the picture that it gathers.
    pub fn bytes(visual: &VisualConfig, decoder_width: usize) -> u64 {
        let config = &visual.abstractor;
        let (n_queries, n_tokens) = (config.n_queries as u64, visual.vit.n_tokens() as u64);
        let n_keys = config.n_queries + visual.vit.n_tokens();
        let (width, hidden) = (visual.vit.hidden_size, config.intermediate_size);
        // inputs, placed, keys and values; x, queries and attended, gate and up; the result.
        let floats = n_keys as u64 * 4 * width as u64
            + n_queries * (3 * width + 2 * hidden) as u64
            + (n_queries + 1) * decoder_width as u64
            + n_tokens * width as u64;
        let input = InputBuffer::len_for(n_keys, width.max(hidden));
        let floats = floats.saturating_add(input as u64);
        floats.saturating_mul(size_of::<f32>() as u64)
    }

    /// Gathers `picture: [n_tokens, width]` into `[n_queries + 1, decoder width]`, the last row
    /// being the end-of-image vector.
    pub fn forward<O: Observer>(
        &self,
        compute: &Compute,
        picture: &[f32],
        observer: &mut O,
    ) -> Vec<f32> {
        let (n_queries, width) = (self.config.n_queries, self.width);
        let n_keys = n_queries + picture.len() / width;
        let hidden_len = n_queries * self.config.intermediate_size;
        let mut scratch = AbstractorScratch {
            inputs: vec![0.0; n_keys * width],
            placed: vec![0.0; n_keys * width],
            queries: vec![0.0; n_queries * width],
            keys: vec![0.0; n_keys * width],
            values: vec![0.0; n_keys * width],
            attended: vec![0.0; n_queries * width],
            gate: vec![0.0; hidden_len],
            up: vec![0.0; hidden_len],
            input: InputBuffer::default(),
        };
        let mut x = self.query_embedding.to_vec();
        for (j, block) in self.blocks.iter().enumerate() {
            block.forward(compute, &self.config, &mut x, picture, &mut scratch);
            observer.observe(ForwardStage::AbstractorLayer(j), &x);
        }

        let decoder_width = self.end_of_image.len();
        let mut out = vec![0.0; (n_queries + 1) * decoder_width];
        let (projected, end) = out.split_at_mut(n_queries * decoder_width);
        let x = scratch
            .input
            .prepare(compute, RowRole::Prompt, &x, &self.projection);
        self.projection.forward(compute, x, projected);
        end.copy_from_slice(&self.end_of_image);
        observer.observe(ForwardStage::AbstractorOutput, &out);
        out
    }
}

impl Block {
    /// With `n = norm(x)`: `y = n + out(attend(n, [n; norm(picture)]))`, then
    /// `x = y + down(norm(silu(gate(z)) * up(z)))` where `z = norm(y)`.
    fn forward(
        &self,
        compute: &Compute,
        config: &AbstractorConfig,
        x: &mut [f32],
        picture: &[f32],
        scratch: &mut AbstractorScratch,
    ) {
        let width = x.len() / config.n_queries;
        let head_dim = width / config.n_heads;
        let n_keys = config.n_queries + picture.len() / width;
        let AbstractorScratch {
            inputs,
            placed,
            queries,
            keys,
            values,
            attended,
            gate,
            up,
            input,
        } = scratch;

        let (normed, normed_picture) = inputs.split_at_mut(x.len());
        self.query_norm.forward(compute, x, normed);
        self.picture_norm.forward(compute, picture, normed_picture);
        placed.copy_from_slice(inputs);
        compute.add(placed, &self.positions, width);

        let placed = input.prepare(compute, RowRole::Prompt, placed, &self.query);
        let query = self.query.of(0..config.n_queries, queries);
        compute.project(placed, [query, self.key.of(0..n_keys, keys)]);
        let plain = input.prepare(compute, RowRole::Prompt, inputs, &self.value);
        self.value.forward(compute, plain, values);
        let columns = |data| Heads::in_columns(data, width, 0, head_dim);
        let attention = Attention {
            n_heads: config.n_heads,
            n_kv_heads: config.n_heads,
            head_dim,
            queries: columns(queries),
            keys: columns(keys).into(),
            values: columns(values).into(),
            n_keys,
            causal_start: None,
            role: RowRole::Prompt,
            in_integers: false,
        };
        attention.forward(compute, attended);
        // The reference adds to the normed input here, not to the input itself.
        x.copy_from_slice(&inputs[..attended.len()]);
        let attended_input = input.prepare(compute, RowRole::Prompt, attended, &self.attention_out);
        self.attention_out.add_to(compute, attended_input, x);

        let normed = attended;
        self.mlp_norm.forward(compute, x, normed);
        let normed = input.prepare(compute, RowRole::Prompt, normed, &self.gate);
        let whole = 0..config.n_queries;
        compute.project(
            normed,
            [self.gate.of(whole.clone(), gate), self.up.of(whole, up)],
        );
        silu_gate(compute, gate, up, config.intermediate_size);
        self.gated_norm.forward_in_place(compute, gate);
        let gate = input.prepare(compute, RowRole::Prompt, gate, &self.down);
        self.down.add_to(compute, gate, x);
    }
}

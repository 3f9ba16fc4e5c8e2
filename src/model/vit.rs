//! The vision transformer: a picture's pixels to one row a patch (and the class token's).

use crate::gguf::names::{self, tensor};
use crate::model::observer::{ForwardStage, Observer};
use crate::model::visual_config::VitConfig;
use crate::model::weights::Binder;
use crate::ops::attention::{Attention, Heads};
use crate::ops::linear::{InputBuffer, Linear, Matrix};
use crate::ops::norm::LayerNorm;
use crate::ops::patches::patches;
use crate::ops::{Compute, Floats, RowRole};

/// A pre-norm ViT (CLIP ViT-L/14 in the released model).
#[derive(Debug)]
pub(super) struct Vit {
    config: VitConfig,
    class_embedding: Option<Floats>,
    patch_embedding: Linear,
    position_embedding: Floats,
    pre_norm: LayerNorm,
    blocks: Vec<Block>,
    post_norm: Option<LayerNorm>,
}

#[derive(Debug)]
struct Block {
    attention_norm: LayerNorm,
    qkv: Linear,
    attention_out: Linear,
    mlp_norm: LayerNorm,
    mlp_up: Linear,
    mlp_down: Linear,
}

/// A picture on its way through the blocks.
#[derive(Debug)]
pub(super) struct VitPass {
    /// `[n, width]`.
    x: Vec<f32>,
    scratch: VitScratch,
    n_blocks_done: usize,
}

/// Buffers of one pass, `n` tokens each.
#[derive(Debug)]
struct VitScratch {
    /// `[n, width]`: a normed input, then a block's contribution.
    normed: Vec<f32>,
    /// `[n, 3 * width]`, rows [`padded_stride`] apart.
    qkv: Vec<f32>,
    /// `[n, width]`.
    attended: Vec<f32>,
    /// `[n, intermediate_size]`, rows [`padded_stride`] apart.
    hidden: Vec<f32>,
    /// The input of a projection, quantized.
    input: InputBuffer,
}

/// How far rows of so many floats should be apart. At a distance of whole pages, which the usual
/// widths are, what a product writes of neighbouring tokens would compete for the same few lines of
/// the caches.
fn padded_stride(width: usize) -> usize {
    const CACHE_LINE_FLOATS: usize = 16;
    width + CACHE_LINE_FLOATS
}

impl Vit {
    pub fn bind(binder: &Binder, config: &VitConfig) -> Self {
        let norm = |stem: &str| binder.layer_norm(stem, config.layer_norm_eps);
        let block = |i: usize| {
            let stem = |part| names::vision_block(i, part);
            Block {
                attention_norm: norm(&stem("ln1")),
                qkv: binder.linear(&stem("attn_qkv")),
                attention_out: binder.linear(&stem("attn_out")),
                mlp_norm: norm(&stem("ln2")),
                mlp_up: binder.linear(&stem("ffn_up")),
                mlp_down: binder.linear(&stem("ffn_down")),
            }
        };
        let patch_embedding: Matrix = binder.matrix(tensor::PATCH_EMBEDDING);
        Vit {
            config: config.clone(),
            class_embedding: config
                .use_cls_token
                .then(|| binder.floats(tensor::CLASS_EMBEDDING)),
            patch_embedding: Linear {
                weight: patch_embedding,
                bias: None,
            },
            position_embedding: binder.floats(tensor::POSITION_EMBEDDING),
            pre_norm: norm(tensor::PRE_LAYER_NORM),
            blocks: (0..config.n_layers).map(block).collect(),
            post_norm: config
                .use_post_layernorm
                .then(|| norm(tensor::POST_LAYER_NORM)),
        }
    }

    /// Bytes that [`Vit::forward`] allocates.
    pub fn bytes(config: &VitConfig) -> u64 {
        let (n, width, hidden) = (
            config.n_tokens(),
            config.hidden_size,
            config.intermediate_size,
        );
        // x, normed and attended; qkv and hidden; the columns of all patches.
        let row = 3 * width + padded_stride(3 * width) + padded_stride(hidden);
        let columns = config.n_patches() as u64 * config.patch_len() as u64;
        let inputs = [
            InputBuffer::len_for(n, width.max(hidden)),
            InputBuffer::len_for(config.n_patches(), config.patch_len()),
        ];
        let floats = (n as u64).saturating_mul(row as u64);
        let floats = floats.saturating_add(columns);
        let add = |floats: u64, input| floats.saturating_add(input as u64);
        let floats = inputs.into_iter().fold(floats, add);
        floats.saturating_mul(size_of::<f32>() as u64)
    }

    /// Encodes `pixels: [3, image_size, image_size]` to `[n_tokens, width]`.
    pub fn forward<O: Observer>(
        &self,
        compute: &Compute,
        pixels: &[f32],
        observer: &mut O,
    ) -> Vec<f32> {
        let mut pass = self.begin(compute, pixels, observer);
        self.advance(compute, &mut pass, self.blocks.len(), observer);
        self.finish(compute, pass, observer)
    }

    /// What comes before the first block.
    pub fn begin<O: Observer>(
        &self,
        compute: &Compute,
        pixels: &[f32],
        observer: &mut O,
    ) -> VitPass {
        let (n, width) = (self.config.n_tokens(), self.config.hidden_size);
        VitPass {
            scratch: VitScratch {
                normed: vec![0.0; n * width],
                qkv: vec![0.0; n * padded_stride(3 * width)],
                attended: vec![0.0; n * width],
                hidden: vec![0.0; n * padded_stride(self.config.intermediate_size)],
                input: InputBuffer::default(),
            },
            x: self.embed(compute, pixels, observer),
            n_blocks_done: 0,
        }
    }

    /// Up to `n_blocks` more blocks; gives how many are left.
    pub fn advance<O: Observer>(
        &self,
        compute: &Compute,
        pass: &mut VitPass,
        n_blocks: usize,
        observer: &mut O,
    ) -> usize {
        let first = pass.n_blocks_done;
        let end = self.blocks.len().min(first.saturating_add(n_blocks));
        for (i, block) in (first..).zip(&self.blocks[first..end]) {
            block.forward(compute, &self.config, &mut pass.x, &mut pass.scratch);
            observer.observe(ForwardStage::VitLayer(i), &pass.x);
        }
        pass.n_blocks_done = end;
        self.blocks.len() - end
    }

    /// What comes after the last block: `[n_tokens, width]`.
    pub fn finish<O: Observer>(
        &self,
        compute: &Compute,
        pass: VitPass,
        observer: &mut O,
    ) -> Vec<f32> {
        let mut x = pass.x;
        if let Some(norm) = &self.post_norm {
            norm.forward_in_place(compute, &mut x);
        }
        observer.observe(ForwardStage::VitOutput, &x);
        x
    }

    /// Patches, class token, positions and the first norm.
    fn embed<O: Observer>(&self, compute: &Compute, pixels: &[f32], observer: &mut O) -> Vec<f32> {
        let config = &self.config;
        let width = config.hidden_size;
        let mut columns = vec![0.0; config.n_patches() * config.patch_len()];
        patches(pixels, config.image_size, config.patch_size, &mut columns);

        let mut x = vec![0.0; config.n_tokens() * width];
        let (class_token, patch_tokens) =
            x.split_at_mut((config.n_tokens() - config.n_patches()) * width);
        if let Some(class_embedding) = &self.class_embedding {
            class_token.copy_from_slice(class_embedding);
        }
        let mut buffer = InputBuffer::default();
        let columns = buffer.prepare(compute, RowRole::Prompt, &columns, &self.patch_embedding);
        self.patch_embedding.forward(compute, columns, patch_tokens);
        observer.observe(ForwardStage::PatchEmbeddings, patch_tokens);

        compute.add(&mut x, &self.position_embedding, width);
        self.pre_norm.forward_in_place(compute, &mut x);
        observer.observe(ForwardStage::VitEmbeddings, &x);
        x
    }
}

impl Block {
    /// `x += out(attend(qkv(norm(x))))`, then `x += down(act(up(norm(x))))`.
    fn forward(
        &self,
        compute: &Compute,
        config: &VitConfig,
        x: &mut [f32],
        scratch: &mut VitScratch,
    ) {
        let width = config.hidden_size;
        let head_dim = config.head_dim();
        let VitScratch {
            normed,
            qkv,
            attended,
            hidden,
            input,
        } = scratch;

        self.attention_norm.forward(compute, x, normed);
        let quantized = input.prepare(compute, RowRole::Prompt, normed, &self.qkv);
        let stride = padded_stride(3 * width);
        let qkv_of = self.qkv.of(0..config.n_tokens(), qkv).with_stride(stride);
        compute.project(quantized, [qkv_of]);
        let columns = |first| Heads::in_columns(qkv, stride, first, head_dim);
        let attention = Attention {
            n_heads: config.n_heads,
            n_kv_heads: config.n_heads,
            head_dim,
            queries: columns(0),
            keys: columns(width).into(),
            values: columns(2 * width).into(),
            n_keys: config.n_tokens(),
            causal_start: None,
            role: RowRole::Prompt,
            in_integers: self.qkv.weight.is_quantized(),
        };
        attention.forward(compute, attended);
        let attended = input.prepare(compute, RowRole::Prompt, attended, &self.attention_out);
        self.attention_out.add_to(compute, attended, x);

        self.mlp_norm.forward(compute, x, normed);
        let quantized = input.prepare(compute, RowRole::Prompt, normed, &self.mlp_up);
        let stride = padded_stride(config.intermediate_size);
        let up = self
            .mlp_up
            .of(0..config.n_tokens(), hidden)
            .with_stride(stride);
        compute.project(quantized, [up.with_activation(config.hidden_act)]);
        let hidden =
            input.prepare_strided(compute, RowRole::Prompt, hidden, stride, &self.mlp_down);
        self.mlp_down.add_to(compute, hidden, x);
    }
}

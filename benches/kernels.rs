//! Matrix products in every format, and attention, at the shapes of the 7B model, on one thread for
//! each physical core: `cargo bench --bench kernels`, perhaps with a filter such as `gemm.*Q4_K`.

use std::sync::Arc;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use owl2::gguf::{Bytes, DType};
use owl2::ops::attention::{Attention, Heads};
use owl2::ops::linear::{InputBuffer, Linear, Matrix, Shared};
use owl2::ops::{Compute, RowRole};
use owl2::quant;
use owl2::threads;

/// Columns of the weights: the decoder's width.
const WIDTH: usize = 4096;
/// Rows of the weights: projections of attention, and of the MLP.
const ROWS: [usize; 2] = [4096, 11_008];
/// Tokens of a prompt with a picture, and of a full batch.
const TOKENS: [usize; 2] = [128, 512];
/// Every format, by rising size.
const DTYPES: [DType; 9] = [
    DType::H4,
    DType::Q4_0,
    DType::Q4_K,
    DType::Q6_K,
    DType::H8,
    DType::Q8_0,
    DType::F16,
    DType::BF16,
    DType::F32,
];
/// Rows that are quantized for real; the rest repeats them.
const DISTINCT_ROWS: usize = 64;

fn main() {
    divan::main();
}

/// Shapes that are multiplied, as `DTYPE rows x tokens`, with rotated columns and without.
fn shapes(role: RowRole, tokens: &'static [usize]) -> impl Iterator<Item = Shape> {
    DTYPES.into_iter().flat_map(move |dtype| {
        ROWS.into_iter().flat_map(move |n_rows| {
            tokens.iter().flat_map(move |&n_tokens| {
                [true, false].map(|is_rotated| Shape {
                    dtype,
                    n_rows,
                    n_tokens,
                    role,
                    is_rotated,
                })
            })
        })
    })
}

#[derive(Clone, Copy)]
struct Shape {
    dtype: DType,
    n_rows: usize,
    n_tokens: usize,
    role: RowRole,
    is_rotated: bool,
}

impl Shape {
    fn shared(self) -> Shared {
        Shared {
            rotation: self.is_rotated.then(Arc::default),
            is_coarse: matches!(self.dtype, DType::H8 | DType::H4),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = if self.is_rotated { "rotated" } else { "plain" };
        write!(
            f,
            "{} {} x {} {columns}",
            self.dtype, self.n_rows, self.n_tokens
        )
    }
}

/// Items are multiply-accumulates. The batch is quantized beforehand.
#[divan::bench(args = shapes(RowRole::Prompt, &TOKENS), sample_count = 5, sample_size = 1, max_time = 1)]
fn gemm(bencher: Bencher, shape: Shape) {
    let n_macs = shape.n_rows * WIDTH * shape.n_tokens;
    multiply(bencher.counter(ItemsCount::new(n_macs)), shape);
}

/// Bytes are those of the weights.
#[divan::bench(args = shapes(RowRole::Answer, &[1, 4, 8, 16]), sample_count = 20, sample_size = 1)]
fn gemv(bencher: Bencher, shape: Shape) {
    let n_bytes = weight(shape).1;
    multiply(bencher.counter(BytesCount::new(n_bytes)), shape);
}

fn multiply(bencher: Bencher, shape: Shape) {
    let compute = compute();
    let (weight, _) = weight(shape);
    let linear = Linear { weight, bias: None };
    let x = values(shape.n_tokens * WIDTH);
    let mut buffer = InputBuffer::default();
    let input = buffer.prepare(&compute, shape.role, &x, &linear);
    let mut y = vec![0.0; shape.n_tokens * shape.n_rows];
    bencher.bench_local(|| {
        compute
            .threads
            .enter(|| linear.forward(&compute, black_box(input), &mut y));
    });
}

/// Bytes are those of the floats.
#[divan::bench(args = [(1, false), (1, true), (128, false), (128, true), (512, false), (512, true)],
    sample_count = 20)]
fn quantize_activations(bencher: Bencher, (n_tokens, is_rotated): (usize, bool)) {
    let compute = compute();
    let x = values(n_tokens * WIDTH);
    let role = if n_tokens == 1 {
        RowRole::Answer
    } else {
        RowRole::Prompt
    };
    let reader = Linear {
        weight: weight(Shape {
            dtype: DType::Q8_0,
            n_rows: DISTINCT_ROWS,
            n_tokens,
            role,
            is_rotated,
        })
        .0,
        bias: None,
    };
    let mut buffer = InputBuffer::default();
    bencher.counter(BytesCount::of_slice(&x)).bench_local(|| {
        compute.threads.enter(|| {
            black_box(buffer.prepare(&compute, role, black_box(&x), &reader));
        });
    });
}

/// What attends to what.
#[derive(Clone, Copy)]
struct Attending {
    name: &'static str,
    n_heads: usize,
    head_dim: usize,
    n_queries: usize,
    n_keys: usize,
    is_causal: bool,
}

/// Of the 7B model: a picture, a prompt, and a generated token far into the context.
const ATTENDING: [Attending; 3] = [
    Attending {
        name: "picture",
        n_heads: 16,
        head_dim: 64,
        n_queries: 1025,
        n_keys: 1025,
        is_causal: false,
    },
    Attending {
        name: "prompt",
        n_heads: 32,
        head_dim: 128,
        n_queries: 512,
        n_keys: 512,
        is_causal: true,
    },
    Attending {
        name: "token",
        n_heads: 32,
        head_dim: 128,
        n_queries: 1,
        n_keys: 2048,
        is_causal: true,
    },
];

impl std::fmt::Display for Attending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} x {}", self.name, self.n_queries, self.n_keys)
    }
}

/// Items are pairs of a query and a key that it may see, in each head.
#[divan::bench(args = ATTENDING, sample_count = 10, sample_size = 1)]
fn attention(bencher: Bencher, shape: Attending) {
    let compute = compute();
    let width = shape.n_heads * shape.head_dim;
    let queries = values(shape.n_queries * width);
    let keys = values(shape.n_keys * width);
    let cached = keys.clone();
    // Rows of a head one after the other, as a cache keeps them.
    let by_head = |data| Heads {
        data,
        offset: 0,
        head_stride: shape.n_keys * shape.head_dim,
        row_stride: shape.head_dim,
    };
    let first = shape.n_keys - shape.n_queries;
    let attention = Attention {
        n_heads: shape.n_heads,
        n_kv_heads: shape.n_heads,
        head_dim: shape.head_dim,
        queries: Heads::in_columns(&queries, width, 0, shape.head_dim),
        keys: by_head(&keys).into(),
        values: by_head(&cached).into(),
        n_keys: shape.n_keys,
        causal_start: shape.is_causal.then_some(first),
        role: match shape.n_queries {
            1 => RowRole::Answer,
            _ => RowRole::Prompt,
        },
        in_integers: true,
    };
    let n_pairs: usize = match shape.is_causal {
        true => (first + 1..=shape.n_keys).sum(),
        false => shape.n_queries * shape.n_keys,
    };
    let mut out = vec![0.0; shape.n_queries * width];
    bencher
        .counter(ItemsCount::new(shape.n_heads * n_pairs))
        .bench_local(|| {
            compute
                .threads
                .enter(|| black_box(attention).forward(&compute, &mut out));
        });
}

fn compute() -> Compute {
    Compute::new(threads::default_count()).expect("threads and an instruction set")
}

/// Random weights and how many bytes they take.
fn weight(shape: Shape) -> (Matrix, usize) {
    let (dtype, n_rows) = (shape.dtype, shape.n_rows);
    let mut rows = vec![0; DISTINCT_ROWS * WIDTH / dtype.block_len() * dtype.block_bytes()];
    quant::quantize(dtype, &values(DISTINCT_ROWS * WIDTH), &mut rows);
    let bytes = rows.repeat(n_rows / DISTINCT_ROWS);
    let n_bytes = bytes.len();
    let tensor = Bytes::from_slice(&bytes).into();
    let matrix = Matrix::new(tensor, dtype, n_rows, WIDTH, shape.shared());
    (matrix, n_bytes)
}

/// Values between -1 and 1 by Fibonacci hashing.
fn values(n: usize) -> Vec<f32> {
    (0..n as u32)
        .map(|i| i.wrapping_mul(0x9e37_79b9) as i32 as f32 / (1u32 << 31) as f32)
        .collect()
}

//! One kernel's work, a given number of times, and nothing else that grows with it: for programs
//! that count instructions, such as `benches/aarch64/count.sh`.
//!
//! `one_product KIND FORMAT ROWS COLUMNS TOKENS TIMES` multiplies `[ROWS, COLUMNS]` weights of a
//! format with a batch of tokens, quantizing the batch each time; one token is an answer's, several
//! are a prompt's. `KIND` is `product`, whose columns are rotated, `plain`, whose are not, or
//! `attention`, whose `COLUMNS` are a head's: `TOKENS` queries and keys of `ROWS` heads, no mask.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;

use owl2::gguf::{Bytes, DType};
use owl2::ops::attention::{Attention, Heads};
use owl2::ops::linear::{InputBuffer, Linear, Matrix, Shared};
use owl2::ops::{Compute, RowRole};
use owl2::quant::{self, Rotation};

const USAGE: &str = "usage: one_product product|plain|attention FORMAT ROWS COLUMNS TOKENS TIMES";
/// Formats by the names that arguments give them.
const FORMATS: [(&str, DType); 7] = [
    ("q4_0", DType::Q4_0),
    ("q4_k", DType::Q4_K),
    ("q6_k", DType::Q6_K),
    ("q8_0", DType::Q8_0),
    ("h8", DType::H8),
    ("h4", DType::H4),
    ("f16", DType::F16),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, format, numbers @ ..] = &arguments[..] else {
        panic!("{USAGE}");
    };
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse().expect(USAGE)).collect();
    let [n_rows, n_cols, n_tokens, times] = numbers[..] else {
        panic!("{USAGE}");
    };
    let (_, dtype) = FORMATS
        .into_iter()
        .find(|(name, _)| name == format)
        .expect(USAGE);
    let compute = Compute::new(NonZeroUsize::MIN).expect("a thread and an instruction set");
    eprintln!("{}", compute.isa);
    match kind.as_str() {
        "product" | "plain" => {
            let rotation: Option<Arc<Rotation>> = (kind == "product").then(Arc::default);
            product(&compute, dtype, [n_rows, n_cols], rotation, n_tokens, times);
        }
        "attention" => attention(&compute, n_rows, n_cols, n_tokens, times),
        _ => panic!("{USAGE}"),
    }
}

fn product(
    compute: &Compute,
    dtype: DType,
    [n_rows, n_cols]: [usize; 2],
    rotation: Option<Arc<Rotation>>,
    n_tokens: usize,
    times: usize,
) {
    let row_bytes = n_cols / dtype.block_len() * dtype.block_bytes();
    let mut row = vec![0; row_bytes];
    quant::quantize(dtype, &values(n_cols), &mut row);
    let weights = Bytes::from_slice(&row.repeat(n_rows));
    let shared = Shared {
        rotation,
        is_coarse: matches!(dtype, DType::H8 | DType::H4),
    };
    let linear = Linear {
        weight: Matrix::new(weights.into(), dtype, n_rows, n_cols, shared),
        bias: None,
    };
    let x = values(n_tokens * n_cols);
    let mut buffer = InputBuffer::default();
    let role = if n_tokens == 1 {
        RowRole::Answer
    } else {
        RowRole::Prompt
    };
    let mut y = vec![0.0; n_tokens * n_rows];
    for _ in 0..times {
        let input = buffer.prepare(compute, role, black_box(&x), &linear);
        linear.forward(compute, input, black_box(&mut y));
    }
}

fn attention(compute: &Compute, n_heads: usize, head_dim: usize, n: usize, times: usize) {
    let width = n_heads * head_dim;
    let x = values(n * width);
    let columns = Heads::in_columns(&x, width, 0, head_dim);
    let attention = Attention {
        n_heads,
        n_kv_heads: n_heads,
        head_dim,
        queries: columns,
        keys: columns.into(),
        values: columns.into(),
        n_keys: n,
        causal_start: None,
        role: RowRole::Prompt,
        in_integers: true,
    };
    let mut out = vec![0.0; n * width];
    for _ in 0..times {
        black_box(attention).forward(compute, black_box(&mut out));
    }
}

/// Values between -1 and 1 by Fibonacci hashing.
fn values(n: usize) -> Vec<f32> {
    (0..n as u32)
        .map(|i| i.wrapping_mul(0x9e37_79b9) as i32 as f32 / (1u32 << 31) as f32)
        .collect()
}

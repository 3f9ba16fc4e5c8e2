//! Matrix products at the shapes of the 7B decoder, in every format, on one thread for each
//! physical core: `cargo bench --bench kernels`, perhaps with a filter such as `gemm.*Q4_K`.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use owl2::gguf::{Bytes, DType};
use owl2::ops::Compute;
use owl2::ops::linear::{InputBuffer, Linear, Matrix};
use owl2::{quant, threads};

/// Columns of the weights: the decoder's width.
const WIDTH: usize = 4096;
/// Rows of the weights: projections of attention, and of the MLP.
const ROWS: [usize; 2] = [4096, 11_008];
/// Tokens of a prompt with a picture, and of a full batch.
const TOKENS: [usize; 2] = [128, 512];
/// Every format, by rising size.
const DTYPES: [DType; 7] = [
    DType::Q4_0,
    DType::Q4_K,
    DType::Q6_K,
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

/// Shapes that are multiplied, as `DTYPE rows x tokens`.
fn shapes(tokens: &'static [usize]) -> impl Iterator<Item = Shape> {
    DTYPES.into_iter().flat_map(move |dtype| {
        ROWS.into_iter().flat_map(move |n_rows| {
            tokens.iter().map(move |&n_tokens| Shape {
                dtype,
                n_rows,
                n_tokens,
            })
        })
    })
}

#[derive(Clone, Copy)]
struct Shape {
    dtype: DType,
    n_rows: usize,
    n_tokens: usize,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} x {}", self.dtype, self.n_rows, self.n_tokens)
    }
}

/// Items are multiply-accumulates. The batch is quantized beforehand.
#[divan::bench(args = shapes(&TOKENS), sample_count = 5, sample_size = 1, max_time = 1)]
fn gemm(bencher: Bencher, shape: Shape) {
    let n_macs = shape.n_rows * WIDTH * shape.n_tokens;
    multiply(bencher.counter(ItemsCount::new(n_macs)), shape);
}

/// Bytes are those of the weights.
#[divan::bench(args = shapes(&[1]), sample_count = 20, sample_size = 1)]
fn gemv(bencher: Bencher, shape: Shape) {
    let n_bytes = weight(shape.dtype, shape.n_rows).1;
    multiply(bencher.counter(BytesCount::new(n_bytes)), shape);
}

fn multiply(bencher: Bencher, shape: Shape) {
    let compute = compute();
    let (weight, _) = weight(shape.dtype, shape.n_rows);
    let linear = Linear { weight, bias: None };
    let x = values(shape.n_tokens * WIDTH);
    let mut buffer = InputBuffer::with_capacity(shape.n_tokens, WIDTH);
    let input = buffer.prepare(&compute, &x, WIDTH);
    let mut y = vec![0.0; shape.n_tokens * shape.n_rows];
    bencher.bench_local(|| {
        compute
            .threads
            .enter(|| linear.forward(&compute, black_box(input), &mut y));
    });
}

/// Bytes are those of the floats.
#[divan::bench(args = [1, 128, 512], sample_count = 20)]
fn quantize_activations(bencher: Bencher, n_tokens: usize) {
    let compute = compute();
    let x = values(n_tokens * WIDTH);
    let mut buffer = InputBuffer::with_capacity(n_tokens, WIDTH);
    bencher.counter(BytesCount::of_slice(&x)).bench_local(|| {
        compute.threads.enter(|| {
            black_box(buffer.prepare(&compute, black_box(&x), WIDTH));
        });
    });
}

fn compute() -> Compute {
    Compute::new(threads::default_count()).expect("threads and an instruction set")
}

/// Random weights and how many bytes they take.
fn weight(dtype: DType, n_rows: usize) -> (Matrix, usize) {
    let mut rows = vec![0; DISTINCT_ROWS * WIDTH / dtype.block_len() * dtype.block_bytes()];
    quant::quantize(dtype, &values(DISTINCT_ROWS * WIDTH), &mut rows);
    let bytes = rows.repeat(n_rows / DISTINCT_ROWS);
    let n_bytes = bytes.len();
    let tensor = Bytes::from_slice(&bytes).into();
    (Matrix::new(tensor, dtype, n_rows, WIDTH), n_bytes)
}

/// Values between -1 and 1 by Fibonacci hashing.
fn values(n: usize) -> Vec<f32> {
    (0..n as u32)
        .map(|i| i.wrapping_mul(0x9e37_79b9) as i32 as f32 / (1u32 << 31) as f32)
        .collect()
}

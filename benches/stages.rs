//! The stages of a model: `cargo bench --bench stages`.
//!
//! The model is tiny and random, so these show overheads; with `OWL2_BENCH_MODEL=FILE` they show
//! that model's speed. `owl2 bench` measures the same beside the machine's limits.

use std::path::Path;
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::ItemsCount;
use owl2::gguf::Gguf;
use owl2::model::Model;
use owl2::ops::Compute;
use owl2::session::{Input, Session};
use owl2::{Result, threads};
use owl2_convert::pack;
use owl2_convert::progress::Progress;
use owl2_convert::random::RandomShape;
use owl2_convert::recipe::{Quant, Recipe};
use tempfile::NamedTempFile;

/// Names a model file to measure.
const MODEL_VARIABLE: &str = "OWL2_BENCH_MODEL";
/// Positions of a question about a picture.
const PROMPT: usize = 100;
/// Tokens that are generated between two looks at the clock.
const GENERATED: usize = 8;

static GGUF: LazyLock<Gguf> = LazyLock::new(|| open().expect("a model file"));
static MODEL: LazyLock<Model> = LazyLock::new(|| bind(&GGUF).expect("a model"));

fn main() {
    divan::main();
}

fn open() -> Result<Gguf> {
    if let Some(path) = std::env::var_os(MODEL_VARIABLE) {
        return Gguf::open(Path::new(&path));
    }
    let input = RandomShape::Tiny.input(1);
    let mapped = input.map()?.tensors;
    let recipe = Recipe {
        quant: Quant::Q4_K,
        ..Recipe::default()
    };
    let plan = recipe.plan(&input.config)?;
    let file = NamedTempFile::new().expect("a temporary file");
    let writer = pack::create(file.path(), &input, recipe.quant, &plan, true)?;
    let mut progress = Progress::start(plan.size().bytes, true);
    let n_threads = threads::default_count();
    let source = input.tensors.as_ref();
    pack::pack(source, &mapped, &plan, writer, n_threads, &mut progress)?;
    Gguf::open(file.path())
}

fn bind(gguf: &Gguf) -> Result<Model> {
    Model::new(gguf, Compute::new(threads::default_count())?)
}

/// A grey picture, and what the vision tower makes of it; `None` for plain LLaMA files.
fn picture() -> Option<(Vec<f32>, Vec<f32>)> {
    let size = MODEL.config().visual.as_ref()?.vit.image_size;
    let pixels = vec![0.5; 3 * size * size];
    let tokens = MODEL.vision(&pixels, &mut ()).expect("of the right size");
    Some((pixels, tokens))
}

/// Token ids, all in the vocabulary.
fn ids(n: usize) -> Vec<u32> {
    let vocab_size = MODEL.config().decoder.vocab_size as u32;
    (0..n as u32)
        .map(|i| i.wrapping_mul(7919) % vocab_size)
        .collect()
}

/// From a file that is in the page cache to a model that can compute.
#[divan::bench(sample_count = 20)]
fn load(bencher: Bencher) {
    let path = std::env::var_os(MODEL_VARIABLE);
    let bytes = GGUF.bytes();
    let file = NamedTempFile::new().expect("a temporary file");
    let path = match &path {
        Some(path) => Path::new(path),
        None => {
            std::fs::write(file.path(), bytes).expect("room for the tiny model");
            file.path()
        }
    };
    bencher.bench_local(|| {
        let gguf = Gguf::open(path).expect("a model file");
        bind(&gguf).expect("a model")
    });
}

#[divan::bench(sample_count = 5)]
fn vit(bencher: Bencher) {
    if let Some((pixels, _)) = picture() {
        bencher.bench_local(|| MODEL.vision(&pixels, &mut ()).expect("of the right size"));
    }
}

#[divan::bench(sample_count = 5)]
fn abstractor(bencher: Bencher) {
    if let Some((_, tokens)) = picture() {
        bencher.bench_local(|| MODEL.abstract_picture(&tokens, &mut ()).expect("a picture"));
    }
}

/// Items are tokens.
#[divan::bench(sample_count = 5)]
fn prefill(bencher: Bencher) {
    let ids = ids(PROMPT);
    let mut session = Session::new(&MODEL, PROMPT);
    bencher.counter(ItemsCount::new(PROMPT)).bench_local(|| {
        session.truncate(0);
        session
            .extend(&[Input::Tokens(&ids)])
            .expect("ids of the vocabulary");
    });
}

/// Items are tokens.
#[divan::bench(args = [0, 100, 1000], sample_count = 5)]
fn decode(bencher: Bencher, depth: usize) {
    let ids = ids(depth + GENERATED);
    let (before, generated) = ids.split_at(depth);
    let mut session = Session::new(&MODEL, depth + GENERATED);
    if depth > 0 {
        session
            .extend(&[Input::Tokens(before)])
            .expect("ids of the vocabulary");
    }
    bencher.counter(ItemsCount::new(GENERATED)).bench_local(|| {
        session.truncate(depth);
        for &id in generated {
            session.step(id).expect("ids of the vocabulary");
        }
    });
}

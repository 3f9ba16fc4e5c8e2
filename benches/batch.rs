//! What `owl2 batch` makes of the engine's speed: `cargo bench --bench batch -- FOLDER [N...]`.
//!
//! A question about each picture of a folder, N at once: by the engine alone, with all pictures decoded
//! before and no files, and by the program, which reads rows, decodes pictures and writes outcomes. By
//! turns, three times each; the best of each counts. `OWL2_BENCH_MODEL=FILE` takes another model than
//! the built-in one.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use owl2::engine::{Engine, StepLimits};
use owl2::ops::Compute;
use owl2::prompt::Message;
use owl2::request::{Pixels, Prompt, Request, Source};
use owl2::{Assistant, Error, Result, builtin, threads};
use serde_json::json;

const QUESTION: &str = "Describe the image.";
const MAX_TOKENS: usize = 50;
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    let arguments = std::env::args().skip(1);
    let mut arguments = arguments.filter(|argument| !argument.starts_with("--"));
    let folder = arguments.next().unwrap_or_else(|| "assets".to_owned());
    let mut counts: Vec<usize> = arguments.filter_map(|n| n.parse().ok()).collect();
    if counts.is_empty() {
        counts = vec![1, 8];
    }
    let model = std::env::var_os("OWL2_BENCH_MODEL").map(PathBuf::from);
    let assistant = open(model.as_deref())?;
    let files = pictures(Path::new(&folder));
    let pixels = files.iter().map(|path| {
        let source = Source::File(path.clone());
        assistant.pixels(&source, None, Default::default())
    });
    let pixels: Vec<Arc<Pixels>> = pixels.collect::<Result<_>>()?;
    let n_rows = files.len();
    let n_threads = threads::default_count().get() as f64;
    let decoding = decoding(&assistant, &files)?;
    println!(
        "{n_rows} pictures, answers of up to {MAX_TOKENS} tokens; decoding one takes {:.1} ms of a thread",
        decoding * 1e3
    );
    for together in counts {
        let mut best = [f64::INFINITY; 2];
        for _ in 0..ROUNDS {
            // One that knows none of the pictures: it would not encode them again.
            let fresh = open(model.as_deref())?;
            best[0] = best[0].min(by_engine(&fresh, &pixels, together)?);
            best[1] = best[1].min(by_program(model.as_deref(), &files, together));
        }
        let [engine, program] = best.map(|seconds| n_rows as f64 / seconds);
        // Where all threads compute or decode.
        let both = n_threads / (n_threads / engine + decoding);
        println!(
            "{together:>2} together: engine {engine:.2} rows/s, with decoding at most {both:.2}, owl2 batch \
             {program:.2}; ratio {:.3}, with decoding {:.3}",
            program / engine,
            program / both
        );
    }
    Ok(())
}

fn open(model: Option<&Path>) -> Result<Assistant> {
    let compute = Compute::new(threads::default_count())?;
    match model {
        Some(path) => Assistant::open_with(path, compute),
        None => Assistant::new(&builtin::open()?, compute),
    }
}

fn pictures(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of pictures");
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_picture = |path: &PathBuf| {
        path.extension()
            .is_some_and(|end| end == "png" || end == "jpg")
    };
    let mut paths: Vec<PathBuf> = paths.filter(is_picture).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no pictures", folder.display());
    paths
}

/// Seconds that a thread takes to decode a picture.
fn decoding(assistant: &Assistant, files: &[PathBuf]) -> Result<f64> {
    let start = Instant::now();
    for path in files {
        assistant.pixels_beside(&Source::File(path.clone()), None, Default::default())?;
    }
    Ok(start.elapsed().as_secs_f64() / files.len() as f64)
}

/// Seconds for all rows, `together` at once.
fn by_engine(assistant: &Assistant, pixels: &[Arc<Pixels>], together: usize) -> Result<f64> {
    let mut engine = Engine::new(assistant, StepLimits::for_throughput(together));
    let mut rows = pixels.iter().map(|pixels| {
        let text = format!("<|image|>{QUESTION}");
        let turns = vec![Message::user(text), Message::assistant("")];
        Request {
            pictures: vec![Source::Pixels(pixels.clone())],
            max_tokens: Some(MAX_TOKENS),
            ..Request::new(Prompt::turns(turns))
        }
    });
    let start = Instant::now();
    let mut id = 0;
    loop {
        while engine.has_room()
            && let Some(request) = rows.next()
        {
            id += 1;
            engine.begin(id, 0, request, Box::new(|_| ControlFlow::Continue(())))?;
        }
        if engine.is_empty() {
            return Ok(start.elapsed().as_secs_f64());
        }
        for (_, answer) in engine.step() {
            answer?;
        }
    }
}

/// Seconds for all rows without the start of the program, which is in a run with few rows.
fn by_program(model: Option<&Path>, files: &[PathBuf], together: usize) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |n_rows: usize| {
        let rows = files[..n_rows].iter().map(|path| {
            let path = fs::canonicalize(path).expect("a picture");
            format!("{}\n", json!({"image": path.display().to_string()}))
        });
        let (input, output) = (
            folder.path().join("rows"),
            folder.path().join(n_rows.to_string()),
        );
        fs::write(&input, rows.collect::<String>()).expect("rows");
        let mut command = Command::new(env!("CARGO_BIN_EXE_owl2"));
        command.args([
            "batch",
            "-q",
            "--prompt",
            QUESTION,
            "-n",
            &MAX_TOKENS.to_string(),
        ]);
        command.args(["--parallel", &together.to_string()]);
        command.arg("-i").arg(&input).arg("-o").arg(&output);
        if let Some(model) = model {
            command.arg("-m").arg(model);
        }
        let start = Instant::now();
        let status = command.status().expect("the program");
        assert!(status.success(), "{}", Error::input("the batch failed"));
        start.elapsed().as_secs_f64()
    };
    // As many pictures less are as many rows less.
    let (n_rows, n_few) = (files.len(), files.len() / 10);
    let few = run(n_few);
    (run(n_rows) - few) * n_rows as f64 / (n_rows - n_few) as f64
}

//! Packs an mPLUG-Owl2 checkpoint, or a GGUF file of floats, into a single quantized GGUF file.
//!
//! [`checkpoint`] reads a directory, [`input`] a GGUF file, [`mapping`] says which of its tensors become which of the
//! file's, [`recipe`] gives each a type, and [`pack`] streams them through the quantizers into the
//! file. [`verify`] looks at the result with other eyes.

pub mod args;
pub mod checkpoint;
mod config;
pub mod generated;
pub mod input;
pub mod interrupt;
mod json;
mod lora;
pub mod mapping;
pub mod pack;
pub mod pipeline;
pub mod plan;
mod preprocessor;
pub mod progress;
pub mod random;
pub mod recipe;
pub mod rotation;
mod sampling;
pub mod score_rule;
mod tokenizer;
pub mod verify;

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use indicatif::HumanBytes;

use owl2::gguf::write::check_target;
use owl2::{Error, Result, harmless, threads};

use args::Args;
use checkpoint::{Checkpoint, check_file};
use input::ConversionInput;
use mapping::Extra;
use plan::ConversionPlan;
use progress::{Progress, say};
use recipe::Recipe;

/// Runs a parsed command line.
///
/// # Errors
/// Whatever the conversion meets; no file is left behind then.
pub fn run(args: &Args) -> Result<()> {
    if let Some(shell) = args.completions {
        return print(&generated::completions(shell));
    }
    if args.man {
        return print(&generated::manual().map_err(cannot_print)?);
    }
    let wanted = args.threads.unwrap_or_else(threads::default_count);
    let n_threads = wanted.min(threads::max_count());
    if let Some(file) = &args.verify {
        return verify(file, args, n_threads);
    }
    if let (Some(output), false) = (&args.output, args.dry_run) {
        check_target(output, args.force)?;
    }
    let mut input = open(args)?.ok_or_else(|| Error::usage("there is nothing to convert"))?;
    score_rule::set(&mut input, args)?;
    let mapping = input.map()?;
    let recipe = Recipe {
        quant: args.quant,
        vision: args.vision_quant,
        tensor_types: args.tensor_type.clone(),
        rotate: !args.no_rotate,
    };
    let mut plan = recipe.plan(&input.config)?;
    rotation::leave_out(&mut plan, input.tensors.as_ref(), &mapping.tensors)?;
    if !args.quiet {
        say(&format!("{}\n\n{plan}\n", input.name));
        if let Some(notice) = left_out_notice(&mapping.left_out) {
            say(&notice);
        }
    }
    let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) else {
        return Ok(());
    };

    let writer = pack::create(output, &input, args.quant, &plan, args.force)?;
    let mut progress = Progress::start(plan.size().bytes, args.quiet);
    let source = input.tensors.as_ref();
    let packed = pack::pack(
        source,
        &mapping.tensors,
        &plan,
        writer,
        n_threads,
        &mut progress,
    );
    progress.finish();
    let n_bytes = packed?;
    if !args.quiet {
        say(&summary(output, n_bytes, &plan, &progress));
    }
    Ok(())
}

/// What to say of tensors that are left out.
fn left_out_notice(names: &[String]) -> Option<String> {
    const MAX_LISTED: usize = 5;
    let listed = names.get(..names.len().min(MAX_LISTED))?.join(", ");
    let more = match names.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    (!names.is_empty()).then(|| format!("left out, as no part of the model: {listed}{more}\n"))
}

/// Opens what the command line says to start from, if it does.
fn open(args: &Args) -> Result<Option<ConversionInput>> {
    let input = open_input(args)?;
    Ok(input.map(|input| ConversionInput {
        extra: match args.ignore_extra {
            true => Extra::Ignore,
            false => Extra::Refuse,
        },
        ..input
    }))
}

fn open_input(args: &Args) -> Result<Option<ConversionInput>> {
    if let Some(shape) = args.random {
        return Ok(Some(shape.input(args.seed)));
    }
    let Some(path) = &args.checkpoint else {
        return Ok(None);
    };
    if path.is_file() {
        check_file(path)?;
        if args.lora.is_some() {
            return Err(Error::usage(
                "can only be merged into the checkpoint in a directory, not into a GGUF file",
            )
            .in_parameter("lora"));
        }
        return ConversionInput::open_gguf(path).map(Some);
    }
    let mut checkpoint = Checkpoint::open(path)?;
    if let Some(adapter) = &args.lora {
        checkpoint = checkpoint.with_lora(adapter)?;
    }
    Ok(Some(checkpoint.into()))
}

fn verify(file: &Path, args: &Args, n_threads: NonZeroUsize) -> Result<()> {
    let original = open(args)?;
    let report = verify::verify(file, original.as_ref(), n_threads, args.quiet)?;
    print(report.text().as_bytes())
}

/// Writes to standard output. A reader that has gone is no error.
fn print(text: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let shown = String::from_utf8_lossy(text);
    let written = match stdout.is_terminal() {
        true => stdout.write_all(harmless::text(&shown).as_bytes()),
        false => stdout.write_all(text),
    };
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(cannot_print(e)),
        _ => Ok(()),
    }
}

fn cannot_print(error: io::Error) -> Error {
    Error::io("cannot write", Path::new("standard output"), error)
}

fn summary(output: &Path, n_bytes: u64, plan: &ConversionPlan, progress: &Progress) -> String {
    let seconds = progress.elapsed().as_secs_f64();
    format!(
        "{}: {}, {:.2} bits per weight, {seconds:.1} s, {:.0} MB/s",
        output.display(),
        HumanBytes(n_bytes),
        plan.size().bits_per_weight(),
        n_bytes as f64 / 1e6 / seconds.max(1e-3)
    )
}

//! What can be said on the command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};

use crate::image::Aspect;

const EXAMPLES: &str = "\
Examples:
  owl2 -m model.gguf --image cat.jpg -p \"Describe the image.\"
  owl2 -m model.gguf --image a.png --image b.png -p \"<|image|> or <|image|>: which is older?\"
  owl2 info model.gguf
  owl2 bench -m model.gguf --image

A plain LLaMA file has no prompt template: it continues the prompt, after <s>, as it is.

Exit status: 0 success (also where the reader of the output has gone), 2 wrong usage, 3 unusable
picture or prompt, 4 unusable model file, 5 input or output failed, 6 not enough context or
memory, 130 interrupted.";

/// Asks a vision-language model (mPLUG-Owl2) about pictures, on an ordinary CPU.
#[derive(Debug, Parser)]
#[command(name = "owl2", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) ask: AskArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows what a model file holds and the memory it needs
    Info(InfoArgs),
    /// Asks questions with known answers and counts how many come out right
    Eval(EvalArgs),
    /// Measures how fast a model runs, beside what this machine could do
    Bench(BenchArgs),
}

/// One question.
#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// The model, a GGUF file made by owl2-convert (plain LLaMA files work for text)
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// A picture (JPEG, PNG, WebP, GIF, BMP); repeat for several. They go where `<|image|>`
    /// stands in the prompt, in order, else before it
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,

    /// The question or instruction
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// What becomes of pictures that are not square: squash them, pad them with the mean colour,
    /// or crop their sides [default: as the model file says, squash]
    #[arg(long, value_name = "squash|pad|crop")]
    pub aspect: Option<Aspect>,

    /// Do not turn pictures as their EXIF orientation says (the reference does not)
    #[arg(long)]
    pub no_exif: bool,

    /// Prompt template: mplug_owl2, v1 or v0 [default: as the model file says; none for plain
    /// LLaMA files]
    #[arg(long, value_name = "NAME", help_heading = "Prompt")]
    pub template: Option<crate::prompt::Template>,

    /// Take the prompt as it is, without a template; `<s>`, `</s>` and `<|image|>` in it count
    #[arg(long, help_heading = "Prompt", conflicts_with = "template")]
    pub raw: bool,

    /// Longest answer, in tokens [default: 512, or as many as the context has room for]
    #[arg(short = 'n', long, value_name = "N", help_heading = "Sampling")]
    pub max_tokens: Option<usize>,

    /// Randomness of the choice among likely tokens; 0 always takes the likeliest one
    // A negative number is for the range check to refuse, which names the flag.
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    pub temp: f32,

    /// Choose among the K likeliest tokens only; 0 is off [default: as the model file says, 50]
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    pub top_k: Option<usize>,

    /// Choose among the likeliest tokens whose probabilities make up P [default: as the model
    /// file says, 1]
    #[arg(
        long,
        value_name = "P",
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    pub top_p: Option<f32>,

    /// Leave out tokens less likely than P times the likeliest one; 0 is off
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    pub min_p: f32,

    /// Make tokens that occurred already less likely; 1 is off
    #[arg(
        long,
        value_name = "R",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    pub repeat_penalty: f32,

    /// Seed of the random choice: the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Sampling")]
    pub seed: u64,

    /// End the answer before this text; repeat for several
    #[arg(long, value_name = "TEXT", help_heading = "Sampling")]
    pub stop: Vec<String>,

    /// Worker threads [default: one for each physical core there is]
    #[arg(short, long, value_name = "N", help_heading = "Running")]
    pub threads: Option<NonZeroUsize>,

    /// Room for prompt, pictures and answer, in tokens [default: as the model was trained with]
    #[arg(short, long, value_name = "N", help_heading = "Running")]
    pub ctx_size: Option<usize>,

    /// Print one JSON object with text, token counts and stage timings instead of the text
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Print how long each stage took, on standard error
    #[arg(short, long, help_heading = "Output")]
    pub verbose: bool,
}

/// Arguments of `owl2 info`.
#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// The model file
    #[arg(value_name = "FILE")]
    pub model: PathBuf,

    /// Context for which the memory is counted [default: as the model was trained with]
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `owl2 eval`.
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// The model file
    #[arg(short, long, value_name = "FILE")]
    pub model: PathBuf,

    /// The questions: JSON lines with `image` (or null), `question`, `answer`, `type` and, from
    /// another implementation, `prompt_ids`, `output_ids`, `model_answer`, `logits8`
    #[arg(long, value_name = "FILE")]
    pub questions: PathBuf,

    /// Where the pictures are [default: beside the questions]
    #[arg(long, value_name = "DIR")]
    pub image_root: Option<PathBuf>,

    /// Longest answer, in tokens
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512)]
    pub max_tokens: usize,

    /// Only the first N questions
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,

    /// Worker threads [default: one for each physical core there is]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Print one JSON object, with every question that came out otherwise than given
    #[arg(long)]
    pub json: bool,
}

/// The most positions that a benchmark computes: beyond any model's context.
const MAX_BENCH_POSITIONS: u64 = 1 << 16;

/// Arguments of `owl2 bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// The model file
    #[arg(short, long, value_name = "FILE")]
    pub model: PathBuf,

    /// Tokens of the prompt; 0 leaves prefill out
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = up_to(MAX_BENCH_POSITIONS))]
    pub pp: usize,

    /// Tokens to generate; 0 leaves generation out
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = up_to(MAX_BENCH_POSITIONS))]
    pub tg: usize,

    /// Positions that precede the generated tokens
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = up_to(MAX_BENCH_POSITIONS))]
    pub depth: usize,

    /// Measure the encoding of a picture too, and the time to the first token of an answer about it
    #[arg(long)]
    pub image: bool,

    /// Worker threads [default: one for each physical core there is]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// How often each stage is measured, after a warm-up
    #[arg(short, long, value_name = "N", default_value = "5")]
    pub repeats: NonZeroUsize,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn up_to(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=most)
}

//! The flags of the small commands: info, doctor, tokenize, perplexity, bench, man, completions.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::{RangedU64ValueParser, TypedValueParser};
use clap::{ArgGroup, Args};

use crate::board::Board;
use crate::perplexity::{MIN_WINDOW, Mode};
use crate::workspace::MAX_ROWS;

/// Arguments of `owl2 info`.
#[derive(Debug, Args)]
pub(in crate::cli) struct InfoArgs {
    /// Model file [default: the built-in model]
    #[arg(value_name = "FILE", conflicts_with = "model")]
    pub file: Option<PathBuf>,

    /// The same as FILE
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Context size for which memory is counted [default: as the model was trained]
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,

    /// Estimate the times on another machine from its data sheet
    #[arg(long, value_name = "pi4|pi5|m1|m2")]
    pub board: Option<Board>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `owl2 doctor`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DoctorArgs {
    /// Model file to look at
    #[arg(value_name = "FILE", conflicts_with = "model")]
    pub file: Option<PathBuf>,

    /// The same as FILE
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

const PERPLEXITY_NOTES: &str = "\
Each window is a separate sequence with an empty KV cache. The model predicts every token of it but
the first, so a window of N tokens has N - 1 predictions. All of them count, also the first ones.

The ids of --ids are used as they are, N per window. The text of --text is tokenized as a whole,
without control tokens; if the vocabulary starts texts with <s>, each window is <s> and N - 1 ids of
the text. A shorter last window counts too if it has something to predict.

Perplexity is the exponential of the mean negative log probability. The divergence of a prediction
is the Kullback-Leibler divergence KL(reference || model) in nats; its standard error is that of
the mean over windows. 'top 1' is the share of predictions whose likeliest token is also that of
the reference. The reference always computes a window in one batch, whatever --mode says. JSON
keys: perplexity, kl_mean, kl_p99, kl_windows (the mean of each window), top1 (0 to 1),
reference_perplexity, n (predictions); without a reference, its keys are null.

Examples:
  owl2 perplexity -m model-q4_k.gguf --text book.txt
  owl2 perplexity -m model-q8_0.gguf --reference model-f16.gguf --ids book.u32 --mode single --json";

/// Arguments of `owl2 perplexity`.
#[derive(Debug, Args)]
#[command(
    after_long_help = PERPLEXITY_NOTES,
    group = ArgGroup::new("input").required(true).args(["text", "ids"])
)]
pub(in crate::cli) struct PerplexityArgs {
    /// Model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Compare the predictions with those of this less quantized file
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,

    /// The text, in UTF-8
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,

    /// The text as token ids: 32-bit little-endian integers
    #[arg(long, value_name = "FILE")]
    pub ids: Option<PathBuf>,

    /// Window size in token ids [default: 512, or the trained context if that is shorter]
    #[arg(long, value_name = "N", value_parser = window())]
    pub window: Option<usize>,

    /// Compute each window in one batch, like a prompt, or token by token, like an answer
    #[arg(long, value_name = "batch|single", default_value = "batch")]
    pub mode: Mode,

    /// Worker threads [default: one per physical core]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn window() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(MIN_WINDOW as u64..)
}

/// The most positions that a benchmark computes: beyond any model's context.
const MAX_BENCH_POSITIONS: u64 = 1 << 16;

/// Arguments of `owl2 bench`.
#[derive(Debug, Args)]
pub(in crate::cli) struct BenchArgs {
    /// Model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Number of prompt tokens, or several with commas; 0 skips the prompt
    #[arg(long, value_name = "N,...", default_value = "512", value_delimiter = ',', value_parser = up_to(MAX_BENCH_POSITIONS))]
    pub pp: Vec<usize>,

    /// Number of tokens to generate; 0 skips generation
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = up_to(MAX_BENCH_POSITIONS))]
    pub tg: usize,

    /// Number of positions in the KV cache before generation starts
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = up_to(MAX_BENCH_POSITIONS))]
    pub depth: usize,

    /// Number of sequences that generate at once; their tokens are counted together
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN, value_parser = sequences())]
    pub parallel: NonZeroUsize,

    /// Also measure the encoding of a picture and the time to the first token of an answer about it
    #[arg(long)]
    pub image: bool,

    /// Worker threads [default: one per physical core]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Number of measurements of each stage, after a warm-up
    #[arg(short, long, value_name = "N", default_value = "5")]
    pub repeats: NonZeroUsize,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The most sequences that a benchmark runs at once: a pass has no more rows.
fn sequences() -> impl TypedValueParser<Value = NonZeroUsize> {
    RangedU64ValueParser::<u64>::new()
        .range(1..=MAX_ROWS as u64)
        .map(|n| NonZeroUsize::new(n as usize).unwrap_or(NonZeroUsize::MIN))
}

fn up_to(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=most)
}

/// Arguments of `owl2 tokenize`.
#[derive(Debug, Args)]
pub(in crate::cli) struct TokenizeArgs {
    /// Model file with the vocabulary [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// The text [default: standard input, also as `-`]
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,

    /// Recognize `<s>`, `</s>`, `<unk>` and the model's other control tokens in the text
    #[arg(long)]
    pub raw: bool,

    /// Print one JSON object with ids and pieces
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `owl2 man`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ManArgs {
    /// The command, such as score [default: owl2 itself]
    #[arg(value_name = "COMMAND")]
    pub of: Option<String>,

    /// Write the pages of owl2 and all commands into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "of")]
    pub dir: Option<PathBuf>,
}

/// Arguments of `owl2 completions`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

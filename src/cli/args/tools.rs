//! The flags of the commands beside asking.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{ArgGroup, Args};

use crate::board::Board;
use crate::perplexity::{MIN_WINDOW, Mode};

/// Arguments of `owl2 info`.
#[derive(Debug, Args)]
pub(in crate::cli) struct InfoArgs {
    /// The model file [default: the built-in model]
    #[arg(value_name = "FILE", env = "OWL2_MODEL", hide_env_values = true)]
    pub model: Option<PathBuf>,

    /// Context for which the memory is counted [default: as the model was trained with]
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,

    /// Model the times that a machine would take, from its data sheet
    #[arg(long, value_name = "pi4|pi5|m1|m2")]
    pub board: Option<Board>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

const PERPLEXITY_NOTES: &str = "\
Each window is a sequence of its own, which begins with nothing computed. After every id of it but
the last, the model predicts the next one; all these predictions count, those at the beginning of a
window too, so a window of N ids has N - 1.

--ids are used as they are, N a window; nothing is put in front of them. --text is tokenized as one
text with the model's tokenizer, without control tokens, and where the vocabulary begins texts with
<s>, each window is <s> and N - 1 ids of the text. A shorter window at the end counts too, unless it
has nothing to predict.

Perplexity is the exponential of the mean negative log probability. The divergence of a prediction
is Kullback and Leibler's of the model's distribution from the reference's, KL(reference || model),
in nats; its standard error is that of the mean over windows. 'top 1' is the share of predictions
whose likeliest token is the reference's. The reference computes a window together whatever --mode
says. JSON keys: perplexity, kl_mean, kl_p99, kl_windows (the mean of each window), top1 (0 to 1),
reference_perplexity, n (predictions); those of the reference are null without one.

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
    /// The model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Another file of the model, with more bits as a rule, with whose predictions the model's are
    /// compared
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,

    /// The text, in UTF-8
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,

    /// The text as token ids, each a 32-bit little-endian integer; needs no tokenizer
    #[arg(long, value_name = "FILE")]
    pub ids: Option<PathBuf>,

    /// Ids of a window [default: 512, or the context the models were trained with if that is less]
    #[arg(long, value_name = "N", value_parser = window())]
    pub window: Option<usize>,

    /// Compute a window together, as a prompt is, or id by id, as an answer is
    #[arg(long, value_name = "batch|single", default_value = "batch")]
    pub mode: Mode,

    /// Worker threads [default: one for each physical core there is]
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
    /// The model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

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

/// Arguments of `owl2 tokenize`.
#[derive(Debug, Args)]
pub(in crate::cli) struct TokenizeArgs {
    /// The model file whose vocabulary counts [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// The text; `-` or none reads standard input
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,

    /// Let `<s>`, `</s>`, `<unk>` and the model's other control tokens count in the text
    #[arg(long)]
    pub raw: bool,

    /// Print one JSON object with ids and pieces
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `owl2 completions`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

//! The flags of a question and of a chat.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::numbers::{Length, Seed, top_k};
use crate::image::Aspect;
use crate::model::kv_cache::CacheType;

/// One question, several, or a chat.
#[derive(Debug, Args)]
pub(in crate::cli) struct AskArgs {
    #[command(flatten, next_help_heading = "Question")]
    pub question: QuestionArgs,
    #[command(flatten, next_help_heading = "Prompt")]
    pub prompt: PromptArgs,
    #[command(flatten, next_help_heading = "Sampling")]
    pub sampling: SamplingArgs,
    #[command(flatten, next_help_heading = "Running")]
    pub running: RunningArgs,
    #[command(flatten, next_help_heading = "Output")]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct QuestionArgs {
    /// Pictures and the question, in any order
    ///
    /// An argument is a picture if it is an existing file, is named like a picture, or is `-`
    /// (standard input). Any other argument is the question.
    #[arg(value_name = "PICTURE|PROMPT")]
    pub positional: Vec<OsString>,

    /// Model file in GGUF format [default: the built-in model]
    ///
    /// Made by owl2-convert; plain LLaMA files work for text. The built-in model knows drawings of
    /// some 80 things.
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// The question or instruction; without it, a terminal starts a chat
    ///
    /// Use `-` for standard input (the default when text is piped). Without -p on a terminal,
    /// starts a chat.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,

    /// A picture; repeat for several
    ///
    /// JPEG, PNG, WebP, GIF, BMP, TIFF, QOI or JPEG XL, or `-` for standard input. Pictures replace the
    /// `<|image|>` markers of the prompt in order, or come before the prompt if it has none.
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,

    /// Ask about each picture in these files and folders separately
    ///
    /// Prints `FILE: answer`, or with --json one object per line. Files in folders that are not
    /// pictures are counted on standard error.
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "image")]
    pub each: Vec<PathBuf>,

    /// The frames of a video: a folder, files, or an animated GIF or WebP
    ///
    /// All frames replace a single `<|image|>`.
    #[arg(
        long,
        value_name = "PATH",
        num_args = 1..,
        conflicts_with_all = ["image", "each"],
        hide_short_help = true
    )]
    pub frames: Vec<PathBuf>,

    /// Frame rate of --frames; one frame per second is used [default: use all frames]
    ///
    /// Animations always give one frame per second.
    #[arg(
        long,
        value_name = "F",
        requires = "frames",
        value_parser = super::frame_rate,
        hide_short_help = true
    )]
    pub fps: Option<f64>,

    /// How to fit non-square pictures: stretch them, pad with the mean colour, or crop the centre
    /// [default: as the model file says, stretch]
    ///
    /// The authors' name for stretch, squash, works too.
    #[arg(
        long,
        alias = "resize-mode",
        value_name = "stretch|pad|crop",
        hide_short_help = true
    )]
    pub aspect: Option<Aspect>,

    /// Ignore the EXIF or XMP orientation of pictures
    #[arg(long, hide_short_help = true)]
    pub no_exif: bool,

    /// Decode pictures exactly as the authors' code does
    ///
    /// Ignores orientation, keeps the colours under transparency (instead of white), and clips
    /// 16-bit gray at 255 (instead of scaling it).
    #[arg(long, hide_short_help = true)]
    pub reference_pixels: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PromptArgs {
    /// System prompt [default: that of the template; mplug_owl2 has none]
    #[arg(
        long,
        alias = "system-prompt",
        value_name = "TEXT",
        conflicts_with = "raw",
        allow_hyphen_values = true
    )]
    pub system: Option<String>,

    /// Prompt template: mplug_owl2, v1 or v0 [default: as the model file says; none for plain
    /// LLaMA files]
    #[arg(
        long,
        alias = "chat-template",
        value_name = "NAME",
        hide_short_help = true
    )]
    pub template: Option<crate::prompt::Template>,

    /// Use the prompt as is, without a template
    ///
    /// `<s>`, `</s>`, the model's other control tokens and `<|image|>` are recognized in it.
    #[arg(long, conflicts_with = "template", hide_short_help = true)]
    pub raw: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SamplingArgs {
    /// Maximum number of tokens to generate; -1 for no limit but the context
    /// [default: 512, or fewer if the context is smaller]
    #[arg(
        short = 'n',
        long,
        aliases = ["predict", "n-predict", "num-predict", "max-new-tokens"],
        value_name = "N"
    )]
    pub max_tokens: Option<Length>,

    /// Sampling temperature; 0 always picks the likeliest token
    #[arg(long, alias = "temperature", value_name = "T", default_value_t = 0.0)]
    pub temp: f32,

    /// Sample from the K likeliest tokens; 0 or -1 disables [default: as the model file says, 50]
    #[arg(long, value_name = "K", value_parser = top_k, hide_short_help = true)]
    pub top_k: Option<usize>,

    /// Sample from the likeliest tokens with a total probability of P [default: as the model file
    /// says, 1]
    #[arg(long, value_name = "P", hide_short_help = true)]
    pub top_p: Option<f32>,

    /// Drop tokens less likely than P times the likeliest one; 0 disables
    #[arg(long, value_name = "P", default_value_t = 0.0, hide_short_help = true)]
    pub min_p: f32,

    /// Penalize tokens that have occurred already; 1 disables
    #[arg(
        long,
        alias = "repetition-penalty",
        value_name = "R",
        default_value_t = 1.0,
        hide_short_help = true
    )]
    pub repeat_penalty: f32,

    /// Random seed; -1 picks one, which -v and --json print
    ///
    /// The same seed gives the same text.
    #[arg(long, value_name = "N", default_value_t = Seed::Fixed(0))]
    pub seed: Seed,

    /// Answer with one of these texts
    #[arg(
        long,
        value_name = "A,B,...",
        value_delimiter = ',',
        allow_hyphen_values = true,
        conflicts_with = "json_schema"
    )]
    pub choices: Vec<String>,

    /// Answer with JSON that matches this schema: a file, or the schema itself
    ///
    /// A value that begins with `{` is the schema itself.
    #[arg(long, value_name = "FILE|JSON")]
    pub json_schema: Option<OsString>,

    /// Stop before this text; repeat for several
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub stop: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RunningArgs {
    /// Worker threads [default: one per physical core]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Context size in tokens: prompt, pictures and answer [default: as trained, if memory allows]
    #[arg(short, long, aliases = ["num-ctx", "n-ctx"], value_name = "N")]
    pub ctx_size: Option<usize>,

    /// KV cache type: f32, f16, or q8_0 (about half of f16) [default: f16; f32 for f32 models]
    #[arg(long, value_name = "TYPE", hide_short_help = true)]
    pub cache_type: Option<CacheType>,

    /// Speculative decoding: guess up to N (max 7) tokens by repeating earlier text. Output is
    /// unchanged; 0 disables [default: automatic]
    #[arg(long, alias = "draft-max", value_name = "N", hide_short_help = true)]
    pub lookup: Option<usize>,

    /// Save and reuse the KV cache in FILE, so that a later run with the same beginning is faster
    #[arg(
        long,
        alias = "prompt-cache",
        value_name = "FILE",
        hide_short_help = true
    )]
    pub cache: Option<PathBuf>,

    /// Save the lines typed in chats to FILE [default: kept until the chat ends]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub history: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct OutputArgs {
    /// Print a JSON object with the text, token counts and timings
    #[arg(long)]
    pub json: bool,

    /// Show control tokens such as `</s>` in the answer
    #[arg(long, hide_short_help = true)]
    pub special: bool,

    /// Print the timings, and the seed if tokens were sampled, to standard error
    #[arg(short, long)]
    pub verbose: bool,
}

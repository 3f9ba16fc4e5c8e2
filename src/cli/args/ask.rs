//! The flags of a question and of a chat.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

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
    /// The model, a GGUF file made by owl2-convert (plain LLaMA files work for text) [default: the
    /// built-in model, which knows drawings of some 80 things]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// The question or instruction; `-` reads it from standard input, as happens without -p where
    /// that is no terminal. On a terminal, no -p begins a chat
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,

    /// A picture (JPEG, PNG, WebP, GIF, BMP, TIFF, QOI, JPEG XL), `-` for standard input; repeat for several. They go
    /// where `<|image|>` stands in the prompt, in order, else before it
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,

    /// Ask about each of these pictures, or each picture in these folders, whatever its name, by
    /// itself; prints `FILE: answer`, or with --json one object a line. What it leaves out of
    /// folders is counted on standard error
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "image")]
    pub each: Vec<PathBuf>,

    /// The frames of a video, a folder or files of them, or an animated GIF or WebP: all stand at
    /// one `<|image|>`
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with_all = ["image", "each"])]
    pub frames: Vec<PathBuf>,

    /// Frames a second: of --frames, take one for each second [default: all; of an animation always
    /// one for each second]
    #[arg(long, value_name = "F", requires = "frames", value_parser = super::frame_rate)]
    pub fps: Option<f64>,

    /// What becomes of pictures that are not square: squash them, pad them with the mean colour,
    /// or crop their sides [default: as the model file says, squash]
    #[arg(long, value_name = "squash|pad|crop")]
    pub aspect: Option<Aspect>,

    /// Do not turn pictures as their EXIF or XMP orientation says
    #[arg(long)]
    pub no_exif: bool,

    /// Take the pixels that the authors' code would: not turned, the colours below transparency
    /// (else white), 16-bit gray clipped at 255 (else scaled)
    #[arg(long)]
    pub reference_pixels: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PromptArgs {
    /// What the model is told before the first turn [default: the template's own; none for
    /// mplug_owl2]
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "raw",
        allow_hyphen_values = true
    )]
    pub system: Option<String>,

    /// Prompt template: mplug_owl2, v1 or v0 [default: as the model file says; none for plain
    /// LLaMA files]
    #[arg(long, value_name = "NAME")]
    pub template: Option<crate::prompt::Template>,

    /// Take the prompt as it is, without a template; `<s>`, `</s>`, the model's other control tokens
    /// and `<|image|>` in it count
    #[arg(long, conflicts_with = "template")]
    pub raw: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SamplingArgs {
    /// Longest answer, in tokens [default: 512, or as many as the context has room for]
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<usize>,

    /// Randomness of the choice among likely tokens; 0 always takes the likeliest one
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temp: f32,

    /// Choose among the K likeliest tokens only; 0 is off [default: as the model file says, 50]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Choose among the likeliest tokens whose probabilities make up P [default: as the model
    /// file says, 1]
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,

    /// Leave out tokens less likely than P times the likeliest one; 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub min_p: f32,

    /// Make tokens that occurred already less likely; 1 is off
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    pub repeat_penalty: f32,

    /// Seed of the random choice: the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Answer with one of these texts
    #[arg(
        long,
        value_name = "A,B,...",
        value_delimiter = ',',
        allow_hyphen_values = true,
        conflicts_with = "json_schema"
    )]
    pub choices: Vec<String>,

    /// Answer with JSON that the schema in this file describes
    #[arg(long, value_name = "FILE")]
    pub json_schema: Option<PathBuf>,

    /// End the answer before this text; repeat for several
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RunningArgs {
    /// Worker threads [default: one for each physical core there is]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Room for prompt, pictures and answer, in tokens [default: as trained, if memory allows]
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,

    /// How keys and values are kept: f32, f16, or q8_0 in little more than half of the memory of
    /// f16 [default: f16, or f32 where the weights are]
    #[arg(long, value_name = "TYPE")]
    pub cache_type: Option<CacheType>,

    /// Draft up to N tokens, 7 at most, from what was said already and verify them together; the
    /// answer is the same, sooner where it repeats something. 0 is off [default: as many as pay]
    #[arg(long, value_name = "N")]
    pub lookup: Option<usize>,

    /// Keep what was computed of prompt and answer in this file, so that the next run with the
    /// same beginning computes only the rest
    #[arg(long, value_name = "FILE")]
    pub cache: Option<PathBuf>,

    /// Keep the lines typed in chats in this file [default: only while the chat lasts]
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct OutputArgs {
    /// Print one JSON object with text, token counts and stage timings instead of the text
    #[arg(long)]
    pub json: bool,

    /// Spell out control tokens such as `</s>` in the answer
    #[arg(long)]
    pub special: bool,

    /// Print how long each stage took, on standard error
    #[arg(short, long)]
    pub verbose: bool,
}

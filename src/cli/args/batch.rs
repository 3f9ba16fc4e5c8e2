//! The flags of batches.

use std::path::PathBuf;

use clap::Args;

use super::together::{TogetherArgs, together};
use crate::cli::batch::{Shard, SidecarFormat};
use crate::image::Aspect;
use crate::score::{Rule, Task};

const BATCH_NOTES: &str = "\
A row is one line of JSON: {\"id\": ..., \"image\": \"a.jpg\" or [...], \"prompt\": ..., \"max_tokens\": ...,
\"temperature\": ..., \"top_p\": ..., \"top_k\": ..., \"seed\": ..., \"stop\": ..., \"system\": ...}. Only the
prompt is required. Rows of OpenAI's batch files work too: {\"custom_id\", \"method\", \"url\", \"body\"}.
Relative picture paths start at the folder of the input file. If the input is a folder, each picture
in it is a row, and the row's id is the picture's path below the folder.

The result of each row is appended to OUT as one line: {\"id\", \"image\", \"text\", \"finish_reason\",
\"usage\", \"seconds\", \"key\"}, or {\"id\", \"error\": {\"kind\", \"message\"}, \"key\"}. Rows in OpenAI's format
get results in OpenAI's format. A line that is not a valid row gives an error with its line number.

To resume after any stop, run the same command again. It skips rows whose key is already in OUT. The
key covers the row, the model file, and the size and modification time of each picture (its bytes
with --hash).

Exit status: 0 all rows succeeded, 1 some rows failed, 75 stopped and can be resumed; others as owl2.

Examples:
  owl2 batch -m model.gguf -i photos -o captions.jsonl --prompt \"Describe the image.\"
  owl2 batch -m model.gguf -i rows.jsonl -o out.3.jsonl --shard 3/16
  owl2 batch -m model.gguf -i photos -o captions.jsonl --prompt \"Describe the image.\" --sidecar xmp
  owl2 batch -m one-align.gguf -i photos -o scores.jsonl --score q-align";

/// Arguments of `owl2 batch`.
#[derive(Debug, Args)]
#[command(after_long_help = BATCH_NOTES)]
pub(in crate::cli) struct BatchArgs {
    /// Model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Input: a JSON Lines file, a folder of pictures, or `-` for JSON Lines on standard input
    #[arg(short, long, value_name = "ROWS.jsonl|DIR|-")]
    pub input: PathBuf,

    /// File to append the results to
    #[arg(short, long, value_name = "OUT.jsonl")]
    pub output: PathBuf,

    /// Prompt for rows without one
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// Rate the pictures by this rule instead of asking about them
    #[arg(long, value_name = "RULE", conflicts_with_all = ["prompt", "json_schema"])]
    pub score: Option<Rule>,

    /// What to rate: quality or aesthetics
    #[arg(long, value_name = "TASK", default_value_t, requires = "score")]
    pub task: Task,

    /// Answer with JSON that matches the schema in this file
    #[arg(long, value_name = "FILE")]
    pub json_schema: Option<PathBuf>,

    /// Maximum number of tokens to generate, for rows without their own
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<usize>,

    /// How to fit non-square pictures [default: as the model file says]
    #[arg(long, value_name = "squash|pad|crop")]
    pub aspect: Option<Aspect>,

    /// Process only part I of N, such as 3/16; each row belongs to exactly one part
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,

    /// Retry rows that failed in an earlier run
    #[arg(long)]
    pub retry_errors: bool,

    /// Identify pictures by their bytes instead of their size and modification time
    #[arg(long)]
    pub hash: bool,

    /// Write results in input order instead of as they finish
    #[arg(long)]
    pub ordered: bool,

    /// Also write each answer beside its picture: cat.jpg.xmp or cat.txt
    ///
    /// In .xmp the answer becomes the description (dc:description). The caption and keywords of a
    /// JSON answer become the description and keywords (dc:subject). Existing entries of other
    /// programs are kept.
    #[arg(long, value_name = "FORMAT", conflicts_with = "score")]
    pub sidecar: Option<SidecarFormat>,

    /// Number of rows to compute at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = together())]
    pub parallel: usize,

    #[command(flatten)]
    pub running: TogetherArgs,
}

//! The flags of batches.

use std::path::PathBuf;

use clap::Args;

use super::together::{TogetherArgs, together};
use crate::cli::batch::{Shard, SidecarFormat};
use crate::image::Aspect;
use crate::score::{Rule, Task};

const BATCH_NOTES: &str = "\
A row is one line of JSON: {\"id\": ..., \"image\": \"a.jpg\" or [...], \"prompt\": ..., \"max_tokens\": ...,
\"temperature\": ..., \"top_p\": ..., \"top_k\": ..., \"seed\": ..., \"stop\": ..., \"system\": ...}, all but
the prompt optional, or a row of OpenAI's batch files: {\"custom_id\", \"method\", \"url\", \"body\"}. A
folder is a row for each picture in it, whose id is its path below the folder. Files of pictures are
taken from where the rows are.

Each row's outcome is appended to OUT as one line, as it is done: {\"id\", \"image\", \"text\",
\"finish_reason\", \"usage\", \"seconds\", \"key\"}, or {\"id\", \"error\": {\"kind\", \"message\"}, \"key\"}; rows of
OpenAI's shape have OpenAI's. A row that cannot be read is an error with its line's number.

The same command goes on where an earlier one ended, however that was: rows whose key stands in OUT
already are not done again. The key is made of the row, of its pictures' sizes and times of change
(with --hash, their bytes) and of the model file.

Exit status: 0 all rows are done, 1 some have failed, 75 stopped, to be gone on with; else as owl2.

Examples:
  owl2 batch -m model.gguf -i photos -o captions.jsonl --prompt \"Describe the image.\"
  owl2 batch -m model.gguf -i rows.jsonl -o out.3.jsonl --shard 3/16
  owl2 batch -m model.gguf -i photos -o captions.jsonl --prompt \"Describe the image.\" --sidecar xmp
  owl2 batch -m one-align.gguf -i photos -o scores.jsonl --score q-align";

/// Arguments of `owl2 batch`.
#[derive(Debug, Args)]
#[command(after_long_help = BATCH_NOTES)]
pub(in crate::cli) struct BatchArgs {
    /// The model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Rows as lines of JSON, a folder of pictures, or `-` for rows on standard input
    #[arg(short, long, value_name = "ROWS.jsonl|DIR|-")]
    pub input: PathBuf,

    /// Where outcomes are appended
    #[arg(short, long, value_name = "OUT.jsonl")]
    pub output: PathBuf,

    /// The question, for rows that have none
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// Rate the pictures by this rule in place of asking about them
    #[arg(long, value_name = "RULE", conflicts_with_all = ["prompt", "json_schema"])]
    pub score: Option<Rule>,

    /// What is rated: quality or aesthetics
    #[arg(long, value_name = "TASK", default_value_t, requires = "score")]
    pub task: Task,

    /// Hold answers to the JSON schema in this file
    #[arg(long, value_name = "FILE")]
    pub json_schema: Option<PathBuf>,

    /// Longest answer in tokens, for rows that do not say
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<usize>,

    /// How to fit pictures that are not square: squash, pad or crop [default: as the file says]
    #[arg(long, value_name = "squash|pad|crop")]
    pub aspect: Option<Aspect>,

    /// Do only the rows of one of N shares, by their ids; the shares are disjoint and together all
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,

    /// Do rows again that failed in an earlier run
    #[arg(long)]
    pub retry_errors: bool,

    /// Tell pictures by their bytes, not by their size and time of change
    #[arg(long)]
    pub hash: bool,

    /// Write outcomes in the order of the rows, not as they are done
    #[arg(long)]
    pub ordered: bool,

    /// Write each answer beside its picture too: PICTURE.xmp, or its name with .txt
    ///
    /// In .xmp the answer is the description (dc:description); the caption and keywords of a JSON
    /// answer are description and keywords (dc:subject). What others wrote stays as it is.
    #[arg(long, value_name = "FORMAT", conflicts_with = "score")]
    pub sidecar: Option<SidecarFormat>,

    /// Rows that are computed together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = together())]
    pub parallel: usize,

    #[command(flatten)]
    pub running: TogetherArgs,
}

//! The flags of evaluations.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use crate::eval::benchmark::BenchmarkFormat;
use crate::eval::prompts::Style;
use crate::score::{Form, Rule, Task};

const NOTES: &str = "\
Formats of questions, detected from name and content unless --format is given:
  lines    JSON lines with image (or null), question, answer, type and, from another implementation,
           prompt_ids, output_ids, model_answer, logits8
  iqa      a JSON array of Q-Align or DeQA-Score: image, gt_score (gt_score_norm, std_norm); gives
           SRCC, PLCC and KRCC, the same after a logistic fit, KL, JS and W between distributions
  tsv      a table of VLMEvalKit with its pictures: multiple choice (circular too), yes or no, VQA
  mme      a folder of MME: CATEGORY.txt, in Your_Results or in the folder itself, and pictures
  vqa      a JSON array of questions with people's answers; gives the official VQA accuracy
  q-bench  Q-Bench's JSON array: img_path, question, candidates, correct_ans
  mmlu     CSV without a header: question, four options, letter; answered by the likeliest letter

--output gets one row per answer. For a tsv it is the same table without the pictures and with a
column 'prediction'.

Examples:
  owl2 eval -m model.gguf --questions MMBench_DEV_EN.tsv --output answers.tsv
  owl2 eval -m one-align.gguf --questions test_koniq.json --image-root koniq10k
  owl2 eval -m model-q4_k.gguf --questions questions.jsonl --reference model-f16.gguf";

/// Arguments of `owl2 eval`.
#[derive(Debug, Args)]
#[command(after_long_help = NOTES, group = ArgGroup::new("answers").args(["output", "resume"]))]
pub(in crate::cli) struct EvalArgs {
    /// Model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// The questions, in one of the formats that --help lists
    #[arg(long, value_name = "PATH")]
    pub questions: PathBuf,

    /// Format: lines, iqa, tsv, mme, vqa, q-bench or mmlu [default: detected from name and content]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<BenchmarkFormat>,

    /// Prompts of mPLUG-Owl2's authors or of VLMEvalKit (tsv, mme, vqa)
    #[arg(long, value_name = "authors|vlmevalkit", default_value_t)]
    pub prompts: Style,

    /// Write the answers to this table, one row at a time
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Continue the table of an earlier run, skipping what it contains
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,

    /// Compare with this less quantized file: same answers, KL divergence (lines)
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,

    /// Folder of the pictures [default: that of the questions]
    #[arg(long, value_name = "DIR")]
    pub image_root: Option<PathBuf>,

    /// Maximum number of tokens to generate [default: 512, or that of the prompts' authors]
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<usize>,

    /// Stop after N questions
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,

    /// Scoring rule: q-align, deqa or q-instruct (iqa) [default: as the model file says]
    #[arg(long, value_name = "NAME")]
    pub rule: Option<Rule>,

    /// What to rate: quality, aesthetics or aesthetic (iqa)
    #[arg(long, value_name = "TASK", default_value_t)]
    pub task: Task,

    /// Prompts of the authors' evaluation scripts or of the published models (iqa)
    #[arg(long, value_name = "scripts|hub", default_value_t = Form::Scripts)]
    pub score_prompts: Form,

    /// Few-shot examples: questions with answers to put before each one, such as the first five of
    /// MMLU's dev files (mmlu)
    #[arg(long, value_name = "FILE")]
    pub shots: Option<PathBuf>,

    /// Worker threads [default: one per physical core]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

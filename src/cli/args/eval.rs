//! The flags of evaluations.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use crate::eval::benchmark::Format;
use crate::eval::prompts::Style;
use crate::score::{Form, Rule, Task};

const NOTES: &str = "\
Files of questions, told by name and content unless --format says what they are:
  lines    JSON lines with image (or null), question, answer, type and, from another implementation,
           prompt_ids, output_ids, model_answer, logits8
  iqa      a JSON array of Q-Align or DeQA-Score: image, gt_score (gt_score_norm, std_norm); gives
           SRCC, PLCC and KRCC, the same after a logistic fit, KL, JS and W between distributions
  tsv      a table of VLMEvalKit with its pictures: multiple choice (circular too), yes or no, VQA
  mme      a folder of MME: CATEGORY.txt, in Your_Results or in the folder itself, and pictures
  vqa      a JSON array of questions with people's answers; gives the official VQA accuracy
  q-bench  Q-Bench's JSON array: img_path, question, candidates, correct_ans
  mmlu     CSV without a header: question, four options, letter; answered by the likeliest letter

--output gets a row for each answer; of a tsv, the same table with a column prediction and without
pictures.

Examples:
  owl2 eval -m model.gguf --questions MMBench_DEV_EN.tsv --output answers.tsv
  owl2 eval -m one-align.gguf --questions test_koniq.json --image-root koniq10k
  owl2 eval -m model-q4_k.gguf --questions questions.jsonl --reference model-f16.gguf";

/// Arguments of `owl2 eval`.
#[derive(Debug, Args)]
#[command(after_long_help = NOTES, group = ArgGroup::new("answers").args(["output", "resume"]))]
pub(in crate::cli) struct EvalArgs {
    /// The model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// The questions, in one of the formats that --help lists
    #[arg(long, value_name = "PATH")]
    pub questions: PathBuf,

    /// What the questions are: lines, iqa, tsv, mme, vqa, q-bench or mmlu [default: as name and
    /// content tell]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Whose prompts: those of mPLUG-Owl2's authors, or VLMEvalKit's for it (tsv, mme, vqa)
    #[arg(long, value_name = "authors|vlmevalkit", default_value_t)]
    pub prompts: Style,

    /// Write each answer into this table as it comes
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Go on with the table of an earlier run: what is in it is not asked again
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,

    /// Another file of the model, with more bits as a rule, whose answers and next-token
    /// probabilities the model's are compared with (lines)
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,

    /// Where the pictures are [default: beside the questions]
    #[arg(long, value_name = "DIR")]
    pub image_root: Option<PathBuf>,

    /// Longest answer, in tokens [default: 512, or as the prompts' authors have it]
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<usize>,

    /// Only the first N questions
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,

    /// The scoring rule: q-align, deqa or q-instruct (iqa) [default: as the model file says]
    #[arg(long, value_name = "NAME")]
    pub rule: Option<Rule>,

    /// What is rated: quality, aesthetics or aesthetic (iqa)
    #[arg(long, value_name = "TASK", default_value_t)]
    pub task: Task,

    /// Prompts of scores: those of the authors' evaluation scripts, or of the published models (iqa)
    #[arg(long, value_name = "scripts|hub", default_value_t = Form::Scripts)]
    pub score_prompts: Form,

    /// Questions with answers that precede each one, such as the first five of MMLU's dev files
    /// (mmlu)
    #[arg(long, value_name = "FILE")]
    pub shots: Option<PathBuf>,

    /// Worker threads [default: one for each physical core there is]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

//! The command line of `owl2-convert`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Parser;

use owl2::gguf::DType;

use crate::random::RandomShape;
use crate::recipe::{Quant, TensorType};
use crate::score_rule::ScoreRule;

const EXAMPLES: &str = "\
Examples:
  owl2-convert mplug-owl2-llama2-7b -o owl2-q4_k.gguf
  owl2-convert mplug-owl2-llama2-7b -o owl2-q8_0.gguf --quant q8_0 --dry-run
  owl2-convert mplug-owl2-llama2-7b -o tuned.gguf --lora my-adapter
  owl2-convert mplug-owl2-llama2-7b -o mix.gguf --tensor-type 'blk.*.ffn_down.weight=q6_k'
  owl2-convert model-f16.gguf -o model-q4_k.gguf
  owl2-convert --random 7b --seed 1 -o random.gguf
  owl2-convert --verify owl2-q4_k.gguf mplug-owl2-llama2-7b

Exit status: 0 success, 2 wrong usage, 4 unusable checkpoint or file, 5 input or output failed,
101 internal error, 130 interrupted.";

/// Packs an mPLUG-Owl2 checkpoint, or a GGUF file of floats, into the single GGUF file that owl2
/// runs.
#[derive(Debug, Parser)]
#[command(name = "owl2-convert", version, after_help = EXAMPLES)]
pub struct Args {
    /// Directory of the checkpoint: config.json, tokenizer.model or tokenizer.json, and the weights as safetensors
    /// or torch .bin files, single or sharded. Or a GGUF file of F32, F16 or BF16: one of a plain
    /// LLaMA model, with any tokenizer, or one that this program made
    #[arg(
        value_name = "CHECKPOINT",
        required_unless_present_any = ["random", "verify", "completions", "man"],
        conflicts_with = "random"
    )]
    pub checkpoint: Option<PathBuf>,

    /// The file to write
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present_any = ["dry_run", "verify", "completions", "man"],
        conflicts_with = "verify"
    )]
    pub output: Option<PathBuf>,

    /// Type of the weights
    #[arg(
        long,
        value_name = "QUANT",
        default_value = "q4_k",
        ignore_case = true,
        conflicts_with = "verify"
    )]
    pub quant: Quant,

    /// Type of the matrices of vision tower and abstractor: f32, f16, bf16, q8_0, q6_k, q4_k or
    /// q4_0 [default: q8_0, or wider with a wider --quant]
    #[arg(long, value_name = "TYPE", conflicts_with = "verify")]
    pub vision_quant: Option<DType>,

    /// Type of the matrices whose names match; `*` matches any text, `?` any character. Repeat for
    /// several; the last match wins
    #[arg(long, value_name = "GLOB=TYPE", conflicts_with = "verify")]
    pub tensor_type: Vec<TensorType>,

    /// Do not rotate the columns of quantized matrices. Rotation spreads outliers, so that less
    /// is lost by rounding, but only owl2 can read rotated files
    #[arg(long, conflicts_with = "verify")]
    pub no_rotate: bool,

    /// Directory of a LoRA adapter to merge into the checkpoint
    #[arg(
        long,
        value_name = "DIR",
        requires = "checkpoint",
        conflicts_with = "random"
    )]
    pub lora: Option<PathBuf>,

    /// Scoring rule to write into the file: q-align, deqa, q-instruct, compare2score or none
    /// [default: from the names of the checkpoint and its base]
    #[arg(long, value_name = "RULE", conflicts_with = "verify")]
    pub score_rule: Option<ScoreRule>,

    /// Skip tensors that are not part of the model, and list them, instead of refusing the
    /// checkpoint
    #[arg(long, conflicts_with = "random")]
    pub ignore_extra: bool,

    /// Use random weights of this shape instead of a checkpoint, for benchmarks
    #[arg(long, value_name = "SHAPE")]
    pub random: Option<RandomShape>,

    /// Seed of the random weights
    // clap drops a requirement that conflicts with a given argument, so both are said.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        requires = "random",
        conflicts_with = "checkpoint"
    )]
    pub seed: u64,

    /// Check a file instead of writing one; with the original checkpoint, print the relative error
    /// of each tensor, worst first
    #[arg(long, value_name = "FILE")]
    pub verify: Option<PathBuf>,

    /// Worker threads [default: one per physical core]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Print the plan with its sizes and stop
    #[arg(long, conflicts_with = "verify")]
    pub dry_run: bool,

    /// Overwrite the file if it exists
    #[arg(long, conflicts_with = "verify")]
    pub force: bool,

    /// Print nothing but errors (and what --verify finds)
    #[arg(short, long, conflicts_with = "dry_run")]
    pub quiet: bool,

    /// Print a completion script for this shell and stop
    #[arg(long, value_name = "SHELL", exclusive = true)]
    pub completions: Option<clap_complete::Shell>,

    /// Print the manual page and stop
    #[arg(long, exclusive = true)]
    pub man: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn either_a_checkpoint_or_random_weights_or_a_file_to_verify() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        for line in [
            "owl2-convert dir -o m.gguf",
            "owl2-convert dir --dry-run",
            "owl2-convert dir -o m.gguf --quant q8_0 --lora a --tensor-type *=f16 --threads 3",
            "owl2-convert dir -o m.gguf --quant q4_K_M",
            "owl2-convert dir -o m.gguf --quant FP16 --vision-quant Q8_0",
            "owl2-convert --random tiny --seed 3 -o m.gguf",
            "owl2-convert --verify m.gguf",
            "owl2-convert --verify m.gguf dir --lora a",
            "owl2-convert --verify m.gguf --random 7b --seed 1",
            "owl2-convert --completions zsh",
            "owl2-convert --man",
            "owl2-convert dir -o m.gguf --score-rule none",
            "owl2-convert --random tiny -o m.gguf --score-rule compare2score",
            "owl2-convert dir -o m.gguf --ignore-extra",
            "owl2-convert --verify m.gguf dir --ignore-extra",
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "owl2-convert",
            "owl2-convert dir",
            "owl2-convert -o m.gguf",
            "owl2-convert dir --random tiny -o m.gguf",
            "owl2-convert --random tiny --lora a -o m.gguf",
            "owl2-convert dir -o m.gguf --seed 3",
            "owl2-convert --verify m.gguf -o n.gguf",
            "owl2-convert dir -o m.gguf --quant q5_0",
            "owl2-convert dir -o m.gguf --tensor-type q8_0",
            "owl2-convert dir -o m.gguf --threads 0",
            "owl2-convert dir -o m.gguf --man",
            "owl2-convert dir -o m.gguf --score-rule best",
            "owl2-convert --completions tcsh",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}

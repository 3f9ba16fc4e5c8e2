//! What can be said on the command line, and in the environment in its place.

mod ask;
#[cfg(feature = "serve")]
mod batch;
mod environment;
mod eval;
mod score;
#[cfg(feature = "serve")]
mod serve;
mod swallowed;
mod tools;

use std::env;
use std::ffi::OsString;

use clap::{Arg, Command as Clap, CommandFactory, FromArgMatches, Parser, Subcommand};

pub(super) use ask::AskArgs;
#[cfg(feature = "serve")]
pub(super) use batch::BatchArgs;
pub(super) use eval::EvalArgs;
pub(super) use score::{CompareArgs, ScoreArgs};
#[cfg(feature = "serve")]
pub(super) use serve::ServeArgs;
pub(super) use tools::{BenchArgs, CompletionsArgs, InfoArgs, PerplexityArgs, TokenizeArgs};

const HELP: &str = "\
{about-with-newline}
Examples:
  owl2 -m model.gguf --image cat.jpg -p \"Describe the image.\"
  owl2 -m model.gguf                                            (a chat; /help there says more)
  owl2 -m model.gguf --each photos -p \"What is this?\" --json
  owl2 score -m one-align.gguf -r photos --csv scores.csv

{usage-heading} {usage}

{all-args}{after-help}";

const NOTES: &str = "\
Every flag can be given by an environment variable too, which a flag on the command line
overrides: OWL2_MODEL for --model, OWL2_CTX_SIZE for --ctx-size, OWL2_BENCH_PP for bench --pp. A
flag without a value is on with 1 and off with 0. NO_COLOR turns off colours.

A plain LLaMA file has no prompt template: it continues the prompt, after <s>, as it is.

Exit status: 0 success (also where the reader of the output has gone), 1 some pictures of --each
or score failed, 2 wrong usage, 3 unusable picture or prompt, 4 unusable model file, 5 input or output
failed, 6 not enough context or memory, 7 an answer cut before it was what --choices or
--json-schema asks for, 101 a mistake in the program, 130 interrupted.";

/// Asks a vision-language model (mPLUG-Owl2) about pictures, on an ordinary CPU.
#[derive(Debug, Parser)]
#[command(
    name = "owl2",
    version,
    help_template = HELP,
    after_help = NOTES,
    args_conflicts_with_subcommands = true
)]
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
    /// Shows the tokens that a text becomes
    Tokenize(TokenizeArgs),
    /// Asks questions with known answers and counts how many come out right, in many formats
    Eval(EvalArgs),
    /// Rates the quality or beauty of pictures and videos, or says how likely words are
    Score(ScoreArgs),
    /// Says which of a few pictures is better
    Compare(CompareArgs),
    /// Asks about a whole collection, or rates it, into a file of JSON lines; can be stopped and gone on with
    #[cfg(feature = "serve")]
    Batch(BatchArgs),
    /// Answers over HTTP, as OpenAI's and Ollama's clients ask, and has a page for people
    #[cfg(feature = "serve")]
    Serve(ServeArgs),
    /// Measures how well a model predicts a text, and how far it is from another file of itself
    Perplexity(PerplexityArgs),
    /// Measures how fast a model runs, beside what this machine could do
    Bench(BenchArgs),
    /// Prints a completion script for a shell
    Completions(CompletionsArgs),
    /// Prints the manual page
    Man,
}

/// A number of frames a second.
fn frame_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("wanted a number greater than 0".to_owned()),
    }
}

impl Cli {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// What clap says about wrong usage, or the help or version that was asked for.
    pub fn read() -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = env::args_os().collect();
        swallowed::check(definition(), arguments.get(1..).unwrap_or_default())?;
        Self::from_arg_matches(&definition().try_get_matches_from(arguments)?)
    }
}

/// The whole command line.
pub(super) fn definition() -> Clap {
    environment::add(Cli::command())
        .mut_args(take_negative)
        .mut_subcommands(|command| command.mut_args(take_negative))
}

/// Lets a value be a number below zero, so that the flag is named which refuses it, or takes it.
fn take_negative(arg: Arg) -> Arg {
    match arg.get_action().takes_values() && !arg.is_allow_hyphen_values_set() {
        true => arg.allow_negative_numbers(true),
        false => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }
}

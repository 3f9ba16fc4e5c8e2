//! The command line: subcommands, flags, and the environment variables that can replace flags.

mod ask;
#[cfg(feature = "serve")]
mod batch;
mod environment;
mod eval;
mod numbers;
mod positional;
mod score;
#[cfg(feature = "serve")]
mod serve;
mod swallowed;
#[cfg(feature = "serve")]
mod together;
mod tools;

use std::env;
use std::ffi::OsString;

use clap::{Arg, Command as Clap, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::Kind;

pub(super) use ask::AskArgs;
#[cfg(feature = "serve")]
pub(super) use batch::BatchArgs;
pub(super) use eval::EvalArgs;
pub(super) use numbers::Seed;
pub(super) use score::{CompareArgs, ScoreArgs};
#[cfg(feature = "serve")]
pub(super) use serve::ServeArgs;
pub(super) use tools::{
    BenchArgs, CompletionsArgs, DoctorArgs, InfoArgs, ManArgs, PerplexityArgs, TokenizeArgs,
};

const HELP: &str = "\
{about-with-newline}
Examples:
  owl2 cat.png \"What is it?\"                       (the built-in model)
  owl2 -m model.gguf cat.jpg \"Describe the image.\"
  owl2 -m model.gguf                                 (a chat; /help lists its commands)
  owl2 -m model.gguf --each photos -p \"What is this?\" --json
  owl2 score -m one-align.gguf -r photos --csv scores.csv

{usage-heading} {usage}

{all-args}{after-help}";

const SHORT_NOTES: &str = "\
'owl2 --help' lists all flags. 'owl2 COMMAND --help' lists the flags of a command.";

/// The end of the long help.
fn notes() -> String {
    format!(
        "\
Every flag can also be set by an environment variable: OWL2_MODEL for --model, OWL2_CTX_SIZE for
--ctx-size, OWL2_BENCH_PP for bench --pp. The command line overrides the environment. A flag without
a value is on with 1 and off with 0. A variable for a flag that can be repeated has one value per
line. NO_COLOR turns off colours.

A plain LLaMA file has no prompt template: the model continues the prompt, after <s>, as it is.

Exit status:
{}",
        exit_codes()
    )
}

/// The exit status of each kind of error, one a line.
fn exit_codes() -> String {
    let success = (
        0,
        "success, also if the reader of the output is gone".to_owned(),
    );
    let kinds = Kind::ALL.map(|kind| (kind.exit_code(), kind.to_string()));
    let mut codes = [vec![success], kinds.to_vec()].concat();
    codes.sort();
    let lines = codes
        .iter()
        .map(|(code, text)| format!("{code:>5}  {text}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Asks a vision-language model (mPLUG-Owl2) about pictures, on an ordinary CPU.
#[derive(Debug, Parser)]
#[command(
    name = "owl2",
    version,
    help_template = HELP,
    after_help = SHORT_NOTES,
    after_long_help = notes(),
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) ask: AskArgs,
    /// Print only errors to standard error: no notices, no progress
    #[arg(short, long, global = true, help_heading = "Output")]
    pub(super) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what a model file contains and how much memory it needs
    Info(InfoArgs),
    /// Show what this machine has, what a model file would do on it, and what to change
    Doctor(DoctorArgs),
    /// Show the tokens of a text
    Tokenize(TokenizeArgs),
    /// Run a benchmark: questions with known answers, in many formats
    Eval(EvalArgs),
    /// Rate the quality or aesthetics of pictures and videos, or the likelihood of words
    Score(ScoreArgs),
    /// Compare the quality of a few pictures
    Compare(CompareArgs),
    /// Ask about a whole collection, or rate it, into a JSON Lines file; resumable
    #[cfg(feature = "serve")]
    Batch(BatchArgs),
    /// Serve the model over HTTP to OpenAI and Ollama clients, with a web page
    #[cfg(feature = "serve")]
    Serve(ServeArgs),
    /// Measure how well a model predicts a text, or how far it is from a less quantized file
    Perplexity(PerplexityArgs),
    /// Measure the speed of a model beside the limits of this machine
    Bench(BenchArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or that of a command
    Man(ManArgs),
}

/// The frame rate of a video, in frames per second.
fn frame_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("expected a number greater than 0".to_owned()),
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
        let mut command = environment::without_overridden(definition(), &arguments);
        if arguments.iter().any(|argument| argument == "-h") {
            // A line for each flag; the long help has the variables.
            let hide = |arg: Arg| arg.hide_env(true);
            command = command
                .mut_args(hide)
                .mut_subcommands(|sub| sub.mut_args(hide));
        }
        let matches = command.try_get_matches_from_mut(arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        positional::sort(&mut cli.ask.question, &matches, &mut command)?;
        Ok(cli)
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

    #[test]
    fn numbers_are_taken_within_their_limits() {
        let is_taken = |line: &str| {
            let arguments = format!("owl2 {line}");
            definition()
                .try_get_matches_from(arguments.split(' '))
                .is_ok()
        };
        for (line, least, most) in [
            ("bench --tg", "0", "65536"),
            ("bench --pp", "0", "65536"),
            ("bench --parallel", "1", "512"),
            ("perplexity --text x --window", "2", "100000"),
            #[cfg(feature = "serve")]
            ("serve --parallel", "1", "32"),
            #[cfg(feature = "serve")]
            ("batch -i x -o y --parallel", "1", "32"),
        ] {
            for (number, expected) in [(least, true), (most, true), ("-1", false)] {
                assert_eq!(
                    is_taken(&format!("{line} {number}")),
                    expected,
                    "{line} {number}"
                );
            }
        }
        for line in [
            "bench --tg 65537",
            "bench --pp 1,65537",
            "bench --parallel 0",
            "bench --parallel 513",
            "perplexity --text x --window 1",
            #[cfg(feature = "serve")]
            "serve --parallel 0",
            #[cfg(feature = "serve")]
            "serve --parallel 33",
        ] {
            assert!(!is_taken(line), "{line}");
        }
    }

    #[test]
    fn frame_rates_are_finite_and_more_than_nothing() {
        assert_eq!(frame_rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "inf", "nan", "", "x"] {
            assert!(frame_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_texts_may_begin_with_a_dash_and_a_letter() {
        let all = definition();
        for command in all.get_subcommands().chain([&all]) {
            for arg in command.get_arguments() {
                let takes_values = arg.get_action().takes_values();
                let is_text = arg.is_allow_hyphen_values_set();
                let takes_numbers = arg.is_allow_negative_numbers_set();
                let name = (command.get_name(), arg.get_id());
                assert_eq!(takes_values, is_text || takes_numbers, "{name:?}");
                assert!(!(is_text && takes_numbers), "{name:?}");
            }
        }
    }
}

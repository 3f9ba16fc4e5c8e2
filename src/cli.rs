//! The command line of `owl2`: flags and printing, nothing else.

mod ahead;
mod args;
mod ask;
#[cfg(feature = "serve")]
mod batch;
mod bench;
mod cache;
mod chat;
mod compare;
mod doctor;
mod each;
mod eval;
pub mod fuzzing;
mod generated;
mod info;
mod interrupt;
mod model_file;
mod output;
mod perplexity;
#[cfg(unix)]
mod piped;
/// Elsewhere, `--image -` has to say that a picture is piped in.
#[cfg(not(unix))]
mod piped {
    /// The picture on standard input, if one is there.
    pub fn picture() -> crate::error::Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
mod progress;
mod rows;
mod score;
#[cfg(feature = "serve")]
mod serve;
mod setup;
mod together;
mod tokenize;

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use serde_json::Value;

pub use args::Cli;

use crate::capacity::human_bytes;
use crate::error::{Error, Kind, Result};
use crate::harmless;
use args::Command;

/// Runs a parsed command line.
///
/// # Errors
/// Whatever the command meets. A reader of standard output that goes away is no error.
pub fn run(cli: Cli) -> Result<()> {
    interrupt::catch_signals(match &cli.command {
        // It goes on at whatever point it was stopped, also before its first row and after its last.
        #[cfg(feature = "serve")]
        Some(Command::Batch(_)) => Kind::Stopped,
        _ => Kind::Interrupted,
    })?;
    if cli.quiet {
        progress::be_quiet();
    }
    match cli.command {
        Some(Command::Eval(args)) => eval::run(&args),
        Some(Command::Score(args)) => score::run(&args),
        Some(Command::Compare(args)) => compare::run(&args),
        #[cfg(feature = "serve")]
        Some(Command::Batch(args)) => batch::run(&args),
        #[cfg(feature = "serve")]
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Info(args)) => info::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Perplexity(args)) => perplexity::run(&args),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Tokenize(args)) => tokenize::run(&args),
        Some(Command::Completions(args)) => generated::completions(&args),
        Some(Command::Man(args)) => generated::man(&args),
        None => ask::run(&cli.ask),
    }
}

/// Writes to standard output and flushes. `Ok(false)` says that nobody reads any more. A program
/// gets every byte, a terminal no control sequences.
fn print(text: &str) -> Result<bool> {
    let mut stdout = io::stdout().lock();
    let text = match stdout.is_terminal() {
        true => harmless::text(text),
        false => Cow::Borrowed(text),
    };
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("cannot write", Path::new("standard output"), e)),
    }
}

/// `value` with a member a line, but lists of numbers on one. `newline` begins the lines.
fn pretty(value: &Value, newline: &str) -> String {
    let deeper = format!("{newline}  ");
    let (open, members, close): (_, Vec<String>, _) = match value {
        Value::Object(map) if !map.is_empty() => {
            let member = |(key, value): (&String, &Value)| {
                format!("{}: {}", Value::from(key.as_str()), pretty(value, &deeper))
            };
            ('{', map.iter().map(member).collect(), '}')
        }
        Value::Array(list) if list.iter().any(|value| !value.is_number()) => {
            let members = list.iter().map(|value| pretty(value, &deeper));
            ('[', members.collect(), ']')
        }
        Value::Array(list) => {
            let numbers: Vec<String> = list.iter().map(Value::to_string).collect();
            return format!("[{}]", numbers.join(", "));
        }
        _ => return value.to_string(),
    };
    let members = members.join(&format!(",{deeper}"));
    format!("{open}{deeper}{members}{newline}{close}")
}

/// Serialises `value` for standard output, with a newline; as [`print`].
fn print_json(value: &Value) -> Result<bool> {
    print(&(pretty(value, "\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn printed_json_is_what_it_was() {
        for value in [
            json!({}),
            json!([]),
            json!({"a": [1, 2.5, -3], "b": {"c": [], "d": "x\"\n", "e": null}}),
            json!([{"a": true}, [1, [2, "x"]], "y"]),
        ] {
            let text = pretty(&value, "\n");
            assert_eq!(
                serde_json::from_str::<Value>(&text).unwrap(),
                value,
                "{text}"
            );
        }
        let text = pretty(&json!({"ids": [1, 2], "n": {"a": 1}}), "\n");
        assert_eq!(
            text,
            "{\n  \"ids\": [1, 2],\n  \"n\": {\n    \"a\": 1\n  }\n}"
        );
    }
}

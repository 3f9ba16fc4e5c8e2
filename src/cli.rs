//! The command line of `owl2`: flags and printing, nothing else.

mod args;
mod ask;
#[cfg(feature = "serve")]
mod batch;
mod bench;
mod cache;
mod chat;
mod compare;
mod each;
mod eval;
mod generated;
mod info;
mod interrupt;
mod model_file;
mod output;
mod perplexity;
mod progress;
mod rows;
mod score;
#[cfg(feature = "serve")]
mod serve;
mod setup;
mod tokenize;

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

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
    interrupt::catch_signals()?;
    match cli.command {
        Some(Command::Eval(args)) => eval::run(&args),
        Some(Command::Score(args)) => score::run(&args),
        Some(Command::Compare(args)) => compare::run(&args),
        #[cfg(feature = "serve")]
        Some(Command::Batch(args)) => batch::run(&args),
        #[cfg(feature = "serve")]
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Info(args)) => info::run(&args),
        Some(Command::Perplexity(args)) => perplexity::run(&args),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Tokenize(args)) => tokenize::run(&args),
        Some(Command::Completions(args)) => generated::completions(&args),
        Some(Command::Man) => generated::man(),
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

/// Serialises `value` for standard output, with a newline; as [`print`].
fn print_json(value: &serde_json::Value) -> Result<bool> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::new(Kind::Io, format!("cannot write JSON: {e}")))?;
    print(&(text + "\n"))
}

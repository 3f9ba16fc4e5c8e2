//! The `owl2-convert` program: parses the command line, runs it, and maps errors to exit codes.

use std::borrow::Cow;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use owl2::error::flag;
use owl2::{harmless, panics};
use owl2_convert::args::Args;
use owl2_convert::progress::say;
use owl2_convert::{interrupt, run};

fn main() -> ExitCode {
    panics::set_status_of_aborts();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    match panics::catch(|| interrupt::catch_signals().and_then(|()| run(&args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("owl2-convert: {}", error.spelled(&flag)));
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Prints help, the version or a usage error where each belongs.
fn usage(error: &clap::Error) -> ExitCode {
    // Names of files may be among what it repeats, as a shell's pattern gives them.
    let text = error.to_string();
    if let Cow::Owned(text) = harmless::text(&text) {
        let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
        return ExitCode::from(owl2::Kind::Usage.exit_code());
    }
    // Where it cannot be printed, nobody is reading.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(owl2::Kind::Usage.exit_code()),
    }
}

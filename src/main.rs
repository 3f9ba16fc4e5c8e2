//! The `owl2` program: parses the command line, runs it, and maps errors to exit codes.

use std::borrow::Cow;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;

use owl2::cli::{self, Cli};
use owl2::error::flag;
use owl2::{harmless, panics};

fn main() -> ExitCode {
    panics::set_status_of_aborts();
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match panics::catch(|| cli::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done where even standard error cannot be written to.
            let _ = writeln!(std::io::stderr(), "owl2: {}", error.spelled(&flag));
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
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(owl2::Kind::Usage.exit_code()),
    }
}

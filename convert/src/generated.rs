//! Completions and the manual page, generated from the definition of the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Args;
use owl2::manual;

/// A completion script for a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "owl2-convert", &mut script);
    script
}

/// The manual page.
///
/// # Errors
/// Those of writing to memory.
pub fn manual() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Args::command()).render(&mut page)?;
    let usage = Args::command().render_usage().to_string();
    Ok(manual::with_usage(&String::from_utf8_lossy(&page), &usage).into_bytes())
}

//! What is made of the definition of the command line: completions and the manual page.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Args;

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
    Ok(page)
}

//! What is made of the definition of the command line: completions and the manual page.

use crate::cli::args::{CompletionsArgs, definition};
use crate::cli::print;
use crate::error::{Error, Result};
use std::path::Path;

/// `owl2 completions`.
pub(super) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "owl2", &mut script);
    print(&String::from_utf8_lossy(&script)).map(drop)
}

/// `owl2 man`.
pub(super) fn man() -> Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(definition())
        .render(&mut page)
        .map_err(|e| Error::io("cannot write", Path::new("the manual page"), e))?;
    print(&String::from_utf8_lossy(&page)).map(drop)
}

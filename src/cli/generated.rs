//! Completions and manual pages, generated from the definition of the command line.

use std::iter;
use std::path::Path;

use clap::Command;

use crate::atomic_file;
use crate::cli::args::{CompletionsArgs, ManArgs, definition};
use crate::cli::print;
use crate::error::{Error, Result};
use crate::manual;

/// `owl2 completions`.
pub(super) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "owl2", &mut script);
    print(&String::from_utf8_lossy(&script)).map(drop)
}

/// `owl2 man`.
pub(super) fn man(args: &ManArgs) -> Result<()> {
    let mut command = definition();
    // Names of commands have that of the program in front only then.
    command.build();
    if let Some(folder) = &args.dir {
        return all_pages(&command, folder);
    }
    let Some(name) = args.of.as_deref() else {
        return print(&page(&command)?).map(drop);
    };
    let Some(found) = command.find_subcommand(name) else {
        let names: Vec<&str> = described(&command).map(Command::get_name).collect();
        let message = format!(
            "unknown command '{name}'; expected one of {}",
            names.join(", ")
        );
        return Err(Error::usage(message));
    };
    print(&page(found)?).map(drop)
}

/// Commands that have a page: `help` is clap's own.
fn described(command: &Command) -> impl Iterator<Item = &Command> {
    let commands = command.get_subcommands();
    commands.filter(|command| command.get_name() != "help")
}

fn all_pages(command: &Command, folder: &Path) -> Result<()> {
    for command in iter::once(command).chain(described(command)) {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let path = folder.join(format!("{name}.1"));
        let page = page(command)?;
        atomic_file::write(&path, |out| out.write_all(page.as_bytes()))?;
    }
    Ok(())
}

fn page(command: &Command) -> Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .source(concat!("owl2 ", env!("CARGO_PKG_VERSION")))
        .render(&mut page)
        .map_err(|e| Error::io("cannot write", Path::new("the manual page"), e))?;
    let usage = command.clone().render_usage().to_string();
    Ok(manual::with_usage(&String::from_utf8_lossy(&page), &usage))
}

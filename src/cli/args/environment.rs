//! Environment variables in place of flags: `OWL2_` and the flag's name, in capitals.

use clap::builder::FalseyValueParser;
use clap::{Arg, ArgAction, Command};

/// Lets every flag of `command` and its subcommands be given by the environment. A flag of a
/// subcommand shares the variable of the main flag that is called the same and takes the same; the
/// others have the subcommand's name in theirs.
pub fn add(command: Command) -> Command {
    let main_flags: Vec<(String, bool)> = command.get_arguments().filter_map(kind).collect();
    command
        .mut_args(|arg| with_variable(arg, |name| format!("OWL2_{name}")))
        .mut_subcommands(|subcommand| {
            let prefix = subcommand.get_name().to_owned();
            subcommand.mut_args(|arg| {
                let is_shared = kind(&arg).is_some_and(|kind| main_flags.contains(&kind));
                with_variable(arg, |name| match is_shared {
                    true => format!("OWL2_{name}"),
                    false => format!("OWL2_{prefix}_{name}"),
                })
            })
        })
}

/// The name of a flag, and whether it takes a value.
fn kind(arg: &Arg) -> Option<(String, bool)> {
    let name = arg.get_long()?.to_owned();
    Some((name, arg.get_action().takes_values()))
}

fn with_variable(arg: Arg, variable: impl Fn(&str) -> String) -> Arg {
    let Some(name) = arg.get_long().filter(|&name| !is_built_in(name)) else {
        return arg;
    };
    let variable = variable(name).to_uppercase().replace('-', "_");
    let arg = arg.env(variable).hide_env_values(true);
    match arg.get_action() {
        // Else only the words true and false would do.
        ArgAction::SetTrue => arg.value_parser(FalseyValueParser::new()),
        _ => arg,
    }
}

/// Whether it is one of the flags that clap adds.
fn is_built_in(name: &str) -> bool {
    matches!(name, "help" | "version")
}

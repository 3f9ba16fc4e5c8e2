//! Environment variables that set flags: `OWL2_` and the flag's name in capitals.

use std::ffi::OsString;

use clap::builder::FalseyValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// What separates the values of a flag that can be repeated: names of files have all else in them.
const SEPARATOR: char = '\n';

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

/// `command` without the variables of flags that `arguments` leave no room for: what is typed wins
/// over what the environment says. Flags that can be repeated take several values from a variable.
pub fn without_overridden(command: Command, arguments: &[OsString]) -> Command {
    // Mistakes are reported when it is parsed in earnest.
    let lenient = command.clone().ignore_errors(true);
    let Ok(matches) = lenient.try_get_matches_from(arguments) else {
        return command;
    };
    match matches.subcommand() {
        Some((name, matches)) => command.mut_subcommand(name, |sub| settle(sub, matches)),
        None => settle(command, &matches),
    }
}

fn settle(command: Command, matches: &ArgMatches) -> Command {
    let is_typed = |arg: &Arg| {
        let source = matches.try_contains_id(arg.get_id().as_str());
        source.is_ok_and(|is_there| is_there)
            && matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
    };
    let typed: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| is_typed(arg))
        .collect();
    let conflict = |a: &Arg, b: &Arg| {
        let of_a = command.get_arg_conflicts_with(a);
        of_a.iter().any(|other| other.get_id() == b.get_id())
    };
    let are_alternatives = |a: &Arg, b: &Arg| {
        command.get_groups().any(|group| {
            let has = |arg: &Arg| group.get_args().any(|id| id == arg.get_id());
            !group.clone().is_multiple() && has(a) && has(b)
        })
    };
    let is_overridden = |arg: &Arg| {
        typed.iter().any(|other| {
            arg.get_id() != other.get_id()
                && (conflict(arg, other) || conflict(other, arg) || are_alternatives(arg, other))
        })
    };
    let (mut overridden, mut from_variables) = (Vec::new(), Vec::new());
    for arg in command.get_arguments() {
        let is_list = matches!(arg.get_action(), ArgAction::Append);
        if is_overridden(arg) {
            overridden.push(arg.get_id().clone());
        } else if is_list && arg.get_value_delimiter().is_none() && !is_typed(arg) {
            from_variables.push(arg.get_id().clone());
        }
    }
    command.mut_args(|arg| {
        if overridden.contains(arg.get_id()) {
            arg.env(None::<&str>)
        } else if from_variables.contains(arg.get_id()) {
            arg.value_delimiter(SEPARATOR)
        } else {
            arg
        }
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

#[cfg(test)]
mod tests {
    use super::super::definition;
    use super::*;

    fn find<'a>(command: &'a Command, subcommand: Option<&str>, flag: &str) -> &'a Arg {
        let command = match subcommand {
            Some(name) => command.find_subcommand(name).expect(name),
            None => command,
        };
        let mut arguments = command.get_arguments();
        arguments
            .find(|arg| arg.get_long() == Some(flag))
            .expect(flag)
    }

    fn variable(arg: &Arg) -> Option<&str> {
        arg.get_env()?.to_str()
    }

    #[test]
    fn flags_of_one_name_and_kind_share_a_variable() {
        let command = definition();
        for (subcommand, flag, expected) in [
            (None, "max-tokens", "OWL2_MAX_TOKENS"),
            (None, "json", "OWL2_JSON"),
            (None, "quiet", "OWL2_QUIET"),
            (Some("score"), "model", "OWL2_MODEL"),
            (Some("score"), "json", "OWL2_JSON"),
            (Some("bench"), "pp", "OWL2_BENCH_PP"),
            (Some("score"), "first-piece", "OWL2_SCORE_FIRST_PIECE"),
            // The main flag of this name takes a file.
            (Some("bench"), "image", "OWL2_BENCH_IMAGE"),
        ] {
            let arg = find(&command, subcommand, flag);
            assert_eq!(variable(arg), Some(expected));
            assert!(arg.is_hide_env_values_set(), "{flag}");
        }
        for arg in command.get_arguments().filter(|arg| arg.is_positional()) {
            assert_eq!(variable(arg), None);
        }
    }

    #[test]
    fn what_is_typed_switches_off_the_variables_that_it_excludes() {
        type Flag = (Option<&'static str>, &'static str);
        let cases: &[(&[&str], &[Flag], &[Flag])] = &[
            (&[], &[], &[(None, "raw"), (None, "image"), (None, "each")]),
            (
                &["-m", "x", "-p", "y"],
                &[],
                &[(None, "raw"), (None, "image")],
            ),
            (
                &["--raw"],
                &[(None, "template"), (None, "system")],
                &[(None, "raw"), (None, "stop")],
            ),
            (
                &["--template", "v1"],
                &[(None, "raw")],
                &[(None, "template"), (None, "system")],
            ),
            (
                &["--each", "x"],
                &[(None, "image"), (None, "frames")],
                &[(None, "each")],
            ),
            (
                &["score", "--csv", "x"],
                &[(Some("score"), "resume")],
                &[
                    (Some("score"), "csv"),
                    (Some("score"), "model"),
                    (Some("eval"), "resume"),
                ],
            ),
            // A default is not typed.
            #[cfg(feature = "serve")]
            (&["serve"], &[], &[(Some("serve"), "socket")]),
            #[cfg(feature = "serve")]
            (
                &["serve", "--port", "1"],
                &[(Some("serve"), "socket")],
                &[(Some("serve"), "host")],
            ),
        ];
        for &(line, off, on) in cases {
            let arguments: Vec<OsString> = ["owl2"].iter().chain(line).map(Into::into).collect();
            let command = without_overridden(definition(), &arguments);
            for (flags, is_on) in [(off, false), (on, true)] {
                for &(subcommand, flag) in flags {
                    let variable = variable(find(&command, subcommand, flag));
                    assert_eq!(variable.is_some(), is_on, "{line:?} {flag}");
                }
            }
        }
    }

    #[test]
    fn a_variable_has_one_value_per_line_for_a_flag_that_can_be_repeated() {
        for (line, flag, expected) in [
            (&[][..], "image", Some(SEPARATOR)),
            (&[], "stop", Some(SEPARATOR)),
            (&["--image", "a\nb"], "image", None),
            (&["--image", "a"], "stop", Some(SEPARATOR)),
            (&[], "choices", Some(',')),
            (&[], "prompt", None),
        ] {
            let arguments: Vec<OsString> = ["owl2"].iter().chain(line).map(Into::into).collect();
            let command = without_overridden(definition(), &arguments);
            let delimiter = find(&command, None, flag).get_value_delimiter();
            assert_eq!(delimiter, expected, "{line:?} {flag}");
        }
    }
}

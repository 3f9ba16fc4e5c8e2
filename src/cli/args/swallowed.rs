//! Detects flags that would be taken for the text of the flag before them.
//!
//! A text may begin with a dash, so the parser accepts anything after `-p` or `--stop`. If the text is
//! missing, or came from an empty variable, that would be the next flag.

use std::ffi::{OsStr, OsString};

use clap::error::ErrorKind;
use clap::{Arg, Command};

/// Fails where a flag of `command` follows one that takes any text, as `--json` in `-p --json`.
/// `arguments` are those after the program's name.
pub fn check(mut command: Command, arguments: &[OsString]) -> Result<(), clap::Error> {
    // Only then it has the flags that clap adds.
    command.build();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            break;
        }
        if !takes_text(&command, argument) {
            continue;
        }
        let Some(text) = rest.next().and_then(|text| text.to_str()) else {
            continue;
        };
        if is_long_flag(&command, text) {
            let flag = argument.to_string_lossy();
            let message = format!(
                "'{flag}' needs a text, but is followed by the flag '{text}'; write '{flag}={text}' if \
                 that is the text"
            );
            return Err(command.error(ErrorKind::InvalidValue, message));
        }
    }
    Ok(())
}

/// Whether what follows `argument` is any text: that is a flag, or several of one letter of which
/// the last one takes it.
fn takes_text(command: &Command, argument: &OsStr) -> bool {
    let Some(argument) = argument.to_str() else {
        return false;
    };
    if let Some(name) = argument.strip_prefix("--") {
        return command
            .get_arguments()
            .any(|arg| arg.get_long() == Some(name) && arg.is_allow_hyphen_values_set());
    }
    let Some(letters) = argument.strip_prefix('-') else {
        return false;
    };
    let of = |letter| {
        command
            .get_arguments()
            .find(|arg| arg.get_short() == Some(letter))
    };
    let takes_value = |arg: &Arg| arg.get_action().takes_values();
    let mut letters = letters.chars();
    let last = letters.next_back().and_then(of);
    last.is_some_and(Arg::is_allow_hyphen_values_set)
        && letters.all(|letter| of(letter).is_some_and(|arg| !takes_value(arg)))
}

fn is_long_flag(command: &Command, text: &str) -> bool {
    let name = text.strip_prefix("--");
    name.is_some() && command.get_arguments().any(|arg| arg.get_long() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_line(line: &[&str]) -> Result<(), String> {
        let arguments: Vec<_> = line.iter().map(OsString::from).collect();
        check(super::super::definition(), &arguments).map_err(|e| e.to_string())
    }

    #[test]
    fn a_flag_in_place_of_a_text_is_refused_with_a_hint() {
        for line in [
            &["--image", "cat.png", "-p", "--json"][..],
            &["-p", "--image", "cat.png"],
            &["-vp", "--json"],
            &["--prompt", "--help"],
            &["-p", "x", "--stop", "--seed", "1"],
            &["--system", "--raw"],
            &["--choices", "--json"],
        ] {
            let message = check_line(line).unwrap_err();
            assert!(message.contains("needs a text"), "{line:?}: {message}");
            assert!(message.contains("=--"), "{line:?}: {message}");
        }
    }

    #[test]
    fn texts_like_flags_are_taken_where_they_are_meant() {
        for line in [
            &["-p=--json"][..],
            &["--prompt=--json", "--json"],
            &["-p", "--json is a flag", "--json"],
            &["-p", "--jsonx"],
            &["-p", "-p", "--json"],
            &["--stop", "--", "--json"],
            &["-px", "--json"],
            &["-m", "p", "--json"],
            &["-mp", "--json"],
            &["-v", "--json"],
            &["--raw", "--json"],
            &["--", "-p", "--json"],
            &["-p"],
            &[],
        ] {
            check_line(line).unwrap();
        }
    }
}

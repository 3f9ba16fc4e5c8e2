//! Arguments without a flag: pictures, and the prompt.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::ask::QuestionArgs;
use crate::cli::each::is_named_like_a_picture;
use crate::cli::setup::{self, STANDARD_INPUT};

/// What an argument is.
#[derive(Debug, PartialEq, Eq)]
enum Argument {
    Picture,
    Prompt,
}

/// Sorts the arguments without a flag into `image` and `prompt`. What they say overrides the
/// environment. `matches` tells where the flags come from, `command` has the subcommands.
pub fn sort(
    question: &mut QuestionArgs,
    matches: &ArgMatches,
    command: &mut Command,
) -> Result<(), clap::Error> {
    let usage = |command: &mut Command, message: String| {
        Err(command.error(ErrorKind::ArgumentConflict, message))
    };
    let is_from_environment = |id| matches.value_source(id) == Some(ValueSource::EnvVariable);
    let (mut pictures, mut prompt) = (Vec::new(), None::<String>);
    for argument in std::mem::take(&mut question.positional) {
        match what_it_is(&argument, question.model.as_deref()) {
            Ok(Argument::Picture) => pictures.push(argument),
            Ok(Argument::Prompt) => {
                let Some(text) = argument.to_str() else {
                    let name = argument.to_string_lossy();
                    return usage(command, format!("'{name}' is not valid UTF-8"));
                };
                if let Some(name) = similar_subcommand(text, command) {
                    let message = format!(
                        "unrecognized subcommand '{text}'\n\n  tip: the subcommand '{name}' exists \
                         and comes first\n  tip: to ask about '{text}', use -p {text}"
                    );
                    return Err(command.error(ErrorKind::InvalidSubcommand, message));
                }
                if let Some(other) = &prompt {
                    return usage(
                        command,
                        format!(
                            "two prompts, '{other}' and '{text}'\n\n  tip: neither is a file; put a \
                             prompt of several words in quotes"
                        ),
                    );
                }
                prompt = Some(text.to_owned());
            }
            Err(message) => return usage(command, message),
        }
    }
    if !pictures.is_empty() {
        if is_from_environment("image") {
            question.image.clear();
        }
        for (id, paths) in [
            ("each", &mut question.each),
            ("frames", &mut question.frames),
        ] {
            if is_from_environment(id) {
                paths.clear();
            } else if !paths.is_empty() {
                let picture: &OsString = &pictures[0];
                let name = Path::new(picture).display();
                return usage(
                    command,
                    format!("the picture '{name}' cannot be used with '--{id}'"),
                );
            }
        }
        question.image.extend(pictures.into_iter().map(Into::into));
    }
    if let Some(text) = prompt {
        if question.prompt.is_some() && !is_from_environment("prompt") {
            let message = format!("the prompt '{text}' cannot be used with '--prompt'");
            return usage(command, message);
        }
        question.prompt = Some(text);
    }
    Ok(())
}

/// Tells a picture from a prompt, or says why it is neither.
fn what_it_is(argument: &OsStr, model: Option<&Path>) -> Result<Argument, String> {
    let path = Path::new(argument);
    let name = path.display();
    if argument == STANDARD_INPUT || setup::is_url(path) || setup::file_path(path) != path {
        return Ok(Argument::Picture);
    }
    if path.is_dir() {
        return Err(format!(
            "'{name}' is a folder\n\n  tip: to ask about each picture in it, use --each {name}"
        ));
    }
    let is_model = path.extension().is_some_and(|suffix| suffix == "gguf");
    let has_space = name.to_string().contains(char::is_whitespace);
    if is_model && !has_space {
        return Err(match model {
            None => format!("'{name}' is a model file\n\n  tip: use -m {name}"),
            Some(model) => format!(
                "'{name}' is a model file, but '{}' is the model already",
                model.display()
            ),
        });
    }
    // A sentence may end with the name of a picture, a name with spaces has to be there.
    match path.exists() || (is_named_like_a_picture(path) && !has_space) {
        true => Ok(Argument::Picture),
        false => Ok(Argument::Prompt),
    }
}

/// The subcommand that a prompt of one word is, or is one slip of the finger away from.
fn similar_subcommand(text: &str, command: &Command) -> Option<String> {
    let names = command.get_subcommands().map(Command::get_name);
    let mut names = names.filter(|name| is_near(text.as_bytes(), name.as_bytes()));
    names.next().map(str::to_owned)
}

/// Whether two words are equal but for one letter that was added, left out or replaced, or two
/// neighbours that were exchanged.
fn is_near(a: &[u8], b: &[u8]) -> bool {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    match (a, b) {
        ([], []) => true,
        ([_, rest @ ..], _) if rest == b => true,
        (_, [_, rest @ ..]) if rest == a => true,
        ([_, rest_a @ ..], [_, rest_b @ ..]) if rest_a == rest_b => true,
        ([a0, a1, rest_a @ ..], [b0, b1, rest_b @ ..]) => (a0, a1, rest_a) == (b1, b0, rest_b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_near() {
        for (a, b) in [
            ("info", "info"),
            ("inf", "info"),
            ("infoo", "info"),
            ("imfo", "info"),
            ("ifno", "info"),
            ("xinfo", "info"),
        ] {
            assert!(is_near(a.as_bytes(), b.as_bytes()), "{a} {b}");
        }
        for (a, b) in [
            ("hello", "help"),
            ("fnio", "info"),
            ("in", "info"),
            ("", "info"),
        ] {
            assert!(!is_near(a.as_bytes(), b.as_bytes()), "{a} {b}");
        }
    }

    #[test]
    fn pictures_are_told_from_prompts() {
        let of = |text: &str| what_it_is(OsStr::new(text), None);
        let root = env!("CARGO_MANIFEST_DIR");
        for text in [
            "-",
            "none.png",
            "NONE.JPG",
            "file:///none",
            "https://example.org/cat",
            &format!("{root}/Cargo.toml"),
        ] {
            assert_eq!(of(text), Ok(Argument::Picture), "{text}");
        }
        for text in [
            "What is it?",
            "describe",
            "",
            "What is in cat.png",
            "Is it in model.gguf",
            "a.b",
        ] {
            assert_eq!(of(text), Ok(Argument::Prompt), "{text}");
        }
        assert!(of(root).unwrap_err().contains("--each"));
        assert!(of("model.gguf").unwrap_err().contains("-m model.gguf"));
        let two = what_it_is(OsStr::new("b.gguf"), Some(Path::new("a.gguf"))).unwrap_err();
        assert!(two.contains("'a.gguf' is the model already"), "{two}");
    }

    #[test]
    fn a_name_with_spaces_is_a_picture_if_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("my cat");
        assert_eq!(what_it_is(path.as_os_str(), None), Ok(Argument::Prompt));
        std::fs::write(&path, "").unwrap();
        assert_eq!(what_it_is(path.as_os_str(), None), Ok(Argument::Picture));
    }

    /// What a line asks about: pictures, and the prompt.
    fn sorted(line: &[&OsStr]) -> Result<(Vec<String>, Option<String>), String> {
        use clap::FromArgMatches;

        let mut command = super::super::definition();
        let line = [&[OsStr::new("owl2")], line].concat();
        let matches = command.try_get_matches_from_mut(line).unwrap();
        let mut cli = super::super::Cli::from_arg_matches(&matches).unwrap();
        let question = &mut cli.ask.question;
        sort(question, &matches, &mut command).map_err(|e| e.to_string())?;
        assert!(question.positional.is_empty());
        let pictures = question.image.iter().map(|path| path.display().to_string());
        Ok((pictures.collect(), question.prompt.clone()))
    }

    #[test]
    fn arguments_join_what_flags_say() {
        for (line, pictures, prompt) in [
            (
                &["a.png", "What?", "b.png"][..],
                &["a.png", "b.png"][..],
                Some("What?"),
            ),
            (&["b.png", "--image", "a.png"], &["a.png", "b.png"], None),
            (&["a.png", "-p", "What?"], &["a.png"], Some("What?")),
            (&["--each", "a.png", "--json", "What?"], &[], Some("What?")),
            (&["pig"], &[], Some("pig")),
        ] {
            let line: Vec<&OsStr> = line.iter().map(OsStr::new).collect();
            let (images, text) = sorted(&line).unwrap();
            assert_eq!(images, pictures, "{line:?}");
            assert_eq!(text.as_deref(), prompt, "{line:?}");
        }
    }

    #[test]
    fn arguments_that_exclude_each_other_are_refused() {
        for (line, wanted) in [
            (&["a b", "c d"][..], "two prompts"),
            (&["-p", "a b", "c d"], "'--prompt'"),
            (&["a.png", "--each", "b.png"], "'--each'"),
            (&["a.png", "--frames", "b.png"], "'--frames'"),
            (&["inof"], "'info' exists"),
        ] {
            let line: Vec<&OsStr> = line.iter().map(OsStr::new).collect();
            let error = sorted(&line).unwrap_err();
            assert!(error.contains(wanted), "{line:?}: {error}");
        }
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            let error = sorted(&[OsStr::from_bytes(b"What\xff is it?")]).unwrap_err();
            assert!(error.contains("UTF-8"), "{error}");
        }
    }
}

//! The commands of a chat.

use std::path::PathBuf;

use super::line;
use crate::error::{Error, Result};

/// What `/help` says.
pub const HELP: &str = "\
/image FILE      attach a picture to the next question (or drop its path into the line)
/images          list the pictures
/regen           answer the last question again
/clear           clear the conversation
/system TEXT     set the system prompt; /system alone shows it
/set NAME VALUE  temp, top_k, top_p, min_p, repeat_penalty, seed, max_tokens; /set alone shows all
/save FILE       save the conversation; /load FILE loads one
/stats           timings of the last answer
/help            this list
/quit            quit, as do /exit, /bye, exit and Ctrl-D; Ctrl-C stops an answer
A line that ends with \\ continues on the next line.";

/// The names of all commands.
pub const NAMES: [&str; 13] = [
    "/bye", "/clear", "/exit", "/help", "/image", "/images", "/load", "/quit", "/regen", "/save",
    "/set", "/stats", "/system",
];

/// Lines without a slash that mean [`ChatCommand::Quit`]: they are what shells and ollama take.
const QUIT_WORDS: [&str; 2] = ["exit", "quit"];

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub enum ChatCommand {
    /// Attach a picture.
    Image(PathBuf),
    /// List the pictures.
    Images,
    /// Forget the conversation.
    Clear,
    /// Answer again.
    Regen,
    /// Set or show the system text.
    System(Option<String>),
    /// Set one setting, or show all.
    Set(Option<(String, String)>),
    /// Write the conversation.
    Save(PathBuf),
    /// Read a conversation.
    Load(PathBuf),
    /// Show how long the last answer took.
    Stats,
    /// Show all commands.
    Help,
    /// Leave.
    Quit,
}

impl ChatCommand {
    /// The command on a line, or `None` where it is none: commands are a slash and letters.
    pub fn parse(line: &str) -> Option<Result<Self>> {
        let line = line.trim();
        if QUIT_WORDS.contains(&line) {
            return Some(Ok(ChatCommand::Quit));
        }
        let (name, rest) = match line.split_once(char::is_whitespace) {
            Some((name, rest)) => (name, rest.trim()),
            None => (line, ""),
        };
        let letters = name.strip_prefix('/')?;
        letters
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic())
            .then(|| Self::of(name, rest))
    }

    fn of(name: &str, rest: &str) -> Result<Self> {
        let alone = |command| match rest {
            "" => Ok(command),
            _ => Err(Error::usage("takes no argument").in_parameter(name)),
        };
        let path = || match line::unquoted(rest) {
            path if path.as_os_str().is_empty() => {
                Err(Error::usage("needs a file name").in_parameter(name))
            }
            path => Ok(path),
        };
        match name {
            "/image" => path().map(ChatCommand::Image),
            "/images" => alone(ChatCommand::Images),
            "/clear" => alone(ChatCommand::Clear),
            "/regen" => alone(ChatCommand::Regen),
            "/system" => Ok(ChatCommand::System(match rest {
                "" => None,
                "\"\"" => Some(String::new()),
                text => Some(text.to_owned()),
            })),
            "/set" => match rest.split_once(char::is_whitespace) {
                Some((name, value)) => Ok(ChatCommand::Set(Some((
                    name.into(),
                    value.trim_start().into(),
                )))),
                None if rest.is_empty() => Ok(ChatCommand::Set(None)),
                None => Err(
                    Error::usage("needs a name and a value, as in /set temp 0.7")
                        .in_parameter("/set"),
                ),
            },
            "/save" => path().map(ChatCommand::Save),
            "/load" => path().map(ChatCommand::Load),
            "/stats" => alone(ChatCommand::Stats),
            "/help" => alone(ChatCommand::Help),
            "/quit" | "/exit" | "/bye" => alone(ChatCommand::Quit),
            _ => Err(Error::usage("unknown command; /help lists them").in_parameter(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> ChatCommand {
        ChatCommand::parse(line).expect(line).expect(line)
    }

    #[test]
    fn commands_are_a_slash_and_letters() {
        assert_eq!(
            parsed(" /image  my cat.png "),
            ChatCommand::Image("my cat.png".into())
        );
        assert_eq!(
            parsed("/image 'my cat.png'"),
            ChatCommand::Image("my cat.png".into())
        );
        assert_eq!(
            parsed("/system Be  brief."),
            ChatCommand::System(Some("Be  brief.".into()))
        );
        assert_eq!(parsed("/system"), ChatCommand::System(None));
        assert_eq!(
            parsed("/system \"\""),
            ChatCommand::System(Some(String::new()))
        );
        let set = Some(("temp".to_owned(), "0.7".to_owned()));
        assert_eq!(parsed("/set temp  0.7"), ChatCommand::Set(set));
        for line in ["/quit", "/exit", "/bye", "exit", " quit "] {
            assert_eq!(parsed(line), ChatCommand::Quit, "{line}");
        }
        for line in [
            "what is it?",
            "",
            "/pictures/cat.png",
            "/pictures",
            "a /help",
        ] {
            let is_none = ChatCommand::parse(line).is_none_or(|command| command.is_err());
            assert!(is_none, "{line}");
        }
        for line in ["/frobnicate", "/image", "/set temp", "/clear now", "/"] {
            assert!(ChatCommand::parse(line).expect(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_name_is_a_command_that_help_tells() {
        for name in NAMES {
            let refused = |rest| {
                ChatCommand::of(name, rest)
                    .is_err_and(|e| e.to_string().contains("unknown command"))
            };
            assert!(!refused("") && !refused("x y"), "{name}");
            assert!(HELP.contains(name), "{name}");
        }
    }
}

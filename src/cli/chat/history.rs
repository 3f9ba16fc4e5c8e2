//! The lines typed in earlier chats, in a file: the newest at the end, one a line, with `\n` and `\\`
//! for line breaks and backslashes in them.

use std::path::Path;

use crate::error::{Error, Result};
use crate::{atomic_file, files, harmless};

/// Lines that are kept.
pub const MAX_LINES: usize = 1000;
/// Larger files hold something else.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// The first line of a file in this format, which rustyline's has too. Without it, lines are as they
/// are.
const HEADER: &str = "#V2";

/// The lines of a file, oldest first; none where there is no file yet.
pub fn read(path: &Path) -> Result<Vec<String>> {
    let Some(file) = files::open_if_there(path)? else {
        return Ok(Vec::new());
    };
    let Some(bytes) = files::read_at_most(file, path, MAX_FILE_BYTES)? else {
        let message = "is too large to be a history; name another file, or remove it";
        return Err(Error::input(message).in_parameter("history").in_file(path));
    };
    let text = files::text(bytes, path).map_err(|e| e.in_parameter("history"))?;
    Ok(parse(&text))
}

/// Adds lines to a file: those that another chat has added meanwhile stay.
pub fn append(path: &Path, new: &[String]) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let mut lines = read(path)?;
    lines.extend_from_slice(new);
    lines.dedup();
    let oldest = lines.len().saturating_sub(MAX_LINES);
    atomic_file::write(path, |out| {
        writeln!(out, "{HEADER}")?;
        let mut lines = lines[oldest..].iter();
        lines.try_for_each(|line| writeln!(out, "{}", escaped(line)))
    })
}

fn parse(text: &str) -> Vec<String> {
    let (is_escaped, lines) = match text.strip_prefix(HEADER) {
        Some(rest) if rest.starts_with(['\n', '\r']) => (true, rest),
        _ => (false, text),
    };
    let lines = lines.lines().filter(|line| !line.is_empty());
    let lines = lines.map(|line| match is_escaped {
        true => unescaped(line),
        false => line.to_owned(),
    });
    // The editor shows them on the terminal.
    lines.map(|line| harmless::text(&line).into()).collect()
}

fn escaped(line: &str) -> String {
    line.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescaped(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            _ => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn chats_add_to_what_others_have_added() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        assert_eq!(read(&path).unwrap(), lines(&[]));
        append(&path, &[]).unwrap();
        assert!(!path.exists());
        append(&path, &lines(&["a", "b\nc\\n"])).unwrap();
        append(&path, &lines(&["b\nc\\n", "d"])).unwrap();
        assert_eq!(read(&path).unwrap(), lines(&["a", "b\nc\\n", "d"]));
        let many: Vec<String> = (0..MAX_LINES).map(|i| i.to_string()).collect();
        append(&path, &many).unwrap();
        assert_eq!(read(&path).unwrap(), many);
    }

    #[test]
    fn files_of_others_are_taken_as_they_are_and_command_nothing() {
        assert_eq!(
            parse("a\\n\n\n\u{1b}[2Jb"),
            lines(&["a\\n", "\u{fffd}[2Jb"])
        );
        assert_eq!(parse("#V2\na\\nb\\"), lines(&["a\nb\\"]));
        assert_eq!(parse("#V2x\n"), lines(&["#V2x"]));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(append(&path, &lines(&["a"])).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"\xff\xfe");
        assert!(append(directory.path(), &lines(&["a"])).is_err());
    }

    proptest! {
        #[test]
        fn any_line_comes_back(line in "[^\\p{Cc}]{1,20}(\n[^\\p{Cc}]{1,20}){0,2}") {
            let text = format!("{HEADER}\n{}\n", escaped(&line));
            prop_assert_eq!(parse(&text), [line]);
        }

        #[test]
        fn any_text_is_read(text in any::<String>()) {
            let commands = parse(&text).iter().any(|line| line.contains('\u{1b}'));
            prop_assert!(!commands);
        }
    }
}

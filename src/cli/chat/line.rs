//! Finds paths of pictures in a line that was typed, pasted or dropped into the terminal.

use std::env;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::cli::each::is_picture;
use crate::cli::setup;

/// The pictures that are named in a line, and where. A file manager drops paths in quotes, with
/// backslashes before spaces, or as `file://` addresses.
pub fn pictures(line: &str) -> Vec<(Range<usize>, PathBuf)> {
    let words = words(line).into_iter();
    let paths = words.map(|range| (range.clone(), unquoted(&line[range])));
    paths.filter(|(_, path)| is_picture(path)).collect()
}

/// The words of a line, quotes and backslashes included.
fn words(line: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut is_escaped = false;
    for (at, character) in line.char_indices() {
        let ends = character.is_whitespace() && quote.is_none() && !is_escaped;
        match start {
            Some(first) if ends => {
                words.push(first..at);
                start = None;
            }
            None if !ends => start = Some(at),
            _ => {}
        }
        if is_escaped {
            is_escaped = false;
        } else if character == '\\' && quote != Some('\'') {
            is_escaped = true;
        } else if quote == Some(character) {
            quote = None;
        } else if quote.is_none() && matches!(character, '\'' | '"') && start == Some(at) {
            quote = Some(character);
        }
    }
    words.extend(start.map(|first| first..line.len()));
    words
}

/// What a shell makes of `~/` at the beginning of a word.
fn below_home(word: &str) -> Option<PathBuf> {
    let rest = word.strip_prefix("~/")?;
    let home = env::home_dir().filter(|home| !home.as_os_str().is_empty())?;
    Some(home.join(unquoted(rest)))
}

/// The path that a word means.
pub fn unquoted(word: &str) -> PathBuf {
    for quote in ['\'', '"'] {
        let inner = word
            .strip_prefix(quote)
            .and_then(|word| word.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner.into();
        }
    }
    let path = setup::file_path(Path::new(word));
    if path != Path::new(word) {
        return path;
    }
    if let Some(path) = below_home(word) {
        return path;
    }
    if Path::new(word).exists() || !word.contains('\\') {
        return word.into();
    }
    let mut path = String::new();
    let mut characters = word.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => path.extend(characters.next()),
            _ => path.push(character),
        }
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_found_in_every_spelling() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("my cat.png");
        std::fs::write(&path, "").unwrap();
        let name = path.display().to_string();
        let address = format!("file://{}", name.replace(' ', "%20"));
        for spelled in [
            format!("'{name}'"),
            format!("\"{name}\""),
            name.replace(' ', "\\ "),
            address,
        ] {
            for line in [spelled.clone(), format!("what is  {spelled} here?")] {
                let found = pictures(&line);
                assert_eq!(found.len(), 1, "{line}");
                assert_eq!(found[0].1, path);
                assert_eq!(line[found[0].0.clone()], spelled);
            }
        }
    }

    #[test]
    fn a_tilde_is_the_home_folder() {
        let home = env::home_dir().unwrap();
        assert_eq!(unquoted("~/my\\ cat.png"), home.join("my cat.png"));
        assert_eq!(unquoted("~"), Path::new("~"));
        assert_eq!(unquoted("~cat.png"), Path::new("~cat.png"));
        assert_eq!(unquoted("'~/cat.png'"), Path::new("~/cat.png"));
    }

    #[test]
    fn other_words_are_no_pictures() {
        let folder = env!("CARGO_MANIFEST_DIR");
        for line in [
            "what's this? it's a cat.png".to_owned(),
            format!("{folder}/README.md"),
            folder.to_owned(),
            "é\\".to_owned(),
            "'".to_owned(),
            String::new(),
            "file://%".to_owned(),
        ] {
            assert_eq!(pictures(&line), [], "{line}");
        }
    }
}

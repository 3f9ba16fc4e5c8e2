//! Letters, and yes or no, out of free answers, by VLMEvalKit's rules.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use super::vqa::{self, Periods};
use super::words;

/// The options of a question, by letter.
pub type Options = BTreeMap<char, String>;

/// What stands for an answer that refuses to choose.
pub const REFUSED: char = 'Z';

/// What a model behind a service says in place of an answer.
const NO_ANSWER: &str = "Failed to obtain answer via API";
/// By these an answer refuses to choose.
const REFUSALS: [&str; 4] = [
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
];
/// These part words.
const MARKS: &str = ".()[],:;!*#{}";
/// A letter counts among so many words at the end of an answer.
const LAST_WORDS: usize = 4;

/// No end of word is asked for: "the answer is a dog" gives A.
static ANSWER_IS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)answer\s+is\s+\**([ABCD])").expect("a valid expression"));

/// The option that an answer chooses, by its letter or else by its text.
pub fn choice(answer: &str, options: &Options) -> Option<char> {
    choice_by_letter(answer, options).or_else(|| choice_by_text(answer, options))
}

/// The option that an answer names by its letter; [`REFUSED`] where it refuses to choose.
pub fn choice_by_letter(answer: &str, options: &Options) -> Option<char> {
    if answer.contains(NO_ANSWER) {
        return None;
    }
    if REFUSALS.iter().any(|refusal| answer.contains(refusal)) {
        return Some(REFUSED);
    }
    let parted = answer.replace(|mark| MARKS.contains(mark), " ");
    let words: Vec<&str> = words(&parted).collect();
    let place = |letter: char| {
        let is_letter = |word: &&str| word.chars().eq([letter]);
        words.iter().position(is_letter)
    };
    let named: Vec<(char, usize)> = options
        .keys()
        .filter_map(|&letter| Some((letter, place(letter)?)))
        .collect();
    match named[..] {
        [(letter, place)] if place + LAST_WORDS >= words.len() => return Some(letter),
        [] if place(REFUSED).is_some() => return Some(REFUSED),
        _ => {}
    }
    let named = ANSWER_IS.captures(answer)?;
    let letter = named[1].chars().next()?.to_ascii_uppercase();
    options.contains_key(&letter).then_some(letter)
}

/// The one option whose text is part of an answer.
pub fn choice_by_text(answer: &str, options: &Options) -> Option<char> {
    let answer = answer.to_lowercase();
    let n_characters: usize = options.values().map(|text| text.chars().count()).sum();
    if answer.chars().count() > 2 * n_characters {
        return None;
    }
    let mut named = options
        .iter()
        .filter(|(_, text)| answer.contains(&text.to_lowercase()));
    match (named.next(), named.next()) {
        (Some((&letter, _)), None) => Some(letter),
        _ => None,
    }
}

/// Yes, no, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum YesNo {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Neither or both.
    Unknown,
}

impl YesNo {
    /// What an answer says.
    pub fn of(answer: &str) -> Self {
        let answer = vqa::without_marks(&answer.to_lowercase(), Periods::BetweenDigits);
        let says = |wanted| words(&answer).any(|word| word == wanted);
        match (says("yes"), says("no")) {
            (true, false) => YesNo::Yes,
            (false, true) => YesNo::No,
            _ => YesNo::Unknown,
        }
    }

    /// By the rule of MME's own script: the whole answer, or its first four characters.
    pub fn of_beginning(answer: &str) -> Self {
        let answer = answer.to_lowercase();
        let beginning: String = answer.chars().take(4).collect();
        match () {
            () if answer == "yes" || beginning.contains("yes") => YesNo::Yes,
            () if answer == "no" || beginning.contains("no") => YesNo::No,
            () => YesNo::Unknown,
        }
    }

    /// As VLMEvalKit's tables spell it.
    pub fn name(self) -> &'static str {
        match self {
            YesNo::Yes => "Yes",
            YesNo::No => "No",
            YesNo::Unknown => "Unknown",
        }
    }
}

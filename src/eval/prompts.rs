//! How questions of benchmarks are put to the model.

use std::fmt::Write as _;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::eval::metrics::answers::Options;
use crate::prompt::IMAGE_MARKER;

/// Whose prompts are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Those of mPLUG-Owl2's own evaluation scripts.
    #[default]
    Authors,
    /// Those that VLMEvalKit has for mPLUG-Owl2.
    VlmEvalKit,
}

impl FromStr for Style {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "authors" => Ok(Style::Authors),
            "vlmevalkit" => Ok(Style::VlmEvalKit),
            _ => Err(Error::usage(format!(
                "unknown set of prompts '{text}' (expected authors or vlmevalkit)"
            ))),
        }
    }
}

impl std::fmt::Display for Style {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Style::Authors => "authors",
            Style::VlmEvalKit => "vlmevalkit",
        })
    }
}

/// What kind of answer a question wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The letter of an option.
    Letter,
    /// The same, asked as Q-Bench does of Q-Instruct, whoever's prompts are used.
    Candidate,
    /// Yes or no.
    YesNo,
    /// A word or phrase.
    Phrase,
    /// Some sentences, as MM-Vet does.
    Sentences,
}

/// A question of a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// What kind of answer it wants.
    pub wanted: Wanted,
    /// What is asked.
    pub question: String,
    /// What is said before.
    pub hint: Option<String>,
    /// What there is to choose from.
    pub options: Options,
    /// How many pictures it is about.
    pub n_pictures: usize,
}

impl Asked {
    /// The whole prompt, with a slot for each picture.
    pub fn prompt(&self, style: Style) -> String {
        match (self.wanted, style) {
            (Wanted::Candidate, _) => self.q_bench(),
            (_, Style::Authors) => self.authors(),
            (_, Style::VlmEvalKit) => self.vlm_eval_kit(),
        }
    }

    fn q_bench(&self) -> String {
        format!(
            "USER: {}{}\n{}Answer with the option's letter from the given choices directly.\n \
             ASSISTANT:",
            IMAGE_MARKER.repeat(self.n_pictures),
            self.question,
            self.listed()
        )
    }

    /// The most tokens that are generated.
    pub fn max_tokens(&self, style: Style) -> usize {
        match (style, self.wanted) {
            (Style::Authors, Wanted::Sentences)
            | (Style::VlmEvalKit, Wanted::YesNo | Wanted::Phrase | Wanted::Sentences) => 512,
            _ => 10,
        }
    }

    fn authors(&self) -> String {
        const YES_OR_NO: &str = "Please answer yes or no.";
        const BRIEFLY: &str = "Answer the question using a single word or phrase.";
        let question = &self.question;
        let text = match self.wanted {
            Wanted::Letter => {
                let hint = self.hint.as_deref().unwrap_or("N/A");
                format!("{hint}\n{question}\n{}{BY_LETTER}", self.listed())
            }
            Wanted::YesNo => {
                let question = question.replace(YES_OR_NO, "");
                format!("{}\n{BRIEFLY}", question.trim_end())
            }
            Wanted::Phrase => format!("{question} {BRIEFLY}"),
            Wanted::Sentences | Wanted::Candidate => question.clone(),
        };
        let pictures = IMAGE_MARKER.repeat(self.n_pictures);
        format!("USER: {pictures}{text} ASSISTANT: ")
    }

    fn vlm_eval_kit(&self) -> String {
        let (text, is_text_first) = self.vlm_eval_kit_message();
        let pictures = IMAGE_MARKER.repeat(self.n_pictures);
        match (self.n_pictures, is_text_first) {
            (1, _) => format!("USER: {pictures}{text} \nASSISTANT: "),
            (_, true) => format!("USER: {text}{pictures}\nASSISTANT: "),
            (_, false) => format!("USER: {pictures}{text}\nASSISTANT: "),
        }
    }

    /// The text that VLMEvalKit gives to mPLUG-Owl2, and whether it stands before the pictures
    /// where there are several.
    pub fn vlm_eval_kit_message(&self) -> (String, bool) {
        let question = &self.question;
        match self.wanted {
            Wanted::Letter => {
                let hint = self.hint.as_ref().map(|hint| format!("Hint: {hint}\n"));
                let hint = hint.unwrap_or_default();
                let options = self.listed();
                (format!("{hint}{question}\n{options}\n{BY_LETTER} "), true)
            }
            Wanted::Sentences => (format!("{question}\nAnswer the question directly. "), true),
            Wanted::YesNo | Wanted::Candidate => (question.clone(), false),
            Wanted::Phrase => {
                let briefly = "Answer the question using a single word or phrase.";
                (format!("{question}\n{briefly}"), false)
            }
        }
    }

    /// The options, a line each.
    fn listed(&self) -> String {
        let mut lines = String::new();
        for (letter, text) in &self.options {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{letter}. {text}");
        }
        lines
    }
}

/// What mPLUG-Owl2 was trained to be told, with a typographer's apostrophe.
const BY_LETTER: &str = "Answer with the option\u{2019}s letter from the given choices directly.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authors_prompts_are_those_of_their_scripts() {
        let asked = |wanted, question: &str| Asked {
            wanted,
            question: question.to_owned(),
            hint: None,
            options: [('A', "a cat".to_owned()), ('B', "a dog".to_owned())].into(),
            n_pictures: 1,
        };
        for (asked, prompt) in [
            (
                asked(Wanted::Letter, "What is it?"),
                "USER: <|image|>N/A\nWhat is it?\nA. a cat\nB. a dog\nAnswer with the option\u{2019}s \
                 letter from the given choices directly. ASSISTANT: ",
            ),
            (
                asked(Wanted::YesNo, "Is it red? Please answer yes or no."),
                "USER: <|image|>Is it red?\nAnswer the question using a single word or phrase. \
                 ASSISTANT: ",
            ),
            (
                asked(Wanted::Phrase, "What is it?"),
                "USER: <|image|>What is it? Answer the question using a single word or phrase. \
                 ASSISTANT: ",
            ),
        ] {
            assert_eq!(asked.prompt(Style::Authors), prompt);
            assert_eq!(asked.max_tokens(Style::Authors), 10);
        }
        assert_eq!(
            asked(Wanted::Candidate, "Is it sharp?").prompt(Style::Authors),
            "USER: <|image|>Is it sharp?\nA. a cat\nB. a dog\nAnswer with the option's letter from \
             the given choices directly.\n ASSISTANT:"
        );
    }
}

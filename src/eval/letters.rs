//! Multiple choice without pictures, as MMLU's CSV files: the likeliest letter after the question.

use std::path::Path;

use super::benchmark::Section;
use super::table::{NO_HEADER, Table};
use crate::error::{Error, Result};
use crate::request::{Assistant, Prompt, WordsRequest};
use crate::reuse::PromptCache;

/// The letters of options; files have four.
const LETTERS: [&str; 4] = ["A", "B", "C", "D"];
/// Columns of a file: the question, the options and the letter of the right one.
const N_COLUMNS: usize = 6;

/// A multiple-choice question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What is asked.
    pub question: String,
    /// What there is to choose from.
    pub options: [String; LETTERS.len()],
    /// The letter of the right one.
    pub right: String,
}

/// Reads the first `limit` questions of a file without a header.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io) where it cannot be read, [`Kind::Input`](crate::Kind::Input) with
/// the row that is no question.
pub fn read(path: &Path, limit: usize) -> Result<Vec<Choice>> {
    let table = Table::read(path, NO_HEADER, limit)?;
    let mut choices = Vec::with_capacity(table.n_rows());
    for row in 0..table.n_rows() {
        let cells = (0..N_COLUMNS).map(|column| table.raw(row, column));
        let cells: Vec<String> = cells.collect::<Result<_>>()?;
        let [question, a, b, c, d, right] = <[String; N_COLUMNS]>::try_from(cells)
            .map_err(|_| Error::input("is not a table of choices").in_file(path))?;
        let right = right.trim().to_owned();
        if row == 0 && right.eq_ignore_ascii_case("answer") {
            continue;
        }
        if !LETTERS.contains(&right.as_str()) {
            return Err(Error::input(format!(
                "row {} has no question, four options and the letter of the right one",
                row + 1
            ))
            .in_file(path));
        }
        choices.push(Choice {
            question,
            options: [a, b, c, d],
            right,
        });
    }
    Ok(choices)
}

/// What is asked about, by the file's name.
pub fn subject(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let parts = ["_test", "_val", "_dev"].into_iter();
    let stem = parts.fold(stem.as_ref(), |stem, part| {
        stem.strip_suffix(part).unwrap_or(stem)
    });
    stem.replace('_', " ")
}

/// The usual prompt: some questions with their answers, then the one that is asked.
pub fn prompt(subject: &str, shots: &[Choice], asked: &Choice) -> String {
    let mut text =
        format!("The following are multiple choice questions (with answers) about {subject}.\n\n");
    for shot in shots {
        text += &format!("{} {}\n\n", shot.text(), shot.right);
    }
    text + &asked.text()
}

impl Choice {
    fn text(&self) -> String {
        let options = LETTERS.iter().zip(&self.options);
        let options = options.map(|(letter, text)| format!("\n{letter}. {text}"));
        format!("{}{}\nAnswer:", self.question, options.collect::<String>())
    }
}

/// The likeliest letter after a prompt.
///
/// # Errors
/// As [`Assistant::word_logits`].
pub fn answer(
    assistant: &Assistant,
    memory: &mut PromptCache,
    prompt: String,
) -> Result<&'static str> {
    let request = WordsRequest {
        first_piece: true,
        ..WordsRequest::new(Prompt::Raw(prompt), LETTERS)
    };
    let logits = assistant.word_logits_from(memory, &request)?.logits();
    let best =
        (1..LETTERS.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    Ok(LETTERS[best])
}

/// The share of right letters.
pub fn report(subject: &str, choices: &[Choice], answers: &[String]) -> Vec<Section> {
    let pairs = choices.iter().zip(answers);
    let n_right = pairs
        .filter(|(choice, answer)| choice.right == **answer)
        .count();
    let percent = 100.0 * n_right as f64 / answers.len().max(1) as f64;
    vec![Section::new(
        "right, %",
        vec![(subject.to_owned(), percent)],
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_the_answers_of_all_but_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("high_school_physics_test.csv");
        std::fs::write(&path, "What?,1,2,3,4,B\n\"A, or\nB?\",a,,N/A,d,D\n").unwrap();
        let choices = read(&path, 9).unwrap();
        assert_eq!(choices[1].options, ["a", "", "N/A", "d"]);
        assert_eq!(
            prompt(&subject(&path), &choices[..1], &choices[1]),
            "The following are multiple choice questions (with answers) about high school \
             physics.\n\nWhat?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\nA, or\nB?\nA. a\nB. \nC. N/A\nD. \
             d\nAnswer:"
        );
        let answers = ["B".to_owned(), "A".to_owned()];
        assert_eq!(report("x", &choices, &answers)[0].scores[0].1, 50.0);
        std::fs::write(&path, "What?,1,2,3,4,E\n").unwrap();
        assert!(read(&path, 9).is_err());
    }
}

//! Files of questions: one JSON object a line.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files;

/// Bytes of a line at most: a question with the ids of a long prompt has far fewer.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Questions of a file at most.
const MAX_QUESTIONS: usize = 1_000_000;

/// A question and what is known about its answer. Other keys of its line are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct EvalQuestion {
    /// File name of the picture; without one, the question is about text alone.
    pub image: Option<String>,
    /// What is asked.
    pub question: String,
    /// The right answer.
    pub answer: Option<String>,
    /// Kind of question, for the counts.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Ids of the prompt as another implementation has them; -200 stands for the picture.
    pub prompt_ids: Option<Vec<i64>>,
    /// Ids of the greedy answer of another implementation, with `</s>`.
    pub output_ids: Option<Vec<u32>>,
    /// Text of that answer.
    pub model_answer: Option<String>,
    /// Its first logits at the answer's first position, by id.
    pub logits8: Option<Vec<f32>>,
}

/// Reads the first `limit` questions of a file. Empty lines do not count.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io) where the file cannot be read or is none,
/// [`Kind::Input`](crate::Kind::Input) with the line that is no question, or where there is none at
/// all.
pub fn read(path: &Path, limit: usize) -> Result<Vec<EvalQuestion>> {
    let mut input = BufReader::new(files::open_argument(path)?);
    let mut questions = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let n_bytes = (&mut input)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::io("cannot read the questions", path, e))?;
        if questions.len() == limit || n_bytes == 0 {
            break;
        }
        let in_line = |what: &str| Error::input(format!("line {number} {what}")).in_file(path);
        if n_bytes as u64 == MAX_LINE_BYTES {
            return Err(in_line("is too long to be a question"));
        }
        if questions.len() == MAX_QUESTIONS || number > 2 * MAX_QUESTIONS {
            return Err(in_line("is one too many; split the file").advise("or use", "limit", ""));
        }
        let text = std::str::from_utf8(&line).map_err(|_| in_line("is not UTF-8"))?;
        let text = files::without_mark(text).trim();
        if !text.is_empty() {
            questions.push(parse(text, number).map_err(|e| e.in_file(path))?);
        }
    }
    if questions.is_empty() {
        return Err(Error::input("there are no questions").in_file(path));
    }
    Ok(questions)
}

fn parse(line: &str, number: usize) -> Result<EvalQuestion> {
    serde_json::from_str(line)
        .map_err(|e| Error::input(format!("line {number} is not a question: {e}")).caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn read_text(text: &str, limit: usize) -> Result<Vec<EvalQuestion>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("questions.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path, limit)
    }

    #[test]
    fn only_the_question_is_needed() {
        let text = "{\"question\": \"a\"}\n\n{\"question\": \"b\", \"image\": null, \"type\": \"k\", \"split\": 1}\n{\n";
        let questions = read_text(text, 2).unwrap();
        assert_eq!(questions.len(), 2);
        assert_eq!(questions[0].answer, None);
        assert_eq!(questions[1].kind.as_deref(), Some("k"));
    }

    #[test]
    fn errors_name_file_and_line() {
        let error = read_text("{\"question\": \"a\"}\n{\"answer\": \"b\"}\n", 9).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        let message = error.to_string();
        assert!(message.contains("questions.jsonl: line 2"), "{message}");
        assert!(message.contains("question"), "{message}");
        assert!(read_text("\n", 9).is_err());
    }

    #[test]
    fn marks_do_not_count_and_lines_have_a_bound() {
        let questions = read_text("\u{feff}{\"question\": \"a\"}\r\n", 9).unwrap();
        assert_eq!(questions[0].question, "a");
        let endless = " ".repeat(MAX_LINE_BYTES as usize + 1);
        let error = read_text(&endless, 9).unwrap_err().to_string();
        assert!(error.contains("line 1 is too long"), "{error}");
        assert!(read_text("\u{1}\n", 9).is_err());
    }
}

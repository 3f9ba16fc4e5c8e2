//! Files of questions: one JSON object a line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// A question and what is known about its answer. Other keys of its line are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Question {
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
/// [`Kind::Io`](crate::Kind::Io) where the file cannot be read, [`Kind::Input`](crate::Kind::Input)
/// with the line that is no question, or where there is none at all.
pub fn read(path: &Path, limit: usize) -> Result<Vec<Question>> {
    let cannot_read = |e| Error::io("cannot read the questions", path, e);
    let lines = BufReader::new(File::open(path).map_err(cannot_read)?).lines();
    let mut questions = Vec::new();
    for (number, line) in (1..).zip(lines) {
        if questions.len() == limit {
            break;
        }
        let line = line.map_err(cannot_read)?;
        if !line.trim().is_empty() {
            questions.push(parse(&line, number).map_err(|e| e.in_file(path))?);
        }
    }
    if questions.is_empty() {
        return Err(Error::input("there are no questions").in_file(path));
    }
    Ok(questions)
}

fn parse(line: &str, number: usize) -> Result<Question> {
    serde_json::from_str(line)
        .map_err(|e| Error::input(format!("line {number} is no question: {e}")).caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn read_text(text: &str, limit: usize) -> Result<Vec<Question>> {
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
}

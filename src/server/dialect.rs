//! What the dialects of clients have in common.

use serde_json::Value;

use super::refusal::Refusal;
use crate::request::Answer;

/// How answers look to one kind of client.
pub trait Dialect {
    /// The type of a streamed answer.
    fn content_type(&self) -> &'static str;
    /// An answer as one JSON object.
    fn whole(&self, answer: &Answer) -> Value;
}

/// A JSON object with what files of pictures lack, if they lack anything.
pub fn with_warnings(mut object: Value, warnings: &[String]) -> Value {
    if !warnings.is_empty() {
        object["warnings"] = warnings.into();
    }
    object
}

/// A streamed answer, frame by frame.
pub trait Frames: Dialect + Send {
    fn begin(&mut self) -> Vec<u8>;
    fn text(&mut self, text: &str) -> Vec<u8>;
    /// Says that the answer is still coming.
    fn heartbeat(&mut self) -> Vec<u8>;
    fn end(&mut self, answer: &Answer) -> Vec<u8>;
    /// Says that no more will come, and why.
    fn fail(&mut self, refusal: &Refusal) -> Vec<u8>;
}

//! What is asked about each picture.

use std::path::PathBuf;

use super::{Pictures, is_of_one};
use crate::cli::ahead::Asking;
use crate::cli::args::AskArgs;
use crate::error::Result;
use crate::request::{Assistant, Request, Source};

/// The same request about each of several pictures.
pub struct Asked<'a> {
    pub pictures: Pictures,
    request: &'a Request,
    assistant: &'a Assistant,
    /// Whether it is known to be possible.
    is_possible: bool,
}

impl<'a> Asked<'a> {
    pub fn new(args: &AskArgs, assistant: &'a Assistant, request: &'a Request) -> Self {
        Asked {
            pictures: Pictures::of(&args.question.each, true),
            request,
            assistant,
            is_possible: false,
        }
    }

    /// The request about a picture. What is wrong with it is found before the picture is decoded.
    fn about(&mut self, picture: PathBuf) -> Result<Request> {
        let request = Request {
            pictures: vec![Source::File(picture)],
            ..self.request.clone()
        };
        if !self.is_possible {
            self.assistant.check(&request)?;
            self.is_possible = true;
        }
        Ok(request)
    }
}

impl Iterator for Asked<'_> {
    /// A picture, unless it is a folder that cannot be listed. Errors are those that all would meet.
    type Item = Result<Asking<Option<PathBuf>>>;

    fn next(&mut self) -> Option<Self::Item> {
        let picture = match self.pictures.next()? {
            Ok(picture) => picture,
            Err(e) => return Some(Ok((None, Err(e)))),
        };
        Some(match self.about(picture.clone()) {
            Err(e) if !is_of_one(&e) => Err(e),
            request => Ok((Some(picture), request)),
        })
    }
}

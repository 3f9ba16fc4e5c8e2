//! Pictures as `owl2._pictures` hands them over.

use std::path::PathBuf;

use owl2::image::{Aspect, Picture};
use owl2::request::Source;
use owl2::{Assistant, Result};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

/// A picture.
pub enum Given {
    File(PathBuf),
    /// The bytes of a file.
    Bytes(Vec<u8>),
    /// Width, height, and RGB from the top.
    Pixels(usize, usize, Vec<u8>),
}

#[derive(FromPyObject)]
enum Handed {
    Bytes(PyBackedBytes),
    Pixels((usize, usize, PyBackedBytes)),
    File(PathBuf),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        // Other threads get bytes of their own: those of Python belong to the interpreter.
        Ok(match object.extract::<Handed>()? {
            Handed::File(path) => Given::File(path),
            Handed::Bytes(bytes) => Given::Bytes(bytes.to_vec()),
            Handed::Pixels((width, height, rgb)) => Given::Pixels(width, height, rgb.to_vec()),
        })
    }
}

impl Given {
    /// The picture as `assistant` takes it.
    pub fn source(self, assistant: &Assistant, aspect: Option<Aspect>) -> Result<Source> {
        Ok(match self {
            Given::File(path) => Source::File(path),
            Given::Bytes(bytes) => Source::Bytes(bytes),
            Given::Pixels(width, height, rgb) => {
                let picture = Picture::from_rgb(width, height, rgb)?;
                Source::Pixels(assistant.picture_pixels(&picture, aspect)?)
            }
        })
    }
}

/// Several pictures as `assistant` takes them.
pub fn sources(
    given: Vec<Given>,
    assistant: &Assistant,
    aspect: Option<Aspect>,
) -> Result<Vec<Source>> {
    let each = given.into_iter();
    each.map(|given| given.source(assistant, aspect)).collect()
}

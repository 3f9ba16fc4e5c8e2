//! The model that a command works with: a file, or the one that is part of the program.

use std::path::Path;

use crate::cli::progress;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::ops::Compute;
use crate::request::Assistant;

/// Where a model comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum ModelFile<'a> {
    /// A GGUF file.
    Path(&'a Path),
    /// [`crate::builtin`].
    #[cfg(feature = "tiny")]
    BuiltIn,
}

impl<'a> ModelFile<'a> {
    /// The file that a flag or the environment names. Without one the built-in model, which it then
    /// says on standard error.
    pub fn new(path: Option<&'a Path>) -> Result<Self> {
        match path {
            Some(path) => Ok(ModelFile::Path(path)),
            None => Self::built_in(),
        }
    }

    #[cfg(feature = "tiny")]
    fn built_in() -> Result<Self> {
        progress::note(&format!(
            "using the built-in model {}, which knows drawings of some 80 things; for the real one \
             see 'owl2-convert --help', then -m FILE",
            crate::builtin::NAME
        ));
        Ok(ModelFile::BuiltIn)
    }

    #[cfg(not(feature = "tiny"))]
    fn built_in() -> Result<Self> {
        Err(Error::usage(
            "no model given; use -m FILE or set OWL2_MODEL (owl2-convert makes model files)",
        ))
    }

    /// What it is called in errors.
    pub fn name(self) -> &'a Path {
        match self {
            ModelFile::Path(path) => path,
            #[cfg(feature = "tiny")]
            ModelFile::BuiltIn => Path::new(crate::builtin::NAME),
        }
    }

    /// Opens and validates it.
    pub fn open(self) -> Result<Gguf> {
        match self {
            ModelFile::Path(path) => Gguf::open(path),
            #[cfg(feature = "tiny")]
            ModelFile::BuiltIn => crate::builtin::open(),
        }
    }

    /// Opens it to be asked.
    pub fn assistant(self, compute: Compute) -> Result<Assistant> {
        match self {
            ModelFile::Path(path) => Assistant::open_with(path, compute),
            #[cfg(feature = "tiny")]
            ModelFile::BuiltIn => Assistant::new(&crate::builtin::open()?, compute),
        }
    }

    /// An error about what it holds.
    pub fn blame(self, error: Error) -> Error {
        error.in_file(self.name())
    }
}

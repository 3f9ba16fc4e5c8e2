//! The native half of the Python package `owl2`; the other half, `python/owl2`, is what people call.
//!
//! Python code turns arguments into paths, bytes and numbers, and what comes back into dataclasses.
//! This half holds the model. Requests run on threads of their own ([`work`]), so the interpreter is
//! free meanwhile, and Ctrl-C ends them.

// `#[pyclass]` and its kind expand to the calls of Python's C API; no other unsafe code is here.
#![allow(unsafe_code)]

mod answer;
mod errors;
mod model;
mod pictures;
mod score;
mod settings;
mod stream;
mod words;
mod work;

use pyo3::prelude::*;

/// The module `owl2._owl2`.
#[pymodule]
fn _owl2(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<model::Model>()?;
    module.add_class::<stream::Stream>()
}

//! Errors of the library as exceptions, whose classes are Python code.

use std::error::Error as _;
use std::io;

use owl2::{Error, Kind};
use pyo3::prelude::*;

/// The exception for an error of the library.
pub fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let source = error.source().and_then(|e| e.downcast_ref::<io::Error>());
    let errno = source.and_then(io::Error::raw_os_error);
    let made = py.import("owl2._errors").and_then(|module| {
        module.getattr("of_kind")?.call1((
            name(error.kind()),
            error.to_string(),
            error.file(),
            error.parameter(),
            errno,
        ))
    });
    match made {
        Ok(exception) => PyErr::from_value(exception),
        // Only where the package is not whole.
        Err(e) => e,
    }
}

/// What a result of the library is in Python.
pub fn raised<T>(py: Python<'_>, result: owl2::Result<T>) -> PyResult<T> {
    result.map_err(|e| exception(py, &e))
}

/// The name of a kind, as `owl2._errors` knows it.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Usage => "usage",
        Kind::Input => "input",
        Kind::Model => "model",
        Kind::Io => "io",
        Kind::Capacity => "capacity",
        Kind::Unfinished => "unfinished",
        _ => "bug",
    }
}

//! What the model computes: the same on every path, and the same for the same request.
//!
//! Equality with the authors' code is in tests/parity.rs.

#[cfg(all(feature = "constrain", feature = "tiny"))]
mod engine;
mod files;
mod lookup;
#[path = "../common/machine.rs"]
mod machine;
mod model;
mod promise;
mod quant;
#[path = "../common/tiny.rs"]
mod tiny;

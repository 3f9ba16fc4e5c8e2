//! The `owl2-convert` program.

fn main() {}

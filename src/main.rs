//! The `owl2` program.

fn main() {}

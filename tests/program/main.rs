//! The programs as their users meet them.

mod batch;
mod bench_cli;
mod benchmarks;
#[path = "../fuzz/bodies.rs"]
#[allow(
    clippy::duplicate_mod,
    reason = "fuzz targets include it with its helpers"
)]
mod bodies;
mod builtin;
mod chat;
#[path = "../parity/checkpoints.rs"]
#[allow(dead_code, reason = "tests/parity.rs uses the rest")]
mod checkpoints;
mod cli;
mod commands;
mod constrain;
mod conversation;
mod eval;
mod examples;
mod foreign;
mod fuzzed;
#[path = "../parity/golden.rs"]
#[allow(dead_code, reason = "tests/parity.rs uses the rest")]
mod golden;
mod image_memory;
mod limits;
mod llama;
#[path = "../common/machine.rs"]
mod machine;
mod perplexity;
#[path = "../common/room.rs"]
mod room;
mod score;
mod score_rule;
mod scripts;
mod serve;
mod snippets;
#[path = "../common/tiny.rs"]
mod tiny;

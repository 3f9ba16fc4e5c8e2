//! Damaged and hostile model files, with an eye on what is allocated: the allocator counts for the whole
//! process, so these have one of their own.

#[path = "../common/bounded.rs"]
mod bounded;
mod gguf;
#[path = "../common/machine.rs"]
mod machine;
mod model;
#[path = "../common/raw_gguf.rs"]
mod raw_gguf;
#[path = "../common/tiny.rs"]
mod tiny;

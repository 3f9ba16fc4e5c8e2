//! The library: files, pictures, texts, requests.

mod gguf_interop;
mod image;
mod image_hostile;
mod image_kinds;
mod jpeg;
mod jxl;
#[path = "../common/machine.rs"]
mod machine;
mod panics;
mod recognised;
mod request;
mod reuse;
mod text;
#[path = "../common/tiny.rs"]
mod tiny;
mod together;

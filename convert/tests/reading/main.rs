//! Reading checkpoints: every layout, damaged files, adapters.

mod files;
mod layouts;
mod lora;

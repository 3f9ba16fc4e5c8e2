//! The model: configuration, weights, and the forward passes.

pub mod config;
pub mod layout;
pub mod visual_config;

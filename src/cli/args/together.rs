//! The flags of commands that compute many requests together.

use std::num::NonZeroUsize;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use crate::cli::setup;
use crate::engine::MAX_TOGETHER;
use crate::error::Result;
use crate::model::kv_cache::CacheType;
use crate::ops::Compute;
use crate::request::Assistant;

/// How requests are computed.
#[derive(Debug, Args)]
pub(in crate::cli) struct TogetherArgs {
    /// Room for prompt, pictures and answer of each in positions [default: the trained context, or
    /// less where memory is short]
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,

    /// How keys and values are kept: f32, f16 or q8_0 [default: f16, or f32 where the weights are]
    #[arg(long, value_name = "TYPE")]
    pub cache_type: Option<CacheType>,

    /// Threads to compute with [default: one for each physical core]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// How many are computed together.
pub(super) fn together() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=MAX_TOGETHER as u64)
}

impl TogetherArgs {
    /// Opens a model to be asked in this way.
    pub fn open(&self, open: impl FnOnce(Compute) -> Result<Assistant>) -> Result<Assistant> {
        let mut assistant = open(Compute::new(setup::n_threads(self.threads))?)?;
        if let Some(cache_type) = self.cache_type {
            assistant.set_cache_type(cache_type)?;
        }
        Ok(assistant)
    }
}

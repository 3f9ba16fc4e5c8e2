//! The flags of commands that compute several requests at once.

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
    /// Context size in tokens: prompt, pictures and answer [default: as trained, if memory allows]
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,

    /// KV cache type: f32, f16, or q8_0 (about half of f16) [default: f16; f32 for f32 models]
    #[arg(long, value_name = "TYPE")]
    pub cache_type: Option<CacheType>,

    /// Worker threads [default: one per physical core]
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

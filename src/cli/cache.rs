//! The file of `--cache`, which passes computed positions from one process to the next.

use std::path::Path;

use crate::cli::args::AskArgs;
use crate::cli::interrupt::Hold;
use crate::cli::progress;
use crate::error::{Error, Kind, Result};
use crate::request::Assistant;
use crate::reuse::{PromptCache, Restored};

/// The file, if one is named.
pub struct CacheFile<'a>(Option<(&'a Path, [u8; 32])>);

impl<'a> CacheFile<'a> {
    /// Reads the file into `memory`.
    pub fn open(
        args: &'a AskArgs,
        assistant: &Assistant,
        memory: &mut PromptCache,
    ) -> Result<Self> {
        let Some(path) = args.running.cache.as_deref() else {
            return Ok(CacheFile(None));
        };
        let fingerprint = assistant.fingerprint();
        let room = assistant.context(args.running.ctx_size)?;
        let restored = memory.restore(assistant.model(), room, path, &fingerprint)?;
        if let Restored::Unusable(reason) = restored {
            let file = path.display();
            progress::note(&format!(
                "{file}: ignoring the cache, it will be rewritten: {reason}"
            ));
        }
        Ok(CacheFile(Some((path, fingerprint))))
    }

    /// Writes the file. An interrupt waits until it is whole.
    pub fn save(&self, memory: &PromptCache) -> Result<()> {
        let Some((path, fingerprint)) = &self.0 else {
            return Ok(());
        };
        let hold = Hold::new();
        memory.save(path, fingerprint)?;
        match hold.end() {
            true => Err(Error::new(Kind::Interrupted, "interrupted")),
            false => Ok(()),
        }
    }
}

//! The choice of the next token from the logits.

use crate::error::Result;
use crate::gguf::Gguf;
use crate::gguf::names::general as key;
use crate::gguf::write::Metadata;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 takes the likeliest token always.
    pub temperature: f32,
    /// Only the `top_k` likeliest tokens (and those as likely as the last of them); 0 is off.
    pub top_k: usize,
    /// Only the likeliest tokens that make up this much probability; 1 is off.
    pub top_p: f32,
    /// Only tokens at least this likely, relative to the likeliest; 0 is off.
    pub min_p: f32,
    /// Logits of tokens that occurred are divided (or, if negative, multiplied) by this; 1 is off.
    pub repeat_penalty: f32,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy, with what the reference uses once a temperature is set: `top_k` is transformers'
    /// default of 50.
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// The defaults of an open file: `generation_config.json` of its checkpoint.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model), naming the key, for values of another type.
    pub fn read(gguf: &Gguf) -> Result<Self> {
        let default = Sampling::default();
        Ok(Sampling {
            temperature: gguf
                .find(key::SAMPLING_TEMPERATURE)?
                .unwrap_or(default.temperature),
            top_k: gguf.find(key::SAMPLING_TOP_K)?.unwrap_or(default.top_k),
            top_p: gguf.find(key::SAMPLING_TOP_P)?.unwrap_or(default.top_p),
            ..default
        })
    }

    /// Adds the defaults to the metadata of a file to be written.
    pub fn write(&self, metadata: &mut Metadata) {
        metadata.set(key::SAMPLING_TEMPERATURE, self.temperature);
        metadata.set(key::SAMPLING_TOP_K, self.top_k as u32);
        metadata.set(key::SAMPLING_TOP_P, self.top_p);
    }
}

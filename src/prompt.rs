//! Turns of a conversation and picture slots to the tokens that the model reads.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How the turns of a conversation are put together (the reference's `conversation.py`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Template {
    /// `USER: ... ASSISTANT:`, without a system text: what the released model was tuned on.
    #[default]
    MplugOwl2,
    /// Vicuna's: a system text, then as above.
    V1,
    /// `###Human: ...###Assistant:` after a system text and an example exchange.
    V0,
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Template::MplugOwl2 => "mplug_owl2",
            Template::V1 => "v1",
            Template::V0 => "v0",
        })
    }
}

impl FromStr for Template {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "mplug_owl2" => Ok(Template::MplugOwl2),
            "v1" | "vicuna_v1" => Ok(Template::V1),
            "v0" | "default" => Ok(Template::V0),
            _ => Err(Error::usage(format!(
                "'{text}' is no prompt template; one of mplug_owl2, v1, v0"
            ))),
        }
    }
}

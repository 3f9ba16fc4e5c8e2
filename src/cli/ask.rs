//! One question, one streamed answer.
use crate::cli::args::AskArgs;
use crate::error::{Error, Result};

pub(super) fn run(_args: &AskArgs) -> Result<()> {
    Err(Error::usage("not built yet"))
}

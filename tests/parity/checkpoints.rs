//! The checkpoints of a golden directory, converted at f32.

use std::num::NonZeroUsize;
use std::path::Path;

use owl2::Result;
use owl2_convert::checkpoint::Checkpoint;
use owl2_convert::input::ConversionInput;
use owl2_convert::mapping::{self, Extra};
use owl2_convert::pack;
use owl2_convert::progress::Progress;
use owl2_convert::recipe::{Quant, Recipe};
use serde_json::Value;

use crate::golden::{Golden, text};

/// Workers; two, so that work is really divided.
pub const N_THREADS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// The checkpoint that an entry of the manifest describes, its adapter merged into its base.
pub fn open(golden: &Golden, entry: &Value) -> Result<Checkpoint> {
    let dir = golden.path(text(&entry["dir"]));
    match entry["base"].as_str() {
        Some(base) => Checkpoint::open(&golden.path(base))?.with_lora(&dir),
        None => Checkpoint::open(&dir),
    }
}

/// Converts a checkpoint at f32.
pub fn convert(checkpoint: Checkpoint, target: &Path) -> Result<()> {
    let input = ConversionInput::from(checkpoint);
    let source = input.tensors.as_ref();
    let mapped = mapping::map(&input.config, source, Extra::Refuse)?.tensors;
    let recipe = Recipe {
        quant: Quant::F32,
        ..Recipe::default()
    };
    let plan = recipe.plan(&input.config)?;
    let writer = pack::create(target, &input, Quant::F32, &plan, false)?;
    let mut progress = Progress::start(plan.size().bytes, true);
    pack::pack(source, &mapped, &plan, writer, N_THREADS, &mut progress)?;
    progress.finish();
    Ok(())
}

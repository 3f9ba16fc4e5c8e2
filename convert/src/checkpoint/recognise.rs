//! Folders and files that are taken for a checkpoint but are something else.

use std::fs;
use std::path::{Path, PathBuf};

use owl2::{Error, Result};

use super::index;
use crate::{config, lora};

/// Fails where `dir` cannot be the folder of a checkpoint, with what it is instead.
pub(super) fn check(dir: &Path) -> Result<()> {
    let refuse = |what: String| Err(Error::model(what).in_file(dir));
    if !dir.is_dir() {
        return refuse("is no directory with a checkpoint".to_owned());
    }
    let has = |name: &str| dir.join(name).exists();
    let has_weights = index::has_weights(dir)?;
    if has(lora::CONFIG_FILE) && !has_weights {
        return refuse(
            "holds a LoRA adapter, not a whole model; give the model it was made for, and this \
             directory with --lora"
                .to_owned(),
        );
    }
    if has("zero_to_fp32.py") && !has_weights {
        return refuse(
            "holds the parts that DeepSpeed trains with; put them together with its \
             zero_to_fp32.py first"
                .to_owned(),
        );
    }
    if has(config::CONFIG_FILE) {
        return Ok(());
    }
    if let Some(snapshot) = first_below(&dir.join("snapshots"), |path| path.is_dir()) {
        return refuse(format!(
            "is a folder of the hub's cache; give the snapshot in it, such as {}",
            snapshot.display()
        ));
    }
    let is_gguf = |path: &Path| path.extension().is_some_and(|suffix| suffix == "gguf");
    if let Some(file) = first_below(dir, is_gguf) {
        return refuse(format!(
            "holds no {}, but GGUF files; give one of them, such as {}",
            config::CONFIG_FILE,
            file.display()
        ));
    }
    refuse(format!(
        "has no {}, so it is no checkpoint as transformers saves it",
        config::CONFIG_FILE
    ))
}

/// Fails where the file `path` is a part of a checkpoint, of which the folder is wanted.
pub(crate) fn check_file(path: &Path) -> Result<()> {
    let suffix = path.extension().and_then(|suffix| suffix.to_str());
    match suffix {
        Some("safetensors" | "bin" | "pth" | "pt" | "json") => Err(Error::model(
            "is one file of a checkpoint; give the directory that it is in",
        )
        .in_file(path)),
        _ => Ok(()),
    }
}

/// The first of what a folder holds, by name, that is wanted. A folder that cannot be listed holds
/// nothing that could be told.
fn first_below(dir: &Path, is_wanted: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| is_wanted(path)).min()
}

//! Recognizes folders and files that are mistaken for a checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use owl2::{Error, Result};

use super::index;
use crate::{config, lora};

/// Fails where `dir` cannot be the folder of a checkpoint, with what it is instead.
pub(super) fn check(dir: &Path) -> Result<()> {
    let refuse = |what: String| Err(Error::model(what).in_file(dir));
    if !dir.is_dir() {
        return refuse(match dir.to_str().and_then(hub_name) {
            Some((name, folder)) => format!(
                "is not a folder on this machine; to download the checkpoint from the Hugging Face \
                 hub, run\n  {}\nand convert {folder}",
                download_command(name, folder)
            ),
            None => "is not a folder".to_owned(),
        });
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
        "is not a checkpoint folder (no {}); to download a checkpoint, run for example\n  {}",
        config::CONFIG_FILE,
        download_command("MAGAer13/mplug-owl2-llama2-7b", "mplug-owl2-llama2-7b")
    ))
}

/// The command of the Python package `huggingface_hub` that downloads a repository into a folder.
fn download_command(name: &str, folder: &str) -> String {
    format!("hf download {name} --local-dir {folder}")
}

/// The name of a repository on the hub, `OWNER/NAME`, and the folder it would be downloaded to.
fn hub_name(text: &str) -> Option<(&str, &str)> {
    let (owner, name) = text.split_once('/')?;
    let is_part = |part: &str| {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(is_letter)
    };
    (is_part(owner) && is_part(name)).then_some((text, name))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        let name = "MAGAer13/mplug-owl2-llama2-7b";
        assert_eq!(hub_name(name), Some((name, "mplug-owl2-llama2-7b")));
        for path in [
            "model",
            "./model",
            "../model",
            "/data/model",
            "a/b/c",
            "a/",
            "a/b c",
            "a/.b",
        ] {
            assert_eq!(hub_name(path), None, "{path}");
        }
        let message = check(Path::new(name)).unwrap_err().to_string();
        let command = "hf download MAGAer13/mplug-owl2-llama2-7b --local-dir mplug-owl2-llama2-7b";
        assert!(message.contains(command), "{message}");
        let folder = tempfile::tempdir().unwrap();
        let message = check(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains("no config.json") && message.contains("hf download"),
            "{message}"
        );
    }
}

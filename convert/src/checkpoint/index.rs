//! Which files hold a checkpoint's tensors.
//!
//! Every layout that transformers writes, and the released model's own: one file, or shards with
//! or without an index, in safetensors or torch's format, shard numbers padded or not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use owl2::error::Subject;
use owl2::{Error, Result};

use super::{Listed, Tensor, is_ignored, safetensors, torch};
use crate::json::Object;

/// Missing files that an error lists.
const MAX_LISTED: usize = 8;

/// One way of storing tensors, as transformers names its files.
struct Format {
    single: &'static str,
    index: &'static str,
    shard_prefix: &'static str,
    suffix: &'static str,
}

/// In the order in which transformers looks for them.
const FORMATS: [Format; 2] = [
    Format {
        single: "model.safetensors",
        index: "model.safetensors.index.json",
        shard_prefix: "model-",
        suffix: ".safetensors",
    },
    Format {
        single: "pytorch_model.bin",
        index: "pytorch_model.bin.index.json",
        shard_prefix: "pytorch_model-",
        suffix: ".bin",
    },
];

/// The files of a checkpoint.
struct Layout {
    files: Vec<PathBuf>,
    /// Where there is an index: itself, and the file that it names for each tensor.
    index: Option<(PathBuf, HashMap<String, PathBuf>)>,
}

/// The tensors of one file, in the format that its name ends in, all of which must be weights.
pub(crate) fn open_file(path: &Path) -> Result<Vec<Tensor>> {
    list_file(path)?.into_iter().collect()
}

fn list_file(path: &Path) -> Result<Vec<Listed>> {
    if path
        .extension()
        .is_some_and(|suffix| suffix == "safetensors")
    {
        safetensors::open(path)
    } else {
        torch::open(path)
    }
}

/// Lists the tensors of the checkpoint in `dir`, by name.
pub(crate) fn open_all(dir: &Path) -> Result<BTreeMap<String, Listed>> {
    let layout = find_layout(dir)?;
    let mut tensors = BTreeMap::new();
    for path in &layout.files {
        for tensor in list_file(path)? {
            let name = match &tensor {
                Ok(tensor) => tensor.meta.name.clone(),
                Err(error) => match error.subject() {
                    Some(Subject::Tensor(name)) => name.clone(),
                    _ => return Err(tensor.expect_err("it is none")),
                },
            };
            // A stale copy in another shard than the index names does not count.
            let owner = layout.index.as_ref().and_then(|(_, map)| map.get(&name));
            if owner.is_some_and(|owner| owner != path) {
                continue;
            }
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(Error::model("is in more than one place")
                    .in_tensor(name)
                    .in_file(path));
            }
        }
    }
    if let Some((path, map)) = &layout.index {
        check_complete(map, &tensors).map_err(|e| e.in_file(path))?;
    }
    Ok(tensors)
}

fn check_complete(
    map: &HashMap<String, PathBuf>,
    tensors: &BTreeMap<String, Listed>,
) -> Result<()> {
    let missing = map
        .iter()
        .filter(|(name, _)| !is_ignored(name) && !tensors.contains_key(*name))
        .min();
    match missing {
        None => Ok(()),
        Some((name, path)) => Err(Error::model(format!(
            "should be in '{}', but is not there",
            path.display()
        ))
        .in_tensor(name)),
    }
}

fn find_layout(dir: &Path) -> Result<Layout> {
    for format in &FORMATS {
        let single = dir.join(format.single);
        if single.exists() {
            return Ok(Layout {
                files: vec![single],
                index: None,
            });
        }
        let index = dir.join(format.index);
        if index.exists() {
            return read_index(dir, &index);
        }
        let shards = find_shards(dir, format)?;
        if !shards.is_empty() {
            return Ok(Layout {
                files: shards,
                index: None,
            });
        }
    }
    Err(
        Error::model("has no weights: neither model*.safetensors nor pytorch_model*.bin")
            .in_file(dir),
    )
}

/// Whether `dir` has files that are called as weights are, or parts of them.
pub(crate) fn has_weights(dir: &Path) -> Result<bool> {
    for format in &FORMATS {
        if dir.join(format.single).exists()
            || dir.join(format.index).exists()
            || !shards(dir, format)?.is_empty()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads an index (`weight_map`: tensor to file) and checks that its files exist.
fn read_index(dir: &Path, index: &Path) -> Result<Layout> {
    let json = Object::read(index)?;
    let weight_map = json.object("weight_map")?;
    let map = weight_map
        .iter()
        .map(|(tensor, file)| {
            let file = file
                .as_str()
                .filter(|file| stays_inside(file))
                .ok_or_else(|| {
                    weight_map.error(
                        tensor,
                        format!("is {file}, expected a file of this directory"),
                    )
                })?;
            Ok((tensor.to_owned(), dir.join(file)))
        })
        .collect::<Result<HashMap<_, _>>>()?;
    let files: BTreeSet<_> = map.values().cloned().collect();
    if files.is_empty() {
        return Err(json.error("weight_map", "is missing or names no tensor"));
    }
    let missing: Vec<_> = files
        .iter()
        .filter(|path| !path.exists())
        .map(|path| path.display().to_string())
        .collect();
    if !missing.is_empty() {
        let more = match missing.len().saturating_sub(MAX_LISTED) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let listed = &missing[..missing.len().min(MAX_LISTED)];
        return Err(Error::model(format!(
            "names files that are missing: {}{more}; fetch them again",
            listed.join(", ")
        ))
        .in_file(index));
    }
    Ok(Layout {
        files: files.into_iter().collect(),
        index: Some((index.to_owned(), map)),
    })
}

/// Whether a relative path cannot lead out of the directory it is relative to.
fn stays_inside(path: &str) -> bool {
    let mut components = Path::new(path).components().peekable();
    components.peek().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
}

/// The files `<prefix>K-of-N<suffix>` of `dir` in order, which have to be all N.
fn find_shards(dir: &Path, format: &Format) -> Result<Vec<PathBuf>> {
    let mut by_number = BTreeMap::new();
    for (number, path) in shards(dir, format)? {
        if by_number.insert(number, path.clone()).is_some() {
            return Err(Error::model("is there twice, padded and not; remove one").in_file(&path));
        }
    }
    let shards = by_number;
    let Some((&(_, total), _)) = shards.first_key_value() else {
        return Ok(Vec::new());
    };
    if let Some(((_, other), path)) = shards.iter().find(|((_, n), _)| *n != total) {
        return Err(Error::model(format!(
            "is one of {other} shards, but there are shards of {total} too; remove the stale ones"
        ))
        .in_file(path));
    }
    if let Some(k) = (1..=total).find(|&k| !shards.contains_key(&(k, total))) {
        return Err(Error::model(format!(
            "shard {k} of {total} is missing ({}K-of-{total}{})",
            format.shard_prefix, format.suffix
        ))
        .in_file(dir));
    }
    Ok(shards.into_values().collect())
}

/// The files `<prefix>K-of-N<suffix>` of `dir`, with K and N.
fn shards(dir: &Path, format: &Format) -> Result<Vec<((u64, u64), PathBuf)>> {
    let list = std::fs::read_dir(dir).map_err(|e| Error::io("cannot list", dir, e))?;
    let mut shards = Vec::new();
    for entry in list {
        let path = entry.map_err(|e| Error::io("cannot list", dir, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(number) = name.and_then(|name| shard_number(name, format)) {
            shards.push((number, path));
        }
    }
    Ok(shards)
}

/// K and N of a file name `<prefix>K-of-N<suffix>`.
fn shard_number(name: &str, format: &Format) -> Option<(u64, u64)> {
    let numbers = name
        .strip_prefix(format.shard_prefix)?
        .strip_suffix(format.suffix)?;
    let (k, n) = numbers.split_once("-of-")?;
    Some((k.parse().ok()?, n.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_numbers_are_read_padded_or_not() {
        let [safetensors, torch] = &FORMATS;
        assert_eq!(
            shard_number("pytorch_model-3-of-33.bin", torch),
            Some((3, 33))
        );
        assert_eq!(
            shard_number("model-00001-of-00004.safetensors", safetensors),
            Some((1, 4))
        );
        for name in [
            "pytorch_model.bin",
            "pytorch_model-1.bin",
            "model-1-of-2.bin",
        ] {
            assert_eq!(shard_number(name, torch), None);
        }
    }

    #[test]
    fn paths_out_of_the_directory_are_seen() {
        for path in ["a.bin", "sub/a.bin"] {
            assert!(stays_inside(path), "{path}");
        }
        for path in ["", "/etc/passwd", "../a.bin", "sub/../../a.bin", "."] {
            assert!(!stays_inside(path), "{path}");
        }
    }
}

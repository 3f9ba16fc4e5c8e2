//! Torch's `.bin` files: a zip archive of stored entries, a pickle among them that describes the
//! tensors, and an entry of raw little-endian elements for each storage.
//!
//! The `zip` package reads the directory; the values are read where they lie. Files from before
//! torch 1.6 are another format and are refused.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use owl2::{Error, Result};
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, StorageType, TensorView};
use super::shard::ShardFile;
use super::stored::Stored;
use super::{Listed, Tensor, TensorMeta, is_ignored, unsupported_type};

/// A pickle takes some 200 bytes a tensor; this holds ten times those of the largest adapters.
const MAX_PICKLE_BYTES: u64 = 16 << 20;
/// How every zip archive with entries starts.
const ZIP_MAGIC: [u8; 4] = *b"PK\x03\x04";
/// Name of the pickle; what comes before it comes before all other names.
const PICKLE: &str = "data.pkl";

/// Bytes of one entry of the archive.
#[derive(Clone, Copy)]
struct Entry {
    start: u64,
    n_bytes: u64,
}

/// Lists the tensors of the file at `path`.
pub(crate) fn open(path: &Path) -> Result<Vec<Listed>> {
    let shard = ShardFile::open(path)?;
    list(&shard).map_err(|e| e.in_file(path))
}

fn list(shard: &Arc<ShardFile>) -> Result<Vec<Listed>> {
    check_magic(shard)?;
    let entries = entries(shard)?;
    let root = entries
        .keys()
        .filter_map(|name| name.strip_suffix(PICKLE))
        .filter(|root| root.is_empty() || root.ends_with('/'))
        .min_by_key(|root| root.len())
        .ok_or_else(|| Error::model(format!("is a zip archive without {PICKLE}, not torch's")))?;
    let entry = |name: &str| entries.get(&format!("{root}{name}")).copied();

    if let Some(order) = entry("byteorder")
        && read_entry(shard, order, "byteorder", 16)?.trim_ascii() != b"little"
    {
        return Err(Error::model(
            "was saved on a big-endian machine, which is not supported",
        ));
    }
    let pickle_entry = entry(PICKLE).expect("the root was found by it");
    let pickle = read_entry(shard, pickle_entry, PICKLE, MAX_PICKLE_BYTES)?;
    pickle::state_dict(&pickle)?
        .into_iter()
        .filter(|(name, _)| !is_ignored(name))
        .map(|(name, view)| {
            let data = entry(&format!("data/{}", view.storage.key));
            if let StorageType::Other(class) = view.storage.storage_type {
                let error = unsupported_type(class).in_tensor(name);
                return Ok(Err(error.in_file(shard.path())));
            }
            let tensor = tensor(shard, name.clone(), view, data);
            tensor.map(Ok).map_err(|e| e.in_tensor(name))
        })
        .collect()
}

fn check_magic(shard: &ShardFile) -> Result<()> {
    let mut magic = [0; ZIP_MAGIC.len()];
    if shard.n_bytes() >= magic.len() as u64 {
        shard.read_at(&mut magic, 0)?;
    }
    if magic != ZIP_MAGIC {
        return Err(Error::model(
            "is not a zip archive as torch.save writes since 1.6; load it with torch and save it again",
        ));
    }
    Ok(())
}

/// Every entry of the archive by its name, checked to be stored and to lie inside the file.
fn entries(shard: &ShardFile) -> Result<HashMap<String, Entry>> {
    let broken = |e: zip::result::ZipError| {
        Error::model(format!(
            "has a damaged zip directory ({e}); the file is probably truncated"
        ))
        .caused_by(e)
    };
    let mut archive = ZipArchive::new(BufReader::new(shard.stream()?)).map_err(broken)?;
    let mut entries = HashMap::new();
    for i in 0..archive.len() {
        let file = archive.by_index_raw(i).map_err(broken)?;
        let name = file.name().map_err(broken)?.into_owned();
        if file.compression() != CompressionMethod::Stored || file.encrypted() {
            return Err(Error::model(format!(
                "has '{name}' compressed or encrypted, which torch.save does not do"
            )));
        }
        let entry = file.data_start().map(|start| Entry {
            start,
            n_bytes: file.size(),
        });
        let inside = entry.filter(|entry| {
            let end = entry.start.checked_add(entry.n_bytes);
            end.is_some_and(|end| end <= shard.n_bytes())
        });
        let entry = inside.ok_or_else(|| {
            Error::model(format!(
                "says that '{name}' has {} bytes, more than there are; it is truncated or damaged",
                file.size()
            ))
        })?;
        entries.insert(name, entry);
    }
    Ok(entries)
}

fn read_entry(shard: &ShardFile, entry: Entry, name: &str, max_bytes: u64) -> Result<Vec<u8>> {
    if entry.n_bytes > max_bytes {
        return Err(Error::model(format!(
            "has a {name} of {} bytes; a state dictionary's is far smaller",
            entry.n_bytes
        )));
    }
    let mut bytes = vec![0; entry.n_bytes as usize];
    shard.read_at(&mut bytes, entry.start)?;
    Ok(bytes)
}

fn tensor(
    shard: &Arc<ShardFile>,
    name: String,
    view: TensorView,
    data: Option<Entry>,
) -> Result<Tensor> {
    let key = &view.storage.key;
    let StorageType::Float(element) = view.storage.storage_type else {
        return Err(unsupported_type("other than float"));
    };
    let data = data
        .ok_or_else(|| Error::model(format!("has its elements in data/{key}, which is missing")))?;
    let n_bytes = |n_elements: usize| (n_elements as u64).checked_mul(element.n_bytes() as u64);
    if n_bytes(view.storage.n_elements) != Some(data.n_bytes) {
        return Err(Error::model(format!(
            "needs {} elements in data/{key}, which has {} bytes; the file is damaged",
            view.storage.n_elements, data.n_bytes
        )));
    }
    let first_byte = n_bytes(view.offset)
        .and_then(|offset| offset.checked_add(data.start))
        .ok_or_else(|| Error::model("starts outside of the file; the file is damaged"))?;
    let stored = Stored::new(
        shard.clone(),
        element,
        first_byte,
        data.start + data.n_bytes,
        &view.shape,
        &view.strides,
    )?;
    let meta = TensorMeta {
        name,
        shape: view.shape,
        element,
    };
    Ok(Tensor::new(meta, stored))
}

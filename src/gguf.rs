//! The GGUF container: bytes, types and names, no model.
//!
//! [`Gguf::open`] maps a file, decodes and validates its header, and from then on hands out
//! metadata by typed getters and tensors as views of the map; nothing of the weights is copied.
//! [`write::Writer`] makes such files.

pub mod dtype;
pub mod header;
pub mod identity;
pub mod kind;
pub mod lfs;
pub mod map;
pub mod names;
pub mod write;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

pub use dtype::DType;
pub use header::TensorInfo;
pub use identity::Identity;
pub use map::{Bytes, TensorBytes};

use crate::error::{Error, Result};
use header::{Header, RawValue, ValueType};
use write::Value;

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    bytes: Arc<Bytes>,
    header: Header,
    index: HashMap<String, usize>,
}

impl Gguf {
    /// Maps and validates the file at `path`.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where it cannot be read, [`Kind::Model`](crate::Kind::Model)
    /// with the offending key or tensor where it is malformed.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(Bytes::open(path)?).map_err(|e| e.in_file(path))
    }

    /// Validates a file that is in memory already.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self> {
        let header = header::decode(&bytes)?;
        let index = header
            .tensors
            .iter()
            .enumerate()
            .map(|(i, tensor)| (tensor.name.clone(), i))
            .collect();
        Ok(Gguf {
            bytes: Arc::new(bytes),
            header,
            index,
        })
    }

    /// Where it is, unless its bytes were given or are part of the program.
    pub fn path(&self) -> Option<&Path> {
        self.bytes.path()
    }

    /// Size of the whole file in bytes.
    pub fn file_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The GGUF version of the file.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// Every tensor, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.header.tensors[i])
    }

    /// Fails where a tensor is of a type that this library does not read, which is none of
    /// [`Gguf::tensors`].
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model), naming the first such tensor and its type.
    pub fn check_types(&self) -> Result<()> {
        let Some(first) = self.header.unreadable.first() else {
            return Ok(());
        };
        Err(Error::model(format!(
            "is {}, which is not supported; supported are {}: take a file of one of these \
             (Q4_0 and Q4_K_S files may hold some of another type, Q8_0 files do not)",
            dtype::ggml_name(first.number),
            DType::ALL.map(DType::name).join(", ")
        ))
        .in_tensor(&first.name))
    }

    /// The bytes of `tensor`, which must be one of this file's.
    pub fn data(&self, tensor: &TensorInfo) -> TensorBytes {
        TensorBytes::new(self.bytes.clone(), tensor.range.clone())
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the metadata has `key`.
    pub fn has(&self, key: &str) -> bool {
        self.header.metadata.contains_key(key)
    }

    /// Metadata keys, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.header.metadata.keys().map(String::as_str)
    }

    /// All metadata in the order of the file, with values that [`write::Writer`] writes as they
    /// are here.
    pub fn encoded_metadata(&self) -> impl Iterator<Item = (&str, Value)> {
        self.header.pairs.iter().map(|pair| {
            let value = Value::Encoded {
                value_type: pair.value_type,
                bytes: self.bytes[pair.range.clone()].to_vec(),
            };
            (pair.key.as_str(), value)
        })
    }

    /// The value of `key` as `T`, or an error that names the key where it is missing or of
    /// another type.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model).
    pub fn get<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<T> {
        self.find(key)?
            .ok_or_else(|| Error::model("is missing from the file's metadata").in_key(key))
    }

    /// The value of `key` as `T`, or `None` where there is none.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) where it is there but of another type.
    pub fn find<'a, T: FromMetadata<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.header.metadata.get(key) else {
            return Ok(None);
        };
        T::from_metadata(value, &self.bytes)
            .map(Some)
            .ok_or_else(|| Error::model(format!("has another type than {}", T::WANTED)).in_key(key))
    }
}

/// Types that metadata values can be read as.
pub trait FromMetadata<'a>: Sized {
    /// What is wanted, for error messages.
    const WANTED: &'static str;
    /// The value, or `None` where it is of another type or out of range. `file` is the whole file.
    fn from_metadata(value: &RawValue, file: &'a [u8]) -> Option<Self>;
}

impl FromMetadata<'_> for usize {
    const WANTED: &'static str = "a non-negative integer";
    fn from_metadata(value: &RawValue, _: &[u8]) -> Option<Self> {
        match *value {
            RawValue::Unsigned(n) => n.try_into().ok(),
            RawValue::Signed(n) => n.try_into().ok(),
            _ => None,
        }
    }
}

impl FromMetadata<'_> for u32 {
    const WANTED: &'static str = "a 32-bit non-negative integer";
    fn from_metadata(value: &RawValue, file: &[u8]) -> Option<Self> {
        usize::from_metadata(value, file)?.try_into().ok()
    }
}

impl FromMetadata<'_> for f64 {
    const WANTED: &'static str = "a float";
    fn from_metadata(value: &RawValue, _: &[u8]) -> Option<Self> {
        match *value {
            RawValue::Float(x) => Some(x),
            _ => None,
        }
    }
}

impl FromMetadata<'_> for f32 {
    const WANTED: &'static str = "a float";
    fn from_metadata(value: &RawValue, file: &[u8]) -> Option<Self> {
        f64::from_metadata(value, file).map(|x| x as f32)
    }
}

impl FromMetadata<'_> for bool {
    const WANTED: &'static str = "a truth value";
    fn from_metadata(value: &RawValue, _: &[u8]) -> Option<Self> {
        match *value {
            RawValue::Bool(b) => Some(b),
            _ => None,
        }
    }
}

impl<'a> FromMetadata<'a> for &'a str {
    const WANTED: &'static str = "a string";
    fn from_metadata(value: &RawValue, file: &'a [u8]) -> Option<Self> {
        match value {
            // The header was decoded from these bytes, UTF-8 checked.
            RawValue::String(range) => std::str::from_utf8(&file[range.clone()]).ok(),
            _ => None,
        }
    }
}

impl<'a> FromMetadata<'a> for Vec<&'a str> {
    const WANTED: &'static str = "an array of strings";
    fn from_metadata(value: &RawValue, file: &'a [u8]) -> Option<Self> {
        let mut bytes = array_bytes(value, ValueType::String, file)?;
        let mut strings = Vec::new();
        while let Some((len, rest)) = bytes.split_first_chunk::<8>() {
            let (text, rest) =
                rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
            strings.push(std::str::from_utf8(text).ok()?);
            bytes = rest;
        }
        Some(strings)
    }
}

impl FromMetadata<'_> for Vec<f32> {
    const WANTED: &'static str = "an array of 32-bit floats";
    fn from_metadata(value: &RawValue, file: &[u8]) -> Option<Self> {
        let (values, _) = array_bytes(value, ValueType::F32, file)?.as_chunks::<4>();
        Some(
            values
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
        )
    }
}

impl FromMetadata<'_> for Vec<i32> {
    const WANTED: &'static str = "an array of 32-bit integers";
    fn from_metadata(value: &RawValue, file: &[u8]) -> Option<Self> {
        let (values, _) = array_bytes(value, ValueType::I32, file)
            .or_else(|| array_bytes(value, ValueType::U32, file))?
            .as_chunks::<4>();
        Some(
            values
                .iter()
                .map(|bytes| i32::from_le_bytes(*bytes))
                .collect(),
        )
    }
}

fn array_bytes<'a>(value: &RawValue, wanted: ValueType, file: &'a [u8]) -> Option<&'a [u8]> {
    match value {
        RawValue::Array { element, range, .. } if *element == wanted => Some(&file[range.clone()]),
        _ => None,
    }
}

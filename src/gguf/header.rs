//! Decodes a GGUF header (versions 2 and 3, little endian) without trusting any of it.
//!
//! Every length is checked against the bytes that are really there before it is used, and arrays
//! stay where they are in the file (a value holds their range), so memory while parsing is a small
//! multiple of the header's size whatever the counts in it claim.
//!
//! The `gguf-rs` package is not used here: it turns metadata into JSON values (64 times the size
//! of a byte array), silently lets a repeated key overwrite the first, replaces invalid UTF-8,
//! loses integer widths, and panics on tensor kind 40. It serves as the independent reader that
//! `owl2-convert --verify` and the tests hold our writer against.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::gguf::{DType, lfs};

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version that the writer makes. Version 2 has the same layout and is read too.
pub const VERSION: u32 = 3;
/// Alignment of tensor data where the file names no other (`general.alignment`).
pub const DEFAULT_ALIGNMENT: usize = 32;
/// The key of the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Larger alignments than this serve no purpose and are refused.
const MAX_ALIGNMENT: usize = 1 << 20;
/// ggml's `GGML_MAX_DIMS`.
const MAX_RANK: usize = 4;
/// ggml's `GGML_MAX_NAME`, less the terminating zero.
const MAX_TENSOR_NAME_BYTES: usize = 63;
/// The GGUF specification's limit on keys.
const MAX_KEY_BYTES: usize = 65535;
/// Far more keys and tensors than any model has; the limits bound the memory of a hostile header.
const MAX_KEYS: usize = 1 << 16;
const MAX_TENSORS: usize = 1 << 17;

/// GGUF's numbers for metadata value types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    fn from_number(number: u32) -> Option<Self> {
        use ValueType::*;
        [
            U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64,
        ]
        .into_iter()
        .find(|value_type| *value_type as u32 == number)
    }

    /// Bytes of one value, or `None` for strings and arrays, whose size varies.
    pub fn fixed_bytes(self) -> Option<usize> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::String | ValueType::Array => None,
        }
    }
}

/// One metadata value. Strings and arrays are ranges of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum RawValue {
    /// Any unsigned integer type.
    Unsigned(u64),
    /// Any signed integer type.
    Signed(i64),
    /// Either float type.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 bytes.
    String(Range<usize>),
    /// `len` elements of one type, as they stand in the file.
    Array {
        /// Type of each element; never `Array`.
        element: ValueType,
        /// Number of elements.
        len: u64,
        /// Where they are.
        range: Range<usize>,
    },
}

/// Where one key's value stands in the file, to be copied as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPair {
    /// The key.
    pub key: String,
    /// Type of the value.
    pub value_type: ValueType,
    /// The value's bytes, those after the number of its type.
    pub range: Range<usize>,
}

/// A tensor as the header declares it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its unique name.
    pub name: String,
    /// How its values are stored.
    pub dtype: DType,
    /// Dimensions in row-major order, slowest first: `[rows, columns]` for a matrix.
    /// (The file has them the other way round.)
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// A decoded and validated header.
#[derive(Debug)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Alignment of the tensor data, a power of two.
    pub alignment: usize,
    /// Metadata by key.
    pub metadata: HashMap<String, RawValue>,
    /// The same in the order of the file.
    pub pairs: Vec<EncodedPair>,
    /// Tensors of known types in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// The others.
    pub unreadable: Vec<Unreadable>,
}

/// A tensor of a type that this library does not read. What else the file says may be of use all
/// the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its name.
    pub name: String,
    /// ggml's number of its type.
    pub number: u32,
}

/// Reads little-endian values from a byte slice and never past its end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn skip(&mut self, n_bytes: u64) -> Result<Range<usize>> {
        let there = usize::try_from(n_bytes)
            .ok()
            .filter(|&n| n <= self.remaining());
        let n_bytes = there.ok_or_else(|| {
            Error::model(format!(
                "the header needs {n_bytes} bytes at offset {}, but the file has {} left; it is truncated or damaged",
                self.at,
                self.remaining()
            ))
        })?;
        let start = self.at;
        self.at += n_bytes;
        Ok(start..self.at)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let range = self.skip(N as u64)?;
        Ok(self.bytes[range].try_into().expect("range has N bytes"))
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The number of things that follow, of which there are at most `max`.
    fn count(&mut self, what: &str, max: usize) -> Result<usize> {
        let value = self.u64()?;
        let count = usize::try_from(value).ok().filter(|&count| count <= max);
        count.ok_or_else(|| {
            Error::model(format!(
                "claims {value} {what}, more than the {max} this program accepts; the file is damaged"
            ))
        })
    }

    fn string(&mut self) -> Result<(Range<usize>, &'a str)> {
        let len = self.u64()?;
        let range = self.skip(len)?;
        let text = std::str::from_utf8(&self.bytes[range.clone()])
            .map_err(|e| Error::model(format!("a string is not UTF-8: {e}")))?;
        Ok((range, text))
    }

    fn value_type(&mut self) -> Result<ValueType> {
        let number = self.u32()?;
        ValueType::from_number(number)
            .ok_or_else(|| Error::model(format!("metadata value type {number} does not exist")))
    }

    fn value(&mut self, value_type: ValueType) -> Result<RawValue> {
        Ok(match value_type {
            ValueType::U8 => RawValue::Unsigned(u8::from_le_bytes(self.array()?).into()),
            ValueType::U16 => RawValue::Unsigned(u16::from_le_bytes(self.array()?).into()),
            ValueType::U32 => RawValue::Unsigned(self.u32()?.into()),
            ValueType::U64 => RawValue::Unsigned(self.u64()?),
            ValueType::I8 => RawValue::Signed(i8::from_le_bytes(self.array()?).into()),
            ValueType::I16 => RawValue::Signed(i16::from_le_bytes(self.array()?).into()),
            ValueType::I32 => RawValue::Signed(i32::from_le_bytes(self.array()?).into()),
            ValueType::I64 => RawValue::Signed(i64::from_le_bytes(self.array()?)),
            ValueType::F32 => RawValue::Float(f32::from_le_bytes(self.array()?).into()),
            ValueType::F64 => RawValue::Float(f64::from_le_bytes(self.array()?)),
            ValueType::Bool => match self.array::<1>()? {
                [0] => RawValue::Bool(false),
                [1] => RawValue::Bool(true),
                [other] => return Err(Error::model(format!("{other} is not a boolean (0 or 1)"))),
            },
            ValueType::String => RawValue::String(self.string()?.0),
            ValueType::Array => self.array_value()?,
        })
    }

    fn array_value(&mut self) -> Result<RawValue> {
        let element = self.value_type()?;
        let len = self.u64()?;
        let start = self.at;
        match (element, element.fixed_bytes()) {
            (_, Some(element_bytes)) => {
                let n_bytes = len
                    .checked_mul(element_bytes as u64)
                    .ok_or_else(|| Error::model(format!("an array of {len} elements overflows")))?;
                let range = self.skip(n_bytes)?;
                if element == ValueType::Bool && self.bytes[range].iter().any(|&b| b > 1) {
                    return Err(Error::model("an array of truth values holds others"));
                }
            }
            (ValueType::String, None) => {
                for _ in 0..len {
                    self.string()?;
                }
            }
            (_, None) => return Err(Error::model("arrays of arrays are not supported")),
        }
        Ok(RawValue::Array {
            element,
            len,
            range: start..self.at,
        })
    }
}

/// Decodes the header of the file `bytes` and checks every tensor's extent against it.
///
/// # Errors
/// [`Kind::Model`](crate::Kind::Model), naming the key or tensor, for anything that is not a
/// well-formed GGUF file of version 2 or 3 with tensors inside its bounds.
pub fn decode(bytes: &[u8]) -> Result<Header> {
    let mut cursor = Cursor { bytes, at: 0 };
    let version = version(&mut cursor)?;
    let n_tensors = cursor.count("tensors", MAX_TENSORS)?;
    let n_keys = cursor.count("keys", MAX_KEYS)?;

    let mut metadata = HashMap::new();
    let mut pairs = Vec::new();
    for index in 0..n_keys {
        let (pair, value) = key_value(&mut cursor, index)?;
        if metadata.contains_key(&pair.key) {
            return Err(Error::model("occurs twice").in_key(pair.key));
        }
        metadata.insert(pair.key.clone(), value);
        pairs.push(pair);
    }
    let alignment = alignment(&metadata)?;

    let (mut declared, mut unreadable) = (Vec::new(), Vec::new());
    for index in 0..n_tensors {
        match declared_tensor(&mut cursor, index)? {
            Declared::Readable(tensor) => declared.push(tensor),
            Declared::Unreadable(tensor) => unreadable.push(tensor),
        }
    }
    let data_start = cursor
        .at
        .checked_next_multiple_of(alignment)
        .ok_or_else(|| Error::model("the header's size overflows"))?;
    let tensors = declared
        .into_iter()
        .map(|tensor| tensor.place(data_start, alignment, bytes.len()))
        .collect::<Result<Vec<_>>>()?;
    check_unique_and_apart(&tensors)?;

    Ok(Header {
        version,
        alignment,
        metadata,
        pairs,
        tensors,
        unreadable,
    })
}

fn version(cursor: &mut Cursor) -> Result<u32> {
    lfs::check(cursor.bytes)?;
    let magic: [u8; 4] = cursor
        .array()
        .map_err(|_| Error::model("is too short to be a GGUF file"))?;
    if magic != MAGIC {
        return Err(Error::model(format!(
            "is not a GGUF file: it starts with {:?}; pack a checkpoint with `owl2-convert DIR -o FILE.gguf`",
            String::from_utf8_lossy(&magic)
        )));
    }
    let version = cursor.u32()?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(Error::model(
            "GGUF version 1 is no longer read; convert the model again",
        )),
        _ if version.swap_bytes() <= 3 => Err(Error::model(
            "is a big-endian GGUF file; only little-endian ones are read",
        )),
        _ => Err(Error::model(format!(
            "GGUF version {version} is not known; this program reads 2 and 3"
        ))),
    }
}

fn key_value(cursor: &mut Cursor, index: usize) -> Result<(EncodedPair, RawValue)> {
    let (_, key) = cursor
        .string()
        .map_err(|e| Error::model(format!("metadata key number {index}: {e}")))?;
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(Error::model(format!(
            "metadata key number {index} has {} bytes, expected 1 to {MAX_KEY_BYTES}",
            key.len()
        )));
    }
    let value_type = cursor.value_type().map_err(|e| e.in_key(key))?;
    let start = cursor.at;
    let value = cursor.value(value_type).map_err(|e| e.in_key(key))?;
    let pair = EncodedPair {
        key: key.to_owned(),
        value_type,
        range: start..cursor.at,
    };
    Ok((pair, value))
}

fn alignment(metadata: &HashMap<String, RawValue>) -> Result<usize> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&RawValue::Unsigned(value))
            if value.is_power_of_two() && (8..=MAX_ALIGNMENT as u64).contains(&value) =>
        {
            Ok(value as usize)
        }
        Some(other) => Err(Error::model(format!(
            "is {other:?}, expected a power of two from 8 to {MAX_ALIGNMENT}"
        ))
        .in_key(ALIGNMENT_KEY)),
    }
}

enum Declared {
    Readable(DeclaredTensor),
    Unreadable(Unreadable),
}

/// A tensor whose place in the file is not yet checked.
struct DeclaredTensor {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    n_bytes: usize,
    offset: u64,
}

fn declared_tensor(cursor: &mut Cursor, index: usize) -> Result<Declared> {
    let (_, name) = cursor
        .string()
        .map_err(|e| Error::model(format!("tensor number {index}: {e}")))?;
    if name.is_empty() || name.len() > MAX_TENSOR_NAME_BYTES {
        return Err(Error::model(format!(
            "the name of tensor number {index} has {} bytes, expected 1 to {MAX_TENSOR_NAME_BYTES}",
            name.len()
        )));
    }
    declared_body(cursor, name).map_err(|e| e.in_tensor(name))
}

fn declared_body(cursor: &mut Cursor, name: &str) -> Result<Declared> {
    let rank = cursor.u32()? as usize;
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(Error::model(format!(
            "has {rank} dimensions, expected 1 to {MAX_RANK}"
        )));
    }
    let mut shape = vec![0; rank];
    for dimension in shape.iter_mut().rev() {
        let n = cursor.u64()?;
        *dimension = usize::try_from(n)
            .map_err(|_| Error::model(format!("its size overflows: it has a dimension of {n}")))?;
    }
    let number = cursor.u32()?;
    let offset = cursor.u64()?;
    let name = name.to_owned();
    let Some(dtype) = DType::from_ggml(number) else {
        return Ok(Declared::Unreadable(Unreadable { name, number }));
    };
    let n_bytes = tensor_bytes(dtype, &shape)?;
    Ok(Declared::Readable(DeclaredTensor {
        name,
        dtype,
        shape,
        n_bytes,
        offset,
    }))
}

/// Bytes of a tensor of `shape` (slowest dimension first), with every product checked.
///
/// # Errors
/// [`Kind::Model`](crate::Kind::Model) for a dimension of zero, a row that is no whole number of
/// blocks, or a size that overflows.
pub fn tensor_bytes(dtype: DType, shape: &[usize]) -> Result<usize> {
    let overflow = || Error::model(format!("its size overflows: shape {shape:?}"));
    if shape.contains(&0) {
        return Err(Error::model(format!("is empty: shape {shape:?}")));
    }
    let (row_len, outer) = shape
        .split_last()
        .ok_or_else(|| Error::model("has no dimensions"))?;
    if !row_len.is_multiple_of(dtype.block_len()) {
        return Err(Error::model(format!(
            "rows of {row_len} values are no multiple of the {} that a {dtype} block holds",
            dtype.block_len()
        )));
    }
    let row_bytes = dtype.row_bytes(*row_len).ok_or_else(overflow)?;
    outer
        .iter()
        .try_fold(row_bytes, |bytes, &n| bytes.checked_mul(n))
        .ok_or_else(overflow)
}

impl DeclaredTensor {
    fn place(self, data_start: usize, alignment: usize, file_len: usize) -> Result<TensorInfo> {
        if !self.offset.is_multiple_of(alignment as u64) {
            return Err(Error::model(format!(
                "its offset {} is not a multiple of the alignment {alignment}",
                self.offset
            ))
            .in_tensor(self.name));
        }
        let range = usize::try_from(self.offset)
            .ok()
            .and_then(|offset| data_start.checked_add(offset))
            .and_then(|start| Some(start..start.checked_add(self.n_bytes)?));
        match range {
            Some(range) if range.end <= file_len => Ok(TensorInfo {
                name: self.name,
                dtype: self.dtype,
                shape: self.shape,
                range,
            }),
            _ => Err(Error::model(format!(
                "its {} bytes at offset {} reach past the end of the file ({file_len} bytes); the file is truncated or damaged",
                self.n_bytes, self.offset
            ))
            .in_tensor(self.name)),
        }
    }
}

fn check_unique_and_apart(tensors: &[TensorInfo]) -> Result<()> {
    let mut by_name: Vec<&TensorInfo> = tensors.iter().collect();
    by_name.sort_by_key(|tensor| &tensor.name);
    for pair in by_name.windows(2) {
        if pair[0].name == pair[1].name {
            return Err(Error::model("occurs twice").in_tensor(&pair[0].name));
        }
    }
    let mut by_start = by_name;
    by_start.sort_by_key(|tensor| tensor.range.start);
    for pair in by_start.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            return Err(
                Error::model(format!("its data overlaps that of '{}'", pair[0].name))
                    .in_tensor(&pair[1].name),
            );
        }
    }
    Ok(())
}

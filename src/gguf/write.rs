//! Writes GGUF files, streaming: the header first, then each tensor's bytes in declared order.
//!
//! Everything goes to a temporary file beside the target, which takes the target's name only
//! after all of it has been flushed to disk, so a file under that name is always whole.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::atomic_file::{BUFFER_BYTES, sync_directory, temporary_beside};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::gguf::DType;
use crate::gguf::header::{self, ValueType};

/// A metadata value to be written.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Value {
    U32(u32),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Strings(Vec<String>),
    /// A value of any type as another file has it, see
    /// [`Gguf::encoded_metadata`](crate::gguf::Gguf::encoded_metadata).
    Encoded {
        value_type: ValueType,
        bytes: Vec<u8>,
    },
}

impl Value {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::U32(x) => put_value(out, ValueType::U32, &x.to_le_bytes()),
            Value::F32(x) => put_value(out, ValueType::F32, &x.to_le_bytes()),
            Value::F64(x) => put_value(out, ValueType::F64, &x.to_le_bytes()),
            Value::Bool(x) => put_value(out, ValueType::Bool, &[u8::from(*x)]),
            Value::String(text) => {
                put_u32(out, ValueType::String as u32);
                put_string(out, text);
            }
            Value::I32s(values) => {
                put_array_header(out, ValueType::I32, values.len());
                values.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Value::F32s(values) => {
                put_array_header(out, ValueType::F32, values.len());
                values.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Value::Strings(values) => {
                put_array_header(out, ValueType::String, values.len());
                values.iter().for_each(|text| put_string(out, text));
            }
            Value::Encoded { value_type, bytes } => put_value(out, *value_type, bytes),
        }
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Value::$variant(value.into())
            }
        })*
    };
}
value_from!(u32 => U32, f32 => F32, f64 => F64, bool => Bool, &str => String, String => String,
    Vec<i32> => I32s, Vec<f32> => F32s, Vec<String> => Strings);

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: usize) {
    out.extend((value as u64).to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value_type: ValueType, bytes: &[u8]) {
    put_u32(out, value_type as u32);
    out.extend(bytes);
}

fn put_array_header(out: &mut Vec<u8>, element: ValueType, len: usize) {
    put_u32(out, ValueType::Array as u32);
    put_u32(out, element as u32);
    put_u64(out, len);
}

/// Key-value pairs in the order they will be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Vec<(String, Value)>);

impl Metadata {
    /// Adds `key`, or gives it a new value where it is there already.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(existing, _)| *existing == key) {
            Some(pair) => pair.1 = value,
            None => self.0.push((key, value)),
        }
    }

    /// Takes a key away, if it is there.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(existing, _)| existing != key);
    }

    /// Adds each of `pairs` whose key is not there yet.
    pub fn add_missing(&mut self, pairs: impl IntoIterator<Item = (String, Value)>) {
        let mut keys: HashSet<String> = self.0.iter().map(|(key, _)| key.clone()).collect();
        let missing = pairs
            .into_iter()
            .filter(|(key, _)| keys.insert(key.clone()));
        self.0.extend(missing);
    }

    /// The pairs, in order.
    pub fn pairs(&self) -> &[(String, Value)] {
        &self.0
    }
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDecl {
    /// Its unique name.
    pub name: String,
    /// How its values are stored.
    pub dtype: DType,
    /// Dimensions, slowest first.
    pub shape: Vec<usize>,
}

/// Writes one GGUF file.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<NamedTempFile>,
    target: PathBuf,
    overwrite: bool,
    /// Bytes of each tensor still to come, the next one last.
    pending: Vec<usize>,
    /// Bytes of the current tensor still to come.
    open: usize,
    /// Padding after the current tensor.
    padding: usize,
    written: u64,
}

impl Writer {
    /// Starts a file at `target` with this header. The tensors' bytes must follow in the order
    /// declared here.
    ///
    /// # Errors
    /// [`Kind::Io`] where the target exists and `overwrite` is false, or its
    /// directory cannot be written to; [`Kind::Model`] for a tensor whose
    /// shape its type cannot hold.
    pub fn create(
        target: &Path,
        metadata: &Metadata,
        tensors: &[TensorDecl],
        overwrite: bool,
    ) -> Result<Self> {
        let target = check_target(target, overwrite)?;
        let sizes = tensors
            .iter()
            .map(|t| header::tensor_bytes(t.dtype, &t.shape).map_err(|e| e.in_tensor(&t.name)))
            .collect::<Result<Vec<_>>>()?;
        let header = encode_header(metadata, tensors, &sizes);

        let file = temporary_beside(&target)?;
        let mut writer = Writer {
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            target,
            overwrite,
            pending: sizes.into_iter().rev().collect(),
            open: 0,
            padding: 0,
            written: 0,
        };
        writer.put(&header)?;
        writer.next_tensor();
        Ok(writer)
    }

    /// Path of the temporary file, for whoever has to remove it when the process is killed.
    pub fn temporary_path(&self) -> &Path {
        self.file.get_ref().path()
    }

    /// Bytes written so far, header and padding included.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends bytes of the current tensor; after its last byte the next one becomes current.
    ///
    /// # Errors
    /// [`Kind::Io`] where they cannot be written, such as on a full disk.
    ///
    /// # Panics
    /// Where there are more bytes than the current tensor has left.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= self.open, "more bytes than the tensor has");
        self.put(bytes)?;
        self.open -= bytes.len();
        if self.open == 0 {
            self.put(&[0; header::DEFAULT_ALIGNMENT][..self.padding])?;
            self.next_tensor();
        }
        Ok(())
    }

    /// Flushes everything to disk and gives the file its name.
    ///
    /// # Errors
    /// [`Kind::Io`] where flushing or renaming fails, or a file under that name
    /// has come into being meanwhile and must not be overwritten.
    ///
    /// # Panics
    /// Where a tensor's bytes are not all written.
    pub fn finish(self) -> Result<()> {
        assert!(
            self.open == 0 && self.pending.is_empty(),
            "a tensor is incomplete"
        );
        let target = self.target;
        let file = self
            .file
            .into_inner()
            .map_err(|e| Error::io("cannot write", &target, e.into_error()))?;
        set_permissions(file.as_file(), &target)?;
        file.as_file()
            .sync_all()
            .map_err(|e| Error::io("cannot flush to disk", &target, e))?;
        let renamed = if self.overwrite {
            file.persist(&target)
        } else {
            file.persist_noclobber(&target)
        };
        renamed.map_err(|e| match e.error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(&target),
            _ => Error::io("cannot put the finished file in place", &target, e.error),
        })?;
        sync_directory(&target);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| Error::io("cannot write", &self.target, e))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn next_tensor(&mut self) {
        self.open = self.pending.pop().unwrap_or(0);
        self.padding = padding(self.open);
    }
}

/// Where [`Writer::create`] would put the file: at `target`, or at what a link there points to. It
/// fails where that would be refused, so that a program can say so before it does anything else.
///
/// # Errors
/// [`Kind::Io`] where the target exists and `overwrite` is false, or is no ordinary file.
pub fn check_target(target: &Path, overwrite: bool) -> Result<PathBuf> {
    if !overwrite && target.exists() {
        return Err(exists(target));
    }
    files::place(target)
}

fn exists(target: &Path) -> Error {
    Error::new(Kind::Io, "exists already; choose another name")
        .advise("or set", "force", "")
        .in_file(target)
}

/// A temporary file is made readable by its owner alone; a model is an ordinary file.
#[cfg(unix)]
fn set_permissions(file: &File, target: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
        .map_err(|e| Error::io("cannot set permissions", target, e))
}

#[cfg(not(unix))]
fn set_permissions(_: &File, _: &Path) -> Result<()> {
    Ok(())
}

fn padding(n_bytes: usize) -> usize {
    n_bytes.next_multiple_of(header::DEFAULT_ALIGNMENT) - n_bytes
}

/// The whole header, padded to the alignment, so that tensor data can follow at once.
fn encode_header(metadata: &Metadata, tensors: &[TensorDecl], sizes: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(header::MAGIC);
    put_u32(&mut out, header::VERSION);
    put_u64(&mut out, tensors.len());
    put_u64(&mut out, metadata.0.len());
    for (key, value) in &metadata.0 {
        put_string(&mut out, key);
        value.encode(&mut out);
    }
    let mut offset = 0;
    for (tensor, &size) in tensors.iter().zip(sizes) {
        put_string(&mut out, &tensor.name);
        put_u32(&mut out, tensor.shape.len() as u32);
        tensor
            .shape
            .iter()
            .rev()
            .for_each(|&n| put_u64(&mut out, n));
        put_u32(&mut out, tensor.dtype.ggml());
        put_u64(&mut out, offset);
        offset += size + padding(size);
    }
    out.resize(out.len() + padding(out.len()), 0);
    out
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::gguf::Gguf;

    fn metadata(pairs: &[(&str, u32)]) -> Metadata {
        let mut metadata = Metadata::default();
        for (key, value) in pairs {
            metadata.set(*key, *value);
        }
        metadata
    }

    #[test]
    fn a_key_has_one_value_and_keeps_its_place() {
        let mut changed = metadata(&[("a", 1), ("b", 2), ("c", 3)]);
        changed.set("a", 4u32);
        changed.remove("b");
        changed.remove("x");
        let added = ["c", "d", "d"].into_iter().zip(5u32..);
        changed.add_missing(added.map(|(key, n)| (key.to_owned(), n.into())));
        assert_eq!(changed, metadata(&[("a", 4), ("c", 3), ("d", 6)]));
    }

    #[test]
    fn values_are_copied_from_file_to_file_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut original = metadata(&[("u", 7)]);
        original.set("f", 0.5f32);
        original.set("d", 0.25f64);
        original.set("yes", true);
        original.set("text", "owl");
        original.set("ids", vec![-1i32, 2]);
        original.set("floats", vec![1.5f32, -2.0]);
        original.set("texts", vec!["a".to_owned(), String::new()]);
        let write = |name: &str, metadata: &Metadata| {
            let writer = Writer::create(&path(name), metadata, &[], false).unwrap();
            let written = writer.written();
            writer.finish().unwrap();
            assert_eq!(fs::metadata(path(name)).unwrap().len(), written);
            let gguf = Gguf::open(&path(name)).unwrap();
            assert_eq!(gguf.file_bytes() as u64, written);
            assert_eq!(gguf.path(), Some(&*path(name)));
            assert_eq!(gguf.version(), header::VERSION);
            gguf
        };
        let first = write("first", &original);
        assert_eq!(first.get::<u32>("u").unwrap(), 7);
        assert_eq!(first.get::<f32>("f").unwrap(), 0.5);
        assert_eq!(first.get::<f64>("d").unwrap(), 0.25);
        assert!(first.get::<bool>("yes").unwrap());
        assert_eq!(first.get::<&str>("text").unwrap(), "owl");
        assert_eq!(first.get::<Vec<i32>>("ids").unwrap(), [-1, 2]);
        assert_eq!(first.get::<Vec<f32>>("floats").unwrap(), [1.5, -2.0]);
        assert_eq!(first.get::<Vec<&str>>("texts").unwrap(), ["a", ""]);
        assert!(first.get::<u32>("f").is_err() && first.get::<u32>("none").is_err());
        assert!(first.has("u") && !first.has("none"));
        assert_eq!(first.keys().count(), 8);
        let mut copied = Metadata::default();
        copied.add_missing(
            first
                .encoded_metadata()
                .map(|(key, value)| (key.to_owned(), value)),
        );
        assert_eq!(write("second", &copied).bytes(), first.bytes());
    }

    #[test]
    fn a_file_that_is_there_is_replaced_only_if_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("model.gguf");
        let create = |overwrite| Writer::create(&target, &Metadata::default(), &[], overwrite);
        let early = create(false).unwrap();
        fs::write(&target, "old").unwrap();
        // It came into being only after the check.
        for error in [early.finish().unwrap_err(), create(false).unwrap_err()] {
            assert!(error.to_string().contains("exists already"), "{error}");
            assert_eq!(fs::read(&target).unwrap(), b"old");
        }
        create(true).unwrap().finish().unwrap();
        Gguf::open(&target).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&target).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644);
        }
    }

    #[test]
    #[should_panic(expected = "a tensor is incomplete")]
    fn a_file_with_a_part_of_a_tensor_is_never_finished() {
        let directory = tempfile::tempdir().unwrap();
        let tensor = TensorDecl {
            name: "weight".into(),
            dtype: DType::F32,
            shape: vec![2],
        };
        let path = directory.path().join("model.gguf");
        let mut writer = Writer::create(&path, &Metadata::default(), &[tensor], false).unwrap();
        writer.write(&[0; 4]).unwrap();
        let _ = writer.finish();
    }
}

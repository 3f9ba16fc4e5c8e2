//! A directory of golden vectors: its manifest, and typed access to its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Environment variable that names another directory than the project's own.
const DIRECTORY_VARIABLE: &str = "OWL2_GOLDEN_DIR";
/// The same for the set of the model's relatives.
const FAMILY_VARIABLE: &str = "OWL2_FAMILY_GOLDEN_DIR";

/// An open directory.
pub struct Golden {
    dir: PathBuf,
    pub manifest: Value,
}

impl Golden {
    /// The directory that the environment names, or the project's own.
    pub fn open() -> Self {
        Self::named(DIRECTORY_VARIABLE, "tests/golden")
    }

    /// The same of the model's relatives.
    pub fn family() -> Self {
        Self::named(FAMILY_VARIABLE, "tests/golden-family")
    }

    fn named(variable: &str, own: &str) -> Self {
        let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join(own);
        Self::at(std::env::var_os(variable).map_or_else(own, PathBuf::from))
    }

    /// The one in `dir`.
    pub fn at(dir: PathBuf) -> Self {
        let mut golden = Golden {
            dir,
            manifest: Value::Null,
        };
        golden.manifest = golden.json("manifest.json");
        golden
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    pub fn bytes(&self, file: &str) -> Vec<u8> {
        let path = self.path(file);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&self.bytes(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    pub fn tensors(&self, file: &str) -> Tensors {
        Tensors {
            file: file.to_owned(),
            bytes: self.bytes(file),
        }
    }

    /// Files that the manifest lists, under `folder` (all of them for an empty one).
    pub fn files(&self, folder: &str) -> Vec<&str> {
        let files = self.manifest["files"].as_object().expect("lists files");
        let names = files.keys().map(String::as_str);
        names.filter(|name| name.starts_with(folder)).collect()
    }

    pub fn lists(&self, file: &str) -> bool {
        self.manifest["files"].get(file).is_some()
    }

    /// Checkpoints by name.
    pub fn checkpoints(&self) -> impl Iterator<Item = (&str, &Value)> {
        members(&self.manifest["checkpoints"])
    }

    /// The first number in a tolerance, such as 5e-4 in "max abs error 5e-4 (...)".
    pub fn tolerance(&self, name: &str) -> f32 {
        let text = self.manifest["tolerances"][name]
            .as_str()
            .unwrap_or_else(|| panic!("the manifest has no tolerance '{name}'"));
        text.split_whitespace()
            .find_map(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("no number in tolerance '{text}'"))
    }
}

/// Members of an object, none for anything else.
pub fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let object = value.as_object().into_iter().flatten();
    object.map(|(name, value)| (name.as_str(), value))
}

/// Elements of an array, none for anything else.
pub fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string.
pub fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
}

/// A non-negative integer.
pub fn count(value: &Value) -> usize {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no count")) as usize
}

/// A number.
pub fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// An array of numbers.
pub fn floats(value: &Value) -> Vec<f32> {
    elements(value).map(|x| number(x) as f32).collect()
}

/// An array of integers.
pub fn integers(value: &Value) -> Vec<i64> {
    elements(value).map(|id| id.as_i64().unwrap()).collect()
}

/// A safetensors file.
pub struct Tensors {
    file: String,
    bytes: Vec<u8>,
}

impl Tensors {
    fn parsed(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.file))
    }

    pub fn names(&self) -> BTreeSet<String> {
        self.parsed().names().into_iter().map(Into::into).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.parsed().tensor(name).is_ok()
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.data(name, None).0
    }

    pub fn f32s(&self, name: &str) -> Vec<f32> {
        let (words, _) = self.data(name, Some(Dtype::F32)).1.as_chunks();
        words.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }

    pub fn i64s(&self, name: &str) -> Vec<i64> {
        let (words, _) = self.data(name, Some(Dtype::I64)).1.as_chunks();
        words.iter().map(|word| i64::from_le_bytes(*word)).collect()
    }

    pub fn u8s(&self, name: &str) -> Vec<u8> {
        self.data(name, Some(Dtype::U8)).1.to_vec()
    }

    fn data(&self, name: &str, wanted: Option<Dtype>) -> (Vec<usize>, &[u8]) {
        let view = self
            .parsed()
            .tensor(name)
            .unwrap_or_else(|e| panic!("{}: {name}: {e}", self.file));
        if let Some(wanted) = wanted {
            assert_eq!(view.dtype(), wanted, "{}: {name}", self.file);
        }
        (view.shape().to_vec(), view.data())
    }
}

//! GGUF files put together byte by byte, so that any part can be wrong.
#![allow(dead_code, reason = "each test binary uses a part")]

/// A file before it is encoded. Counts are those of the lists unless overridden.
#[derive(Clone)]
pub struct RawGguf {
    pub magic: [u8; 4],
    pub version: u32,
    pub n_tensors: Option<u64>,
    pub n_keys: Option<u64>,
    /// Key, value type, encoded value.
    pub keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub tensors: Vec<RawTensor>,
    pub alignment: usize,
    pub data: Vec<u8>,
}

/// A tensor as the header declares it, dimensions fastest first as in the file.
#[derive(Clone)]
pub struct RawTensor {
    pub name: Vec<u8>,
    pub rank: Option<u32>,
    pub dimensions: Vec<u64>,
    pub ggml_type: u32,
    pub offset: u64,
}

/// GGUF's value type numbers.
pub const U32: u32 = 4;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

impl RawGguf {
    /// A well-formed file: one key, and two F32 tensors of 8 and 4 values.
    pub fn good() -> Self {
        let tensor = |name: &str, dimensions: &[u64], offset| RawTensor {
            name: name.into(),
            rank: None,
            dimensions: dimensions.to_vec(),
            ggml_type: 0,
            offset,
        };
        RawGguf {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_keys: None,
            keys: vec![(b"general.name".to_vec(), STRING, string(b"good"))],
            tensors: vec![tensor("first", &[4, 2], 0), tensor("second", &[4], 32)],
            alignment: 32,
            data: vec![0; 48],
        }
    }

    /// Adds a key.
    pub fn key(&mut self, key: &str, value_type: u32, value: impl Into<Vec<u8>>) {
        self.keys.push((key.into(), value_type, value.into()));
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(count(self.n_tensors, self.tensors.len()));
        out.extend(count(self.n_keys, self.keys.len()));
        for (key, value_type, value) in &self.keys {
            out.extend(string(key));
            out.extend(value_type.to_le_bytes());
            out.extend(value);
        }
        for tensor in &self.tensors {
            let rank = tensor.rank.unwrap_or(tensor.dimensions.len() as u32);
            out.extend(string(&tensor.name));
            out.extend(rank.to_le_bytes());
            out.extend(tensor.dimensions.iter().flat_map(|n| n.to_le_bytes()));
            out.extend(tensor.ggml_type.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }
}

fn count(overridden: Option<u64>, actual: usize) -> [u8; 8] {
    overridden.unwrap_or(actual as u64).to_le_bytes()
}

/// A string: its length, then its bytes.
pub fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// The head of an array of `len` elements.
pub fn array(element: u32, len: u64) -> Vec<u8> {
    [&element.to_le_bytes()[..], &len.to_le_bytes()].concat()
}

//! Tensor element types: their ggml numbers, names, and block sizes.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How the values of a tensor are stored. The formats and their numbers are ggml's, but for
/// [`DType::H8`] and [`DType::H4`], which are our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the names are ggml's")]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// Blocks of 32: one f16 scale, 32 signed bytes.
    Q8_0,
    /// Blocks of 32: one f16 scale, 32 nibbles offset by 8.
    Q4_0,
    /// Super-blocks of 256: eight 6-bit scales and minimums, 256 nibbles.
    Q4_K,
    /// Super-blocks of 256: sixteen 8-bit scales, 256 six-bit values offset by 32.
    Q6_K,
    /// Blocks of 128: one f16 scale, 128 signed bytes.
    H8,
    /// Blocks of 128: one f16 scale, 128 nibbles that name one of 16 levels.
    H4,
}

impl DType {
    /// Every type, from the widest to the narrowest.
    pub const ALL: [DType; 9] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q8_0,
        DType::H8,
        DType::Q6_K,
        DType::Q4_K,
        DType::Q4_0,
        DType::H4,
    ];

    /// The type with the number `id`, or `None` for one this library does not read.
    pub fn from_ggml(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.ggml() == id)
    }

    /// ggml's number of this type (`enum ggml_type`). Our own have the letters `owl8` and `owl4`, far
    /// beyond the numbers that ggml counts up.
    pub fn ggml(self) -> u32 {
        match self {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Q4_0 => 2,
            DType::Q8_0 => 8,
            DType::Q4_K => 12,
            DType::Q6_K => 14,
            DType::BF16 => 30,
            DType::H8 => u32::from_be_bytes(*b"owl8"),
            DType::H4 => u32::from_be_bytes(*b"owl4"),
        }
    }

    /// The name ggml prints, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::Q8_0 => "Q8_0",
            DType::Q4_0 => "Q4_0",
            DType::Q4_K => "Q4_K",
            DType::Q6_K => "Q6_K",
            DType::H8 => "H8",
            DType::H4 => "H4",
        }
    }

    /// Whether other programs know it.
    pub fn is_of_ggml(self) -> bool {
        !matches!(self, DType::H8 | DType::H4)
    }

    /// Whether each value is a float of its own, not a small integer in a block with a scale.
    pub fn is_float(self) -> bool {
        self.block_len() == 1
    }

    /// Values in one block.
    pub const fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q8_0 | DType::Q4_0 => 32,
            DType::H8 | DType::H4 => 128,
            DType::Q4_K | DType::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q8_0 => 2 + 32,
            DType::Q4_0 => 2 + 16,
            DType::Q4_K => 2 + 2 + 12 + 128,
            DType::Q6_K => 128 + 64 + 16 + 2,
            DType::H8 => 2 + 128,
            DType::H4 => 2 + 64,
        }
    }

    /// Bytes of a row of `n_values`, or `None` where a row is not a whole number of blocks
    /// or the size overflows.
    pub fn row_bytes(self, n_values: usize) -> Option<usize> {
        if !n_values.is_multiple_of(self.block_len()) {
            return None;
        }
        (n_values / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bits a weight takes, scales included.
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }
}

/// The name of the type with the number `id`, also of ggml's that this library does not read.
pub fn ggml_name(id: u32) -> String {
    /// By number; those that ggml has given up are empty.
    const NAMES: [&str; 43] = [
        "F32",
        "F16",
        "Q4_0",
        "Q4_1",
        "",
        "",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "Q8_1",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "Q8_K",
        "IQ2_XXS",
        "IQ2_XS",
        "IQ3_XXS",
        "IQ1_S",
        "IQ4_NL",
        "IQ3_S",
        "IQ2_S",
        "IQ4_XS",
        "I8",
        "I16",
        "I32",
        "I64",
        "F64",
        "IQ1_M",
        "BF16",
        "Q4_0_4_4",
        "Q4_0_4_8",
        "Q4_0_8_8",
        "TQ1_0",
        "TQ2_0",
        "IQ4_NL_4_4",
        "IQ4_NL_4_8",
        "IQ4_NL_8_8",
        "MXFP4",
        "NVFP4",
        "Q1_0",
        "Q2_0",
    ];
    if let Some(dtype) = DType::from_ggml(id) {
        return dtype.name().to_owned();
    }
    match usize::try_from(id).ok().and_then(|id| NAMES.get(id)) {
        Some(name) if !name.is_empty() => (*name).to_owned(),
        _ => format!("of a type unknown to this program (number {id})"),
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL
                    .iter()
                    .map(|dtype| dtype.name().to_lowercase())
                    .collect();
                Error::usage(format!(
                    "unknown tensor type '{text}' (expected one of {})",
                    names.join(", ")
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_come_back() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_ggml(dtype.ggml()), Some(dtype));
            assert_eq!(dtype.name().parse::<DType>().unwrap(), dtype);
            assert_eq!(dtype.name().to_lowercase().parse::<DType>().unwrap(), dtype);
        }
        assert_eq!(DType::from_ggml(40), None);
        for dtype in DType::ALL {
            assert_eq!(ggml_name(dtype.ggml()), dtype.name());
        }
        assert_eq!(ggml_name(3), "Q4_1");
        assert_eq!(ggml_name(13), "Q5_K");
        assert_eq!(ggml_name(39), "MXFP4");
        for id in [4, 43, u32::MAX] {
            assert!(ggml_name(id).contains(&id.to_string()), "{id}");
        }
        assert!("q5_0".parse::<DType>().is_err());
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(DType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(DType::Q4_K.row_bytes(128), None);
        assert_eq!(DType::F32.row_bytes(usize::MAX), None);
        assert_eq!(DType::Q8_0.row_bytes(0), Some(0));
    }

    #[test]
    fn formats_take_as_many_bits_as_their_blocks_say() {
        for (dtype, bits) in [
            (DType::F32, 32.0),
            (DType::F16, 16.0),
            (DType::BF16, 16.0),
            (DType::Q8_0, 8.5),
            (DType::H8, 8.125),
            (DType::Q6_K, 6.5625),
            (DType::Q4_K, 4.5),
            (DType::Q4_0, 4.5),
            (DType::H4, 4.125),
        ] {
            assert_eq!(dtype.bits_per_weight(), bits, "{dtype}");
            assert_eq!(dtype.is_float(), bits >= 16.0, "{dtype}");
            assert_eq!(
                dtype.is_of_ggml(),
                !dtype.name().starts_with('H'),
                "{dtype}"
            );
        }
        assert_eq!(format!("{:>5}|{:<5}", DType::F16, DType::H8), "  F16|H8   ");
    }
}

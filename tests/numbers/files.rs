//! Files of [`tiny::quantizable_config`] that several tests compute from. Writing one takes longer than
//! most of these tests, above all under emulation, so each is written once in a process.

use std::sync::OnceLock;

use crate::tiny;
use owl2::gguf::{DType, Gguf};
use owl2::model::layout;
use owl2::quant::Rotation;

const N_FORMATS: usize = DType::ALL.len();

/// The bytes of the file in `dtype`.
pub fn bytes(dtype: DType, is_rotated: bool) -> &'static [u8] {
    static FILES: [[OnceLock<Vec<u8>>; 2]; N_FORMATS] =
        [const { [const { OnceLock::new() }; 2] }; N_FORMATS];
    let format = DType::ALL.iter().position(|format| *format == dtype);
    FILES[format.unwrap()][usize::from(is_rotated)].get_or_init(|| {
        let config = tiny::quantizable_config();
        let (metadata, tensors) = (tiny::metadata(&config), layout::tensors(&config));
        let rotation = is_rotated.then(Rotation::default);
        tiny::file_in(&metadata, &tensors, 5, dtype, rotation.as_ref())
    })
}

/// The same, opened.
pub fn open(dtype: DType, is_rotated: bool) -> Gguf {
    tiny::open(bytes(dtype, is_rotated))
}

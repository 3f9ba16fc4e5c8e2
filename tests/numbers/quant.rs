//! Every format against the `gguf` Python package: the same bytes, the same bits.
//!
//! `tests/fixtures/quant/make.py` wrote the files and says what they hold.

use owl2::gguf::DType;
use owl2::quant;

fn fixture(dtype: DType, kind: &str) -> Vec<u8> {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/tests/fixtures/quant/{dtype}.{kind}");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    chunks
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect()
}

#[test]
fn values_of_blocks_are_those_of_the_package() {
    for dtype in [
        DType::F16,
        DType::BF16,
        DType::Q8_0,
        DType::Q4_0,
        DType::Q4_K,
        DType::Q6_K,
    ] {
        let blocks = fixture(dtype, "blocks");
        let expected = floats(&fixture(dtype, "expanded"));
        let mut values = vec![0.0; expected.len()];
        quant::dequantize(dtype, &blocks, &mut values);
        // Zero times infinity is a NaN whose sign is the processor's choice; one that is only moved
        // keeps its bits.
        let is_computed = !matches!(dtype, DType::F16 | DType::BF16);
        for (i, (got, expected)) in values.iter().zip(&expected).enumerate() {
            let both_nan = is_computed && got.is_nan() && expected.is_nan();
            assert!(
                both_nan || got.to_bits() == expected.to_bits(),
                "{dtype} value {i}: {got} not {expected}"
            );
        }
    }
}

#[test]
fn blocks_of_values_are_those_of_the_package() {
    for dtype in [DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
        let values = floats(&fixture(dtype, "values"));
        let expected = fixture(dtype, "blocks");
        let mut blocks = vec![0; expected.len()];
        quant::quantize(dtype, &values, &mut blocks);
        let size = dtype.block_bytes();
        for (i, (got, expected)) in blocks.chunks(size).zip(expected.chunks(size)).enumerate() {
            assert_eq!(got, expected, "{dtype} block {i}");
        }
    }
}

#[test]
fn f32_is_copied_from_any_address() {
    let values = [1.5f32, -0.0, f32::MIN_POSITIVE, f32::INFINITY, 3e38];
    let mut bytes = vec![0xff; 1 + values.len() * 4];
    quant::quantize(DType::F32, &values, &mut bytes[1..]);
    let mut back = [0.0; 5];
    quant::dequantize(DType::F32, &bytes[1..], &mut back);
    assert_eq!(back.map(f32::to_bits), values.map(f32::to_bits));
}

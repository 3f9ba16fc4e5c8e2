//! Damaged and lying picture files: an error or a picture, never a panic, never much memory.

use std::fs;
use std::path::Path;

use owl2::image::{Limits, Picture, Reading, decode};
use owl2::{Error, Kind};
use proptest::prelude::*;

/// One small file of each format and decoder path, of `fixtures/image`.
const SEEDS: [&str; 22] = [
    "../jpeg/alone_restarts_2x1.jpg",
    "../jpeg/arithmetic_2x2.jpg",
    "../jpeg/arithmetic_progressive_1x1.jpg",
    "../jpeg/progressive_1x2.jpg",
    "../jpeg/refined_2x2.jpg",
    "../jpeg/restarts_1x1.jpg",
    "animated.webp",
    "baseline_420.jpg",
    "cmyk_progressive.jpg",
    "interlaced.gif",
    "interlaced.png",
    "lossless.webp",
    "lossy.webp",
    "lossy_alpha.webp",
    "offset_transparent.gif",
    "orientation6.webp",
    "orientation8.jpg",
    "orientation8.png",
    "palette2.png",
    "palette8.bmp",
    "rgb565.bmp",
    "rgba16.png",
];

fn seed(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/image")
            .join(name),
    )
    .unwrap()
}

fn small_limits() -> Limits {
    Limits {
        max_file_bytes: 1 << 20,
        max_pixels: 1 << 20,
    }
}

/// Decodes, and checks that what comes out is within the limits or a proper error.
fn decode_checked(bytes: &[u8]) -> Result<Picture, Error> {
    let limits = small_limits();
    let result = decode(bytes, Reading::Shown, &limits);
    match &result {
        Ok(picture) => assert!(picture.width() * picture.height() <= limits.max_pixels),
        Err(error) => assert_eq!(error.kind(), Kind::Input, "{error}"),
    }
    result
}

#[test]
fn survives_truncation_at_every_byte() {
    for name in SEEDS {
        let whole = seed(name);
        assert!(decode_checked(&whole).is_ok(), "{name}");
        for len in 0..whole.len() {
            let picture = decode_checked(&whole[..len]);
            // What follows the first frame, or all pixels, may be missing.
            assert!(
                len > whole.len() / 2 || picture.is_err(),
                "{name}: {len} of {} bytes pass as a picture",
                whole.len()
            );
        }
    }
}

#[test]
fn refuses_a_truncated_photo() {
    for name in [
        "baseline_420.jpg",
        "baseline_444.jpg",
        "cmyk_progressive.jpg",
    ] {
        let whole = seed(name);
        for missing in [2, 3, 10, 100, whole.len() / 2] {
            let error = decode_checked(&whole[..whole.len() - missing]).unwrap_err();
            assert!(error.to_string().contains("truncated"), "{name}: {error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn survives_changed_bytes(
        name in prop::sample::select(&SEEDS[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = seed(name);
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let _ = decode_checked(&bytes);
    }

    #[test]
    fn survives_flipped_header_bits(
        name in prop::sample::select(&SEEDS[..]),
        flips in prop::collection::vec((0..64_usize, 0..8_u32), 1..4),
    ) {
        let mut bytes = seed(name);
        for (index, bit) in flips {
            bytes[index] ^= 1 << bit;
        }
        let _ = decode_checked(&bytes);
    }

    #[test]
    fn survives_noise_after_a_signature(
        name in prop::sample::select(&SEEDS[..]),
        kept in 2..40_usize,
        noise in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = seed(name);
        bytes.truncate(kept);
        bytes.extend(noise);
        let _ = decode_checked(&bytes);
    }
}

/// A file that claims a size in pixels.
fn claiming(format: &str, width: u16, height: u16) -> Vec<u8> {
    let [w_low, w_high] = width.to_le_bytes();
    let [h_low, h_high] = height.to_le_bytes();
    match format {
        "png" => {
            // Without interlacing, so that only the size is unusual.
            let mut bytes = seed("palette2.png");
            bytes[16..24].copy_from_slice(&[0, 0, w_high, w_low, 0, 0, h_high, h_low]);
            let checksum = crc32(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
            bytes
        }
        "jpeg" => {
            let mut bytes = seed("baseline_420.jpg");
            let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
            bytes[frame + 5..frame + 9].copy_from_slice(&[h_high, h_low, w_high, w_low]);
            bytes
        }
        "gif canvas" => {
            let mut bytes = seed("transparent.gif");
            bytes[6..10].copy_from_slice(&[w_low, w_high, h_low, h_high]);
            bytes
        }
        "gif frame" => {
            let mut bytes = seed("transparent.gif");
            let frame = bytes
                .windows(9)
                .position(|w| w == [b',', 0, 0, 0, 0, 6, 0, 4, 0])
                .unwrap();
            bytes[frame + 5..frame + 9].copy_from_slice(&[w_low, w_high, h_low, h_high]);
            bytes
        }
        "bmp" => {
            let mut bytes = seed("rgb24.bmp");
            bytes[18..26].copy_from_slice(&[w_low, w_high, 0, 0, h_low, h_high, 0, 0]);
            bytes
        }
        "webp" => {
            // Sizes have 24 bits and are stored less one.
            let mut bytes = seed("orientation6.webp");
            assert_eq!(&bytes[12..16], b"VP8X");
            let [w_low, w_high] = width.wrapping_sub(1).to_le_bytes();
            let [h_low, h_high] = height.wrapping_sub(1).to_le_bytes();
            bytes[24..30].copy_from_slice(&[w_low, w_high, 0, h_low, h_high, 0]);
            bytes
        }
        _ => unreachable!("no such format"),
    }
}

/// The checksum of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

#[test]
fn refuses_huge_sizes_from_the_header_alone() {
    for format in ["png", "jpeg", "gif canvas", "gif frame", "bmp", "webp"] {
        let bytes = claiming(format, 65_500, 65_500);
        let error = decode(&bytes, Reading::Shown, &Limits::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        let message = error.to_string();
        assert!(
            message.contains("65500x65500 pixels, more than the limit"),
            "{format}: {message}"
        );
    }
}

#[test]
fn refuses_pictures_without_pixels() {
    for format in ["png", "jpeg", "gif frame", "bmp"] {
        for (width, height) in [(0, 9), (9, 0), (0, 0)] {
            let bytes = claiming(format, width, height);
            assert!(decode_checked(&bytes).is_err(), "{format} {width}x{height}");
        }
    }
}

#[test]
fn refuses_sizes_that_the_data_does_not_fill() {
    for format in ["png", "jpeg", "gif frame", "bmp", "webp"] {
        let bytes = claiming(format, 1000, 1000);
        assert!(decode_checked(&bytes).is_err(), "{format}");
    }
}

#[test]
fn refuses_what_is_no_picture() {
    let long_text = "owl ".repeat(1000);
    let files: [&[u8]; 6] = [
        b"",
        b"\xff",
        b"BM",
        b"GIF89a",
        b"<svg/>",
        long_text.as_bytes(),
    ];
    for bytes in files {
        assert!(decode_checked(bytes).is_err());
    }
}

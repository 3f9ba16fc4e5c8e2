//! Kinds of picture files that programs write, made here: orientation from every place where it can
//! stand, and formats that are read or named.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use owl2::Kind;
use owl2::image::{Limits, Picture, Reading, decode};

const WIDTH: usize = 12;
const HEIGHT: usize = 8;

fn read(bytes: &[u8], reading: Reading) -> owl2::Result<Picture> {
    decode(bytes, reading, &Limits::default())
}

/// A picture whose pixels all differ.
fn pixels() -> Vec<u8> {
    (0..WIDTH * HEIGHT)
        .flat_map(|i| [i as u8, 2 * i as u8, 255 - i as u8])
        .collect()
}

fn encoded(format: image::ImageFormat) -> Vec<u8> {
    let picture = image::RgbImage::from_raw(WIDTH as u32, HEIGHT as u32, pixels()).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// EXIF data that holds an orientation and nothing else, big endian.
fn exif(orientation: u8) -> Vec<u8> {
    let mut data = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    data.extend([orientation, 0, 0, 0, 0, 0, 0]);
    data
}

fn xmp(orientation: u8) -> Vec<u8> {
    format!("<x:xmpmeta><rdf:Description tiff:Orientation=\"{orientation}\"/></x:xmpmeta>").into()
}

fn zipped(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// A profile as ImageMagick writes it.
fn raw_profile(name: &str, data: &[u8]) -> Vec<u8> {
    let mut text = format!("\n{name}\n{:8}\n", data.len());
    for line in data.chunks(36) {
        text.extend(line.iter().map(|byte| format!("{byte:02x}")));
        text.push('\n');
    }
    text.into_bytes()
}

/// A JPEG file of the fixtures, upright, with segments of the application `APP1`.
fn jpeg(segments: &[Vec<u8>]) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jpeg/gray.jpg");
    let plain = std::fs::read(path).unwrap();
    let mut bytes = plain[..2].to_vec();
    for segment in segments {
        bytes.extend([0xff, 0xe1]);
        bytes.extend((segment.len() as u16 + 2).to_be_bytes());
        bytes.extend(segment);
    }
    bytes.extend(&plain[2..]);
    bytes
}

fn png(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    const AFTER_HEADER: usize = 33;
    let plain = encoded(image::ImageFormat::Png);
    let mut bytes = plain[..AFTER_HEADER].to_vec();
    for (name, data) in chunks {
        bytes.extend((data.len() as u32).to_be_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(*name);
        crc.update(data);
        bytes.extend(*name);
        bytes.extend(data);
        bytes.extend(crc.sum().to_be_bytes());
    }
    bytes.extend(&plain[AFTER_HEADER..]);
    bytes
}

/// The lossless file of the fixtures, 13 by 9 pixels, in a container with chunks.
fn webp(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/image/lossless.webp"
    );
    let plain = std::fs::read(path).unwrap();
    let mut bytes = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0".to_vec();
    let has = |wanted: &[u8; 4]| chunks.iter().any(|(name, _)| *name == wanted);
    let flags = u8::from(has(b"EXIF")) << 3 | u8::from(has(b"XMP ")) << 2;
    bytes.extend([flags, 0, 0, 0, 12, 0, 0, 8, 0, 0]);
    bytes.extend(&plain[12..]);
    for (name, data) in chunks {
        bytes.extend(*name);
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        bytes.extend(vec![0; data.len() % 2]);
    }
    let len = bytes.len() as u32 - 8;
    bytes[4..8].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// An uncompressed TIFF file of RGB with more entries: tag, type (3 for 16 bits, 4 for 32), value.
fn tiff(is_little: bool, more: &[(u16, u16, u32)]) -> Vec<u8> {
    let pixels = pixels();
    let mut entries = vec![
        (256, 4, WIDTH as u32),
        (257, 4, HEIGHT as u32),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 2),
        (273, 4, 8),
        (277, 3, 3),
        (278, 4, HEIGHT as u32),
        (279, 4, pixels.len() as u32),
    ];
    entries.retain(|entry| more.iter().all(|other| other.0 != entry.0));
    entries.extend(more);
    entries.sort();
    let word = |value: u16| {
        if is_little {
            value.to_le_bytes()
        } else {
            value.to_be_bytes()
        }
    };
    let long = |value: u32| {
        if is_little {
            value.to_le_bytes()
        } else {
            value.to_be_bytes()
        }
    };
    let mut bytes = if is_little {
        b"II*\0".to_vec()
    } else {
        b"MM\0*".to_vec()
    };
    bytes.extend(long(8 + pixels.len() as u32));
    bytes.extend(pixels);
    bytes.extend(word(entries.len() as u16));
    for (tag, kind, value) in entries {
        bytes.extend(word(tag));
        bytes.extend(word(kind));
        bytes.extend(long(1));
        match kind {
            3 => bytes.extend([word(value as u16), [0; 2]].concat()),
            _ => bytes.extend(long(value)),
        }
    }
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn every_writer_s_orientation_is_seen() {
    let prefixed = |orientation| [&b"Exif\0\0"[..], &exif(orientation)].concat();
    let packet = |orientation| [&b"http://ns.adobe.com/xap/1.0/\0"[..], &xmp(orientation)].concat();
    let text = |keyword: &str, rest: &[u8]| [keyword.as_bytes(), b"\0", rest].concat();
    let profile = raw_profile("exif", &prefixed(6));
    let zipped_profile = [&[0][..], &zipped(&profile)].concat();
    let split = prefixed(6);
    let (first, second) = split.split_at(20);
    let second = [&b"Exif\0\0"[..], second].concat();
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("JPEG, EXIF", jpeg(&[prefixed(6)])),
        (
            "JPEG, EXIF over two segments",
            jpeg(&[first.to_vec(), second]),
        ),
        ("JPEG, XMP", jpeg(&[packet(6)])),
        ("JPEG, XMP before EXIF", jpeg(&[packet(1), prefixed(6)])),
        (
            "JPEG, broken EXIF first",
            jpeg(&[b"Exif\0\0II".to_vec(), prefixed(6)]),
        ),
        ("PNG, eXIf", png(&[(b"eXIf", exif(6))])),
        ("PNG, eXIf with a prefix", png(&[(b"eXIf", prefixed(6))])),
        (
            "PNG, tEXt",
            png(&[(b"tEXt", text("Raw profile type exif", &profile))]),
        ),
        (
            "PNG, zTXt",
            png(&[(b"zTXt", text("Raw profile type APP1", &zipped_profile))]),
        ),
        (
            "PNG, XMP",
            png(&[(
                b"iTXt",
                text("XML:com.adobe.xmp", &[b"\0\0\0\0", &xmp(6)[..]].concat()),
            )]),
        ),
        (
            "PNG, compressed XMP",
            png(&[(
                b"iTXt",
                text(
                    "XML:com.adobe.xmp",
                    &[b"\x01\0\0\0", &zipped(&xmp(6))[..]].concat(),
                ),
            )]),
        ),
        ("WebP, EXIF", webp(&[(b"EXIF", exif(6))])),
        ("WebP, EXIF with a prefix", webp(&[(b"EXIF", prefixed(6))])),
        ("WebP, XMP", webp(&[(b"XMP ", xmp(6))])),
        ("TIFF", tiff(true, &[(274, 3, 6)])),
        ("TIFF, big endian", tiff(false, &[(274, 3, 6)])),
    ];
    for (name, bytes) in files {
        let picture = |reading| read(&bytes, reading).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (shown, stored) = (picture(Reading::Shown), picture(Reading::Unturned));
        assert_eq!(
            (shown.width(), shown.height()),
            (stored.height(), stored.width()),
            "{name}"
        );
        // Turned by a quarter to the right: the first row is the first column from below.
        let below = (stored.height() - 1) * stored.width() * 3;
        assert_eq!(shown.rgb()[..3], stored.rgb()[below..below + 3], "{name}");
        // Pillow turns TIFF files as it loads them, and no others.
        let reference = if name.starts_with("TIFF") {
            &shown
        } else {
            &stored
        };
        assert_eq!(&picture(Reading::Reference), reference, "{name}");
    }
}

#[test]
fn exif_counts_before_xmp_and_nonsense_does_not() {
    for (name, bytes) in [
        (
            "EXIF says upright",
            webp(&[(b"EXIF", exif(1)), (b"XMP ", xmp(6))]),
        ),
        ("no such number", webp(&[(b"EXIF", exif(9))])),
        ("zero", png(&[(b"eXIf", exif(0))])),
        ("cut", png(&[(b"eXIf", exif(6)[..12].to_vec())])),
        (
            "not hexadecimal",
            png(&[(b"tEXt", b"Raw profile type exif\0\n\n\nxyz".to_vec())]),
        ),
        ("no such chunk", webp(&[(b"NONE", exif(6))])),
    ] {
        let shown = read(&bytes, Reading::Shown).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(shown, read(&bytes, Reading::Unturned).unwrap(), "{name}");
    }
}

#[test]
fn formats_without_loss_give_their_pixels() {
    let files = [
        ("PNG", encoded(image::ImageFormat::Png)),
        ("TIFF", encoded(image::ImageFormat::Tiff)),
        ("QOI", encoded(image::ImageFormat::Qoi)),
        ("BMP", encoded(image::ImageFormat::Bmp)),
        ("WebP", encoded(image::ImageFormat::WebP)),
        ("TIFF by hand", tiff(true, &[])),
        ("big-endian TIFF by hand", tiff(false, &[])),
    ];
    for (name, bytes) in files {
        for reading in [Reading::Shown, Reading::Unturned, Reading::Reference] {
            let picture = read(&bytes, reading).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(
                (picture.width(), picture.height()),
                (WIDTH, HEIGHT),
                "{name}"
            );
            assert_eq!(picture.rgb(), pixels(), "{name}");
        }
        for len in 0..bytes.len() / 2 {
            let error = read(&bytes[..len], Reading::Shown).expect_err(name);
            assert_eq!(error.kind(), Kind::Input, "{name}");
        }
    }
}

#[test]
fn tiff_files_that_would_show_something_else_are_refused() {
    for (wanted, entry) in [
        ("a small one of another", (254, 4, 1)),
        ("JPEG inside of TIFF is not supported; `magick", (259, 3, 7)),
        (
            "fax compression of group 3 is not supported; `magick",
            (259, 3, 3),
        ),
        ("a palette is not supported; `magick", (262, 3, 3)),
        (
            "its kind of pixels or compression is not supported; `magick",
            (262, 3, 8),
        ),
        ("DNG", (0xc612, 4, 1)),
    ] {
        let error = read(&tiff(true, &[entry]), Reading::Shown).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn what_cannot_be_read_is_named_with_the_way_out() {
    for (wanted, head) in [
        (
            "is HEIC, which cannot be read; `heif-convert",
            &b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..],
        ),
        (
            "is AVIF, which cannot be read; `avifdec",
            b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
        ),
        ("is JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n\0\0"),
        ("is PSD", b"8BPS\0\x01"),
        ("is PDF", b"%PDF-1.7"),
        ("is SVG", b"<?xml version=\"1.0\"?>\n<svg/>"),
        (
            "is ICO",
            b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0\x28\0\0\0\x16\0\0\0",
        ),
        (
            "is TGA, which cannot be read; `magick TGA:IN",
            b"\0\0\x02\0\0\0\0\0\0\0\0\0\x04\0\x03\0\x18\0",
        ),
        ("is PBM, PGM or PPM", b"P6\n1 1\n255\nabc"),
        ("is CR2 (Canon camera file)", b"II*\0\x10\0\0\0CR\x02\0"),
        ("is a video", b"\0\0\0\x18ftypisom\0\0\0\0isommp42"),
        (
            "a Git LFS pointer: run git lfs pull",
            b"version https://git-lfs.github.com/spec/v1\n",
        ),
        ("a web page", b"<!DOCTYPE html><html>"),
        ("is empty", b""),
        ("is not a picture in a supported format", b"Dear owl,"),
    ] {
        let error = read(head, Reading::Shown).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        let message = error.to_string();
        assert!(message.contains(wanted), "{message}");
        assert!(message.contains("supported are JPEG, PNG"), "{message}");
    }
}

//! Pictures of all kinds where memory is short: refused in time, or read; the program never aborts.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::{ImageFormat, RgbImage, RgbaImage};

const WIDTH: u32 = 2400;
const HEIGHT: u32 = 2000;

/// Limits of the address space, in KiB: from less than any of the pictures takes to enough for all.
const SPACES: [usize; 7] = [55_000, 70_000, 85_000, 100_000, 120_000, 160_000, 400_000];

fn ask(folder: &Path, name: &str, kib: usize) -> Output {
    let mut command = Command::new("sh");
    let script = format!("ulimit -v {kib} && ulimit -c 0 && exec \"$0\" \"$@\"");
    command.current_dir(folder).args(["-c", &script]);
    command.arg(env!("CARGO_BIN_EXE_owl2"));
    command.args(["-t", "1", "-n", "1", "-p", "x", "--image", name]);
    command.output().unwrap()
}

fn zeros_zipped(len: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(0), len as u64),
        &mut encoder,
    )
    .unwrap();
    encoder.finish().unwrap()
}

/// A black PNG picture, with another chunk before its pixels.
fn png(
    size: [u32; 2],
    color: u8,
    depth: u8,
    interlace: u8,
    raw_len: usize,
    chunk: (&[u8; 4], &[u8]),
) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut write = |name: &[u8; 4], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(name);
        crc.update(data);
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(name);
        bytes.extend(data);
        bytes.extend(crc.sum().to_be_bytes());
    };
    let mut header = size.map(u32::to_be_bytes).concat();
    header.extend([depth, color, 0, 0, interlace]);
    write(b"IHDR", &header);
    if !chunk.1.is_empty() {
        write(chunk.0, chunk.1);
    }
    write(b"IDAT", &zeros_zipped(raw_len));
    write(b"IEND", b"");
    bytes
}

/// A lossless WebP picture of one colour: 34 bytes, whatever its size.
fn tiny_webp() -> Vec<u8> {
    const ALPHA: u32 = 1 << 28;
    let mut bytes = b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f".to_vec();
    bytes.extend(((WIDTH - 1) | (HEIGHT - 1) << 14 | ALPHA).to_le_bytes());
    // No cache, and codes of one symbol.
    bytes.extend([0x07, 0x10, 0x11, 0x11, 0x88, 0x88, 0xfe, 0x07, 0]);
    bytes
}

fn jpeg(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/jpeg")
        .join(name);
    let mut bytes = fs::read(path).unwrap();
    let is_frame = |pair: &[u8]| pair[0] == 0xff && (0xc0..=0xc2).contains(&pair[1]);
    let frame = bytes.windows(2).position(is_frame).unwrap();
    let size = [HEIGHT as u16, WIDTH as u16].map(u16::to_be_bytes).concat();
    bytes[frame + 5..frame + 9].copy_from_slice(&size);
    bytes
}

#[test]
fn no_picture_ends_the_program_for_want_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let rgb = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| image::Rgb([x as u8, y as u8, 7]));
    let rgba = RgbaImage::from_pixel(WIDTH, HEIGHT, image::Rgba([1, 2, 3, 4]));
    for (name, format) in [
        ("rgb.bmp", ImageFormat::Bmp),
        ("rgb.tiff", ImageFormat::Tiff),
        ("rgb.qoi", ImageFormat::Qoi),
        ("rgb.webp", ImageFormat::WebP),
        ("rgb.png", ImageFormat::Png),
    ] {
        rgb.save_with_format(folder.path().join(name), format)
            .unwrap();
    }
    for (name, format) in [
        ("rgba.tiff", ImageFormat::Tiff),
        ("rgba.webp", ImageFormat::WebP),
        ("rgba.png", ImageFormat::Png),
    ] {
        rgba.save_with_format(folder.path().join(name), format)
            .unwrap();
    }
    write("tiny.webp", &tiny_webp());
    let (width, height) = (WIDTH as usize, HEIGHT as usize);
    let none = (b"none", &b""[..]);
    let wide = [WIDTH * HEIGHT, 1];
    let tall = [1, WIDTH * HEIGHT];
    let all = width * height;
    write(
        "deep.png",
        &png([WIDTH, HEIGHT], 6, 16, 0, (8 * width + 1) * height, none),
    );
    write("wide.png", &png(wide, 6, 16, 0, 8 * all + 1, none));
    write("wide1.png", &png(wide, 0, 1, 0, all / 8 + 1, none));
    write("tall.png", &png(tall, 2, 8, 0, 4 * all, none));
    // Rows of seven passes; a few bytes too many are no matter.
    write(
        "interlaced.png",
        &png([WIDTH, HEIGHT], 6, 16, 1, 8 * all + 2 * height + 1000, none),
    );
    let profile = [&b"x\0\0"[..], &zeros_zipped(512 << 20)].concat();
    write(
        "profile.png",
        &png([4, 4], 2, 8, 0, 52, (b"iCCP", &profile)),
    );
    write("text.png", &png([4, 4], 2, 8, 0, 52, (b"zTXt", &profile)));
    let packet = [
        &b"XML:com.adobe.xmp\0\x01\0\0\0"[..],
        &zeros_zipped(512 << 20),
    ]
    .concat();
    write("packet.png", &png([4, 4], 2, 8, 0, 52, (b"iTXt", &packet)));
    for name in [
        "whole_2x2.jpg",
        "progressive_1x1.jpg",
        "alone_1x2.jpg",
        "gray.jpg",
    ] {
        write(name, &jpeg(name));
    }

    let large = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jxl/large.jxl");
    fs::copy(large, folder.path().join("large.jxl")).unwrap();

    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in names {
        let codes = SPACES.map(|kib| {
            let output = ask(folder.path(), &name, kib);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let code = output
                .status
                .code()
                .unwrap_or_else(|| panic!("{name} in {kib} KiB: {said}"));
            // The data of the JPEG files does not fill the size that they claim.
            let is_expected = matches!(code, 0 | 6) || (code == 3 && name.ends_with(".jpg"));
            assert!(is_expected, "{name} in {kib} KiB: {code}, {said}");
            if code == 6 {
                let last = said.lines().last().unwrap_or_default();
                assert!(last.contains("memory"), "{name} in {kib} KiB: {said}");
            }
            code
        });
        assert_ne!(codes[SPACES.len() - 1], 6, "{name}: {codes:?}");
    }
}

#[test]
fn a_picture_that_is_too_large_does_not_stop_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, edge: u32| {
        let picture = RgbImage::from_pixel(edge, edge, image::Rgb([9, 9, 9]));
        picture
            .save_with_format(folder.path().join(name), ImageFormat::Tiff)
            .unwrap();
    };
    save("large.tiff", 2500);
    save("small.tiff", 20);
    let mut command = Command::new("sh");
    command.current_dir(folder.path());
    command.args(["-c", "ulimit -v 100000 && exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_owl2"));
    command.args([
        "-t",
        "1",
        "-n",
        "1",
        "-p",
        "x",
        "--each",
        "large.tiff",
        "small.tiff",
    ]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    // Which of them comes first depends on how large the program is.
    let wanted = [
        "the picture of 2500x2500 pixels takes",
        "the file of the picture takes",
        "no memory for the file",
    ];
    let is_named = |why| said.contains(&format!("large.tiff: {why}"));
    assert!(wanted.into_iter().any(is_named), "{said}");
    assert!(output.stdout.starts_with(b"small.tiff: "), "{said}");
}

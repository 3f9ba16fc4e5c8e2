//! Decoding, against Pillow: see `fixtures/image/make.py`, which made the pictures.

use std::fs;
use std::path::{Path, PathBuf};

use owl2::Kind;
use owl2::image::{Limits, Picture, Reading, open};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/image");

/// The largest difference to allow in a file: 5- and 6-bit samples are rounded where Pillow
/// truncates.
fn tolerance(name: &str) -> u8 {
    match name {
        "rgb555.bmp" | "rgb565.bmp" => 1,
        _ => 0,
    }
}

fn pictures() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(FIXTURES)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|e| e != "py"))
        .collect();
    paths.sort();
    paths
}

/// Reads a binary PPM file as Pillow writes it.
fn read_ppm(path: &Path) -> Picture {
    let bytes = fs::read(path).unwrap();
    let mut lines = bytes.splitn(4, |&b| b == b'\n');
    let mut line = || lines.next().unwrap();
    assert_eq!(line(), b"P6");
    let size = String::from_utf8(line().to_vec()).unwrap();
    let (width, height) = size.split_once(' ').unwrap();
    assert_eq!(line(), b"255");
    let rgb = line().to_vec();
    Picture::from_rgb(width.parse().unwrap(), height.parse().unwrap(), rgb).unwrap()
}

fn expected(folder: &str, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    Path::new(FIXTURES).join(folder).join(format!("{name}.ppm"))
}

/// What is wrong with the decoded pixels, if anything.
fn difference(path: &Path, reading: Reading, expected: &Path) -> Option<String> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let picture = match open(path, reading, &Limits::default()) {
        Ok(picture) => picture,
        Err(e) => return Some(e.to_string()),
    };
    let wanted = read_ppm(expected);
    if (picture.width(), picture.height()) != (wanted.width(), wanted.height()) {
        return Some(format!("{name}: {picture:?}, expected {wanted:?}"));
    }
    let pairs = picture.rgb().iter().zip(wanted.rgb());
    let largest = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    (largest > tolerance(name)).then(|| format!("{name}: differs by up to {largest}"))
}

#[test]
fn decodes_as_pillow_does() {
    let failures: Vec<String> = pictures()
        .iter()
        .filter_map(|path| difference(path, Reading::Reference, &expected("rgb", path)))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn turns_upright_as_pillow_does() {
    let (turned, stored): (Vec<PathBuf>, Vec<PathBuf>) = pictures()
        .into_iter()
        .partition(|path| expected("upright", path).exists());
    assert_eq!(turned.len(), 9);
    // Those without transparency, which is shown in another way.
    let is_plain = |path: &&PathBuf| path.extension().is_some_and(|e| e == "jpg" || e == "bmp");
    let stored = stored.iter().filter(is_plain);
    let cases = turned
        .iter()
        .map(|path| (path, Reading::Shown, expected("upright", path)))
        .chain(
            turned
                .iter()
                .map(|path| (path, Reading::Unturned, expected("rgb", path))),
        )
        .chain(stored.map(|path| (path, Reading::Shown, expected("rgb", path))));
    let failures: Vec<String> = cases
        .filter(|(path, ..)| path.file_stem().is_none_or(|name| name != "rgba32"))
        .filter_map(|(path, reading, expected)| difference(path, reading, &expected))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn shows_transparency_on_white_and_all_of_sixteen_bits() {
    let pixels = |name: &str, reading| {
        let picture = open(&Path::new(FIXTURES).join(name), reading, &Limits::default());
        picture.unwrap().rgb().to_vec()
    };
    // What is fully transparent is white, also where a frame does not reach.
    for name in [
        "transparent.gif",
        "offset_transparent.gif",
        "offset.gif",
        "rgba.png",
    ] {
        let (shown, stored) = (
            pixels(name, Reading::Shown),
            pixels(name, Reading::Reference),
        );
        assert_ne!(shown, stored, "{name}");
        let lighter = shown
            .iter()
            .zip(&stored)
            .all(|(shown, stored)| shown >= stored);
        assert!(lighter || name.starts_with("offset"), "{name}");
    }
    let corner = &pixels("offset.gif", Reading::Shown)[..3];
    assert_eq!(corner, [255; 3]);
    let gray = pixels("gray16.png", Reading::Shown);
    let clipped = pixels("gray16.png", Reading::Reference);
    // Noise over the whole range: most of it is clipped, and a 256th part would be white by chance.
    let n_white = |values: &[u8]| values.iter().filter(|&&value| value == 255).count();
    assert!(n_white(&clipped) > gray.len() / 3);
    assert!(n_white(&gray) < gray.len() / 20);
}

#[test]
fn says_what_is_wrong_with_which_file() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |name: &str, limits: &Limits| {
        let path = folder.path().join(name);
        let error = open(&path, Reading::Shown, limits).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        (error.kind(), error.to_string())
    };
    let limits = Limits::default();

    assert_eq!(fails("missing.png", &limits).0, Kind::Io);

    fs::create_dir(folder.path().join("folder.png")).unwrap();
    let (kind, message) = fails("folder.png", &limits);
    assert_eq!(kind, Kind::Input);
    assert!(message.contains("directory"), "{message}");

    fs::write(folder.path().join("empty.png"), []).unwrap();
    let (kind, message) = fails("empty.png", &limits);
    assert_eq!(kind, Kind::Input);
    assert!(message.contains("empty"), "{message}");

    fs::write(folder.path().join("text.jpg"), "Dear owl,\n").unwrap();
    let (kind, message) = fails("text.jpg", &limits);
    assert_eq!(kind, Kind::Input);
    assert!(
        message.contains("JPEG, PNG, WebP, GIF, BMP, TIFF, QOI and JPEG XL"),
        "{message}"
    );

    let small = Limits {
        max_file_bytes: 5,
        ..limits
    };
    let (kind, message) = fails("text.jpg", &small);
    assert_eq!(kind, Kind::Input);
    assert!(message.contains("5 bytes"), "{message}");
}

#[test]
fn tells_formats_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.jpg");
    let source = Path::new(FIXTURES).join("rgba.png");
    fs::copy(&source, &path).unwrap();
    let picture = open(&path, Reading::Reference, &Limits::default()).unwrap();
    assert_eq!(picture, read_ppm(&expected("rgb", &source)));
}

#[cfg(target_os = "linux")]
#[test]
fn stops_reading_what_has_no_end() {
    let limits = Limits {
        max_file_bytes: 1 << 20,
        ..Limits::default()
    };
    let error = open(Path::new("/dev/zero"), Reading::Shown, &limits).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().contains("/dev/zero"), "{error}");
}

//! JPEG XL against djxl: see `fixtures/jxl/make.py`.

use std::fs;
use std::path::Path;

use owl2::Kind;
use owl2::image::{Limits, Picture, Reading, decode};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jxl");

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(FIXTURES).join(name)).unwrap()
}

fn read(bytes: &[u8], reading: Reading) -> owl2::Result<Picture> {
    decode(bytes, reading, &Limits::default())
}

/// The files that have pixels beside them.
fn names() -> Vec<String> {
    let entries = fs::read_dir(FIXTURES).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter_map(|name| name.strip_suffix(".png").map(str::to_owned))
        .collect();
    names.sort();
    names
}

#[test]
fn pixels_are_those_of_djxl() {
    let names = names();
    assert!(names.len() >= 20, "{names:?}");
    for name in names {
        let ours = read(&file(&format!("{name}.jxl")), Reading::Shown).unwrap();
        let wanted = read(&file(&format!("{name}.png")), Reading::Shown).unwrap();
        let size = |picture: &Picture| (picture.width(), picture.height());
        assert_eq!(size(&ours), size(&wanted), "{name}");
        let pairs = ours.rgb().iter().zip(wanted.rgb());
        let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max();
        // Colours that are computed in floats are rounded differently.
        assert!(worst <= Some(1), "{name}: {worst:?}");
        assert_eq!(ours.damage(), None);
    }
}

#[test]
fn what_is_stored_without_loss_comes_back() {
    for name in ["lossless", "sixteen", "gray", "from_jpeg"] {
        let ours = read(&file(&format!("{name}.jxl")), Reading::Reference).unwrap();
        let shown = read(&file(&format!("{name}.jxl")), Reading::Unturned).unwrap();
        assert_eq!(ours.rgb(), shown.rgb(), "{name}");
    }
    let ours = read(&file("lossless.jxl"), Reading::Shown).unwrap();
    let wanted = read(&file("lossless.png"), Reading::Shown).unwrap();
    assert_eq!(ours.rgb(), wanted.rgb());
}

#[test]
fn transparency_is_on_white_or_left_out() {
    let shown = read(&file("alpha.jxl"), Reading::Shown).unwrap();
    let below = read(&file("alpha.jxl"), Reading::Reference).unwrap();
    // The first pixel is transparent, with black below, and the last is opaque.
    assert_eq!(shown.rgb()[..3], [255; 3]);
    assert_eq!(below.rgb()[..3], [0; 3]);
    let end = shown.rgb().len() - 3;
    assert_eq!(shown.rgb()[end..], below.rgb()[end..]);
}

#[test]
fn orientation_counts_for_every_reading() {
    // The same pixels are stored in both: one is shown mirrored, the other upside down.
    for reading in [Reading::Shown, Reading::Unturned, Reading::Reference] {
        let mirrored = read(&file("turned2.jxl"), reading).unwrap();
        let upside_down = read(&file("turned4.jxl"), reading).unwrap();
        // By half a turn.
        let turned: Vec<u8> = mirrored.rgb().rchunks(3).flatten().copied().collect();
        assert_ne!(mirrored.rgb(), upside_down.rgb());
        assert_eq!(turned, upside_down.rgb());
    }
}

#[test]
fn what_takes_too_much_is_refused_before_it_is_decoded() {
    for (name, wanted) in [
        ("layers.jxl", "is made of more than 256 frames"),
        ("covers.jxl", "cover it more than 20 times"),
    ] {
        let error = read(&file(name), Reading::Shown).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{name}");
        assert!(error.to_string().contains(wanted), "{name}: {error}");
    }
    // What comes after the frame that is shown does not count.
    let film = read(&file("film.jxl"), Reading::Shown).unwrap();
    assert_eq!(film.rgb()[..3], [0, 0, 9]);
    let limits = Limits {
        max_pixels: 2400 * 2000 - 1,
        ..Limits::default()
    };
    let error = decode(&file("large.jxl"), Reading::Shown, &limits).unwrap_err();
    assert!(
        error.to_string().contains("2400x2000 pixels, more than"),
        "{error}"
    );
}

/// A header of 8 by 8 pixels and of a colour profile of 2^28 - 1 bytes, which takes a few bytes to
/// store and as many seconds to unpack.
#[test]
fn a_large_profile_is_refused_before_it_is_unpacked() {
    let header = b"\xff\x0a\x41\x40\x0a\xff\xff\xff\xff\x01";
    let error = read(&[&header[..], &[0; 40]].concat(), Reading::Shown).unwrap_err();
    let wanted = "its colour profile has 268435455 bytes, more than the limit";
    assert!(error.to_string().contains(wanted), "{error}");
}

#[test]
fn every_cut_file_is_refused() {
    for name in ["lossy.jxl", "boxes.jxl", "lossless.jxl", "progressive.jxl"] {
        let bytes = file(name);
        for len in (2..bytes.len() - 8).step_by(7) {
            let error = read(&bytes[..len], Reading::Shown);
            assert!(error.is_err(), "{name} of {len} bytes");
            assert_eq!(error.unwrap_err().kind(), Kind::Input);
        }
    }
}

//! JPEG of every kind and damaged, against Pillow: see `fixtures/jpeg/make.py`.

use std::fs;
use std::path::Path;

use owl2::Kind;
use owl2::image::{Limits, Picture, Reading, decode};
use sha2::{Digest, Sha256};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jpeg");

fn file(name: &str) -> Vec<u8> {
    fs::read(Path::new(FIXTURES).join(name)).unwrap()
}

fn read(bytes: &[u8]) -> owl2::Result<Picture> {
    decode(bytes, Reading::Reference, &Limits::default())
}

/// The bytes of `NAME` or `NAME@OFFSET:KIND`.
fn damaged(name: &str) -> Vec<u8> {
    const LEN: usize = 48;
    let Some((name, damage)) = name.split_once('@') else {
        return file(name);
    };
    let (offset, kind) = damage.split_once(':').unwrap();
    let offset: usize = offset.parse().unwrap();
    let mut bytes = file(name);
    let end = bytes.len().min(offset + LEN);
    let mut state = 0x2545_f491_u32;
    for byte in &mut bytes[offset..end] {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *byte = match kind {
            "zero" => 0,
            "ff" => 0xff,
            "noise" => state as u8,
            _ => panic!("no damage is called {kind}"),
        };
    }
    bytes
}

/// Lines of `pixels.txt`: a name, and width, height and hash of the pixels or that it is refused.
fn expected() -> Vec<(String, Option<[String; 3]>)> {
    let text = String::from_utf8(file("pixels.txt")).unwrap();
    let lines = text.lines().map(|line| {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let pixels = match &words[1..] {
            [width, height, hash] => Some([width.clone(), height.clone(), hash.clone()]),
            _ => None,
        };
        (words[0].clone(), pixels)
    });
    lines.collect()
}

fn described(picture: &Picture) -> [String; 3] {
    let hash = Sha256::digest(picture.rgb());
    [
        picture.width().to_string(),
        picture.height().to_string(),
        hash.iter().map(|byte| format!("{byte:02x}")).collect(),
    ]
}

#[test]
fn every_kind_has_the_pixels_of_libjpeg_turbo() {
    let mut n = 0;
    for (name, wanted) in expected().iter().filter(|(name, _)| !name.contains('@')) {
        let picture = read(&file(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(Some(&described(&picture)), wanted.as_ref(), "{name}");
        n += 1;
    }
    assert!(n > 70);
}

#[test]
fn a_damaged_file_is_refused_where_pillow_refuses_it() {
    let (mut n_refused, mut n_read, mut n_stricter) = (0, 0, 0);
    for (name, wanted) in expected().iter().filter(|(name, _)| name.contains('@')) {
        match (read(&damaged(name)), wanted) {
            (Ok(picture), Some(_)) => {
                // Where Pillow goes on, so do we, with the same pixels.
                assert_eq!(Some(&described(&picture)), wanted.as_ref(), "{name}");
                n_read += 1;
            }
            (Ok(_), None) => panic!("{name} is read, and Pillow refuses it"),
            (Err(error), _) => {
                assert_eq!(error.kind(), Kind::Input, "{name}");
                n_refused += usize::from(wanted.is_none());
                n_stricter += usize::from(wanted.is_some());
            }
        }
    }
    assert!(n_refused > 30 && n_read > 50, "{n_refused} {n_read}");
    assert!(n_stricter * 20 <= n_read, "{n_stricter} of {n_read}");
}

#[test]
fn what_libjpeg_would_make_up_is_refused() {
    let error = read(&file("unfinished.jpg")).unwrap_err();
    assert!(error.to_string().contains("unfinished"), "{error}");

    // Without its last scan, but with an end.
    let mut bytes = file("alone_2x2.jpg");
    let is_scan = |pair: &[u8]| pair == [0xff, 0xda];
    let last = bytes.windows(2).rposition(is_scan).unwrap();
    bytes.truncate(last);
    bytes.extend([0xff, 0xd9]);
    let error = read(&bytes).unwrap_err();
    assert!(error.to_string().contains("no data"), "{error}");

    // A size that the data does not fill.
    let mut bytes = file("photo.jpg");
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]);
    bytes[frame.unwrap() + 5] = 4;
    let error = read(&bytes).unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");
}

#[test]
fn what_is_missing_is_told_of() {
    for name in ["photo.jpg", "photo_restarts.jpg"] {
        let whole = file(name);
        let cut = |percent: usize| {
            let mut bytes = whole[..whole.len() * percent / 100].to_vec();
            bytes.extend([0xff, 0xd9]);
            read(&bytes)
        };
        assert_eq!(read(&whole).unwrap().damage(), None);
        let picture = cut(65).unwrap();
        let damage = picture.damage().unwrap();
        assert!(damage.starts_with("data for "), "{damage}");
        assert!(
            damage.ends_with(" blocks is missing; it is gray there"),
            "{damage}"
        );
        let error = cut(30).unwrap_err().to_string();
        assert!(error.contains("blocks is missing"), "{error}");
    }

    // A picture that is turned is as damaged.
    let mut bytes = file("photo.jpg");
    bytes.truncate(bytes.len() * 65 / 100);
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut segment = vec![0xff, 0xe1, 0, exif.len() as u8 + 2];
    segment.extend(exif);
    bytes.splice(2..2, segment);
    bytes.extend([0xff, 0xd9]);
    let turned = decode(&bytes, Reading::Shown, &Limits::default()).unwrap();
    assert_eq!((turned.width(), turned.height()), (88, 120));
    assert!(turned.damage().is_some());
}

#[test]
fn every_file_cut_short_is_refused() {
    for name in [
        "photo.jpg",
        "photo_restarts.jpg",
        "photo_progressive.jpg",
        "arithmetic_2x2.jpg",
        "alone_restarts_2x1.jpg",
    ] {
        let bytes = file(name);
        for len in 0..bytes.len() {
            let error = read(&bytes[..len]).err();
            let error = error.unwrap_or_else(|| panic!("{name}: {len} of {}", bytes.len()));
            assert_eq!(error.kind(), Kind::Input);
        }
    }
}

/// A gray progressive file whose last scan, a refinement that changes nothing, comes `n` times.
fn repeating(edge: u16, n: usize) -> Vec<u8> {
    let n_blocks = usize::from(edge.div_ceil(8)).pow(2);
    let segment = |code: u8, content: &[u8]| {
        let len = (content.len() as u16 + 2).to_be_bytes();
        [&[0xff, code], &len[..], content].concat()
    };
    let [high, low] = edge.to_be_bytes();
    // A table of one code of one bit: no difference, and 2^14 to 2^15 - 1 blocks that end.
    let table = |slot, symbol| [&[slot, 1][..], &[0; 15], &[symbol]].concat();
    let mut bits = String::new();
    let mut left = n_blocks;
    while left > 0 {
        let run = left.clamp(1 << 14, (1 << 15) - 1);
        bits += &format!("0{:014b}", run - (1 << 14));
        left = left.saturating_sub(run);
    }
    bits += &"1".repeat(bits.len().next_multiple_of(8) - bits.len());
    let bytes = (0..bits.len()).step_by(8);
    let runs: Vec<u8> = bytes
        .flat_map(
            |at| match u8::from_str_radix(&bits[at..at + 8], 2).unwrap() {
                0xff => vec![0xff, 0],
                byte => vec![byte],
            },
        )
        .collect();
    let mut file = [
        vec![0xff, 0xd8],
        segment(0xdb, &[&[0][..], &[1; 64]].concat()),
        segment(0xc2, &[8, high, low, high, low, 1, 1, 0x11, 0]),
        segment(0xc4, &[table(0, 0), table(0x10, 0xe0)].concat()),
        segment(0xda, &[1, 1, 0, 0, 0, 0]),
        vec![0; n_blocks.div_ceil(8)],
        segment(0xda, &[1, 1, 0, 1, 63, 1]),
        runs.clone(),
    ]
    .concat();
    for _ in 0..n {
        file.extend(segment(0xda, &[1, 1, 0, 1, 63, 0x10]));
        file.extend(&runs);
    }
    file.extend([0xff, 0xd9]);
    file
}

#[test]
fn scans_may_be_many_in_small_pictures_alone() {
    for (edge, n) in [(100, 190), (2000, 10), (4000, 10)] {
        assert!(read(&repeating(edge, n)).is_ok(), "{edge} {n}");
    }
    for (edge, n, wanted) in [
        (100, 199, "more than 200 scans"),
        (2000, 100, "go through the picture"),
        (4000, 19, "go through the picture"),
    ] {
        let error = read(&repeating(edge, n)).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let with_frame = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = file("photo.jpg");
        let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]);
        change(&mut bytes[frame.unwrap()..]);
        read(&bytes).unwrap_err().to_string()
    };
    for (wanted, change) in [
        (
            "lossless",
            &(|f: &mut [u8]| f[1] = 0xc3) as &dyn Fn(&mut [u8]),
        ),
        ("hierarchical", &|f| f[1] = 0xc5),
        ("12 bits", &|f| f[4] = 12),
        ("2 components", &|f| f[9] = 2),
        ("sampling factor", &|f| f[11] = 0x51),
        ("multiples", &|f| (f[11], f[14]) = (0x31, 0x21)),
        ("no pixels", &|f| f[5..7].fill(0)),
    ] {
        let message = with_frame(change);
        assert!(message.contains(wanted), "{message}");
    }
}

//! Any byte string is a GGUF file or gives a typed error: no panic, no abort, no unbounded
//! allocation.
//!
//! One hand-made file per class of failure that GGUF readers have had (integer overflow in
//! counts, shapes and sizes; data past the end; huge allocations from tiny files; bad types and
//! alignments), and truncation at every byte. `model_malformed.rs` goes on where the container is
//! well-formed and the model in it is not.

use crate::{bounded, raw_gguf, tiny};
use owl2::gguf::{Bytes, Gguf};
use owl2::{Kind, Result};
use proptest::prelude::*;

use bounded::{assert_error, open, turn};
use raw_gguf::{ARRAY, BOOL, RawGguf, STRING, U32, U64, array, string};

#[test]
fn the_hand_made_good_file_is_good() {
    let _turn = turn();
    let gguf = open(&RawGguf::good().encode()).unwrap();
    assert_eq!(gguf.get::<&str>("general.name").unwrap(), "good");
    assert_eq!(gguf.tensor("first").unwrap().shape, [2, 4]);
}

/// A way to spoil the good file, whom the error must name, and what it must say.
type ContainerCase = (
    &'static str,
    fn(&mut RawGguf),
    Option<&'static str>,
    &'static str,
);

const CONTAINER_CASES: &[ContainerCase] = &[
    ("magic", |f| f.magic = *b"FUGG", None, "not a GGUF file"),
    ("version 0", |f| f.version = 0, None, "big-endian"),
    ("version 1", |f| f.version = 1, None, "version 1"),
    ("version 4", |f| f.version = 4, None, "version 4"),
    (
        "big endian",
        |f| f.version = 3u32.swap_bytes(),
        None,
        "big-endian",
    ),
    (
        "more tensors than there can be",
        |f| f.n_tensors = Some(u64::MAX),
        None,
        "tensors",
    ),
    (
        "more keys than there can be",
        |f| f.n_keys = Some(u64::MAX),
        None,
        "keys",
    ),
    (
        "as many keys as are accepted, but absent",
        |f| f.n_keys = Some(1 << 16),
        None,
        "metadata key number",
    ),
    (
        "as many tensors as are accepted, but absent",
        |f| f.n_tensors = Some(1 << 17),
        None,
        "tensor number",
    ),
    (
        "empty key",
        |f| f.key("", U32, [0; 4]),
        None,
        "metadata key number 1",
    ),
    (
        "overlong key",
        |f| f.key(&"k".repeat(1 << 16), U32, [0; 4]),
        None,
        "metadata key number 1",
    ),
    (
        "key that is not UTF-8",
        |f| f.keys[0].0 = vec![0xff, 0xfe],
        None,
        "UTF-8",
    ),
    (
        "repeated key",
        |f| f.key("general.name", U32, [0; 4]),
        Some("general.name"),
        "twice",
    ),
    (
        "value type that does not exist",
        |f| f.key("odd", 13, [0; 8]),
        Some("odd"),
        "type 13",
    ),
    (
        "string of 2^64 - 1 bytes",
        |f| f.key("long", STRING, u64::MAX.to_le_bytes()),
        Some("long"),
        "bytes",
    ),
    (
        "string past the end",
        |f| f.key("long", STRING, 100_000u64.to_le_bytes()),
        Some("long"),
        "100000 bytes",
    ),
    (
        "string that is not UTF-8",
        |f| f.key("text", STRING, string(&[0xc3])),
        Some("text"),
        "UTF-8",
    ),
    (
        "truth value of 2",
        |f| f.key("flag", BOOL, [2]),
        Some("flag"),
        "boolean",
    ),
    (
        "truth values of 2",
        |f| f.key("flags", ARRAY, [array(BOOL, 2), vec![1, 2]].concat()),
        Some("flags"),
        "truth values",
    ),
    (
        "array whose size overflows",
        |f| f.key("list", ARRAY, array(U64, 1 << 62)),
        Some("list"),
        "overflows",
    ),
    (
        "array past the end",
        |f| f.key("list", ARRAY, array(U32, 1 << 40)),
        Some("list"),
        "truncated",
    ),
    (
        "2^63 strings in no bytes",
        |f| f.key("list", ARRAY, array(STRING, 1 << 63)),
        Some("list"),
        "",
    ),
    (
        "arrays of arrays, nested deep",
        |f| {
            let nested = array(ARRAY, 1).repeat(4000);
            f.key("list", ARRAY, nested);
        },
        Some("list"),
        "arrays of arrays",
    ),
    (
        "array of a type that does not exist",
        |f| f.key("list", ARRAY, array(99, 1)),
        Some("list"),
        "type 99",
    ),
    (
        "alignment of zero",
        |f| f.key("general.alignment", U32, 0u32.to_le_bytes()),
        Some("general.alignment"),
        "power of two",
    ),
    (
        "alignment that is no power of two",
        |f| f.key("general.alignment", U32, 33u32.to_le_bytes()),
        Some("general.alignment"),
        "power of two",
    ),
    (
        "alignment of 2^31, whose padding overflows 32 bits",
        |f| f.key("general.alignment", U32, (1u32 << 31).to_le_bytes()),
        Some("general.alignment"),
        "power of two",
    ),
    (
        "alignment of another type",
        |f| f.key("general.alignment", STRING, string(b"32")),
        Some("general.alignment"),
        "power of two",
    ),
    (
        "alignment that the offsets do not have",
        |f| {
            f.key("general.alignment", U32, 64u32.to_le_bytes());
            f.alignment = 64;
        },
        Some("second"),
        "multiple of the alignment",
    ),
    (
        "tensor without a name",
        |f| f.tensors[0].name.clear(),
        None,
        "tensor number 0",
    ),
    (
        "tensor with an overlong name",
        |f| f.tensors[0].name = vec![b'n'; 64],
        None,
        "tensor number 0",
    ),
    (
        "tensor name that is not UTF-8",
        |f| f.tensors[0].name = vec![0x80],
        None,
        "UTF-8",
    ),
    (
        "repeated tensor",
        |f| f.tensors[1].name = b"first".to_vec(),
        Some("first"),
        "twice",
    ),
    (
        "no dimensions",
        |f| f.tensors[0].dimensions.clear(),
        Some("first"),
        "0 dimensions",
    ),
    (
        "five dimensions",
        |f| f.tensors[0].dimensions = vec![1; 5],
        Some("first"),
        "5 dimensions",
    ),
    (
        "2^32 - 1 dimensions",
        |f| f.tensors[0].rank = Some(u32::MAX),
        Some("first"),
        "dimensions",
    ),
    (
        "dimension of zero",
        |f| f.tensors[0].dimensions = vec![4, 0],
        Some("first"),
        "empty",
    ),
    (
        "product of dimensions that overflows",
        |f| f.tensors[0].dimensions = vec![1 << 32, 1 << 32, 2],
        Some("first"),
        "overflows",
    ),
    (
        "bytes that overflow though values do not",
        |f| f.tensors[0].dimensions = vec![1 << 31, 1 << 31],
        Some("first"),
        "overflows",
    ),
    (
        "negative dimension",
        |f| f.tensors[0].dimensions = vec![u64::MAX, 1],
        Some("first"),
        "overflows",
    ),
    (
        "row that is no whole number of blocks",
        |f| f.tensors[0].ggml_type = 8,
        Some("first"),
        "multiple of the 32",
    ),
    (
        "offset off the alignment",
        |f| f.tensors[1].offset = 33,
        Some("second"),
        "multiple of the alignment",
    ),
    (
        "offset whose sum overflows",
        |f| f.tensors[1].offset = u64::MAX - 31,
        Some("second"),
        "past the end",
    ),
    (
        "offset past the end",
        |f| f.tensors[1].offset = 1 << 30,
        Some("second"),
        "past the end",
    ),
    (
        "data that overlaps",
        |f| f.tensors[1].offset = 0,
        Some(""),
        "overlaps",
    ),
    (
        "one byte of data too few",
        |f| f.data.truncate(47),
        Some("second"),
        "past the end",
    ),
    ("no data", |f| f.data.clear(), Some("first"), "past the end"),
];

#[test]
fn malformed_containers_are_refused_by_name() {
    let _turn = turn();
    for (case, spoil, subject, message) in CONTAINER_CASES {
        let mut file = RawGguf::good();
        spoil(&mut file);
        let error = open(&file.encode()).expect_err(case);
        assert_error(&error, case, *subject, message);
    }
}

#[test]
fn what_is_just_within_the_limits_opens() {
    let _turn = turn();
    let alignment = |file: &mut RawGguf, alignment: usize| {
        let value = (alignment as u32).to_le_bytes();
        file.key("general.alignment", U32, value);
        file.alignment = alignment;
        file.tensors.truncate(1);
    };
    type Change<'a> = &'a dyn Fn(&mut RawGguf);

    let cases: &[(&str, Change)] = &[
        ("version 2", &|f| f.version = 2),
        ("longest key", &|f| {
            f.key(&"k".repeat(65535), U32, [0; 4]);
        }),
        ("longest name of a tensor", &|f| {
            f.tensors[0].name = vec![b'n'; 63];
        }),
        ("four dimensions", &|f| {
            f.tensors[0].dimensions = vec![2, 2, 2, 1];
        }),
        ("smallest alignment", &|f| alignment(f, 8)),
        ("largest alignment", &|f| alignment(f, 1 << 20)),
    ];
    for (what, change) in cases {
        let mut file = RawGguf::good();
        change(&mut file);
        Gguf::from_bytes(Bytes::from_slice(&file.encode())).expect(what);
    }
    for bad in [4, 1 << 21] {
        let mut file = RawGguf::good();
        alignment(&mut file, bad);
        Gguf::from_bytes(Bytes::from_slice(&file.encode())).expect_err("alignment");
    }
}

#[test]
fn a_truncated_file_is_refused_at_every_byte() {
    let _turn = turn();
    let bytes = tiny::file(&tiny::smallest_config(), 1);
    let data_end = tiny::open(&bytes)
        .tensors()
        .iter()
        .map(|tensor| tensor.range.end)
        .max()
        .unwrap();
    for len in 0..data_end {
        let error = open(&bytes[..len]).expect_err("truncated");
        assert_eq!(error.kind(), Kind::Model, "at {len}: {error}");
    }
    // What follows the last tensor is padding.
    for len in data_end..bytes.len() {
        open(&bytes[..len]).unwrap();
    }
}

#[test]
fn a_truncated_file_on_disk_is_refused_with_its_name() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cut.gguf");
    let bytes = tiny::file(&tiny::smallest_config(), 1);
    for len in [0, 3, 100, bytes.len() / 2] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let error = Gguf::open(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Model, "{error}");
        assert!(error.to_string().contains("cut.gguf"), "{error}");
    }
    let error = Gguf::open(&directory.path().join("none.gguf")).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn random_bytes_do_no_harm(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let _turn = turn();
        let bytes = [b"GGUF\x03\0\0\0".as_slice(), &tail].concat();
        let _: Result<Gguf> = open(&bytes);
    }
}

//! Tokenizer and prompts against vectors of the reference (`tests/golden`), SentencePiece's own
//! rule as the `tokenizers` crate has it, and what must hold for any text.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use owl2::Kind;
use owl2::prompt::{
    IMAGE_MARKER, Message, Part, Segment, Template, place_images, tokenize, tokenize_raw,
};
use owl2::tokenizer::vocabulary::{AddedToken, Piece, PieceType, filler};
use owl2::tokenizer::{Tokenizer, Vocabulary};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::Model;

/// What stands for a picture in the vectors' ids.
const IMAGE_ID: i64 = -200;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn read_json(name: &str) -> Value {
    let text = fs::read_to_string(golden(name)).expect(name);
    serde_json::from_str(&text).expect(name)
}

fn vocabulary(name: &str, legacy: bool) -> Vocabulary {
    let path = golden(&format!("vocabularies/{name}.jsonl"));
    let lines = fs::read_to_string(path).expect(name);
    let pieces = lines.lines().map(|line| {
        let (text, score, number): (String, f32, i32) = serde_json::from_str(line).expect(line);
        Piece {
            text,
            score,
            piece_type: PieceType::from_number(number).expect(line),
        }
    });
    Vocabulary {
        pieces: pieces.collect(),
        bos_id: 1,
        eos_id: 2,
        unk_id: 0,
        pad_id: None,
        add_bos: true,
        add_space_prefix: true,
        legacy,
        added: Vec::new(),
    }
}

fn tokenizer(name: &str, legacy: bool) -> Tokenizer {
    Tokenizer::new(vocabulary(name, legacy)).expect(name)
}

fn with_image_ids(segments: &[Segment]) -> Vec<i64> {
    let mut ids = Vec::new();
    for segment in segments {
        match segment {
            Segment::Tokens(tokens) => ids.extend(tokens.iter().map(|&id| i64::from(id))),
            Segment::Image(_) => ids.push(IMAGE_ID),
        }
    }
    ids
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn integers(value: &Value) -> Vec<i64> {
    let values = value.as_array().expect("an array");
    values.iter().map(|x| x.as_i64().expect("an id")).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect(key)
}

/// The ids that a vector wants; without `legacy` they are only given where they differ.
fn wanted_ids(vector: &Value, legacy: bool) -> Vec<i64> {
    let given = |key| vector.get(key).map(integers);
    let differing = given("ids_nonlegacy").filter(|_| !legacy);
    let ids = given("ids").or(differing).or_else(|| given("ids_legacy"));
    ids.expect("ids")
}

fn check_ids(vectors: &Value, tokenizer: &Tokenizer) {
    let legacy = tokenizer.vocabulary().legacy;
    for vector in array(vectors, "encode") {
        let ids = tokenizer.encode_trusted(text(vector, "text"));
        let ids: Vec<_> = ids.into_iter().map(i64::from).collect();
        assert_eq!(ids, wanted_ids(vector, legacy), "{vector}");
    }
    for vector in array(vectors, "image_prompts") {
        let segments = tokenize_raw(tokenizer, text(vector, "prompt"));
        assert_eq!(
            with_image_ids(&segments),
            wanted_ids(vector, legacy),
            "{vector}"
        );
    }
}

/// The golden vocabulary with a token that a fine-tune added, a control token or not.
fn with_added(legacy: bool, piece_type: PieceType, strips: bool) -> Tokenizer {
    let mut vocabulary = vocabulary("tiny", legacy);
    let id = vocabulary.pieces.len() as u32;
    vocabulary.pieces.push(Piece {
        text: "<loc>".into(),
        score: 0.0,
        piece_type,
    });
    vocabulary.added = vec![AddedToken {
        id,
        strips_left: strips,
        strips_right: strips,
    }];
    Tokenizer::new(vocabulary).expect("vocabulary")
}

#[test]
fn added_tokens_are_encoded_as_by_transformers() {
    let (plain, control) = (PieceType::UserDefined, PieceType::Control);
    let see = [1, 265, 699, 699];
    // Ids of transformers 5.24, in whose text after a token a space is put where `legacy` is set.
    for (legacy, strips, text, rest) in [
        (true, false, "see <loc> there", vec![698, 768, 273, 263]),
        (true, false, "see <loc>there", vec![698, 768, 273, 263]),
        (true, true, "see <loc> there", vec![768, 273, 263]),
        (true, true, "see \t<loc>\n<loc> ", vec![768, 768]),
        (false, false, "see <loc> there", vec![698, 768, 273, 263]),
        (
            false,
            false,
            "see <loc>there",
            vec![698, 768, 701, 706, 504],
        ),
        (false, true, "see <loc> there", vec![768, 701, 706, 504]),
        (false, false, "see<loc><loc>", vec![768, 768]),
    ] {
        let wanted = [&see[..], &rest].concat();
        for piece_type in [plain, control] {
            let tokenizer = with_added(legacy, piece_type, strips);
            assert_eq!(tokenizer.encode_trusted(text), wanted, "{text} {legacy}");
            let typed = tokenizer.encode(text);
            match piece_type {
                PieceType::Control => {
                    assert!(!typed.contains(&768), "{text}");
                    assert_eq!(tokenizer.decode(&typed), text);
                }
                _ => assert_eq!(typed, wanted, "{text} {legacy}"),
            }
        }
    }
}

#[test]
fn added_tokens_are_decoded_as_by_transformers() {
    // A, on; 770 is a row of the embedding that has no token.
    let (a, on) = (297, 300);
    for (ids, text, hidden) in [
        (&[a, 768, on][..], "A<loc> on", "A on"),
        (&[768, on], "<loc> on", "on"),
        (&[a, 768, 768, on], "A<loc><loc> on", "A on"),
        (&[a, 770, on], "A on", "A on"),
        (&[1, a, 768, on, 2], "A<loc> on", "A on"),
    ] {
        for (piece_type, wanted) in [(PieceType::UserDefined, text), (PieceType::Control, hidden)] {
            let tokenizer = with_added(true, piece_type, false);
            let mut vocabulary = tokenizer.vocabulary().clone();
            for id in 769..771 {
                vocabulary.pieces.push(Piece {
                    text: filler(id),
                    score: 0.0,
                    piece_type: PieceType::Unused,
                });
            }
            let tokenizer = Tokenizer::new(vocabulary).expect("vocabulary");
            assert_eq!(tokenizer.decode(ids), wanted, "{ids:?}");
            let mut stream = tokenizer.stream().keeping_spaces();
            let mut streamed: String = ids.iter().map(|&id| stream.push(id).to_owned()).collect();
            streamed += stream.finish();
            assert_eq!(streamed, wanted, "{ids:?}");
        }
    }
}

#[test]
fn every_control_token_can_be_written_in_a_whole_prompt_and_none_in_plain_text() {
    let mut vocabulary = vocabulary("tiny", true);
    for text in ["<|user|>", "<|end|>", "<|end"] {
        vocabulary.pieces.push(Piece {
            text: text.into(),
            score: 0.0,
            piece_type: PieceType::Control,
        });
    }
    let tokenizer = Tokenizer::new(vocabulary).expect("vocabulary");
    let text = "<|user|>a<|end|></s>";
    assert_eq!(tokenizer.encode_trusted(text), [1, 768, 262, 769, 2]);
    let typed = tokenizer.encode(text);
    assert!(typed[1..].iter().all(|&id| !tokenizer.is_special(id)));
    assert_eq!(tokenizer.decode(&typed), text);
    assert_eq!(tokenizer.decode(&[1, 768, 262, 769, 2]), "a");
}

#[test]
fn encodes_as_the_reference() {
    let vectors = read_json("tokenizer/tiny.json");
    check_ids(&vectors, &tokenizer("tiny", true));
    check_ids(&vectors, &tokenizer("tiny", false));
    check_ids(
        &read_json("tokenizer/gqa_nonlegacy.json"),
        &tokenizer("gqa", false),
    );
}

#[test]
fn decodes_as_the_reference() {
    let tokenizer = tokenizer("tiny", true);
    for vector in array(&read_json("tokenizer/tiny.json"), "decode") {
        let ids: Vec<u32> = integers(&vector["ids"])
            .iter()
            .map(|&id| id as u32)
            .collect();
        assert_eq!(tokenizer.decode(&ids), text(vector, "text_skip_special"));
        assert_eq!(tokenizer.decode_with_specials(&ids), text(vector, "text"));
        let mut stream = tokenizer.stream();
        let mut chunks: Vec<_> = ids.iter().map(|&id| stream.push(id).to_owned()).collect();
        chunks.push(stream.finish().to_owned());
        assert_eq!(Value::from(chunks), vector["stream_chunks"], "{vector}");
    }
}

fn messages(conversation: &Value) -> Vec<Message> {
    let turn = |turn: &Value| {
        let said = turn[1].as_str().unwrap_or_default();
        match turn[0].as_str().expect("a role") {
            "USER" | "Human" => Message::user(said),
            _ => Message::assistant(said),
        }
    };
    array(conversation, "messages").iter().map(turn).collect()
}

#[test]
fn renders_conversations_as_the_reference() {
    let conversations = read_json("tokenizer/conversations.json");
    for conversation in conversations.as_array().expect("conversations") {
        let template: Template = text(conversation, "template").parse().expect("a template");
        let rendered = template.render(&messages(conversation));
        assert_eq!(rendered, text(conversation, "prompt"));
        assert_eq!(template.stop(), text(conversation, "stop"));
    }
}

#[test]
fn a_leading_picture_lets_every_chunk_keep_its_bos() {
    let tokenizer = tokenizer("tiny", true);
    let n_bos = |prompt| {
        let ids = with_image_ids(&tokenize_raw(&tokenizer, prompt));
        ids.iter().filter(|&&id| id == 1).count()
    };
    assert_eq!(n_bos("<|image|>a<|image|>b<|image|>"), 2);
    assert_eq!(n_bos("a<|image|>b<|image|>c"), 1);
    assert_eq!(n_bos("<|image|><|image|>"), 0);
    assert_eq!(tokenize_raw(&tokenizer, ""), []);
}

#[test]
fn only_a_user_places_pictures_and_nobody_ends_the_text() {
    let messages = [
        Message::user("</s><|image|>"),
        Message::assistant("<|image|></s>"),
    ];
    let parts = Template::MplugOwl2.parts(None, &messages);
    let slots = parts.iter().filter(|part| **part == Part::Image).count();
    let ends = parts
        .iter()
        .filter(|part| **part == Part::EndOfText)
        .count();
    assert_eq!((slots, ends), (1, 1));
    let ids = with_image_ids(&tokenize(&tokenizer("tiny", true), &parts));
    assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 1);
    assert_eq!(ids.last(), Some(&2));
}

#[test]
fn places_pictures_where_the_markers_are_else_in_front() {
    assert_eq!(place_images("Hi", 0).expect("placed"), "Hi");
    assert_eq!(
        place_images("Hi", 2).expect("placed"),
        "<|image|><|image|>Hi"
    );
    assert_eq!(
        place_images("a <|image|>?", 1).expect("placed"),
        "a <|image|>?"
    );
    for n_images in [0, 1, 3] {
        let error = place_images("<|image|><|image|>", n_images).expect_err("too many or few");
        assert_eq!(error.kind(), Kind::Input);
        let message = error.to_string();
        assert!(message.contains("has 2 ") && message.contains(&format!("is {n_images}")));
    }
}

/// The `tokenizers` crate's BPE with byte fallback, as transformers' converter of slow tokenizers
/// builds it.
fn ranked_pair_bpe(vocabulary: &Vocabulary) -> tokenizers::models::bpe::BPE {
    let ids: HashMap<&str, u32> = (0..)
        .zip(&vocabulary.pieces)
        .map(|(id, piece)| (piece.text.as_str(), id))
        .collect();
    let mut merges = Vec::new();
    for piece in &vocabulary.pieces {
        let cuts = piece.text.char_indices().skip(1);
        let pairs = cuts.map(|(cut, _)| piece.text.split_at(cut));
        let mut pairs: Vec<_> = pairs
            .filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right))
            .collect();
        pairs.sort_unstable_by_key(|(left, right)| (ids[left], ids[right]));
        merges.extend(pairs.into_iter().map(|pair| (piece.score, pair)));
    }
    merges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let merges: Vec<_> = merges.into_iter().map(|(_, pair)| pair).collect();
    let bpe = json!({
        "type": "BPE", "vocab": ids, "merges": merges, "byte_fallback": true, "unk_token": "<unk>",
    });
    serde_json::from_str(&bpe.to_string()).expect("a BPE")
}

/// Texts with words, repetition, other scripts, and all that is special.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[ab ]{0,30}",
        "[a-zA-Z ,.]{0,20}",
        "\\PC{0,8}",
        any::<String>(),
        Just(" ".repeat(17)),
        prop::sample::select(vec![
            "</s>",
            "<s>",
            "<unk>",
            "</",
            "s>",
            "▁",
            "\n",
            "<0x41>",
            "<|image|>"
        ])
        .prop_map(String::from),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn agrees_with_the_tokenizers_crate(texts in prop::collection::vec(any_text(), 20)) {
        let ours = tokenizer("tiny", true);
        let theirs = ranked_pair_bpe(ours.vocabulary());
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let escaped = format!("▁{}", text.replace(' ', "▁"));
            let tokens = theirs.tokenize(&escaped).expect("tokens");
            let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            prop_assert_eq!(&ours.encode(text)[1..], ids, "{}", text);
        }
    }

    #[test]
    fn plain_text_survives_and_has_no_control_token(texts in prop::collection::vec(any_text(), 20)) {
        let tokenizer = tokenizer("tiny", false);
        for text in &texts {
            let ids = tokenizer.encode(text);
            prop_assert!(!ids[1..].iter().any(|&id| tokenizer.is_special(id)));
            prop_assert_eq!(tokenizer.decode(&ids), text.replace('▁', " "));
        }
    }

    #[test]
    fn streamed_text_is_the_decoded_text(ids in prop::collection::vec(0u32..800, 0..40)) {
        let tokenizer = tokenizer("tiny", true);
        let mut stream = tokenizer.stream();
        let mut streamed = String::new();
        // Decoding begins anew after a line, so the texts are the same up to there.
        for &id in &ids {
            streamed += stream.push(id);
            if streamed.ends_with('\n') {
                break;
            }
        }
        streamed += stream.finish();
        let whole = tokenizer.decode(&ids);
        let cut_at_line = streamed.ends_with('\n') && whole.starts_with(&streamed);
        prop_assert!(cut_at_line || streamed == whole, "{:?} {:?}", streamed, whole);
    }

    #[test]
    fn both_ways_agree_on_ordinary_text(
        questions in prop::collection::vec(any_text(), 1..4),
        answer in "[a-z .\n]{0,12}",
        legacy: bool,
        template in prop::sample::select(vec![Template::MplugOwl2, Template::V1, Template::V0]),
    ) {
        let tokenizer = tokenizer("tiny", legacy);
        let mut messages = Vec::new();
        for question in &questions {
            let ordinary = ["</s>", "<s>", "<unk>"].iter().fold(question.clone(), |text, special| {
                text.replace(special, "")
            });
            prop_assume!(!["</s>", "<s>", "<unk>"].iter().any(|special| ordinary.contains(special)));
            messages.extend([Message::user(ordinary), Message::assistant(answer.clone())]);
        }
        messages.push(Message::assistant(""));
        let safe = tokenize(&tokenizer, &template.parts(None, &messages));
        let raw = tokenize_raw(&tokenizer, &template.render(&messages));
        prop_assert_eq!(safe, raw);
    }

    #[test]
    fn pictures_are_numbered_in_order(texts in prop::collection::vec("[a-z]{0,3}", 1..8)) {
        let segments = tokenize_raw(&tokenizer("tiny", true), &texts.join(IMAGE_MARKER));
        let numbers = segments.iter().filter_map(|segment| match segment {
            Segment::Image(number) => Some(*number),
            Segment::Tokens(_) => None,
        });
        prop_assert!(numbers.eq(0..texts.len() - 1));
    }
}

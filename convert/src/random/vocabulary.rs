//! A made-up vocabulary with the structure of LLaMA's, so that text can be tokenized.

use owl2::tokenizer::Vocabulary;
use owl2::tokenizer::vocabulary::{Piece, PieceType};

/// Where LLaMA's vocabulary has its special pieces and bytes.
const UNKNOWN: u32 = 0;
const BOS: u32 = 1;
const EOS: u32 = 2;

/// How SentencePiece writes a space.
const SPACE: char = '\u{2581}';

/// `n_pieces` pieces: the three special ones, the 256 bytes, the space and the printable ASCII
/// characters, then all combinations of two and three letters, with and without a space before
/// them, merged in this order. Those that do not fit are left out; unused ids follow the last.
pub(super) fn synthetic(n_pieces: usize) -> Vocabulary {
    let special = [
        ("<unk>", PieceType::Unknown),
        ("<s>", PieceType::Control),
        ("</s>", PieceType::Control),
    ]
    .map(|(text, piece_type)| (text.to_owned(), piece_type));
    let bytes = (0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), PieceType::Byte));
    let characters = std::iter::once(SPACE).chain('!'..='~').map(String::from);
    let text = characters
        .chain(words())
        .map(|text| (text, PieceType::Normal));
    let unused = (0..).map(|i| (format!("<unused{i}>"), PieceType::Unused));

    let pieces = special
        .into_iter()
        .chain(bytes)
        .chain(text)
        .chain(unused)
        .take(n_pieces)
        .enumerate()
        .map(|(id, (text, piece_type))| Piece {
            text,
            score: match piece_type {
                PieceType::Normal => -(id as f32),
                _ => 0.0,
            },
            piece_type,
        })
        .collect();
    Vocabulary {
        pieces,
        bos_id: BOS,
        eos_id: EOS,
        unk_id: UNKNOWN,
        pad_id: None,
        add_bos: true,
        add_space_prefix: true,
        legacy: false,
        added: Vec::new(),
    }
}

/// Combinations of one to three letters; each can be merged from two earlier pieces.
fn words() -> impl Iterator<Item = String> {
    let letters = || 'a'..='z';
    let one = || letters().map(String::from);
    let two = move || one().flat_map(move |a| letters().map(move |b| format!("{a}{b}")));
    let three = move || two().flat_map(move |ab| letters().map(move |c| format!("{ab}{c}")));
    let spaced = |word: String| format!("{SPACE}{word}");
    one()
        .map(spaced)
        .chain(two())
        .chain(two().map(spaced))
        .chain(three())
        .chain(three().map(spaced))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn pieces_are_distinct_and_the_ids_exist() {
        for n_pieces in [512, 32000, 40000] {
            let vocabulary = synthetic(n_pieces);
            vocabulary.check().unwrap();
            let texts: HashSet<_> = vocabulary.pieces.iter().map(|p| &p.text).collect();
            assert_eq!(texts.len(), n_pieces);
        }
        let pieces = synthetic(32000).pieces;
        assert_eq!(pieces[3].text, "<0x00>");
        assert_eq!(pieces[259].text, "\u{2581}");
        assert_eq!(pieces[260].text, "!");
        assert_eq!(pieces[354].text, "\u{2581}a");
    }
}

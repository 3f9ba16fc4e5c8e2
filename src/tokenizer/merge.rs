//! SentencePiece's BPE: the rule by which characters become pieces.
//!
//! Of all neighbouring symbols whose concatenation is a piece, those with the highest score are
//! joined first, the leftmost on ties, until none is left. The text is never split into words, so
//! symbols are linked in a list and the candidates wait in a heap: `O(n log n)` for any text.
//!
//! The `tokenizers` crate has another rule, ranked pairs: there, two pairs that make the same piece
//! differ in rank, and characters without a piece cannot be joined. It gives the same ids for
//! vocabularies that SentencePiece trained (the tests compare the two), not for all, and finding
//! the pairs of 32000 pieces takes it ten times as long as building this tokenizer.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Tokenizer;

/// A stretch of the text that is one symbol. Length 0: it was joined to its left neighbour.
struct Symbol {
    start: usize,
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
    /// Its piece, where that is known already.
    id: Option<u32>,
    /// Whether it is a user-defined piece, which is never joined.
    frozen: bool,
}

/// A symbol and its right neighbour that may be joined.
struct MergeCandidate {
    score: f32,
    left: usize,
    /// Bytes of both when they met; with another length by now, the candidate is stale.
    len: usize,
    id: u32,
}

impl Ord for MergeCandidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for MergeCandidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for MergeCandidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for MergeCandidate {}

/// A text on its way from characters to pieces.
pub(super) struct Merger<'a> {
    tokenizer: &'a Tokenizer,
    text: &'a str,
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<MergeCandidate>,
}

impl<'a> Merger<'a> {
    /// Splits `text`, in which U+2581 stands for the space, into characters and user-defined
    /// pieces.
    pub(super) fn new(tokenizer: &'a Tokenizer, text: &'a str) -> Self {
        let mut symbols = Vec::with_capacity(text.chars().count());
        let mut start = 0;
        while let Some(character) = text[start..].chars().next() {
            let user_defined = tokenizer.user_defined_prefix(&text[start..]);
            let len = user_defined.map_or(character.len_utf8(), |(_, len)| len);
            let index = symbols.len();
            let end = start + len;
            symbols.push(Symbol {
                start,
                len,
                previous: index.checked_sub(1),
                next: (end < text.len()).then_some(index + 1),
                id: user_defined.map(|(id, _)| id),
                frozen: user_defined.is_some(),
            });
            start = end;
        }
        Merger {
            tokenizer,
            text,
            symbols,
            candidates: BinaryHeap::new(),
        }
    }

    /// Joins what can be joined and appends the ids of the result to `ids`.
    pub(super) fn encode(mut self, ids: &mut Vec<u32>) {
        let all = 0..self.symbols.len();
        let candidates: Vec<_> = all.filter_map(|left| self.candidate(left)).collect();
        self.candidates = candidates.into();
        while let Some(candidate) = self.candidates.pop() {
            self.join(&candidate);
        }
        self.emit(ids);
    }

    /// The symbol `left` with its right neighbour, if together they are a piece.
    fn candidate(&self, left: usize) -> Option<MergeCandidate> {
        let first = &self.symbols[left];
        let second = &self.symbols[first.next?];
        if first.frozen || second.frozen {
            return None;
        }
        let len = first.len + second.len;
        let text = &self.text[first.start..first.start + len];
        let id = self.tokenizer.piece_id(text)?;
        let score = self.tokenizer.score(id);
        Some(MergeCandidate {
            score,
            left,
            len,
            id,
        })
    }

    /// Joins `candidate`, unless one of its two symbols has been joined with another since.
    fn join(&mut self, candidate: &MergeCandidate) {
        let left = candidate.left;
        let Some(right) = self.symbols[left].next else {
            return;
        };
        let len = self.symbols[left].len + self.symbols[right].len;
        if self.symbols[left].len == 0 || len != candidate.len {
            return;
        }
        let next = self.symbols[right].next;
        self.symbols[right].len = 0;
        self.symbols[left].len = len;
        self.symbols[left].id = Some(candidate.id);
        self.symbols[left].next = next;
        if let Some(next) = next {
            self.symbols[next].previous = Some(left);
        }
        let previous = self.symbols[left].previous;
        for met in previous.into_iter().chain([left]) {
            let candidate = self.candidate(met);
            self.candidates.extend(candidate);
        }
    }

    fn emit(&self, ids: &mut Vec<u32>) {
        let mut after_unknown = false;
        for symbol in self.symbols.iter().filter(|symbol| symbol.len > 0) {
            let text = &self.text[symbol.start..symbol.start + symbol.len];
            let id = symbol.id.or_else(|| self.tokenizer.piece_id(text));
            match (id, &self.tokenizer.byte_ids) {
                (Some(id), _) => ids.push(id),
                (None, Some(byte_ids)) => ids.extend(text.bytes().map(|b| byte_ids[b as usize])),
                (None, None) if after_unknown => {}
                (None, None) => ids.push(self.tokenizer.vocabulary.unk_id),
            }
            after_unknown = id.is_none();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{piece, vocabulary};
    use super::*;
    use crate::tokenizer::vocabulary::{Piece, PieceType};
    use proptest::prelude::*;

    fn merge(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        Merger::new(tokenizer, text).encode(&mut ids);
        ids
    }

    /// The rule read aloud: find the best pair, the leftmost on ties, and join it, over and over.
    fn merge_slowly(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let mut best: Option<(f32, usize)> = None;
            for left in 1..symbols.len() {
                let joined = symbols[left - 1].clone() + &symbols[left];
                if let Some(score) = tokenizer.piece_id(&joined).map(|id| tokenizer.score(id))
                    && best.is_none_or(|(highest, _)| score > highest)
                {
                    best = Some((score, left - 1));
                }
            }
            let Some((_, left)) = best else { break };
            let right = symbols.remove(left + 1);
            symbols[left] += &right;
        }
        let bytes = tokenizer.byte_ids.as_ref().expect("bytes");
        let ids = symbols.iter().flat_map(|symbol| {
            let as_bytes = || symbol.bytes().map(|b| bytes[b as usize]).collect();
            tokenizer
                .piece_id(symbol)
                .map_or_else(as_bytes, |id| vec![id])
        });
        ids.collect()
    }

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let one =
            ("[ab\u{e9}]{1,5}", -4i8..=0).prop_map(|(text, score)| piece(&text, score.into()));
        prop::collection::vec(one, 0..30)
    }

    proptest! {
        #[test]
        fn joins_the_best_pair_first(pieces in pieces(), text in "[abc\u{e9}]{0,40}") {
            let tokenizer = Tokenizer::new(vocabulary(pieces)).expect("vocabulary");
            prop_assert_eq!(merge(&tokenizer, &text), merge_slowly(&tokenizer, &text));
        }
    }

    #[test]
    fn takes_a_long_monotonous_text() {
        let pieces = ["a", "aa", "aaaa"].map(|text| piece(text, -(text.len() as f32)));
        let tokenizer = Tokenizer::new(vocabulary(pieces.into())).expect("vocabulary");
        let quadruple = tokenizer.piece_id("aaaa").expect("a piece");
        let ids = merge(&tokenizer, &"a".repeat(1 << 20));
        assert_eq!(ids, vec![quadruple; 1 << 18]);
    }

    #[test]
    fn leaves_user_defined_pieces_whole() {
        // No other piece is as long as the last one.
        let texts = ["a", "b", "ab", "ba", "bab", "bbbbbbb"];
        let mut pieces = Vec::from(texts.map(|text| piece(text, 0.0)));
        for user_defined in &mut pieces[4..] {
            user_defined.piece_type = PieceType::UserDefined;
        }
        let tokenizer = Tokenizer::new(vocabulary(pieces)).expect("vocabulary");
        let id = |text| tokenizer.piece_id(text).expect("a piece");
        assert_eq!(
            merge(&tokenizer, "abababba"),
            [id("a"), id("bab"), id("ab"), id("ba")]
        );
        assert_eq!(
            merge(&tokenizer, "abbbbbbbab"),
            [id("a"), id("bbbbbbb"), id("ab")]
        );
    }
}

//! SentencePiece's BPE: the rule by which characters become pieces.
//!
//! Of all neighbouring symbols whose concatenation is a piece, those with the highest score are
//! joined first, the leftmost on ties, until none is left. The text is never split into words, so
//! symbols are linked in a list and the candidates wait in a heap: `O(n log n)` for any text.
//!
//! A BPE by ranked pairs, which the `tokenizers` crate has, is another rule: two pairs that make
//! the same piece have different ranks there, and a character that is no piece cannot be joined.

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

/// Two neighbours that may be joined.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both when they met; with another length by now, the candidate is stale.
    len: usize,
    id: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// A text on its way from characters to pieces.
pub(super) struct Merger<'a> {
    tokenizer: &'a Tokenizer,
    text: &'a str,
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Candidate>,
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
        for right in 1..self.symbols.len() {
            self.propose(right - 1, right);
        }
        while let Some(candidate) = self.candidates.pop() {
            if self.is_current(&candidate) {
                self.join(&candidate);
            }
        }
        self.emit(ids);
    }

    fn propose(&mut self, left: usize, right: usize) {
        let (first, second) = (&self.symbols[left], &self.symbols[right]);
        if first.frozen || second.frozen {
            return;
        }
        let len = first.len + second.len;
        let text = &self.text[first.start..first.start + len];
        if let Some(id) = self.tokenizer.piece_id(text) {
            self.candidates.push(Candidate {
                score: self.tokenizer.score(id),
                left,
                right,
                len,
                id,
            });
        }
    }

    fn is_current(&self, candidate: &Candidate) -> bool {
        let left = self.symbols[candidate.left].len;
        let right = self.symbols[candidate.right].len;
        left > 0 && right > 0 && left + right == candidate.len
    }

    fn join(&mut self, candidate: &Candidate) {
        let &Candidate {
            left, right, len, ..
        } = candidate;
        let next = self.symbols[right].next;
        self.symbols[right].len = 0;
        self.symbols[left].len = len;
        self.symbols[left].id = Some(candidate.id);
        self.symbols[left].next = next;
        if let Some(previous) = self.symbols[left].previous {
            self.propose(previous, left);
        }
        if let Some(next) = next {
            self.symbols[next].previous = Some(left);
            self.propose(left, next);
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

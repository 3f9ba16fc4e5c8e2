//! Finds tokens by their spelling in a text, before pieces are merged.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::vocabulary::{AddedToken, Vocabulary};
use crate::error::{Error, Result};
use crate::gguf::names::tokenizer as key;

/// Bytes of all spellings: ten thousands of tokens. A byte takes some 40 of memory.
const MAX_BYTES: usize = 1 << 20;

/// The spellings of some tokens, to be searched for all at once.
#[derive(Clone, Debug)]
pub(super) struct Spellings {
    searcher: AhoCorasick,
    /// The token of each pattern, and what it takes away from the text around it.
    tokens: Vec<AddedToken>,
}

/// A token found in a text.
pub(super) struct Found {
    /// Which.
    pub id: u32,
    /// What it replaces: its spelling, and the spaces that it takes away on either side.
    pub range: Range<usize>,
}

impl Spellings {
    /// The spellings of `ids`; empty ones are never found, and of equal ones the first counts.
    pub fn new(vocabulary: &Vocabulary, ids: impl Iterator<Item = u32>) -> Result<Self> {
        let spelling = |id: u32| vocabulary.pieces[id as usize].text.as_str();
        let ids: Vec<u32> = ids.filter(|&id| !spelling(id).is_empty()).collect();
        let n_bytes: usize = ids.iter().map(|&id| spelling(id).len()).sum();
        if n_bytes > MAX_BYTES {
            return Err(Error::model(format!(
                "control and added tokens have {n_bytes} bytes, more than the {MAX_BYTES} that can be \
                 searched for"
            ))
            .in_key(key::TOKENS));
        }
        let searcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            // The smallest, which is built in a time and memory proportional to the spellings.
            .kind(Some(AhoCorasickKind::NoncontiguousNFA))
            .build(ids.iter().map(|&id| spelling(id)))
            .map_err(|e| {
                Error::model(format!(
                    "control and added tokens cannot be searched for: {e}"
                ))
                .in_key(key::TOKENS)
                .caused_by(e)
            })?;
        let tokens = ids.into_iter().map(|id| AddedToken {
            id,
            ..vocabulary.added_token(id).copied().unwrap_or_default()
        });
        Ok(Spellings {
            searcher,
            tokens: tokens.collect(),
        })
    }

    /// Every token in `text`, from left to right: the first there is, the longest where several
    /// begin together.
    pub fn find<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Found> + 'a {
        let mut end = 0;
        self.searcher.find_iter(text).filter_map(move |found| {
            let token = self.tokens[found.pattern().as_usize()];
            let mut range = found.range();
            if range.start < end {
                // It begins with a space that the token before took away.
                return None;
            }
            if token.strips_left {
                range.start = end + text[end..range.start].trim_end().len();
            }
            if token.strips_right {
                range.end = text.len() - text[range.end..].trim_start().len();
            }
            end = range.end;
            Some(Found {
                id: token.id,
                range,
            })
        })
    }
}

//! Prompt-lookup decoding: drafts the next tokens from earlier text.
//!
//! Answers repeat their questions and themselves. If the last tokens occurred before, the tokens that
//! followed then are a draft. The model computes the draft together with the current token, which takes
//! little longer than that token alone. Each drafted token that the model would have chosen saves a
//! pass. The chosen tokens and their logits do not change.

/// Tokens of a draft where nobody says how many: with the one at hand, as many as are computed
/// together in one go.
const DEFAULT_TOKENS: usize = 3;
/// The most tokens of a draft: with the one at hand, still computed as single tokens are, to the bit.
pub(super) const MAX_TOKENS: usize = 7;
/// The longest and the shortest end of the text that is looked up.
const ENDS: std::ops::RangeInclusive<usize> = 3..=6;
/// Drafted tokens after which it is judged whether drafts pay.
const TRIAL: usize = 24;

/// Drafts, and how good they were.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Tokens of a draft.
    most: usize,
    /// Whether to stop where drafts do not pay.
    may_stop: bool,
    /// What was drafted and not chosen yet.
    pending: Vec<u32>,
    n_drafted: usize,
    n_accepted: usize,
}

impl Lookup {
    /// Drafts of `wanted` tokens, or of as many as pay.
    pub fn new(wanted: Option<usize>) -> Self {
        Lookup {
            most: wanted.unwrap_or(DEFAULT_TOKENS).min(MAX_TOKENS),
            may_stop: wanted.is_none(),
            pending: Vec::with_capacity(MAX_TOKENS),
            n_drafted: 0,
            n_accepted: 0,
        }
    }

    /// Tokens drafted, and how many of these were chosen.
    pub fn counts(&self) -> (usize, usize) {
        (self.n_drafted, self.n_accepted)
    }

    /// Whether `id`, just chosen, is what the draft said, and is computed already.
    pub fn confirms(&mut self, id: u32) -> bool {
        if self.pending.first() != Some(&id) {
            return false;
        }
        self.pending.remove(0);
        self.n_accepted += 1;
        true
    }

    /// Forgets what was drafted and not chosen; how many tokens that were.
    pub fn forget(&mut self) -> usize {
        let n_pending = self.pending.len();
        self.pending.clear();
        n_pending
    }

    /// Drafts up to `room` tokens that could follow `ids`; what was pending is forgotten.
    pub fn draft(&mut self, ids: &[u32], room: usize) -> &[u32] {
        self.pending.clear();
        let does_not_pay = self.n_drafted >= TRIAL && 3 * self.n_accepted < self.n_drafted;
        if !(self.may_stop && does_not_pay) {
            let found = continuation(ids).unwrap_or_default();
            let n = self.most.min(room).min(found.len());
            self.pending.extend_from_slice(&found[..n]);
            self.n_drafted += n;
        }
        &self.pending
    }
}

/// What followed the last time that `ids` went as it does at its end: the longest such end counts.
fn continuation(ids: &[u32]) -> Option<&[u32]> {
    let find = |len: usize| {
        let (before, end) = ids.split_at_checked(ids.len().checked_sub(len)?)?;
        let mut places = (len..ids.len()).rev();
        let after = places.find(|&after| ids[after - len..after] == *end)?;
        (!before.is_empty()).then_some(&ids[after..])
    };
    ENDS.rev().find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_latest_end_is_looked_up() {
        assert_eq!(continuation(&[]), None);
        assert_eq!(continuation(&[1, 2, 3]), None);
        assert_eq!(continuation(&[1, 2, 9, 1, 2]), None, "too short an end");
        let ids = [1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3];
        assert_eq!(continuation(&ids), Some(&[8, 1, 2, 3][..]));
        let ids = [0, 1, 2, 3, 7, 5, 1, 2, 3, 8, 0, 1, 2, 3];
        assert_eq!(continuation(&ids).unwrap()[0], 7, "four tokens beat three");
        assert_eq!(continuation(&[4, 4, 4, 4]), Some(&[4][..]));
    }

    #[test]
    fn drafts_are_confirmed_token_by_token() {
        let mut lookup = Lookup::new(Some(2));
        let ids = [1, 2, 3, 7, 8, 9, 1, 2, 3];
        assert_eq!(lookup.draft(&ids, 5), [7, 8]);
        assert!(lookup.confirms(7));
        assert!(!lookup.confirms(9));
        assert_eq!(lookup.forget(), 1);
        assert!(!lookup.confirms(8));
        assert_eq!(lookup.draft(&ids, 1), [7]);
        assert!(lookup.draft(&ids, 0).is_empty());
        assert_eq!(lookup.counts(), (3, 1));
        assert!(Lookup::new(Some(0)).draft(&ids, 5).is_empty());
    }

    #[test]
    fn what_does_not_pay_is_given_up() {
        let mut lookup = Lookup::new(None);
        let ids = [1, 2, 3, 7, 8, 9, 1, 2, 3];
        for _ in 0..TRIAL {
            lookup.draft(&ids, 7);
        }
        assert_eq!(lookup.counts().0, TRIAL);
    }
}

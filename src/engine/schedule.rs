//! What a step computes: a function of what each request needs, and of nothing else.

/// Requests that may be computed together at most.
pub const MAX_TOGETHER: usize = 32;

/// Bounds of a step, and of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Requests that are computed together, up to [`MAX_TOGETHER`].
    pub together: usize,
    /// Positions of prompts in a step while there are answers, which wait for them.
    pub rows_beside_answers: usize,
    /// Positions of prompts in a step otherwise.
    pub rows: usize,
    /// Blocks of the vision tower in a step while there are answers.
    pub blocks_beside_answers: usize,
    /// Blocks in a step otherwise, between which a request can be cancelled.
    pub blocks: usize,
    /// Ended requests whose positions are kept for those that begin like them.
    pub kept: usize,
    /// Bytes of the caches of all requests, kept ones too, used or not; `None` is what the machine has when
    /// the engine is made.
    pub cache_bytes: Option<u64>,
}

impl Default for StepLimits {
    /// A step beside answers takes some half a second on two cores for the released model: positions
    /// of prompts are computed at about 120 a second, a block takes 30 ms.
    fn default() -> Self {
        StepLimits {
            together: 1,
            rows_beside_answers: 64,
            rows: 512,
            blocks_beside_answers: 4,
            blocks: 6,
            kept: 2,
            cache_bytes: None,
        }
    }
}

impl StepLimits {
    /// `together` requests of whom nobody waits for the next word: pictures and prompts are computed in
    /// as few steps as there can be.
    pub fn for_throughput(together: usize) -> Self {
        StepLimits {
            together,
            rows_beside_answers: 512,
            blocks_beside_answers: usize::MAX,
            blocks: usize::MAX,
            ..StepLimits::default()
        }
    }
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Blocks of a picture.
    Picture,
    /// So many positions of its prompt.
    Prompt(usize),
    /// The next token of its answer.
    Answer,
    /// Nothing any more.
    Ended,
}

/// What a step computes besides every answer's next token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Tokens that each answer may draft. Rows that several answers fill leave nothing to be gained.
    pub drafts: usize,
    /// A piece of what else there is to do.
    pub share: Share,
}

/// A piece of a picture or of prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// There are answers alone.
    Nothing,
    /// Blocks of the picture of a request, given by its number.
    Blocks {
        /// Which request.
        of: usize,
        /// How many.
        n: usize,
    },
    /// Positions of the prompts of requests, given by number: how many of each.
    Rows(Vec<(usize, usize)>),
}

/// Tokens of a draft where an answer is alone.
const DRAFTS_ALONE: usize = 7;

/// What the next step computes for requests in these states, the oldest first.
pub fn schedule(states: &[State], limits: &StepLimits) -> Step {
    let n_answers = states
        .iter()
        .filter(|&&state| state == State::Answer)
        .count();
    let (n_blocks, n_rows) = match n_answers {
        0 => (limits.blocks, limits.rows),
        _ => (limits.blocks_beside_answers, limits.rows_beside_answers),
    };
    Step {
        drafts: if n_answers == 1 { DRAFTS_ALONE } else { 0 },
        share: share(states, n_blocks.max(1), n_rows.max(1)),
    }
}

/// The oldest request that has something to be computed has its turn; if that is a prompt, those of
/// the next ones fill the rows that it leaves.
fn share(states: &[State], n_blocks: usize, n_rows: usize) -> Share {
    let is_open = |state: &State| matches!(state, State::Picture | State::Prompt(_));
    let Some(oldest) = states.iter().position(is_open) else {
        return Share::Nothing;
    };
    if states[oldest] == State::Picture {
        return Share::Blocks {
            of: oldest,
            n: n_blocks,
        };
    }
    let mut n_left = n_rows;
    let mut shares = Vec::new();
    for (index, state) in states.iter().enumerate() {
        let State::Prompt(n) = *state else {
            continue;
        };
        let n = n.min(n_left);
        if n > 0 {
            shares.push((index, n));
            n_left -= n;
        }
    }
    Share::Rows(shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: StepLimits = StepLimits {
        together: 8,
        rows_beside_answers: 64,
        rows: 512,
        blocks_beside_answers: 4,
        blocks: 6,
        kept: 2,
        cache_bytes: None,
    };

    #[test]
    fn answers_go_on_beside_whatever_comes() {
        use State::{Answer, Ended, Picture, Prompt};
        let share = |states: &[State]| schedule(states, &LIMITS).share;
        assert_eq!(share(&[]), Share::Nothing);
        assert_eq!(share(&[Answer, Ended]), Share::Nothing);
        assert_eq!(share(&[Picture, Prompt(9)]), Share::Blocks { of: 0, n: 6 });
        assert_eq!(share(&[Answer, Picture]), Share::Blocks { of: 1, n: 4 });
        assert_eq!(share(&[Prompt(9), Picture]), Share::Rows(vec![(0, 9)]));
        assert_eq!(
            share(&[Prompt(100), Prompt(500)]),
            Share::Rows(vec![(0, 100), (1, 412)])
        );
        assert_eq!(
            share(&[Answer, Prompt(100), Prompt(5)]),
            Share::Rows(vec![(1, 64)])
        );
        assert_eq!(schedule(&[Answer], &LIMITS).drafts, 7);
        assert_eq!(schedule(&[Answer, Answer], &LIMITS).drafts, 0);
    }

    fn state() -> impl Strategy<Value = State> {
        prop_oneof![
            Just(State::Picture),
            (1usize..2000).prop_map(State::Prompt),
            Just(State::Answer),
            Just(State::Ended),
        ]
    }

    proptest! {
        /// Whatever there is, the oldest gets on, nobody gets what it does not need, and answers do
        /// not wait for more than the bounds.
        #[test]
        fn every_step_brings_the_oldest_on(states in prop::collection::vec(state(), 0..12)) {
            let step = schedule(&states, &LIMITS);
            let (most_blocks, most_rows) = match states.contains(&State::Answer) {
                true => (4, 64),
                false => (6, 512),
            };
            match step.share {
                Share::Nothing => prop_assert!(
                    !states.iter().any(|s| matches!(s, State::Picture | State::Prompt(_)))
                ),
                Share::Blocks { of, n } => {
                    prop_assert_eq!(states[of], State::Picture);
                    prop_assert!(n >= 1 && n <= most_blocks);
                    prop_assert!(!states[..of].iter().any(|s| matches!(s, State::Picture | State::Prompt(_))));
                }
                Share::Rows(shares) => {
                    let total: usize = shares.iter().map(|&(_, n)| n).sum();
                    prop_assert!(total >= 1 && total <= most_rows);
                    prop_assert!(shares.is_sorted_by(|a, b| a.0 < b.0));
                    for &(of, n) in &shares {
                        let State::Prompt(left) = states[of] else {
                            return Err(TestCaseError::fail("rows of what is no prompt"));
                        };
                        prop_assert!(n >= 1 && n <= left);
                    }
                    let first = shares[0].0;
                    prop_assert!(!states[..first].iter().any(|s| matches!(s, State::Picture | State::Prompt(_))));
                }
            }
        }
    }
}

//! How well a model predicts a text, and how far its predictions are from a reference's.
//!
//! The text is cut into windows, each a sequence of its own. After every position of a window but
//! the last, the model gives a distribution of the token that comes next; perplexity is the
//! exponential of the mean negative logarithm of what it gives to the token that does.
//!
//! Only the logits of a few positions are in memory at a time: the model and the reference are
//! asked for those of the same positions by turns.

pub(crate) mod statistics;

use std::fmt;
use std::str::FromStr;

pub use statistics::{ReferenceComparison, Statistics};

use crate::error::{Error, Result};
use crate::kernels::float::all_finite;
use crate::model::Model;
use crate::session::{LOGIT_ROWS, Session};

/// Fewest ids of a window: one to predict from, and one to predict.
pub const MIN_WINDOW: usize = 2;

/// How the model computes a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All positions together, as a prompt.
    #[default]
    Batch,
    /// One position after the other, as an answer.
    Single,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Batch => "batch",
            Mode::Single => "single",
        })
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "batch" => Ok(Mode::Batch),
            "single" => Ok(Mode::Single),
            _ => Err(Error::usage(format!(
                "unknown mode '{text}' (expected batch or single)"
            ))),
        }
    }
}

/// Cuts `ids` into windows of `len`, each behind the token `first` if there is one. What is left at
/// the end is a shorter window, or nothing where that has no id to predict.
///
/// # Panics
/// Where `len` is less than [`MIN_WINDOW`].
pub fn windows(ids: &[u32], len: usize, first: Option<u32>) -> Vec<Vec<u32>> {
    assert!(len >= MIN_WINDOW);
    let n_given = len - usize::from(first.is_some());
    ids.chunks(n_given)
        .map(|given| first.into_iter().chain(given.iter().copied()).collect())
        .filter(|window: &Vec<u32>| window.len() >= MIN_WINDOW)
        .collect()
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Measurement<'m> {
    /// The model whose predictions count.
    pub model: &'m Model,
    /// What they are compared with; it always computes a window together.
    pub reference: Option<&'m Model>,
    /// How the model computes a window.
    pub mode: Mode,
}

impl<'m> Measurement<'m> {
    /// Measures over `windows`. After every few predictions, `progress` is told what has come of
    /// them.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) where the two have vocabularies of different sizes, or
    /// give logits that are not finite; [`Kind::Input`](crate::Kind::Input) for ids outside the
    /// vocabulary.
    pub fn run(
        &self,
        windows: &[Vec<u32>],
        progress: &mut dyn FnMut(&Statistics),
    ) -> Result<Statistics> {
        self.check_vocabularies()?;
        let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
        let mut model = Session::new(self.model, longest);
        let mut reference = self.reference.map(|model| Session::new(model, longest));
        let mut statistics = Statistics::default();
        for window in windows {
            model.truncate(0);
            if let Some(reference) = &mut reference {
                reference.truncate(0);
            }
            let batch = model.batch();
            for (i, ids) in window.chunks(batch).enumerate() {
                // Nothing comes after the last id of the window.
                let next = &window[(i * batch + 1).min(window.len())..];
                let next = &next[..ids.len().min(next.len())];
                let piece = WindowPiece { ids, next };
                self.piece(
                    &piece,
                    &mut model,
                    reference.as_mut(),
                    &mut statistics,
                    progress,
                )?;
            }
            statistics.end_window();
        }
        Ok(statistics)
    }

    fn check_vocabularies(&self) -> Result<()> {
        let size = |model: &Model| model.config().decoder.vocab_size;
        match self.reference {
            Some(reference) if size(reference) != size(self.model) => Err(Error::model(format!(
                "the reference has a vocabulary of {}, but the model has one of {}; give two files of the same model",
                size(reference),
                size(self.model)
            ))),
            _ => Ok(()),
        }
    }

    /// Computes positions that fit together, and counts their predictions.
    fn piece(
        &self,
        piece: &WindowPiece,
        model: &mut Session,
        mut reference: Option<&mut Session>,
        statistics: &mut Statistics,
        progress: &mut dyn FnMut(&Statistics),
    ) -> Result<()> {
        // Each model has threads of its own, which work while the other's do not.
        if let Some(reference) = &mut reference {
            on_threads(reference, |session| session.extend_together(piece.ids))?;
        }
        if self.mode == Mode::Batch {
            on_threads(model, |session| session.extend_together(piece.ids))?;
        }
        for first in (0..piece.next.len()).step_by(LOGIT_ROWS) {
            let rows = first..(first + LOGIT_ROWS).min(piece.next.len());
            let mut theirs = reference.as_deref_mut().map(|session| {
                let vocab_size = session.model().config().decoder.vocab_size;
                let logits = on_threads(session, |session| session.logits_after(rows.clone()));
                logits.chunks_exact(vocab_size)
            });
            let mut count = |logits: &[f32], row: usize| {
                let theirs = theirs.as_mut().and_then(Iterator::next);
                let added = statistics.add(piece.next[row], logits, theirs);
                added.map_err(|error| match self.reference {
                    Some(reference) if all_finite(logits) => reference.blame(error),
                    _ => self.model.blame(error),
                })
            };
            match self.mode {
                Mode::Batch => {
                    let vocab_size = self.model.config().decoder.vocab_size;
                    let logits = on_threads(model, |session| session.logits_after(rows.clone()));
                    for (row, logits) in rows.zip(logits.chunks_exact(vocab_size)) {
                        count(logits, row)?;
                    }
                }
                Mode::Single => {
                    for row in rows {
                        on_threads(model, |session| session.step(piece.ids[row]))?;
                        count(model.logits(), row)?;
                    }
                }
            }
            progress(statistics);
        }
        Ok(())
    }
}

/// Positions of a window that are computed together.
struct WindowPiece<'a> {
    ids: &'a [u32],
    /// What comes after each, but for the end of the window.
    next: &'a [u32],
}

/// Does `work` inside the threads of the session's model.
fn on_threads<'s, R: Send>(
    session: &'s mut Session,
    work: impl FnOnce(&'s mut Session) -> R + Send,
) -> R {
    let model = session.model().clone();
    model.compute().threads.enter(|| work(session))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_all_ids_but_one_left_alone() {
        assert_eq!(
            windows(&[1, 2, 3, 4, 5], 3, None),
            [vec![1, 2, 3], vec![4, 5]]
        );
        assert_eq!(windows(&[1, 2, 3, 4], 3, None), [[1, 2, 3]]);
        assert_eq!(windows(&[1], 3, None), Vec::<Vec<u32>>::new());
        assert_eq!(windows(&[5, 6, 7], 3, Some(1)), [vec![1, 5, 6], vec![1, 7]]);
        assert_eq!(windows(&[], 3, Some(1)), Vec::<Vec<u32>>::new());
        assert_eq!(windows(&[5, 6], 2, Some(1)), [[1, 5], [1, 6]]);
    }

    #[test]
    fn modes_come_back() {
        for mode in [Mode::Batch, Mode::Single] {
            assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
        }
        assert!("both".parse::<Mode>().is_err());
    }
}

//! Which subjects are computed together.

use std::sync::mpsc;

use super::subjects::Named;
use crate::error::Result;
use crate::score::{ScoreSubject, Scorer};

/// A subject, and its pictures if they could be read.
pub type Loaded = (Named, Result<ScoreSubject>);

/// Subjects that are computed together, as they come.
pub struct Groups {
    loaded: mpsc::Receiver<Loaded>,
    /// One that did not fit the last group.
    kept: Option<Loaded>,
}

impl Groups {
    pub fn new(loaded: mpsc::Receiver<Loaded>) -> Self {
        Groups { loaded, kept: None }
    }

    /// Waits for a subject; those that are there by then are computed with it, up to
    /// [`Scorer::TOGETHER`] pictures.
    pub fn next(&mut self) -> Option<Vec<Loaded>> {
        let first = self.kept.take().or_else(|| self.loaded.recv().ok())?;
        let mut n_pictures = n_pictures(&first);
        let mut group = vec![first];
        while let Ok(loaded) = self.loaded.try_recv() {
            n_pictures += self::n_pictures(&loaded);
            if n_pictures > Scorer::TOGETHER {
                self.kept = Some(loaded);
                break;
            }
            group.push(loaded);
        }
        Some(group)
    }
}

/// Pictures that are computed for a subject.
fn n_pictures((_, subject): &Loaded) -> usize {
    match subject {
        Ok(ScoreSubject::Picture(_)) => 1,
        Ok(ScoreSubject::Clip(frames)) => frames.len(),
        Err(_) => 0,
    }
}

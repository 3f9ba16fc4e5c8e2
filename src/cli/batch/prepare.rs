//! Reads rows and decodes their pictures on threads of their own, ahead of the computation.

use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, PoisonError};

use super::output::DoneRows;
use super::rows::{Asking, Row, Rows};
use super::{Defaults, Shard};
use crate::cli::interrupt;
use crate::error::Result;
use crate::image::Reading;
use crate::request::{Assistant, Request, Source};
use crate::score::Scoring;

/// Threads that decode at most. They rest while as many pictures wait as they may; small models need
/// several to be kept busy, and each holds a whole picture.
const MAX_DECODERS: usize = 4;

/// A row whose pictures are decoded.
pub struct Prepared {
    /// Its place among the rows that are done, from 0.
    pub place: usize,
    pub row: Row,
    /// What it asks, or why that cannot be.
    pub request: Result<Request>,
    /// What the files of its pictures lack.
    pub damage: Vec<String>,
}

/// Reads rows and decodes their pictures; may be run on several threads.
pub struct Preparing<'a> {
    pub assistant: &'a Assistant,
    pub defaults: &'a Defaults,
    pub scoring: &'a Option<Scoring>,
    pub shard: Option<Shard>,
    pub reading: Mutex<ReadingRows>,
}

/// How far the rows are read.
pub struct ReadingRows {
    pub rows: Rows,
    pub done: DoneRows,
    n_read: usize,
    n_taken: usize,
    is_over: bool,
}

impl ReadingRows {
    pub fn new(rows: Rows, done: DoneRows) -> Self {
        ReadingRows {
            rows,
            done,
            n_read: 0,
            n_taken: 0,
            is_over: false,
        }
    }

    /// The next row that is still to be done, and its place among these.
    fn next(
        &mut self,
        defaults: &Defaults,
        shard: Option<Shard>,
    ) -> Result<Option<(usize, Asking)>> {
        while !self.is_over && !interrupt::is_requested() {
            let read = self.rows.next(&mut self.n_read, defaults, shard);
            self.is_over = !matches!(read, Ok(Some(_)));
            let Some((row, request)) = read? else {
                break;
            };
            if self.done.takes(row.key) {
                self.n_taken += 1;
                return Ok(Some((self.n_taken - 1, (row, request))));
            }
        }
        Ok(None)
    }
}

impl Preparing<'_> {
    /// How many threads are to run it.
    pub fn n_decoders(&self) -> usize {
        let n_threads = self.assistant.model().compute().threads.count();
        n_threads.min(MAX_DECODERS)
    }

    /// Hands over rows until there are none, or nobody takes them.
    pub fn run(&self, sender: &SyncSender<Prepared>) -> Result<()> {
        loop {
            let next = {
                let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
                reading.next(self.defaults, self.shard)?
            };
            let Some((place, (row, request))) = next else {
                return Ok(());
            };
            let mut damage = Vec::new();
            let request = request.and_then(|request| self.decode(request, &mut damage));
            let prepared = Prepared {
                place,
                row,
                request,
                damage,
            };
            if interrupt::is_requested() || sender.send(prepared).is_err() {
                return Ok(());
            }
        }
    }

    fn decode(&self, mut request: Request, damage: &mut Vec<String>) -> Result<Request> {
        let (aspect, reading) = match self.scoring {
            Some(scoring) => (
                Some(scoring.aspect.unwrap_or(scoring.rule.aspect())),
                scoring.reading,
            ),
            None => (request.aspect, Reading::default()),
        };
        for source in &mut request.pictures {
            let pixels = self.assistant.pixels_beside(source, aspect, reading)?;
            damage.extend(pixels.damage().map(str::to_owned));
            *source = Source::Pixels(pixels);
        }
        Ok(request)
    }
}

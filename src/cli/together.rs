//! Requests are taken as there is room for them, computed together, and their answers handed over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::error::Result;
use crate::request::{Answer, Listener, Request};

/// Where requests come from, and where their answers go.
pub trait Requests {
    /// What a request is about.
    type Row;

    /// The next request; if `may_wait`, as soon as there is one. None where none may begin now.
    ///
    /// # Errors
    /// What ends all.
    fn next(&mut self, may_wait: bool) -> Result<Option<(Self::Row, Request)>>;

    /// Hears of the request about `row` while it is computed, and says whether it should go on.
    fn listener(&self, row: &Self::Row) -> Box<Listener<'static>>;

    /// Takes what came of a request, and how long after it began.
    ///
    /// # Errors
    /// What ends all.
    fn end(&mut self, row: Self::Row, answer: Result<Answer>, took: Duration) -> Result<()>;

    /// Is called between any two steps; whether to go on.
    ///
    /// # Errors
    /// What ends all.
    fn goes_on(&mut self) -> Result<bool>;
}

/// Computes all requests, as many at once as the engine takes.
///
/// # Errors
/// Those of `requests`; what fails of a request is its outcome.
pub fn compute<R: Requests>(engine: &mut Engine, requests: &mut R) -> Result<()> {
    let mut running: BTreeMap<u64, (R::Row, Instant)> = BTreeMap::new();
    let mut id = 0;
    loop {
        while engine.has_room()
            && let Some((row, request)) = requests.next(engine.is_empty())?
        {
            id += 1;
            match engine.begin(id, 0, request, requests.listener(&row)) {
                Ok(()) => {
                    running.insert(id, (row, Instant::now()));
                }
                Err(e) => requests.end(row, Err(e), Duration::ZERO)?,
            }
        }
        if !requests.goes_on()? || engine.is_empty() {
            return Ok(());
        }
        for (id, answer) in engine.step() {
            if let Some((row, start)) = running.remove(&id) {
                requests.end(row, answer, start.elapsed())?;
            }
        }
    }
}

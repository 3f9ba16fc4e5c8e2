//! Requests are read and their pictures decoded on threads of their own, ahead of those that are
//! computed.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, ScopedJoinHandle};

use crate::error::{Error, Kind, Result};
use crate::panics::caught;
use crate::request::{Assistant, Request, Source};
use crate::timing::Timings;

/// Threads that decode at most. They rest while as many pictures wait as they may; small models need
/// several to be kept busy, and each holds a whole picture.
const MAX_DECODERS: usize = 4;

/// A request whose pictures are decoded.
pub struct Prepared<R> {
    /// Its place among all, from 0; batches write in that order.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub place: usize,
    /// What it is about.
    pub row: R,
    /// What is asked, or why that cannot be.
    pub request: Result<Request>,
    /// What the files of its pictures lack.
    pub damage: Vec<String>,
    /// What decoding took.
    pub timings: Timings,
}

/// A request, or why there is none, and what it is about.
pub type Asking<R> = (R, Result<Request>);

/// Decodes the pictures of `feed`, whose errors end it.
pub struct Ahead<'a, F> {
    assistant: &'a Assistant,
    feed: Mutex<Numbered<F>>,
    /// Taken alone for a picture that memory is too short for while others are decoded.
    memory: RwLock<()>,
    order: Option<HandoverOrder>,
}

struct Numbered<F> {
    feed: F,
    n_taken: usize,
    /// Whether an error has ended it.
    is_over: bool,
}

impl<'a, F, R> Ahead<'a, F>
where
    F: Iterator<Item = Result<Asking<R>>> + Send,
    R: Send,
{
    /// Hands requests over as soon as their pictures are decoded.
    pub fn new(assistant: &'a Assistant, feed: F) -> Self {
        Ahead {
            assistant,
            feed: Mutex::new(Numbered {
                feed,
                n_taken: 0,
                is_over: false,
            }),
            memory: RwLock::default(),
            order: None,
        }
    }

    /// Hands requests over in the order in which they come.
    pub fn in_order(assistant: &'a Assistant, feed: F) -> Self {
        Ahead {
            order: Some(HandoverOrder::default()),
            ..Ahead::new(assistant, feed)
        }
    }

    /// Decodes while `work` takes what is decoded; up to `most` requests wait for it. Returns what
    /// `work` does, as soon as the pictures are decoded that are under way then.
    ///
    /// # Errors
    /// Those of `work`, then the one that ended the feed.
    pub fn run<T>(
        &self,
        most: usize,
        work: impl FnOnce(Receiver<Prepared<R>>, &Decoders) -> Result<T>,
    ) -> Result<T> {
        let (sender, prepared) = sync_channel(most);
        let n_threads = self.assistant.model().compute().threads.count();
        thread::scope(|scope| {
            let mut decoders = Vec::new();
            for _ in 0..n_threads.min(MAX_DECODERS) {
                let sender = sender.clone();
                let decode = move || self.decode_all(&sender);
                match thread::Builder::new().spawn_scoped(scope, decode) {
                    Ok(decoder) => decoders.push(decoder),
                    // One is enough.
                    Err(_) if !decoders.is_empty() => break,
                    Err(e) => {
                        return Err(Error::new(
                            Kind::Io,
                            format!("cannot start a thread that reads pictures: {e}"),
                        ));
                    }
                }
            }
            let decoders = Decoders(decoders);
            drop(sender);
            // They end when nobody takes what they have.
            let worked = work(prepared, &decoders);
            let read = decoders.join();
            worked.and_then(|worked| read.map(|()| worked))
        })
    }

    /// What it was made of.
    pub fn into_feed(self) -> F {
        let numbered = self.feed.into_inner();
        numbered.unwrap_or_else(PoisonError::into_inner).feed
    }

    /// Hands requests over until there are none, or nobody takes them.
    fn decode_all(&self, sender: &SyncSender<Prepared<R>>) -> Result<()> {
        while let Some((place, asking)) = self.take() {
            // Those after it must not wait for one that ended the feed or this thread.
            let turn = self
                .order
                .as_ref()
                .map(|order| HandoverTurn { order, place });
            let (row, request) = asking?;
            let prepared = self.prepare(place, row, request);
            if let Some(turn) = &turn {
                drop(turn.wait());
            }
            if sender.send(prepared).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn take(&self) -> Option<(usize, Result<Asking<R>>)> {
        let mut numbered = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        if numbered.is_over {
            return None;
        }
        // It stays so where the feed panics.
        numbered.is_over = true;
        let asking = numbered.feed.next()?;
        numbered.is_over = asking.is_err();
        numbered.n_taken += 1;
        Some((numbered.n_taken - 1, asking))
    }

    fn prepare(&self, place: usize, row: R, request: Result<Request>) -> Prepared<R> {
        let (mut damage, mut timings) = (Vec::new(), Timings::default());
        let request =
            request.and_then(|request| caught(|| self.decode(request, &mut damage, &mut timings)));
        Prepared {
            place,
            row,
            request,
            damage,
            timings,
        }
    }

    fn decode(
        &self,
        mut request: Request,
        damage: &mut Vec<String>,
        timings: &mut Timings,
    ) -> Result<Request> {
        let (aspect, reading) = (request.aspect, request.reading);
        for source in &mut request.pictures {
            let mut decode = || {
                let assistant = self.assistant;
                assistant.timed_pixels(source, aspect, reading, timings)
            };
            let beside = self.memory.read().unwrap_or_else(PoisonError::into_inner);
            let mut pixels = decode();
            drop(beside);
            if matches!(&pixels, Err(e) if e.kind() == Kind::Capacity) {
                let _alone = self.memory.write().unwrap_or_else(PoisonError::into_inner);
                pixels = decode();
            }
            let pixels = pixels?;
            damage.extend(pixels.damage().map(str::to_owned));
            *source = Source::Pixels(pixels);
        }
        Ok(request)
    }
}

/// The threads that decode.
pub struct Decoders<'scope>(Vec<ScopedJoinHandle<'scope, Result<()>>>);

impl Decoders<'_> {
    /// Whether all have ended.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub fn have_ended(&self) -> bool {
        self.0.iter().all(ScopedJoinHandle::is_finished)
    }

    fn join(self) -> Result<()> {
        let mut read = Ok(());
        for decoder in self.0 {
            read = read.and(decoder.join().unwrap_or_else(|_| {
                let message = "reading pictures ended by a mistake in this program";
                Err(Error::new(Kind::Bug, message))
            }));
        }
        read
    }
}

/// Whose turn it is to hand over.
#[derive(Default)]
struct HandoverOrder {
    /// The place of the one whose turn it is.
    next: Mutex<usize>,
    passed: Condvar,
}

/// The turn of the request in a place, passed on when it is dropped, however that comes.
struct HandoverTurn<'o> {
    order: &'o HandoverOrder,
    place: usize,
}

impl HandoverTurn<'_> {
    fn wait(&self) -> MutexGuard<'_, usize> {
        let next = self.order.next.lock();
        let next = next.unwrap_or_else(PoisonError::into_inner);
        let is_early = |next: &mut usize| *next != self.place;
        let waited = self.order.passed.wait_while(next, is_early);
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HandoverTurn<'_> {
    fn drop(&mut self) {
        *self.wait() += 1;
        self.order.passed.notify_all();
    }
}

#[cfg(all(test, feature = "tiny"))]
mod tests {
    use std::num::NonZeroUsize;
    use std::path::PathBuf;

    use super::*;
    use crate::ops::Compute;
    use crate::request::Prompt;

    const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets");

    fn assistant() -> Assistant {
        let compute = Compute::new(NonZeroUsize::new(4).unwrap()).unwrap();
        Assistant::new(&crate::builtin::open().unwrap(), compute).unwrap()
    }

    /// Questions without a picture, about one and about one that is not there, by turns.
    fn asking(row: usize) -> Asking<usize> {
        let file = |name: &str| Source::File(PathBuf::from(ASSETS).join(name));
        let request = Request {
            pictures: match row % 3 {
                0 => vec![file("cat.png")],
                1 => Vec::new(),
                _ => vec![file("missing.png")],
            },
            ..Request::new(Prompt::Raw("x".into()))
        };
        (row, Ok(request))
    }

    #[test]
    fn are_handed_over_in_order_whatever_each_takes() {
        let assistant = assistant();
        let ahead = Ahead::in_order(&assistant, (0..60).map(|row| Ok(asking(row))));
        let rows = ahead.run(1, |prepared, _| {
            Ok(prepared
                .iter()
                .map(|prepared| {
                    assert_eq!(prepared.place, prepared.row);
                    assert_eq!(prepared.request.is_ok(), prepared.row % 3 != 2);
                    prepared.row
                })
                .collect::<Vec<_>>())
        });
        assert_eq!(rows.unwrap(), (0..60).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_or_a_mistake_ends_it() {
        let assistant = assistant();
        for ahead in [Ahead::new, Ahead::in_order] {
            for (is_panic, kind) in [(false, Kind::Io), (true, Kind::Bug)] {
                let feed: Box<dyn Iterator<Item = _> + Send> =
                    Box::new((0..20).map(move |row| match (row, is_panic) {
                        (7, false) => Err(Error::new(Kind::Io, "no more")),
                        (7, true) => panic!("as a test wants"),
                        _ => Ok(asking(row)),
                    }));
                let run = ahead(&assistant, feed).run(1, |prepared, _| Ok(prepared.iter().count()));
                assert_eq!(run.unwrap_err().kind(), kind);
            }
        }
    }

    #[test]
    fn ends_where_nobody_takes_what_it_has() {
        let assistant = assistant();
        for ahead in [Ahead::new, Ahead::in_order] {
            let feed: Box<dyn Iterator<Item = _> + Send> =
                Box::new((0..).map(|row| Ok(asking(row))));
            let first = ahead(&assistant, feed).run(1, |prepared, _| {
                prepared
                    .recv()
                    .map_err(|_| Error::new(Kind::Bug, "there is one"))
            });
            assert!(first.is_ok());
        }
    }
}

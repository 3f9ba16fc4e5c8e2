//! Request bodies, within bounds, and response bodies, whole or in pieces.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::mpsc::Receiver;

use super::refusal::Refusal;

/// A response's body.
#[derive(Debug)]
pub enum Outgoing {
    /// All of it, until it is taken.
    Whole(Option<Bytes>),
    /// As it comes. Whoever makes it finds the channel closed when the client is gone.
    Pieces(Receiver<Bytes>),
}

impl Outgoing {
    pub fn empty() -> Self {
        Outgoing::Whole(None)
    }
}

impl From<Vec<u8>> for Outgoing {
    fn from(bytes: Vec<u8>) -> Self {
        Outgoing::Whole((!bytes.is_empty()).then(|| bytes.into()))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Outgoing::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Outgoing::Pieces(pieces) => {
                let piece = pieces.poll_recv(cx);
                piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Outgoing::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Outgoing::Pieces(_) => SizeHint::default(),
        }
    }
}

/// How long a body may take, beside what its length takes at [`LEAST_RATE`].
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes a second that every client manages.
const LEAST_RATE: u64 = 64 << 10;

/// Reads a body of at most `most` bytes.
pub async fn read(mut body: Incoming, most: usize) -> Result<Vec<u8>, Refusal> {
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has more than {most} bytes"),
        )
    };
    let announced = body.size_hint().upper();
    if announced.is_some_and(|bytes| bytes > most as u64) {
        return Err(too_large());
    }
    let start = Instant::now();
    let mut bytes = Vec::new();
    loop {
        let allowed = PATIENCE + Duration::from_secs(bytes.len() as u64 / LEAST_RATE);
        let left = allowed.saturating_sub(start.elapsed());
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let frame = match tokio::time::timeout(left, frame).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(bytes),
            Ok(Some(Err(_))) => return Err(Refusal::bad("the body broke off")),
            Err(_) => {
                return Err(Refusal::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body came too slowly",
                ));
            }
        };
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > most - bytes.len() {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
}

//! Sends the answer of a job to the client: frames as text arrives, or one JSON object. Both send signs
//! of life during long waits.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc::{self, Sender};
use tokio::time::timeout;

use super::access::Access;
use super::admission::Admitted;
use super::body::Outgoing;
use super::dialect::Frames;
use super::queue::Progress;
use super::refusal::Refusal;
use super::routes::json_response;

/// Pieces that a slow client may be behind.
const N_BEHIND: usize = 16;
/// How long a client may take nothing of what is there for it.
const MAX_STALL: Duration = Duration::from_secs(60);

/// An answer as it comes. `heartbeat` is zero where there are no signs of life.
pub fn streamed(
    admitted: Admitted,
    mut frames: impl Frames + 'static,
    heartbeat: Duration,
    mut access: Access,
) -> Response<Outgoing> {
    let content_type = frames.content_type();
    let (sender, receiver) = mpsc::channel(N_BEHIND);
    tokio::spawn(async move {
        let Admitted {
            mut progress,
            ticket,
        } = admitted;
        let mut bytes = frames.begin();
        loop {
            if !bytes.is_empty() && !send(&sender, std::mem::take(&mut bytes)).await {
                access.left();
                break;
            }
            let next = tokio::select! {
                next = next(&mut progress, heartbeat) => next,
                // The client is gone; dropping the ticket ends the job.
                () = sender.closed() => {
                    access.left();
                    break;
                }
            };
            let (last, is_last) = match next {
                Next::Nothing => (frames.heartbeat(), false),
                Next::Progress(Progress::Text(text)) => {
                    access.first_text();
                    (frames.text(&text), false)
                }
                Next::Progress(Progress::Answered(answer)) => {
                    access.answered(&answer);
                    (frames.end(&answer), true)
                }
                Next::Progress(Progress::Failed(refusal)) => {
                    access.failed(&refusal);
                    (frames.fail(&refusal), true)
                }
                Next::Progress(Progress::Scored(_)) | Next::End => (frames.fail(&lost()), true),
            };
            bytes = last;
            if is_last {
                // Whether the client is still there makes no difference any more.
                send(&sender, bytes).await;
                break;
            }
        }
        drop(ticket);
    });
    let mut response = Response::new(Outgoing::Pieces(receiver));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        CACHE_CONTROL,
        hyper::header::HeaderValue::from_static("no-cache"),
    );
    response
}

/// An answer as one JSON object, which `finish` makes of it. Where that takes longer than
/// `heartbeat`, the head of the response is sent then, and a space each time; a failure after that
/// can no longer be told by the status.
pub async fn whole(
    mut admitted: Admitted,
    finish: impl Fn(Progress) -> Result<Value, Refusal> + Send + 'static,
    failed: impl Fn(&Refusal) -> Value + Send + 'static,
    heartbeat: Duration,
    mut access: Access,
) -> Response<Outgoing> {
    if let Some(last) = last(&mut admitted, heartbeat, &mut access).await {
        return match finish(last) {
            Ok(value) => json_response(StatusCode::OK, &value),
            Err(refusal) => {
                access.failed(&refusal);
                refused(&refusal, &failed)
            }
        };
    }
    let (sender, receiver) = mpsc::channel(N_BEHIND);
    tokio::spawn(async move {
        loop {
            if !send(&sender, b" ".to_vec()).await {
                access.left();
                return;
            }
            let last = tokio::select! {
                last = last(&mut admitted, heartbeat, &mut access) => last,
                () = sender.closed() => {
                    access.left();
                    return;
                }
            };
            if let Some(last) = last {
                let value = finish(last).unwrap_or_else(|refusal| {
                    access.failed(&refusal);
                    failed(&refusal)
                });
                send(&sender, value.to_string().into_bytes()).await;
                return;
            }
        }
    });
    let mut response = Response::new(Outgoing::Pieces(receiver));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// A refusal in a dialect's own shape.
pub fn refused(refusal: &Refusal, failed: impl Fn(&Refusal) -> Value) -> Response<Outgoing> {
    let mut response = json_response(refusal.status, &failed(refusal));
    if let Some(seconds) = refusal.retry_after_s {
        response
            .headers_mut()
            .insert(hyper::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// What a job ends with, or nothing once `heartbeat` is over.
async fn last(
    admitted: &mut Admitted,
    heartbeat: Duration,
    access: &mut Access,
) -> Option<Progress> {
    let wait = async {
        loop {
            match admitted.progress.recv().await {
                Some(Progress::Text(_)) => access.first_text(),
                Some(Progress::Answered(answer)) => {
                    access.answered(&answer);
                    return Progress::Answered(answer);
                }
                Some(Progress::Scored(scores)) => {
                    access.scored(scores.len());
                    return Progress::Scored(scores);
                }
                Some(last) => return last,
                None => return Progress::Failed(lost()),
            }
        }
    };
    match heartbeat.is_zero() {
        true => Some(wait.await),
        false => timeout(heartbeat, wait).await.ok(),
    }
}

enum Next {
    Progress(Progress),
    /// Nothing for as long as a heartbeat.
    Nothing,
    End,
}

async fn next(progress: &mut mpsc::UnboundedReceiver<Progress>, heartbeat: Duration) -> Next {
    let next = match heartbeat.is_zero() {
        true => Ok(progress.recv().await),
        false => timeout(heartbeat, progress.recv()).await,
    };
    match next {
        Ok(Some(next)) => Next::Progress(next),
        Ok(None) => Next::End,
        Err(_) => Next::Nothing,
    }
}

/// Whether the client takes a piece in time.
async fn send(sender: &Sender<Bytes>, bytes: Vec<u8>) -> bool {
    matches!(
        timeout(MAX_STALL, sender.send(bytes.into())).await,
        Ok(Ok(()))
    )
}

/// The engine ended without a word.
pub fn lost() -> Refusal {
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "the server stopped before there was an answer",
    )
}

//! Turns a question into a job. All checks happen here, before the job waits.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

use super::queue::{JobKind, Progress, Ticket};
use super::refusal::{Refusal, mistake};
use super::routes::{Arrival, Server};
use crate::request::{Pixels, Request, Source};
use crate::score::{ScoreSubject, Scoring};

/// A job that was taken.
pub struct Admitted {
    pub progress: UnboundedReceiver<Progress>,
    pub ticket: Ticket,
}

/// Makes a request ready on a thread for such work: `read` is the body's JSON to what is asked. Its
/// pictures are decoded, and whatever the model could refuse is checked.
pub async fn prepare<Q: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Server) -> Result<Q, Refusal> + Send + 'static,
) -> Result<Q, Refusal> {
    let server = server.clone();
    let (sender, done) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        // A client that has left while others were made ready is not waited for.
        if !sender.is_closed() {
            // It may leave meanwhile, too.
            let _ = sender.send(work(&server));
        }
    });
    done.await.unwrap_or_else(|_| Err(mistake()))
}

/// Decodes the pictures of a request and checks the rest of it.
pub fn ready(
    server: &Server,
    mut request: Request,
    key: Option<usize>,
) -> Result<Request, Refusal> {
    let assistant = &server.assistant;
    let pictures = std::mem::take(&mut request.pictures);
    let pictures = pictures.iter().enumerate().map(|(index, source)| {
        let pixels = assistant.pixels_beside(source, request.aspect, request.reading);
        let pixels = pixels.map_err(|e| in_picture(index, e))?;
        Ok::<_, Refusal>(Source::Pixels(of_key(server, pixels, key)))
    });
    request.pictures = pictures.collect::<Result<_, _>>()?;
    // Many tools ask for more than any context has, and mean "as many as there is room for".
    if let Some(wanted) = request.max_tokens {
        let n_prompt = assistant.n_positions(&request.prompt, request.pictures.len())?;
        let room = assistant.context(request.context)?.saturating_sub(n_prompt);
        request.max_tokens = Some(wanted.min(room.max(1)));
    }
    assistant.check(&request)?;
    Ok(request)
}

/// Decodes pictures to be rated.
pub fn ready_to_rate(
    server: &Server,
    sources: &[Source],
    scoring: &Scoring,
    key: Option<usize>,
) -> Result<Vec<ScoreSubject>, Refusal> {
    let aspect = scoring.aspect.unwrap_or(scoring.rule.aspect());
    let subjects = sources.iter().enumerate().map(|(index, source)| {
        let pixels = server
            .assistant
            .pixels_beside(source, Some(aspect), scoring.reading);
        let pixels = pixels.map_err(|e| in_picture(index, e))?;
        Ok(ScoreSubject::Picture(Source::Pixels(of_key(
            server, pixels, key,
        ))))
    });
    subjects.collect()
}

/// A picture as that of one key among several: how fast an answer comes must not tell one person what
/// another asked about.
fn of_key(server: &Server, pixels: Arc<Pixels>, key: Option<usize>) -> Arc<Pixels> {
    match key {
        Some(key) if server.settings.keys.are_several() => Arc::new(pixels.of_group(key)),
        _ => pixels,
    }
}

/// A refusal because of a picture, without the name of a file.
fn in_picture(index: usize, error: crate::Error) -> Refusal {
    let refusal = Refusal::from(error);
    Refusal {
        message: format!("picture {}: {}", index + 1, refusal.message),
        ..refusal
    }
}

/// Puts a job at the end of the queue.
pub fn admit(server: &Arc<Server>, work: JobKind, arrival: &Arrival) -> Result<Admitted, Refusal> {
    let (sender, progress) = unbounded_channel();
    /// Longer than anybody waits.
    const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let deadline = arrival.start + server.settings.request_timeout.min(A_YEAR);
    let submitted = server.queue.submit(work, sender, deadline, arrival.key);
    let ticket = submitted.map_err(|retry_after_s| match retry_after_s {
        None => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"),
        Some(_) => Refusal {
            retry_after_s,
            ..Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "as many requests wait as may; try again later",
            )
        },
    })?;
    Ok(Admitted { progress, ticket })
}

//! Maps paths to handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CONTENT_TYPE, HeaderName, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::access::Access;
use super::admission::{admit, prepare};
use super::answering::{lost, refused, streamed, whole};
use super::asking::ClientQuestion;
use super::body::{self, Outgoing};
use super::dialect::Frames;
use super::fields::Read;
use super::guard;
use super::metrics::Metrics;
use super::ollama::{self, Ollama};
use super::openai::{self, OpenAi};
use super::page;
use super::queue::{JobKind, Progress, Queue};
use super::reading;
use super::refusal::{Refusal, took_too_long};
use super::score;
use super::settings::ServerSettings;
use super::status::Card;
use crate::error::Result;
use crate::request::Assistant;
use crate::sampler::Sampling;

/// What all requests share.
#[derive(Debug)]
pub struct Server {
    pub assistant: Assistant,
    pub settings: ServerSettings,
    pub queue: Arc<Queue>,
    pub metrics: Metrics,
    pub card: Card,
    /// Bodies that may be held at once, in KiB.
    bodies: Arc<Semaphore>,
    is_stopping: AtomicBool,
    n_answers: AtomicU64,
}

/// When a request came, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub start: Instant,
    pub key: Option<usize>,
}

/// Bytes for each permit of [`Server::bodies`].
const BODY_UNIT: usize = 1 << 10;

impl Server {
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) for a context that no memory could hold.
    pub fn new(assistant: Assistant, settings: ServerSettings, address: String) -> Result<Self> {
        let card = Card::new(&assistant, &settings, address)?;
        Ok(Server {
            queue: Arc::new(Queue::new(settings.queue)),
            metrics: Metrics::default(),
            card,
            bodies: Arc::new(Semaphore::new(settings.limits.bodies_bytes / BODY_UNIT)),
            is_stopping: AtomicBool::new(false),
            n_answers: AtomicU64::new(0),
            assistant,
            settings,
        })
    }

    /// From now on, no new requests are taken.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }
}

/// The paths of Ollama's clients tell failures in their own way.
fn shape(path: &str) -> fn(&Refusal) -> Value {
    match path.starts_with("/api/") {
        true => Refusal::as_ollama,
        false => Refusal::as_openai,
    }
}

/// Answers a request, whatever it is.
pub async fn answer(
    server: Arc<Server>,
    peer: String,
    request: Request<Incoming>,
) -> Response<Outgoing> {
    let start = Instant::now();
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let mut access = Access::new(server.clone(), peer, head.method.clone(), &path, start);
    let authority = head.uri.authority().map(|authority| authority.as_str());
    let pass = guard::check(
        &server.settings,
        &head.method,
        &path,
        authority,
        &head.headers,
    );
    let pass = match pass {
        Ok(pass) => pass,
        Err(refusal) => {
            access.failed(&refusal);
            return finish(refused(&refusal, shape(&path)), None);
        }
    };
    if pass.is_preflight {
        access.status = 204;
        return finish(preflight(), pass.origin.as_deref());
    }
    let arrival = Arrival {
        start,
        key: pass.key,
    };
    let method = match head.method {
        Method::HEAD => Method::GET,
        method => method,
    };
    let response = route(&server, &method, &path, body, arrival, access).await;
    finish(response, pass.origin.as_deref())
}

async fn route(
    server: &Arc<Server>,
    method: &Method,
    path: &str,
    body: Incoming,
    arrival: Arrival,
    mut access: Access,
) -> Response<Outgoing> {
    if *method == Method::GET
        && let Some(response) = get(server, path)
    {
        access.status = response.status().as_u16();
        return response;
    }
    if *method == Method::POST {
        match path {
            "/v1/chat/completions" | "/chat/completions" => {
                let model = server.card.name.clone();
                let id = server.n_answers.fetch_add(1, Ordering::Relaxed);
                return ask(
                    server,
                    body,
                    arrival,
                    access,
                    openai::question,
                    move |question| OpenAi::new(id, &model, question),
                )
                .await;
            }
            "/api/generate" | "/api/chat" => {
                let kind = match path {
                    "/api/chat" => ollama::Endpoint::Chat,
                    _ => ollama::Endpoint::Generate,
                };
                let model = server.card.tag();
                let read = move |body: &Value, settings: &ServerSettings, defaults: &Sampling| {
                    ollama::question(kind, body, settings, defaults)
                };
                return ask(server, body, arrival, access, read, move |question| {
                    Ollama::new(kind, &model, question)
                })
                .await;
            }
            "/owl2/score" => return rate(server, body, arrival, access).await,
            "/api/show" | "/api/pull" => return about(server, path, body, access).await,
            _ => {}
        }
    }
    let refusal = not_here(server, method, path);
    access.failed(&refusal);
    let mut response = refused(&refusal, shape(path));
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = if *method == Method::GET {
            "POST"
        } else {
            "GET, HEAD"
        };
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(allowed));
    }
    response
}

/// What is there to be read.
fn get(server: &Server, path: &str) -> Option<Response<Outgoing>> {
    let json = |value: Value| json_response(StatusCode::OK, &value);
    Some(match path {
        "/" | "/index.html" => page::response(),
        "/health" | "/v1/health" | "/readyz" => match server.is_stopping() {
            false => json(serde_json::json!({"status": "ok"})),
            true => {
                let message = "the server is stopping";
                let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message);
                refused(&refusal, Refusal::as_openai)
            }
        },
        "/v1/models" | "/models" => json(server.card.models()),
        "/props" => json(server.card.props()),
        "/openapi.json" => text_response("application/json", include_str!("openapi.json")),
        "/metrics" => {
            let (n_waiting, n_running) = server.queue.len();
            let text = server.metrics.text(n_waiting, n_running);
            text_response("text/plain; version=0.0.4", &text)
        }
        "/api/version" => json(serde_json::json!({"version": env!("CARGO_PKG_VERSION")})),
        "/api/tags" => json(server.card.tags()),
        "/api/ps" => json(server.card.running()),
        _ => return None,
    })
}

/// Why there is no answer at a path.
fn not_here(server: &Server, method: &Method, path: &str) -> Refusal {
    const POSTED: [&str; 7] = [
        "/v1/chat/completions",
        "/chat/completions",
        "/api/generate",
        "/api/chat",
        "/owl2/score",
        "/api/show",
        "/api/pull",
    ];
    let is_there = match *method {
        Method::GET => POSTED.contains(&path),
        _ => POSTED.contains(&path) || get(server, path).is_some(),
    };
    match is_there {
        true => Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} is not what this path takes"),
        ),
        false => Refusal::new(
            StatusCode::NOT_FOUND,
            "there is nothing at this path; docs/serving.md lists all paths",
        ),
    }
}

/// A body that only names a model, at most. It is read on the thread that serves everybody.
const MAX_SHORT_BYTES: usize = 64 << 10;
/// How long a body waits for the others that are held.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Reads a body that fits beside the others.
async fn read(server: &Server, body: Incoming) -> std::result::Result<Held, Refusal> {
    read_up_to(server, body, server.settings.limits.body_bytes).await
}

async fn read_up_to(
    server: &Server,
    body: Incoming,
    most: usize,
) -> std::result::Result<Held, Refusal> {
    let announced = body.size_hint().upper().map_or(most, |bytes| {
        usize::try_from(bytes).unwrap_or(most).min(most)
    });
    let units = announced.div_ceil(BODY_UNIT).max(1) as u32;
    let permit = server.bodies.clone().acquire_many_owned(units);
    let Ok(permit) = tokio::time::timeout(MAX_WAIT, permit).await else {
        return Err(Refusal {
            retry_after_s: Some(10),
            ..Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "other requests are being sent, which take all the room; try again later",
            )
        });
    };
    let permit = permit.map_err(|_| lost())?;
    let bytes = body::read(body, most).await?;
    Ok(Held {
        bytes,
        _permit: permit,
    })
}

/// A body, and its share of what bodies may take.
struct Held {
    bytes: Vec<u8>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

/// What `work` gives, unless the request's time is over before.
async fn in_time<T>(
    server: &Server,
    arrival: &Arrival,
    work: impl Future<Output = std::result::Result<T, Refusal>>,
) -> std::result::Result<T, Refusal> {
    let left = server
        .settings
        .request_timeout
        .saturating_sub(arrival.start.elapsed());
    // One that has no time at all is still told so by the engine.
    let left = left.max(Duration::from_secs(1));
    tokio::time::timeout(left, work)
        .await
        .unwrap_or_else(|_| Err(took_too_long()))
}

/// A question in one of the dialects.
async fn ask<F: Frames + 'static>(
    server: &Arc<Server>,
    body: Incoming,
    arrival: Arrival,
    mut access: Access,
    question: impl Fn(&Value, &ServerSettings, &Sampling) -> Read<ClientQuestion> + Send + 'static,
    frames: impl FnOnce(&ClientQuestion) -> F,
) -> Response<Outgoing> {
    let admitted = async {
        let held = read(server, body).await?;
        let mut question = prepare(server, move |server| {
            reading::question(server, &held.bytes, question, arrival.key)
        })
        .await?;
        let frames = frames(&question);
        let request = std::mem::replace(
            &mut question.request,
            crate::Request::new(crate::request::Prompt::Raw(String::new())),
        );
        let admitted = admit(server, JobKind::Answer(Box::new(request)), &arrival)?;
        Ok::<_, Refusal>((admitted, frames, question.is_streamed))
    };
    let failed = shape(access.path());
    match in_time(server, &arrival, admitted).await {
        Err(refusal) => {
            access.failed(&refusal);
            refused(&refusal, failed)
        }
        Ok((admitted, frames, true)) => {
            streamed(admitted, frames, server.settings.heartbeat, access)
        }
        Ok((admitted, frames, false)) => {
            let finish = move |last| match last {
                Progress::Answered(answer) => Ok(frames.whole(&answer)),
                Progress::Failed(refusal) => Err(refusal),
                Progress::Text(_) | Progress::Scored(_) => Err(lost()),
            };
            whole(admitted, finish, failed, server.settings.heartbeat, access).await
        }
    }
}

/// `/owl2/score`.
async fn rate(
    server: &Arc<Server>,
    body: Incoming,
    arrival: Arrival,
    mut access: Access,
) -> Response<Outgoing> {
    let admitted = async {
        let held = read(server, body).await?;
        let (scoring, subjects) = prepare(server, move |server| {
            reading::rating(server, &held.bytes, arrival.key)
        })
        .await?;
        let warnings = score::warnings(&subjects);
        let work = JobKind::Score {
            subjects,
            scoring: scoring.clone(),
        };
        Ok::<_, Refusal>((admit(server, work, &arrival)?, scoring, warnings))
    };
    match in_time(server, &arrival, admitted).await {
        Err(refusal) => {
            access.failed(&refusal);
            refused(&refusal, Refusal::as_openai)
        }
        Ok((admitted, scoring, warnings)) => {
            let name = server.card.name.clone();
            let finish = move |last| match last {
                Progress::Scored(scores) => Ok(score::as_json(&name, &scoring, &scores, &warnings)),
                Progress::Failed(refusal) => Err(refusal),
                Progress::Text(_) | Progress::Answered(_) => Err(lost()),
            };
            let heartbeat = server.settings.heartbeat;
            whole(admitted, finish, Refusal::as_openai, heartbeat, access).await
        }
    }
}

/// What Ollama's clients ask about a model: what it is, and to have it.
async fn about(
    server: &Arc<Server>,
    path: &str,
    body: Incoming,
    mut access: Access,
) -> Response<Outgoing> {
    let answer = async {
        let held = read_up_to(server, body, MAX_SHORT_BYTES).await?;
        match path {
            // There is one model, so every question is about it.
            "/api/show" => {
                reading::name(server, &held.bytes, server.settings.strict_model)?;
                Ok(server.card.show())
            }
            _ => {
                reading::name(server, &held.bytes, true)?;
                Ok(serde_json::json!({"status": "success"}))
            }
        }
    };
    match answer.await {
        Ok(value) => {
            access.status = 200;
            json_response(StatusCode::OK, &value)
        }
        Err(refusal) => {
            access.failed(&refusal);
            refused(&refusal, Refusal::as_ollama)
        }
    }
}

fn preflight() -> Response<Outgoing> {
    let mut response = Response::new(Outgoing::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST"),
    );
    let allowed = "authorization, content-type, x-api-key";
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(allowed),
    );
    headers.insert(
        HeaderName::from_static("access-control-max-age"),
        HeaderValue::from_static("600"),
    );
    response
}

/// Adds what every response has.
fn finish(mut response: Response<Outgoing>, origin: Option<&str>) -> Response<Outgoing> {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = origin
        && let Ok(origin) = HeaderValue::from_str(origin)
    {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(VARY, HeaderValue::from_static("origin"));
    }
    response
}

pub fn json_response(status: StatusCode, value: &Value) -> Response<Outgoing> {
    let mut response = text_response("application/json", &value.to_string());
    *response.status_mut() = status;
    response
}

pub fn text_response(content_type: &'static str, text: &str) -> Response<Outgoing> {
    let mut response = Response::new(Outgoing::from(text.as_bytes().to_vec()));
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

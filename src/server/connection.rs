//! Sockets: accepting, counting and closing connections.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
#[cfg(unix)]
use std::{fs, path::PathBuf};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::patience::Patient;
use super::routes::{self, Server};
use super::settings::Address;
use crate::error::{Error, Kind, Result};

/// How long a client may take to send the head of a request, or to send another one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a head at most.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Threads that make pictures and schemas ready.
const N_PREPARING: usize = 2;

/// What runs everything but the engine: one thread, and a few for work that takes long.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(N_PREPARING)
        .thread_name("owl2-prepare")
        .build()
        .map_err(|e| Error::new(Kind::Io, format!("cannot start the server: {e}")).caused_by(e))
}

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener, SocketAddr),
    #[cfg(unix)]
    Unix(UnixListener, SocketFile),
}

/// The file of a UNIX socket, which goes with it.
#[cfg(unix)]
#[derive(Debug)]
pub struct SocketFile(PathBuf);

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        // Where somebody has taken it away already, there is nothing to be done.
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Begins to listen.
    pub async fn bind(address: &Address) -> Result<Self> {
        match address {
            Address::Tcp(address) => {
                let failed = |e: io::Error| {
                    let message = match e.kind() {
                        io::ErrorKind::AddrInUse => {
                            format!(
                                "cannot listen on {address}: it is in use; choose another --port"
                            )
                        }
                        _ => format!("cannot listen on {address}: {e}"),
                    };
                    Error::new(Kind::Io, message).caused_by(e)
                };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                Ok(Listener::Tcp(listener, bound))
            }
            Address::Unix(path) => Self::bind_unix(path),
        }
    }

    #[cfg(unix)]
    fn bind_unix(path: &Path) -> Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        use std::os::unix::net::UnixStream;

        let failed = |e: io::Error| Error::io("cannot listen on", path, e);
        match fs::symlink_metadata(path) {
            // What a server left behind that was killed; a living one answers.
            Ok(metadata) if metadata.file_type().is_socket() => {
                if UnixStream::connect(path).is_ok() {
                    let message = "cannot listen on it: another server does";
                    return Err(Error::new(Kind::Io, message).in_file(path));
                }
                fs::remove_file(path).map_err(failed)?;
            }
            Ok(_) => {
                let message = "is there already, and is no socket";
                return Err(Error::new(Kind::Io, message).in_file(path));
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        Ok(Listener::Unix(listener, SocketFile(path.to_owned())))
    }

    #[cfg(not(unix))]
    fn bind_unix(path: &Path) -> Result<Self> {
        Err(Error::usage("there are no UNIX sockets on this system").in_file(path))
    }

    /// What clients call it.
    pub fn name(&self) -> String {
        match self {
            Listener::Tcp(_, address) => format!("http://{address}"),
            #[cfg(unix)]
            Listener::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }

    /// The next client, and what it is called.
    async fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Listener::Tcp(listener, _) => {
                let (stream, peer) = listener.accept().await?;
                // Words are sent as they come, not when there are enough of them.
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), peer.ip().to_string()))
            }
            #[cfg(unix)]
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), "unix".to_owned()))
            }
        }
    }
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}
type Stream = Box<dyn Socket>;

/// Serves clients until `end`. Those that are being served go on.
pub async fn serve(listener: Listener, server: &Arc<Server>, end: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(server.settings.limits.connections));
    let (stopping, is_stopping) = watch::channel(false);
    let accepting = async {
        loop {
            // There are places as long as the semaphore is not closed, which it never is.
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let is_stopping = is_stopping.clone();
                    tokio::spawn(serve_client(
                        stream,
                        peer,
                        server.clone(),
                        is_stopping,
                        place,
                    ));
                }
                // Out of descriptors, or the client is gone already: the next one may do better.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = end => {}
    }
    server.stop();
    drop(listener);
    // Receivers that are gone need not be told.
    let _ = stopping.send(true);
    let all = server.settings.limits.connections as u32;
    let drained = tokio::time::timeout(server.settings.drain_timeout, places.acquire_many(all));
    if drained.await.is_err() {
        // Nothing comes in any more, not even from those that are still sending.
        server.queue.close();
        server.queue.cancel_all();
        // Each is told so, which takes no longer than a step of the engine.
        let _ = tokio::time::timeout(Duration::from_secs(10), places.acquire_many(all)).await;
    }
}

async fn serve_client(
    stream: Stream,
    peer: String,
    server: Arc<Server>,
    mut is_stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let (server, peer) = (server.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(routes::answer(server, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    tokio::pin!(connection);
    tokio::select! {
        // What a client does wrong below HTTP concerns nobody else.
        _ = connection.as_mut() => return,
        _ = is_stopping.wait_for(|is_stopping| *is_stopping) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Waits for a signal that asks to end, which counts from the call on, or for `was_interrupted` to know of
/// one before.
///
/// # Errors
/// [`Kind::Io`] where the system does not tell of them.
#[cfg(unix)]
pub fn asked_to_end(was_interrupted: fn() -> bool) -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed =
        |e: io::Error| Error::new(Kind::Io, format!("cannot catch signals: {e}")).caused_by(e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = interrupted_before(was_interrupted) => {}
        }
    })
}

/// Waits for the program's own handler to tell of a signal before the call. It may take its time, but not
/// for ever: an idle server shall not wake up.
#[cfg(unix)]
async fn interrupted_before(was_interrupted: fn() -> bool) {
    for _ in 0..50 {
        if was_interrupted() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::future::pending().await
}

/// Waits for Ctrl-C.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn asked_to_end(_: fn() -> bool) -> Result<impl Future<Output = ()>> {
    Ok(async {
        // Without a way to hear of it, the server ends with the process.
        let _ = tokio::signal::ctrl_c().await;
    })
}

//! `owl2 serve`, asked over real sockets.

#[path = "../common/http.rs"]
pub mod http;
mod dialects;
mod guarded;
mod hostile;
mod operation;

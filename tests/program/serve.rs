//! `owl2 serve`, asked over real sockets.

mod dialects;
mod guarded;
mod hostile;
#[path = "../common/http.rs"]
pub mod http;
mod operation;

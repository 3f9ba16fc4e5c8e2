//! The flags of the server.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::together::{TogetherArgs, together};
use crate::score::Rule;
use crate::server::LogFormat;

const SERVE_NOTES: &str = "\
Paths: /v1/chat/completions, /v1/models (OpenAI's clients), /api/generate, /api/chat, /api/tags,
/api/show, /api/ps, /api/version (Ollama's), /owl2/score, /props, /health, /readyz, /metrics, and a
page for people at /. docs/serving.md says what each takes, and how to set up the usual programs.

Pictures come inside requests (data: addresses or base64); nothing is fetched. An answer is the one
that the same question gets on the command line, whoever else asks at the time. Without a
temperature it is the likeliest one.

SIGTERM and Ctrl-C stop the server once the requests that it has are answered; a second Ctrl-C at
once.

Examples:
  owl2 serve -m model.gguf
  owl2 serve -m model.gguf --host 0.0.0.0 --api-key-file keys.txt
  owl2 serve -m one-align.gguf --socket /run/owl2.sock --log json";

/// Arguments of `owl2 serve`.
#[derive(Debug, Args)]
#[command(after_long_help = SERVE_NOTES)]
pub(in crate::cli) struct ServeArgs {
    /// The model file [default: the built-in model]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Address to listen at; one that other machines reach needs --api-key-file or --insecure
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port to listen at; 0 is any that is free
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub port: u16,

    /// Listen at a UNIX socket in place of an address
    #[arg(long, value_name = "FILE", conflicts_with_all = ["host", "port"])]
    pub socket: Option<PathBuf>,

    /// What the model is called [default: the file's name]
    #[arg(long, value_name = "NAME")]
    pub alias: Option<String>,

    /// Rate pictures by this rule where a request names none: q-align, deqa or q-instruct [default: as
    /// the model file says]
    #[arg(long, value_name = "NAME")]
    pub score_rule: Option<Rule>,

    /// Refuse requests that name another model
    #[arg(long)]
    pub strict_model: bool,

    /// Let in only requests with one of the keys in this file, one a line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Serve an address that other machines reach without keys
    #[arg(long)]
    pub insecure: bool,

    /// Another name of this server that requests may be sent to; may be given several times
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,

    /// A site, such as `https://photos.example`, whose pages may ask; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,

    /// Folder whose pictures requests may name as file:// addresses
    #[arg(long, value_name = "DIR")]
    pub media_root: Option<PathBuf>,

    /// Let requests send whole prompts in which control tokens count (Ollama's raw)
    #[arg(long)]
    pub allow_raw: bool,

    /// Requests that are computed together
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = together())]
    pub parallel: usize,

    /// Requests that may wait; more are told to try again later
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub queue: usize,

    /// Longest time from a request's arrival to the end of its answer, in seconds
    #[arg(long, value_name = "S", default_value_t = 3600)]
    pub request_timeout: u64,

    /// How often an answer that takes long shows that it is coming, in seconds; 0 is never
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub heartbeat: u64,

    /// How long requests may take to end when the server is stopped, in seconds
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub drain_timeout: u64,

    /// Memory in MiB for the positions of all answers that are computed together; one for which there is
    /// none waits for others to end [default: what the machine has at the start]
    #[arg(long, value_name = "MIB")]
    pub kv_memory: Option<NonZeroUsize>,

    /// Pictures of a request
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub max_pictures: usize,

    /// Size of a request in MiB
    #[arg(long, value_name = "MIB", default_value_t = NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN))]
    pub max_body: NonZeroUsize,

    /// Connections at once [default: 64 more than may wait and run]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<NonZeroUsize>,

    /// A line on standard error for each request: text, json or none
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log: Log,

    #[command(flatten)]
    pub running: TogetherArgs,
}

/// How requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Log {
    #[default]
    Text,
    Json,
    None,
}

impl From<Log> for LogFormat {
    fn from(log: Log) -> Self {
        match log {
            Log::Text => LogFormat::Text,
            Log::Json => LogFormat::Json,
            Log::None => LogFormat::None,
        }
    }
}

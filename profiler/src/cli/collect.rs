//! The collectors' options: [`Common`] ones, and for each collector a struct of its own.

use std::path::PathBuf;

use clap::Args;

use super::Written;
use crate::model::secret::Secret;

/// Options that every collector takes.
#[derive(Debug, Default, Args)]
pub struct Common {
    /// Where the service is
    #[arg(long, value_name = "URL", help_heading = "What to record")]
    pub url: Option<String>,
    /// The process, where a local one is recorded
    #[arg(long, value_name = "PID", allow_hyphen_values = true, help_heading = "What to record")]
    pub pid: Option<String>,
    /// How long to record: 10, 0.5, 10s, 2m [default: 30]
    #[arg(
        short,
        long,
        value_name = "SECS",
        allow_hyphen_values = true,
        help_heading = "What to record"
    )]
    pub duration: Option<String>,
    /// Tell threads apart: their names are the second frame
    #[arg(long, help_heading = "What to show")]
    pub threads: bool,
    /// What a service wants to see.
    #[command(flatten)]
    pub access: Access,
    /// Where it goes.
    #[command(flatten)]
    pub written: Written,
    /// Write figures about the recording itself to this file, as JSON
    #[arg(long, value_name = "FILE.json", help_heading = "Output")]
    pub stats: Option<PathBuf>,
}

/// What a service wants to see before it answers, and what shows that it is the right one.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Access")]
pub struct Access {
    /// Token to send as `Authorization: Bearer …`. Any user of this host can read it in the process
    /// list: better use --token-file, or RESQ_TOKEN where a service of ResQ is asked
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<Secret>,
    /// File that holds the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Key to send as `X-API-Key: …`. Any user of this host can read it in the process list: better
    /// use RESQ_API_KEY where a service of ResQ is asked
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<Secret>,
    /// File with certificates (PEM) to trust beside the system's
    #[arg(long, value_name = "FILE.pem")]
    pub ca_cert: Option<PathBuf>,
}

/// `flame-graph bun`.
#[derive(Debug, Default, Args)]
pub struct Bun {
    /// What every collector takes; the URL is the inspector's, `ws://HOST:PORT/PATH`.
    #[command(flatten)]
    pub common: Common,
}

/// `flame-graph hce`.
#[derive(Debug, Default, Args)]
pub struct Hce {
    /// What every collector takes.
    #[command(flatten)]
    pub common: Common,
    /// Time between two samples: 100us, 1ms
    #[arg(
        long,
        value_name = "TIME",
        default_value = "100us",
        allow_hyphen_values = true,
        help_heading = "What to record"
    )]
    pub interval: String,
    /// Show also the time in which nothing ran
    #[arg(long, help_heading = "What to show")]
    pub idle: bool,
}

/// `flame-graph api`.
#[derive(Debug, Default, Args)]
pub struct Api {
    /// What every collector takes.
    #[command(flatten)]
    pub common: Common,
}

/// `flame-graph dotnet`.
#[derive(Debug, Default, Args)]
pub struct Dotnet {
    /// What every collector takes.
    #[command(flatten)]
    pub common: Common,
    /// Record allocations, in bytes by type, instead of time
    #[arg(long, help_heading = "What to record")]
    pub alloc: bool,
    /// Show also threads that wait or run native code
    #[arg(long, conflicts_with = "alloc", help_heading = "What to show")]
    pub idle: bool,
}

/// `flame-graph node`.
#[derive(Debug, Default, Args)]
pub struct Node {
    /// What every collector takes.
    #[command(flatten)]
    pub common: Common,
    /// Time between two samples: 100us, 1ms
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1ms",
        allow_hyphen_values = true,
        help_heading = "What to record"
    )]
    pub interval: String,
    /// Show also the time in which nothing ran
    #[arg(long, help_heading = "What to show")]
    pub idle: bool,
}

/// `flame-graph pprof`.
#[derive(Debug, Default, Args)]
pub struct Pprof {
    /// What every collector takes.
    #[command(flatten)]
    pub common: Common,
    /// Which of the profile's values to draw, such as `alloc_space` [default: as `go tool pprof`
    /// does]
    #[arg(long, value_name = "NAME", help_heading = "What to show")]
    pub sample_type: Option<String>,
}

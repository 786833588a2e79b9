//! The options of `flame-graph python` and `flame-graph pdie`.

use clap::Args;

use super::Common;

/// How a Python process is sampled.
#[derive(Debug, Default, Args)]
pub struct Sampling {
    /// Samples a second
    #[arg(
        short = 'F',
        long,
        value_name = "HZ",
        default_value = "100",
        allow_hyphen_values = true,
        help_heading = "What to record"
    )]
    pub frequency: String,
    /// Record child processes, too
    #[arg(long, help_heading = "What to record")]
    pub subprocesses: bool,
    /// Record only the thread that holds the interpreter's lock
    #[arg(long, help_heading = "What to record")]
    pub gil: bool,
    /// Do not stop the process while it is read: it loses no time, and some stacks may be wrong
    #[arg(long, help_heading = "What to record")]
    pub nonblocking: bool,
    /// Show also threads that wait
    #[arg(long, help_heading = "What to show")]
    pub idle: bool,
    /// Show native frames, too, of C, C++ and Cython: needs the program py-spy
    #[arg(long, conflicts_with = "nonblocking", help_heading = "What to show")]
    pub native: bool,
}

/// `flame-graph python`.
#[derive(Debug, Default, Args)]
pub struct Python {
    /// The process; the same as --pid
    #[arg(value_name = "PID", allow_hyphen_values = true, help_heading = "What to record")]
    pub process: Option<String>,
    /// What every collector takes.
    #[command(flatten)]
    pub common: Common,
    /// How it is sampled.
    #[command(flatten)]
    pub sampling: Sampling,
}

/// `flame-graph pdie`.
#[derive(Debug, Default, Args)]
pub struct Pdie {
    /// What every collector takes.
    #[command(flatten)]
    pub common: Common,
    /// How it is sampled.
    #[command(flatten)]
    pub sampling: Sampling,
}

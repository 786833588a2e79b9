//! The options of `flame-graph perf`.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

use super::Common;

/// `flame-graph perf`.
#[derive(Debug, Default, Args)]
pub struct Perf {
    /// What every collector takes.
    #[command(flatten)]
    pub common: Common,
    /// Run this command line by a shell and record it, with its children, until it ends
    #[arg(long, value_name = "COMMAND LINE", help_heading = "What to record")]
    pub cmd: Option<OsString>,
    /// What perf samples, as `perf list` names it
    #[arg(
        short,
        long,
        value_name = "EVENT",
        default_value = "cpu-clock",
        help_heading = "What to record"
    )]
    pub event: String,
    /// Samples a second
    #[arg(
        short = 'F',
        long,
        value_name = "HZ",
        default_value = "99",
        allow_hyphen_values = true,
        help_heading = "What to record"
    )]
    pub frequency: String,
    /// How stacks are walked: by unwind tables, frame pointers, or the CPU's branch records
    #[arg(long, value_name = "HOW", value_enum, default_value_t, help_heading = "What to record")]
    pub call_graph: CallGraph,
    /// Run this command and record it, with its children, until it ends
    #[arg(last = true, value_name = "COMMAND", help_heading = "What to record")]
    pub command: Vec<OsString>,
}

/// How `perf record` walks stacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CallGraph {
    /// By unwind tables, from copies of the stack.
    #[default]
    Dwarf,
    /// By frame pointers.
    Fp,
    /// By the branch records of the CPU.
    Lbr,
}

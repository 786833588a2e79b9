//! What was typed: the command line as clap parses it. What it means is [`plan`](crate::plan)'s.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shows where a Linux host's time goes, as flame graphs.
#[derive(Debug, Parser)]
#[command(name = "flame-graph", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Record what runs on the CPUs: the whole host, processes, or a command
    Cpu(Cpu),
    /// Draw stacks that were written down before
    File(File),
    /// Say what this host allows, and what to do about the rest
    Doctor(Doctor),
}

/// `flame-graph cpu`.
#[derive(Debug, Default, Args)]
pub struct Cpu {
    /// Record these processes, with all their threads [default: the whole host]
    #[arg(long, value_name = "PID[,PID…]", value_delimiter = ',')]
    pub pid: Vec<String>,
    /// Also record what these processes start while it runs
    #[arg(long)]
    pub children: bool,
    /// Record the whole host
    #[arg(long)]
    pub all: bool,
    /// Run the command as this user
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// How long to record: 10, 0.5, 10s, 2m [default: 30, a command until it ends]
    #[arg(short, long, value_name = "SECS", allow_hyphen_values = true)]
    pub duration: Option<String>,
    /// Samples a second on each CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value = "99", allow_hyphen_values = true)]
    pub frequency: String,
    /// What takes the samples: BPF programs, or perf events with copies of stacks where BPF cannot
    /// be used
    #[arg(long, value_name = "ENGINE", value_enum)]
    pub engine: Option<Engine>,
    /// Where to write; may be repeated. The ending chooses the format (.svg, .folded, .txt); `-` is
    /// folded text on standard output
    #[arg(short, long, value_name = "PATH", default_value = "flamegraph.svg")]
    pub output: Vec<OsString>,
    /// Heading of the picture
    #[arg(long)]
    pub title: Option<String>,
    /// Tell threads apart: their names are the second frame
    #[arg(long)]
    pub threads: bool,
    /// Show user frames only
    #[arg(long)]
    pub user_only: bool,
    /// Show kernel frames only
    #[arg(long)]
    pub kernel_only: bool,
    /// Do not show inlined calls as frames
    #[arg(long)]
    pub no_inline: bool,
    /// Write figures about the recording itself to this file, as JSON
    #[arg(long, value_name = "FILE.json")]
    pub stats: Option<PathBuf>,
    /// Say more on standard error
    #[arg(long)]
    pub verbose: bool,
    /// Run this command and record it, with its children, until it ends
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// The engines of `flame-graph cpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// eBPF, else perf events [default]
    Auto,
    /// eBPF
    Ebpf,
    /// Perf events
    PerfEvent,
}

/// `flame-graph file`.
#[derive(Debug, Args)]
pub struct File {
    /// Folded stacks: lines of `process;function;…;function COUNT`; `-` is standard input
    #[arg(short, long, value_name = "PATH")]
    pub input: OsString,
    /// Where to write; may be repeated. The ending chooses the format (.svg, .folded, .txt); `-` is
    /// folded text on standard output
    #[arg(short, long, value_name = "PATH", default_value = "flamegraph.svg")]
    pub output: Vec<OsString>,
    /// Heading of the picture
    #[arg(long)]
    pub title: Option<String>,
    /// Say more on standard error
    #[arg(long)]
    pub verbose: bool,
}

/// `flame-graph doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Also print what the kernel's verifier said
    #[arg(long)]
    pub verbose: bool,
}

impl Cli {
    /// Whether more is to be said on standard error.
    #[must_use]
    pub fn verbose(&self) -> bool {
        match &self.command {
            Command::Cpu(cpu) => cpu.verbose,
            Command::File(file) => file.verbose,
            Command::Doctor(doctor) => doctor.verbose,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}

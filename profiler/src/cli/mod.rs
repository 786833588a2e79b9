//! What was typed: the command line as clap parses it. What it means is [`plan`](crate::plan)'s.
//!
//! * [`native`]: the options of recordings by our own engines.
//! * [`collect`]: the options of collectors, which ask services and runtimes.
//! * [`perf`]: those of recordings by perf; [`python`]: of Python processes.

pub mod collect;
pub mod native;
pub mod perf;
pub mod python;

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

pub use collect::{Access, Api, Bun, Common, Dotnet, Hce, Node, Pprof};
pub use native::{Account, Cpu, Engine, Idle, Names, OffCpu, Show, ShowWaits, Targets, Wall};
pub use perf::{CallGraph, Perf};
pub use python::{Pdie, Python, Sampling};

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
    Cpu(Box<Cpu>),
    /// Record what threads wait for: the whole host, processes, or a command
    #[command(name = "offcpu")]
    OffCpu(Box<OffCpu>),
    /// Record all the time of threads, running and waiting
    Wall(Box<Wall>),
    /// Have ResQ's coordination service (Node or Bun) profile itself
    Hce(Hce),
    /// Have ResQ's Rust service profile itself
    Api(Api),
    /// Have a .NET process trace itself: its managed threads, or its allocations
    Dotnet(Dotnet),
    /// Profile a running Bun by its inspector (--pid, or --url ws://HOST:PORT/PATH), else by sampling
    /// from outside
    Bun(Bun),
    /// Profile a running Node.js by its inspector, which is opened and closed again where it is not
    /// open
    Node(Node),
    /// Record ResQ's Python service, found by where it listens, from outside
    Pdie(Pdie),
    /// Record by `perf record`: the whole host, a process, or a command
    Perf(Perf),
    /// Ask a pprof endpoint, as Go programs have: CPU, heap, locks, goroutines
    Pprof(Pprof),
    /// Record a Python process from outside, its functions by name
    Python(Python),
    /// Draw a profile that was written down before
    File(File),
    /// Say what this host allows, and what to do about the rest
    Doctor(Doctor),
}

/// Where a profile goes, and what is said beside it.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct Written {
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

/// `flame-graph file`.
#[derive(Debug, Args)]
pub struct File {
    /// A profile: folded stacks, pprof, a V8 cpuprofile, .NET's nettrace, what `perf script` or
    /// py-spy (raw) print, speedscope's JSON, or a flame graph in SVG, packed by gzip or not; `-` is standard input
    #[arg(short, long, value_name = "PATH")]
    pub input: OsString,
    /// Which values of a pprof profile to draw, such as `alloc_space` [default: as `go tool pprof`
    /// does], or which event of `perf script` [default: the first]
    #[arg(long, value_name = "NAME", help_heading = "What to show")]
    pub sample_type: Option<String>,
    /// Tell threads apart, where the profile does
    #[arg(long, help_heading = "What to show")]
    pub threads: bool,
    /// Show also the time in which nothing ran, where the profile tells
    #[arg(long, help_heading = "What to show")]
    pub idle: bool,
    /// Where it goes.
    #[command(flatten)]
    pub written: Written,
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
            Command::Bun(bun) => bun.common.written.verbose,
            Command::Cpu(cpu) => cpu.written.verbose,
            Command::OffCpu(waits) => waits.written.verbose,
            Command::Wall(wall) => wall.waits.written.verbose,
            Command::Hce(hce) => hce.common.written.verbose,
            Command::Api(api) => api.common.written.verbose,
            Command::Dotnet(dotnet) => dotnet.common.written.verbose,
            Command::Node(node) => node.common.written.verbose,
            Command::Pdie(pdie) => pdie.common.written.verbose,
            Command::Perf(perf) => perf.common.written.verbose,
            Command::Pprof(pprof) => pprof.common.written.verbose,
            Command::Python(python) => python.common.written.verbose,
            Command::File(file) => file.written.verbose,
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

//! The native recordings' options: whom to record, what to show, where it goes.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueEnum};

use super::Written;

/// Whom to record.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Whom to record")]
pub struct Targets {
    /// Record these processes, with all their threads [default: the whole host]
    #[arg(long, value_name = "PID[,PID…]", value_delimiter = ',')]
    pub pid: Vec<String>,
    /// Also record what these processes start while it runs
    #[arg(long)]
    pub children: bool,
    /// Record these threads only
    #[arg(long, value_name = "TID[,TID…]", value_delimiter = ',')]
    pub tid: Vec<String>,
    /// Record the whole host
    #[arg(long)]
    pub all: bool,
    /// Of these, record what is in this cgroup or below it, a folder of cgroup version 2
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,
    /// Of these, record threads whose name, or whose process's name, matches: `*`, `?` and `[a-z]`
    /// as in a shell; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub comm: Vec<OsString>,
    /// Run the command as this user
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// How long to record: 10, 0.5, 10s, 2m [default: 30, a command until it ends]
    #[arg(short, long, value_name = "SECS", allow_hyphen_values = true)]
    pub duration: Option<String>,
    /// Run this command and record it, with its children, until it ends
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// What to show of native stacks.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "What to show")]
pub struct Show {
    /// Tell threads apart: their names are the second frame
    #[arg(long)]
    pub threads: bool,
    /// Tell processes of one name apart, by their ids
    #[arg(long)]
    pub pids: bool,
    /// Show user frames only
    #[arg(long)]
    pub user_only: bool,
    /// Show kernel frames only
    #[arg(long)]
    pub kernel_only: bool,
    /// Do not show inlined calls as frames
    #[arg(long)]
    pub no_inline: bool,
}

/// Where names come from beside the files that run.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "What to show")]
pub struct Names {
    /// Have the .NET (8 or later) and Java (17 or later) processes that were recorded write a perf
    /// map at the end, so that their compiled code has names
    #[arg(long)]
    pub enable_perf_maps: bool,
    /// Ask the servers in DEBUGINFOD_URLS for debug files of what has no names on this host
    #[arg(long)]
    pub debuginfod: bool,
}

/// What a recording may take, and what it tells about itself.
#[derive(Debug, Default, Args)]
pub struct Account {
    /// Lower a bound of what a recording may take, and of what it can hold: ring-bytes, rows,
    /// stacks, open-files, …
    #[arg(
        long,
        value_name = "NAME=N[,…]",
        value_delimiter = ',',
        hide_short_help = true,
        help_heading = "Output"
    )]
    pub limit: Vec<String>,
    /// Write figures about the recording itself to this file, as JSON
    #[arg(long, value_name = "FILE.json", help_heading = "Output")]
    pub stats: Option<PathBuf>,
}

/// `flame-graph cpu`.
#[derive(Debug, Default, Args)]
pub struct Cpu {
    /// Whom to record.
    #[command(flatten)]
    pub targets: Targets,
    /// Samples a second on each CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value = "99", allow_hyphen_values = true)]
    pub frequency: String,
    /// What takes the samples: BPF programs, or perf events with copies of stacks where BPF cannot
    /// be used
    #[arg(long, value_name = "ENGINE", value_enum)]
    pub engine: Option<Engine>,
    /// What to show.
    #[command(flatten)]
    pub show: Show,
    /// Tell CPUs apart
    #[arg(long, help_heading = "What to show")]
    pub per_cpu: bool,
    /// Where else names come from.
    #[command(flatten)]
    pub names: Names,
    /// Where it goes.
    #[command(flatten)]
    pub written: Written,
    /// What it may take, and what it tells about itself.
    #[command(flatten)]
    pub account: Account,
}

/// `flame-graph offcpu`.
#[derive(Debug, Default, Args)]
pub struct OffCpu {
    /// Whom to record.
    #[command(flatten)]
    pub targets: Targets,
    /// What records the switches: BPF programs, perf events with copies of stacks where BPF cannot be
    /// used, or the program perf where only that may record
    #[arg(long, value_name = "ENGINE", value_enum)]
    pub engine: Option<Engine>,
    /// What to show.
    #[command(flatten)]
    pub show: ShowWaits,
    /// Where else names come from.
    #[command(flatten)]
    pub names: Names,
    /// Where it goes.
    #[command(flatten)]
    pub written: Written,
    /// What it may take, and what it tells about itself.
    #[command(flatten)]
    pub account: Account,
}

/// `flame-graph wall`.
#[derive(Debug, Default, Args)]
pub struct Wall {
    /// What it has in common with recordings of waits alone.
    #[command(flatten)]
    pub waits: OffCpu,
    /// Samples a second on each CPU of what runs
    #[arg(short = 'F', long, value_name = "HZ", default_value = "99", allow_hyphen_values = true)]
    pub frequency: String,
}

/// What to show of waits.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "What to show")]
pub struct ShowWaits {
    /// Show waits shorter than this (50us, 1ms) as one frame of each thread
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub min_block: Option<String>,
    /// Show waits longer than this as one frame of each thread
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub max_block: Option<String>,
    /// Show these waits only: sleeping, uninterruptible, stopped, traced, idle, frozen, runnable
    #[arg(long, value_name = "STATE[,STATE…]", value_delimiter = ',')]
    pub state: Vec<String>,
    /// Show who ended each wait: behind [woken by] the stack of who woke the thread, its leaf first
    #[arg(long)]
    pub wakers: bool,
    /// Fold threads that waited in one stack for nearly all of the recording into one frame of
    /// their process, or show them like others [default: hide for the whole host, else show]
    #[arg(long, value_name = "HOW", value_enum)]
    pub idle: Option<Idle>,
    /// What stacks show in any recording.
    #[command(flatten)]
    pub stacks: Show,
}

/// What becomes of threads that do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Idle {
    /// They are one frame of their process
    Hide,
    /// They are shown
    Show,
}

/// The engines of native recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// eBPF, else perf events; of waits else the program perf [default]
    Auto,
    /// eBPF
    Ebpf,
    /// Perf events
    PerfEvent,
    /// The program perf, of waits
    Perf,
}

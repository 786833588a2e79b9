//! `cargo xtask bench offcpu`: what recording waits costs programs that wait, beside perf, bpftrace
//! and libbpf-tools' offcputime. Each tool takes its turn within a round, and so does no tool.

mod load;
mod peers;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use self::{
    load::{
        Clients::{Many, One},
        Load, PingPong, Server,
    },
    peers::{Tool, Tracefs},
};
use super::{
    machine::{self, Machine},
    numbers::Spread,
    programs::{self, folder},
    tools::binary,
};
use crate::shell;

/// How it is measured.
#[derive(Args)]
pub struct Options {
    /// Turns for each tool
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Only these loads: ping-pong; redis, nginx, PostgreSQL; redis-1, nginx-1, PostgreSQL-1 (one client,
    /// on one CPU with the server); threads
    #[arg(long, value_name = "LOAD", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave the other tools out
    #[arg(long)]
    ours: bool,
}

type Start = fn(Duration, &Path) -> Result<Box<dyn Load>>;

const LOADS: &[(&str, Start)] = &[
    ("ping-pong", |window, scratch| Ok(Box::new(PingPong::start(window, scratch)?))),
    ("redis", |window, scratch| Ok(Box::new(Server::redis(Many, window, scratch)?))),
    ("nginx", |window, scratch| Ok(Box::new(Server::nginx(Many, window, scratch)?))),
    ("PostgreSQL", |window, scratch| Ok(Box::new(Server::postgres(Many, window, scratch)?))),
    ("redis-1", |window, scratch| Ok(Box::new(Server::redis(One, window, scratch)?))),
    ("nginx-1", |window, scratch| Ok(Box::new(Server::nginx(One, window, scratch)?))),
    ("PostgreSQL-1", |window, scratch| Ok(Box::new(Server::postgres(One, window, scratch)?))),
];

const THREADS: &str = "threads";
/// How many threads the last part has.
const CROWD: u32 = 10_000;

/// Measures and prints the tables.
///
/// # Errors
/// When something that is needed is missing, or our own recording fails.
pub fn run(options: &Options) -> Result<()> {
    let names: Vec<_> = LOADS.iter().map(|(name, _)| *name).chain([THREADS]).collect();
    if let Some(unknown) = options.only.iter().find(|only| !names.contains(&only.as_str())) {
        bail!("there is no load `{unknown}`; there are: {}", names.join(", "));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("run the benchmark as root: it records other processes");
    }
    shell::run(shell::cargo().args(["build", "--release", "--quiet", "--package", "flame-graph"]))?;
    programs::compile()?;
    let scratch = folder().join("offcpu");
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let _tracefs = Tracefs::mount();
    let machine = Machine::look();
    println!("{machine}; load {} before", machine.load);
    println!("throughput kept: median [least–greatest] of {} rounds", options.rounds);
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|one| one == name);
    for (name, start) in LOADS.iter().filter(|(name, _)| wanted(name)) {
        match start(Duration::from_secs(options.seconds), &scratch) {
            Ok(load) => measure(name, &*load, options, &scratch)?,
            Err(error) => println!("{name}: left out: {error:#}"),
        }
    }
    if wanted(THREADS) {
        threads(&scratch)?;
    }
    println!("load {} after", machine::load());
    Ok(())
}

/// What one tool's turns gave.
struct Turns {
    tool: Tool,
    kept: Vec<f64>,
    figures: Option<Value>,
    is_left_out: bool,
}

fn measure(name: &str, load: &dyn Load, options: &Options, scratch: &Path) -> Result<()> {
    let tools = Tool::ALL.into_iter().filter(|tool| tool.is_ours() || !options.ours);
    let turns = |tool| Turns { tool, kept: Vec::new(), figures: None, is_left_out: false };
    let mut all: Vec<_> = tools.map(turns).collect();
    let mut alone = Vec::new();
    // The first run warms caches up.
    load.rate()?;
    for _ in 0..options.rounds {
        for turns in all.iter_mut().filter(|turns| !turns.is_left_out) {
            let before = load.rate()?;
            let Some(recording) = turns.tool.start(&load.pids(), false, scratch)? else {
                turns.is_left_out = true;
                continue;
            };
            let rate = load.rate()?;
            recording.finish()?;
            let after = load.rate()?;
            alone.extend([before, after]);
            turns.kept.push(rate / f64::midpoint(before, after));
        }
    }
    // The kernel's measuring of BPF programs slows them: our figures are of another turn.
    for turns in all.iter_mut().filter(|turns| turns.tool.is_ours() && !turns.is_left_out) {
        let Some(recording) = turns.tool.start(&load.pids(), true, scratch)? else { continue };
        load.rate()?;
        turns.figures = recording.finish()?;
    }
    let alone = Spread::of(&alone).map_or(0.0, |alone| alone.median);
    println!("\n{name}: {alone:.0} a second without a tool");
    for Turns { tool, kept, figures, .. } in &all {
        let Some(Spread { min, median, max }) = Spread::of(kept) else { continue };
        let (name, of_ours) = (tool.name(), figures.as_ref().map_or_else(String::new, ours));
        println!("  {name:27} {median:.3} [{min:.3}–{max:.3}]{of_ours}");
    }
    Ok(())
}

/// What our own figures say.
fn ours(figures: &Value) -> String {
    let number = |name: &str| figures.get(name)?.as_f64();
    let lost = figures.get("lost").and_then(Value::as_object);
    let lost = lost.map(|lost| lost.values().filter_map(Value::as_u64).sum::<u64>());
    let mut text = String::new();
    if let Some((time, runs)) = number("bpf_nanoseconds").zip(number("bpf_runs")) {
        text.push_str(&format!("  {:.0} ns a run of {:.1} million", time / runs, runs / 1e6));
    }
    if let Some(lost) = lost {
        text.push_str(&format!(", lost {lost}"));
    }
    text
}

/// Ten thousand threads that wait: what it takes to account for all.
fn threads(scratch: &Path) -> Result<()> {
    let program = scratch.join("waits");
    let mut gcc = shell::command("gcc");
    gcc.args(["-O2", "-pthread", "-o"])
        .arg(&program)
        .arg(shell::root().join("tests/programs/waits.c"));
    shell::run(&mut gcc)?;
    let mut crowd = Command::new(&program);
    crowd.args(["crowd", &CROWD.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut crowd = crowd.spawn().context("cannot start the threads")?;
    let result = record_threads(crowd.id(), scratch);
    // An error here means that it has ended.
    let _ = crowd.kill();
    let _ = crowd.wait();
    result
}

fn record_threads(pid: u32, scratch: &Path) -> Result<()> {
    let (stats, tasks) = (scratch.join("stats.json"), format!("/proc/{pid}/task"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::read_dir(&tasks).map_or(0, Iterator::count) < CROWD as usize {
        if Instant::now() > deadline {
            bail!("the threads do not start: is there a limit to their number?");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut ours = Command::new(binary());
    ours.args(["offcpu", "--pid", &pid.to_string(), "-d", "5"]);
    ours.arg("-o").arg(scratch.join("out.svg")).arg("--stats").arg(&stats).stderr(Stdio::null());
    shell::run(&mut ours)?;
    let figures: Value = serde_json::from_slice(&fs::read(&stats)?)?;
    let number = |name: &str| figures.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let accounted = number("blocked_us") + number("runnable_us") + number("on_cpu_us");
    println!(
        "\n{CROWD} threads, 5 s: maps {:.1} MB, peak {:.1} MB, {:.2} % of their time accounted for",
        number("map_bytes") / 1e6,
        number("peak_rss_bytes") / 1e6,
        accounted / (f64::from(CROWD + 1) * 5e6) * 100.0,
    );
    Ok(())
}

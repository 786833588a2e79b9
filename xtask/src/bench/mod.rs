//! `cargo xtask bench cpu`: what a recording costs and what it gives, beside perf, and samply if it is
//! there, on the same programs; [`collectors`]: what collectors cost; [`off_cpu`]: what recording
//! waits does. Benchmarks: they measure and assert nothing.
//!
//! Tools take turns within each round, so that what changes on the machine meanwhile meets all of
//! them. A figure is the median of the rounds, with the least and the greatest.

mod churn;
mod collectors;
mod filters;
mod kinds;
mod machine;
mod numbers;
mod off_cpu;
mod parts;
mod perf_script;
mod programs;
mod samply;
mod tools;

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::shell;

/// What is measured.
#[derive(Subcommand)]
pub enum Bench {
    /// CPU profiling: our engine beside `perf record`
    Cpu(Options),
    /// Services and runtimes that profile themselves: how much slower that makes them
    Collectors(collectors::Options),
    /// Waiting: what recording it costs programs that wait, beside perf, bpftrace and offcputime
    Offcpu(off_cpu::Options),
}

/// How it is measured.
#[derive(Args, Default)]
pub struct Options {
    /// Fewer and shorter rounds: some four minutes instead of ten
    #[arg(long)]
    pub quick: bool,
    /// Only these parts: cost, host, churn, complete, kinds, shares, walk, filters
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Also write every measurement to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Measures and prints the table.
///
/// # Errors
/// When something that is needed is missing, or a tool fails.
pub fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Cpu(options) => cpu(options),
        Bench::Collectors(options) => collectors::run(options),
        Bench::Offcpu(options) => off_cpu::run(options),
    }
}

fn cpu(options: &Options) -> Result<()> {
    let parts = parts::chosen(&options.only)?;
    if !rustix::process::geteuid().is_root() {
        bail!("run the benchmark as root: it records other processes, as perf does");
    }
    if !shell::succeeds(shell::command("perf").arg("--version")) {
        bail!("there is no perf to compare with: install Debian's package linux-perf");
    }
    shell::run(shell::cargo().args(["build", "--release", "--quiet", "--package", "flame-graph"]))?;
    programs::compile()?;
    let scratch = programs::folder().join("scratch");
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;

    let before = machine::Machine::look();
    let began = Instant::now();
    let context = parts::Context { quick: options.quick, scratch, tools: tools::Tool::present() };
    let mut rows = Vec::new();
    for part in parts {
        eprintln!("{:4.0} s: {}", began.elapsed().as_secs_f64(), part.name);
        rows.extend((part.run)(&context)?);
    }
    let load = machine::load();
    println!("{before}; load {} before, {load} after", before.load);
    println!("median [least–greatest] of the rounds; MB are 10^6 bytes\n{}", parts::NOTES);
    print!("\n{}", numbers::table(&rows));
    if let Some(path) = &options.json {
        let rows: Vec<_> = rows.iter().map(numbers::Row::to_json).collect();
        let all = serde_json::json!({
            "machine": before.to_string(), "load": [before.load, load], "rows": rows,
        });
        fs::write(path, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

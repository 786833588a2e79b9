//! What a recording of the whole host takes while processes come and go: 200 that sleep, and 200
//! that begin and end every second.

use std::{
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    numbers::{Row, Unit, ours},
    parts::Context,
    tools,
};

/// Processes that sleep.
const SLEEPING: usize = 200;
/// Threads that start processes, and how often each does.
const STARTERS: usize = 4;
const PERIOD: Duration = Duration::from_millis(20);

/// Records once, for a minute; with `--quick` for ten seconds.
///
/// # Errors
/// When a process cannot be started, or the recording fails.
pub fn churn(context: &Context) -> Result<Vec<Row>> {
    let settings = context.settings(99, 60.0, 10.0);
    let sleeping = Sleeping::start()?;
    let over = AtomicBool::new(false);
    let stats = thread::scope(|scope| {
        for _ in 0..STARTERS {
            scope.spawn(|| start_processes(&over));
        }
        let stats = tools::recorded(&["--all"], settings, &context.scratch);
        over.store(true, Ordering::Relaxed);
        stats
    })?;
    drop(sleeping);
    let number = |name: &str| stats.get(name).and_then(serde_json::Value::as_f64);
    let seconds = number("duration_s").unwrap_or_default();
    let samples = number("samples").unwrap_or_default();
    let row = |figure, unit, value: Option<f64>| Row {
        part: "churn",
        subject: format!("200 starts a second, {seconds:.0} s"),
        figure,
        unit,
        values: ours(value.into_iter().collect()),
    };
    Ok(vec![
        row("peak memory", Unit::Megabytes, number("peak_rss_bytes").map(|bytes| bytes / 1e6)),
        row("map memory", Unit::Megabytes, number("map_bytes").map(|bytes| bytes / 1e6)),
        row(
            "tool CPU, of one CPU",
            Unit::Percent,
            number("own_cpu_ms").map(|ms| ms / seconds / 10.0),
        ),
        row("start to recording", Unit::Milliseconds, number("start_to_recording_ms")),
        row("processes a second", Unit::Count, number("processes").map(|n| n / seconds)),
        row("complete", Unit::Percent, number("complete").map(|n| n / samples * 100.0)),
        row("samples", Unit::Count, Some(samples)),
    ])
}

/// Starts a process in each period until it is over.
fn start_processes(over: &AtomicBool) {
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        // What cannot be started shows in the number of processes.
        let _ = Command::new("true").status();
        next = (next + PERIOD).max(Instant::now());
        thread::sleep(next - Instant::now());
    }
}

/// Processes that sleep, until this is dropped.
struct Sleeping(Vec<Child>);

impl Sleeping {
    fn start() -> Result<Self> {
        let mut sleeping = Self(Vec::new());
        for _ in 0..SLEEPING {
            let mut command = Command::new("sleep");
            let child = command.arg("600").stdin(Stdio::null()).spawn();
            sleeping.0.push(child.context("cannot start `sleep`")?);
        }
        Ok(sleeping)
    }
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // An error here means that it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

//! `flame-graph offcpu`: where threads wait, and that no time is missing.

use std::path::PathBuf;

use crate::{
    require,
    support::{Build, Stacks, Stage, record::Recorded, root, tool},
};

const THREADS: u64 = 4;

fn program(name: &'static str) -> PathBuf {
    Build::new("gcc", name, "off_cpu.c").flags("-O2 -pthread").build()
}

fn record(stage: &Stage, args: &[&str]) -> Recorded {
    stage.collect("offcpu", args)
}

/// Microseconds of the stacks that hold a function and end in a state.
fn waited(stacks: &Stacks, function: &str, state: &str) -> u64 {
    let stacks = stacks.filter(|stack| {
        stack.has(function) && stack.frames.last().is_some_and(|frame| frame.name == state)
    });
    stacks.total()
}

#[track_caller]
fn is_near(found: u64, expected: u64) {
    let allowed = (expected / 100).max(1_000);
    assert!(found.abs_diff(expected) <= allowed, "{found} is not {expected} µs");
}

fn figure(recorded: &Recorded, name: &str) -> u64 {
    recorded.stats[name].as_u64().unwrap()
}

/// Checks that nothing of the time of `threads` threads that lived all along is missing, or counted
/// twice.
#[track_caller]
fn conserved(recorded: &Recorded, threads: u64) {
    let waited = figure(recorded, "runnable_us") + figure(recorded, "blocked_us");
    is_near(recorded.stacks.total(), waited);
    assert_eq!(figure(recorded, "threads"), threads, "{}", recorded.said);
    is_near(waited + figure(recorded, "on_cpu_us"), threads * figure(recorded, "window_us"));
    assert_eq!(figure(recorded, "lost_us"), 0);
}

#[test]
fn every_thread_is_accounted_for() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let target = stage.run(program("off-cpu"));
    let recorded = record(&stage, &["--pid", &target.pid().to_string(), "-d", "1.5"]);
    conserved(&recorded, THREADS);
    let (stacks, window) = (&recorded.stacks, figure(&recorded, "window_us"));
    stacks.complete();
    // They waited before the recording began, and after it ended.
    is_near(waited(stacks, "wait_in_pipe", "[sleeping]"), window);
    is_near(waited(stacks, "main", "[sleeping]"), window);
    let asleep = waited(stacks, "sleep_often", "[sleeping]");
    assert!(asleep > window * 9 / 10, "{stacks}");
    is_near(asleep + waited(stacks, "sleep_often", "[waiting for CPU]"), window);
    assert_eq!(waited(stacks, "run_always", "[sleeping]"), 0, "{stacks}");
    let piped = stacks.filter(|stack| stack.has("wait_in_pipe"));
    assert!(piped.0.iter().all(|stack| stack.has("vfs_read")), "{piped}");
    assert!(!stacks.0.iter().any(|stack| stack.has("__schedule")), "{stacks}");
}

#[test]
fn one_thread_alone() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let target = stage.run(program("off-alone"));
    let pid = target.pid().to_string();
    let recorded = record(&stage, &["--tid", &pid, "-d", "0.5", "--threads", "--user-only"]);
    conserved(&recorded, 1);
    is_near(waited(&recorded.stacks, "pause", "[sleeping]"), figure(&recorded, "window_us"));
    assert!(recorded.stacks.0.iter().all(|stack| stack.frames[0].name == "off-alone"));
}

#[test]
fn a_command_from_its_first_moment_to_its_last() {
    require!(root());
    let stage = Stage::take();
    let recorded = record(&stage, &["--", "sh", "-c", "sleep 0.3; sleep 0.2; exec sleep 0.1"]);
    let stacks = &recorded.stacks;
    let slept = stacks.of("sleep");
    let asleep = waited(&slept, "clock_nanosleep", "[sleeping]");
    assert!((600_000..640_000).contains(&asleep), "{stacks}");
    // The shell waits for the first two.
    let waits = stacks.of("sh").total();
    assert!((500_000..800_000).contains(&waits), "{stacks}");
    stacks.complete();
}

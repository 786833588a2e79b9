//! `flame-graph offcpu` and `flame-graph wall`: where threads wait, and that no time is missing.

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

/// Perf events tell as much of how long, and less of what for.
#[test]
fn every_thread_is_accounted_for_by_perf_events() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let target = stage.run(program("off-perf"));
    let pid = target.pid().to_string();
    let args = ["--engine", "perf-event", "--pid", &pid, "-d", "1.5"];
    let recorded = record(&stage, &args);
    conserved(&recorded, THREADS);
    let (stacks, window) = (&recorded.stacks, figure(&recorded, "window_us"));
    let asleep = waited(stacks, "sleep_often", "[blocked]");
    assert!(asleep > window * 9 / 10, "{stacks}");
    // What never moves is found asleep, and nobody tells where.
    let unmoved = stacks.filter(|stack| stack.frames[0].name == "[sleeping]").total();
    assert!((2 * window..2 * window + 25_000).contains(&(unmoved + 1_000)), "{stacks}");
    let wall = stage.collect("wall", &[&args[..], &["-F", "499"]].concat());
    let window = figure(&wall, "window_us");
    is_near(wall.stacks.total(), THREADS * window);
    let runs = wall.stacks.filter(|stack| stack.has("run_always"));
    assert!(runs.total() > window * 9 / 10, "{}", wall.stacks);
    let whole = stage.collect("offcpu", &["--engine", "perf-event", "-d", "0.5"]);
    // Other threads come and go.
    is_near(whole.stacks.total(), figure(&whole, "runnable_us") + figure(&whole, "blocked_us"));
    let lived = whole.stacks.total() + figure(&whole, "on_cpu_us");
    assert!(lived > THREADS * figure(&whole, "window_us"), "{}", whole.said);
    for refused in [&["--wakers"][..], &["--state", "sleeping"], &["--comm", "off*"]] {
        let mut command = std::process::Command::new(tests::binary());
        let ended = stage.command(command.arg("offcpu"), &[&args[..], refused].concat());
        assert_eq!(ended.code, Some(1), "{}", ended.said);
        assert!(ended.said.contains(refused[0]) && ended.folded.is_none(), "{}", ended.said);
    }
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
    let by_perf = ["--engine", "perf-event", "--tid", &pid, "-d", "0.5"];
    conserved(&record(&stage, &by_perf), 1);
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

#[test]
fn all_of_the_time_is_drawn() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let target = stage.run(program("off-wall"));
    let pid = target.pid().to_string();
    let recorded = stage.collect("wall", &["--pid", &pid, "-d", "1.5", "-F", "499"]);
    let (stacks, window) = (&recorded.stacks, figure(&recorded, "window_us"));
    is_near(stacks.total(), THREADS * window);
    // Where a thread waited that woke before it was looked at is not known.
    let runs = stacks.filter(|stack| stack.has("run_always"));
    assert!(runs.total() > window * 9 / 10 && runs.total() <= window + 1_000, "{stacks}");
    let queued = waited(&runs, "run_always", "[waiting for CPU]");
    let others = figure(&recorded, "on_cpu_us").abs_diff(runs.total() - queued);
    assert!(others < window / 20, "{stacks}");
    is_near(stacks.filter(|stack| stack.has("wait_in_pipe")).total(), window);
    stacks.complete();
}

#[test]
fn waits_are_chosen_by_length_state_and_use() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let target = stage.run(program("off-some"));
    let pid = target.pid().to_string();
    let of = |args: &[&str]| record(&stage, &[&["--pid", &pid, "-d", "0.6"], args].concat());
    let long = of(&["--min-block", "100ms", "--state", "sleeping"]);
    let short = long.stacks.filter(|stack| stack.has("[waits below 100 ms]"));
    let (slept, window) = (short.total(), figure(&long, "window_us"));
    // It also waits for a CPU, of which others may have more need.
    assert!(slept > window / 4 && slept <= window + 1_000, "{}", long.stacks);
    assert!(!long.stacks.0.iter().any(|stack| stack.has("sleep_often")), "{}", long.stacks);
    let queued = of(&["--state", "runnable"]);
    let is_queued = |stack: &crate::support::stacks::Stack| stack.has("[waiting for CPU]");
    assert!(queued.stacks.0.iter().all(is_queued), "{}", queued.stacks);
    is_near(queued.stacks.total(), figure(&queued, "runnable_us"));
    let folded = of(&["--idle", "hide"]);
    let idle = folded.stacks.filter(|stack| stack.has("[idle threads]"));
    // Two threads never move; whether a third does little but sleep depends on what others do.
    let window = figure(&folded, "window_us");
    assert!(idle.total() >= 2 * window - 1_000, "{}", folded.stacks);
    assert!(idle.total() <= 3 * window + 1_000, "{}", folded.stacks);
    assert!(!folded.stacks.0.iter().any(|stack| stack.has("wait_in_pipe")), "{}", folded.stacks);
}

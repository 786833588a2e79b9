//! The tools that are compared, and one recording with each.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};
use serde_json::Value;

use super::{
    perf_script::{self, Frame, Sample},
    programs, samply,
};
use crate::shell::{self, root};

/// A tool, in the order of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Ours,
    PerfDwarf,
    PerfFramePointer,
    Samply,
}

impl Tool {
    /// Those that are there.
    pub fn present() -> Vec<Self> {
        let mut tools = vec![Self::Ours, Self::PerfDwarf, Self::PerfFramePointer];
        if shell::succeeds(shell::command("samply").arg("--version")) {
            if is_open_to_samply() {
                tools.push(Self::Samply);
            } else {
                eprintln!(
                    "samply is left out: it wants kernel.perf_event_paranoid to be 1 or less"
                );
            }
        }
        tools
    }

    pub fn records_hosts(self) -> bool {
        self != Self::Samply
    }
}

/// samply refuses to attach otherwise, also for root.
fn is_open_to_samply() -> bool {
    let value = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    value.trim().parse().is_ok_and(|value: i32| value <= 1)
}

/// How a recording is made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Samples a second.
    pub frequency: u32,
    /// How long the program's work is watched.
    pub window: Duration,
    /// The whole host instead of the one process.
    pub host: bool,
}

/// What one recording took and gave.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Units of work for a second of CPU time, while it recorded.
    pub rate: Option<f64>,
    /// CPU time of the tool from its start to its picture.
    pub cpu_ms: f64,
    /// Its peak resident memory.
    pub peak_mb: f64,
    /// From the signal that ends it to its end.
    pub stop_to_picture_ms: f64,
    /// From its start to the time of the first sample.
    pub first_sample_ms: Option<f64>,
    /// Stacks recorded.
    pub samples: f64,
    /// Stacks that reach their root.
    pub complete: f64,
    /// Samples below each function of the program (by name).
    pub by_function: BTreeMap<String, f64>,
    /// Our `--stats`.
    pub stats: Option<Value>,
    /// What the tool wrote to disk.
    pub data_mb: f64,
}

impl Run {
    /// Adds the samples that `read` hands on.
    fn read_samples(
        &mut self,
        program: &dyn Subject,
        started: f64,
        read: impl FnOnce(&mut dyn FnMut(&Sample)) -> Result<()>,
    ) -> Result<()> {
        let mut first = f64::INFINITY;
        read(&mut |sample| {
            first = first.min(sample.time);
            self.samples += 1.0;
            let ends = sample.root().is_some_and(|root| program.is_root(root));
            self.complete += f64::from(u8::from(ends));
            let mut names: Vec<&str> = sample.frames.iter().map(|f| f.symbol.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                *self.by_function.entry(name.to_owned()).or_default() += 1.0;
            }
        })?;
        self.first_sample_ms = first.is_finite().then_some((first - started) * 1e3);
        Ok(())
    }

    /// A number of our `--stats`.
    pub fn stat(&self, name: &str) -> Option<f64> {
        self.stats.as_ref()?.get(name)?.as_f64()
    }
}

/// What samply writes; it names the second file by the first.
const PROFILE: &str = "samply.json";
const SYMBOLS: &str = "samply.syms.json";
/// How tools end when all is well, as wait statuses: exit code 0; by SIGINT, as perf does; exit
/// code 3, our way to say that nothing was caught.
const ENDS: [i32; 3] = [0, 2, 3 << 8];
/// How long a tool may take to set itself up.
const SET_UP: Duration = Duration::from_millis(400);
/// How long a tool may take to end. It bounds the benchmark, not the tool: with inlined calls,
/// `perf script` takes minutes for a whole host on which a compiler runs.
const MAX_END: Duration = Duration::from_secs(40);

/// A program that is recorded.
pub trait Subject {
    /// Its process.
    fn pid(&self) -> u32;

    /// How fast it works for so long, where it tells.
    ///
    /// # Errors
    /// When what it tells cannot be read.
    fn rate(&self, window: Duration) -> Result<Option<f64>>;

    /// Whether a stack that ends in this frame reaches its root.
    fn is_root(&self, frame: &Frame) -> bool;
}

/// Records a running program.
///
/// # Errors
/// When the tool cannot be run or fails.
pub fn record(
    tool: Tool,
    program: &dyn Subject,
    settings: Settings,
    scratch: &Path,
) -> Result<Run> {
    let started = monotonic();
    let mut measured = Measured::start(&command(tool, program.pid(), settings, scratch), scratch)?;
    sleep(SET_UP);
    let rate = program.rate(settings.window)?;
    let stopped = Instant::now();
    measured.interrupt();
    let mut cost = measured.wait()?;
    let mut run = Run { rate, ..Run::default() };
    if tool == Tool::Samply {
        run.stop_to_picture_ms = stopped.elapsed().as_secs_f64() * 1e3;
        let path = |name| scratch.join(name);
        run.data_mb = fs::metadata(path(PROFILE))?.len() as f64 / 1e6;
        let read = |name| fs::read_to_string(path(name)).context("samply wrote no profile");
        let (profile, symbols) = (read(PROFILE)?, read(SYMBOLS)?);
        run.read_samples(program, started, |each| samply::read(&profile, &symbols, each))?;
    } else if tool == Tool::Ours {
        let stats = fs::read(scratch.join("stats.json")).context("flame-graph wrote no figures")?;
        let stats: Value = serde_json::from_slice(&stats)?;
        let number = |name| stats.get(name).and_then(Value::as_f64);
        run.samples = number("samples").unwrap_or_default();
        run.complete = number("complete").unwrap_or_default();
        run.first_sample_ms = number("start_to_first_sample_ms");
        run.stop_to_picture_ms = stopped.elapsed().as_secs_f64() * 1e3;
        run.stats = Some(stats);
        if run.samples > 0.0 {
            let folded = fs::read_to_string(scratch.join("out.folded"))?;
            run.by_function = folded_functions(&folded);
        }
    } else {
        let script = Measured::start(&script(settings.host, scratch), scratch)?.wait()?;
        run.stop_to_picture_ms = stopped.elapsed().as_secs_f64() * 1e3;
        cost.cpu_ms += script.cpu_ms;
        cost.peak_mb = cost.peak_mb.max(script.peak_mb);
        run.data_mb = fs::metadata(scratch.join("perf.data"))?.len() as f64 / 1e6;
        let script = BufReader::new(File::open(scratch.join("out"))?);
        run.read_samples(program, started, |each| Ok(perf_script::read(script, each)?))?;
    }
    run.cpu_ms = cost.cpu_ms;
    run.peak_mb = cost.peak_mb;
    Ok(run)
}

/// Nanoseconds of a run of our BPF program, in the mean over a recording of `whom`.
///
/// # Errors
/// When the tool cannot be run or fails.
pub fn run_time(whom: &[&str], settings: Settings, scratch: &Path) -> Result<f64> {
    let stats = recorded(whom, settings, scratch)?;
    let number = |name| stats.get(name).and_then(Value::as_f64);
    let (time, runs) = (number("bpf_nanoseconds"), number("bpf_runs"));
    let (time, runs) = time.zip(runs).context("the kernel counted no run time")?;
    Ok(time / runs.max(1.0))
}

/// The figures of our recording of `whom`.
///
/// # Errors
/// When the tool cannot be run or fails.
pub fn recorded(whom: &[&str], settings: Settings, scratch: &Path) -> Result<Value> {
    let mut measured = Measured::start(&ours(whom, settings.frequency, scratch), scratch)?;
    sleep(SET_UP + settings.window);
    measured.interrupt();
    measured.wait()?;
    Ok(serde_json::from_slice(&fs::read(scratch.join("stats.json"))?)?)
}

/// The binary that is measured.
pub fn binary() -> PathBuf {
    programs::shell_target().join("release/flame-graph")
}

/// Our recording of `whom`.
fn ours(whom: &[&str], frequency: u32, scratch: &Path) -> Vec<String> {
    let path = |name: &str| scratch.join(name).display().to_string();
    let (frequency, binary) = (frequency.to_string(), binary().display().to_string());
    let (svg, folded, stats) = (path("out.svg"), path("out.folded"), path("stats.json"));
    let fixed: [&str; 12] = [
        &binary, "cpu", "-F", &frequency, "-d", "600", "-o", &svg, "-o", &folded, "--stats", &stats,
    ];
    fixed.iter().chain(whom).map(|word| (*word).to_owned()).collect()
}

fn command(tool: Tool, pid: u32, settings: Settings, scratch: &Path) -> Vec<String> {
    let path = |name: &str| scratch.join(name).display().to_string();
    let (frequency, pid) = (settings.frequency.to_string(), pid.to_string());
    if tool == Tool::Ours {
        let whom: &[&str] = if settings.host { &["--all"] } else { &["--pid", &pid] };
        return ours(whom, settings.frequency, scratch);
    }
    let mut words: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
    if tool == Tool::Samply {
        add(&["samply", "record", "--save-only", "--unstable-presymbolicate", "--rate"]);
        add(&[&frequency, "--output", &path(PROFILE), "--pid", &pid]);
        return words;
    }
    // With build IDs from the kernel perf need not read all its data once more when it ends, and
    // without BPF events it does not crash here (6.1.187: `assertion failed at util/build-id.c`).
    add(&["perf", "record", "-q", "--buildid-mmap", "--no-bpf-event", "-k", "CLOCK_MONOTONIC"]);
    add(&["-e", "cpu-clock", "-F", &frequency, "-o", &path("perf.data")]);
    add(if tool == Tool::PerfDwarf { &["--call-graph", "dwarf"] } else { &["-g"] });
    if settings.host {
        add(&["-a"]);
    } else {
        add(&["-p", &pid]);
    }
    words
}

/// What perf must at least do on the way to a picture. Of a whole host without inlined calls.
fn script(host: bool, scratch: &Path) -> Vec<String> {
    let data = scratch.join("perf.data").display().to_string();
    let inline = if host { "--no-inline" } else { "--inline" };
    ["perf", "script", inline, "-F", "tid,time,ip,sym,dso", "-i", &data].map(str::to_owned).to_vec()
}

/// Samples below each function, from folded stacks.
fn folded_functions(folded: &str) -> BTreeMap<String, f64> {
    let mut functions = BTreeMap::new();
    for line in folded.lines() {
        let Some((stack, count)) = line.rsplit_once(' ') else { continue };
        let count: f64 = count.parse().unwrap_or_default();
        let mut names: Vec<&str> = stack.split(';').skip(1).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            *functions.entry(name.to_owned()).or_default() += count;
        }
    }
    functions
}

fn monotonic() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// What a command took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    cpu_ms: f64,
    peak_mb: f64,
}

/// A command below `measure`, which tells what it took. Its output goes to the file `out`.
struct Measured {
    child: Child,
    shown: String,
    scratch: PathBuf,
}

impl Measured {
    fn start(words: &[String], scratch: &Path) -> Result<Self> {
        let shown = words.join(" ");
        let mut command = Command::new(programs::folder().join("measure"));
        command.current_dir(root()).arg(scratch.join("cost")).args(words).stdin(Stdio::null());
        command.stdout(File::create(scratch.join("out"))?);
        command.stderr(File::create(scratch.join("errors"))?);
        let child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
        Ok(Self { child, shown, scratch: scratch.to_path_buf() })
    }

    fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It has ended already when this fails, which `wait` reports.
            let _ = kill_process(pid, signal);
        }
    }

    fn wait(&mut self) -> Result<Cost> {
        let deadline = Instant::now() + MAX_END;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("`{}` takes more than {} s", self.shown, MAX_END.as_secs());
            }
            sleep(Duration::from_millis(1));
        }
        let (status, cost) = fs::read_to_string(self.scratch.join("cost"))
            .ok()
            .and_then(|text| cost(&text))
            .with_context(|| format!("nothing was measured of `{}`", self.shown))?;
        if !ENDS.contains(&status) {
            let errors = fs::read_to_string(self.scratch.join("errors")).unwrap_or_default();
            bail!("`{}` failed (wait status {status}): {}", self.shown, errors.trim());
        }
        Ok(cost)
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // `measure` hands this on to the tool.
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// Wait status and cost, as `measure` writes them.
fn cost(text: &str) -> Option<(i32, Cost)> {
    let mut words = text.split_whitespace();
    let status = words.next()?.parse().ok()?;
    let microseconds: f64 = words.next()?.parse().ok()?;
    let kib: f64 = words.next()?.parse().ok()?;
    Some((status, Cost { cpu_ms: microseconds / 1e3, peak_mb: kib * 1024.0 / 1e6 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_measure_writes_is_read() {
        let (status, cost) = cost("0 1500 1000\n").unwrap();
        assert_eq!(status, 0);
        assert_eq!(cost, Cost { cpu_ms: 1.5, peak_mb: 1.024 });
        assert_eq!(super::cost("0 1500"), None);
    }

    #[test]
    fn a_function_counts_once_in_each_folded_stack() {
        let functions = folded_functions("p;main;f;f 3\np;main;g 2\nbad\n");
        assert_eq!(functions["main"], 5.0);
        assert_eq!(functions["f"], 3.0);
        assert!(!functions.contains_key("p"));
    }

    #[test]
    fn a_tool_records_a_process_or_the_host() {
        let settings = Settings { frequency: 99, window: Duration::ZERO, host: false };
        let words = |tool, host| {
            let settings = Settings { host, ..settings };
            command(tool, 7, settings, Path::new("/x")).join(" ")
        };
        assert!(words(Tool::Ours, false).contains("cpu -F 99 "));
        assert!(words(Tool::Ours, false).ends_with(" --pid 7"));
        assert!(words(Tool::Ours, true).ends_with(" --all"));
        assert!(words(Tool::PerfDwarf, false).ends_with(" --call-graph dwarf -p 7"));
        assert!(words(Tool::PerfFramePointer, true).ends_with(" -g -a"));
        assert!(words(Tool::Samply, false).ends_with(" --pid 7"));
    }
}

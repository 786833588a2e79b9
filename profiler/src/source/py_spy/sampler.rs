//! One process, sampled by py-spy on a thread of its own: what it attaches with is bound to the
//! thread that did so, and one slow process delays no other.

use std::{
    sync::{Arc, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use py_spy::{
    Config, PythonSpy, StackTrace,
    config::{LineNo, LockingStrategy},
};

use super::{Settings, Shared, threads::Threads};
use crate::{
    model::{
        frame::{Frame, FrameKind, RawFrame},
        stacks::{StackId, Stacks},
    },
    target::process::Proc,
};

/// A process that began a moment ago has no interpreter yet: so often it is tried, every 20 ms.
const TRIES: u64 = 10;

/// A process that is being sampled.
pub struct Sampler {
    /// What all samplers share.
    pub shared: Arc<Shared>,
    /// Version of its interpreter.
    pub version: String,
    thread: JoinHandle<Taken>,
}

/// What came of it.
pub struct Taken {
    pub stacks: Stacks<RawFrame>,
    /// Samples that could not be read.
    pub lost: u64,
    /// Samples that were taken too late.
    pub late: u64,
    /// Why the last of those could not be read.
    pub error: Option<String>,
}

impl Sampler {
    /// Attaches and begins.
    ///
    /// # Errors
    /// Why py-spy cannot read it, in a line.
    pub fn start(settings: &Settings, pid: u32, shared: Arc<Shared>) -> anyhow::Result<Self> {
        let (ready, is_ready) = mpsc::channel();
        let sampling = Sampling {
            settings: settings.clone(),
            pid,
            process: RawFrame::Process(comm(pid).into()),
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new()
            .name(format!("py-spy-{pid}"))
            .spawn(move || sampling.run(&ready))?;
        match is_ready.recv() {
            Ok(Ok(version)) => Ok(Self { shared, version, thread }),
            Ok(Err(error)) => Err(anyhow!(error)),
            Err(_) => Err(anyhow!("py-spy failed unexpectedly")),
        }
    }

    /// Whether it has ended, as the process has.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When py-spy failed in a way that it must not.
    pub fn finish(self) -> anyhow::Result<Taken> {
        self.thread.join().map_err(|_| anyhow!("py-spy failed unexpectedly"))
    }
}

/// What a sampler's thread needs.
struct Sampling {
    settings: Settings,
    pid: u32,
    process: RawFrame,
    shared: Arc<Shared>,
}

impl Sampling {
    fn run(self, ready: &mpsc::Sender<Result<String, String>>) -> Taken {
        let mut taken = Taken { stacks: Stacks::new(1), lost: 0, late: 0, error: None };
        let mut spy = match self.attach() {
            Ok(spy) => spy,
            Err(error) => {
                // Whoever started us waits.
                let _ = ready.send(Err(error.to_string()));
                return taken;
            }
        };
        let _ = ready.send(Ok(spy.version.to_string()));
        let mut threads = Threads::new(self.pid);
        let mut ticks = Ticks::new(self.settings.frequency);
        while !self.shared.stop.load(Ordering::Relaxed) {
            taken.late += ticks.wait();
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            threads.look();
            match spy.get_stack_traces() {
                Ok(traces) => {
                    for trace in traces {
                        self.add(&mut taken.stacks, &trace, &mut threads);
                    }
                }
                Err(_) if has_ended(self.pid) => break,
                Err(error) => {
                    taken.lost += 1;
                    taken.error = Some(line(&error));
                    self.shared.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        taken
    }

    fn attach(&self) -> anyhow::Result<PythonSpy> {
        let settings = &self.settings;
        let config = Config {
            blocking: if settings.nonblocking {
                LockingStrategy::NonBlocking
            } else {
                LockingStrategy::Lock
            },
            gil_only: settings.gil,
            include_idle: settings.idle,
            collect_thread_names: settings.threads,
            // A function is one frame, whichever of its lines runs.
            lineno: LineNo::First,
            sampling_rate: settings.frequency,
            ..Config::default()
        };
        let pid = self.pid.try_into().context("its id is out of range")?;
        PythonSpy::retry_new(pid, &config, TRIES).map_err(|error| anyhow!(line(&error)))
    }

    fn add(&self, stacks: &mut Stacks<RawFrame>, trace: &StackTrace, threads: &mut Threads) {
        let settings = &self.settings;
        if settings.gil && !trace.owns_gil {
            return;
        }
        let waits = !trace.active
            || match trace.os_thread_id {
                Some(number) => threads.number_waits(number),
                None => threads.waits(trace.thread_id),
            };
        if waits && !settings.idle && !settings.gil {
            return;
        }
        let mut stack = stacks.push(StackId::ROOT, &self.process);
        if settings.threads {
            stack = stacks.push(stack, &RawFrame::Thread(thread_name(trace).into()));
        }
        for frame in trace.frames.iter().rev() {
            stack = stacks.push(stack, &RawFrame::Named(named(frame)));
        }
        stacks.add(stack, 0, 1);
        self.shared.samples.fetch_add(1, Ordering::Relaxed);
    }
}

/// As py-spy itself names it: `function (file.py:12)`, with the file's path within its package.
fn named(frame: &py_spy::Frame) -> Frame {
    let short = frame.short_filename.as_deref().unwrap_or(&frame.filename);
    let line = u32::try_from(frame.line).ok().filter(|line| *line > 0);
    let name = match line {
        Some(line) => format!("{} ({short}:{line})", frame.name),
        None if short.is_empty() => frame.name.clone(),
        None => format!("{} ({short})", frame.name),
    };
    Frame {
        file: (!frame.filename.is_empty()).then(|| frame.filename.as_str().into()),
        line,
        ..Frame::symbol(name, FrameKind::Interpreted)
    }
}

fn thread_name(trace: &StackTrace) -> String {
    match (&trace.thread_name, trace.os_thread_id) {
        (Some(name), _) => name.clone(),
        (None, Some(id)) => format!("thread {id}"),
        (None, None) => format!("thread {:#x}", trace.thread_id),
    }
}

fn comm(pid: u32) -> String {
    let comm = Proc::new().comm(pid).unwrap_or_default();
    String::from_utf8_lossy(&comm).into_owned()
}

/// Whether a process has ended, noticed by its parent or not.
fn has_ended(pid: u32) -> bool {
    let proc = Proc::new();
    proc.exe(pid).is_err() || proc.target(pid).is_err()
}

/// An error with its causes as one short, printable line.
fn line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let text: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    text.trim().to_owned()
}

/// When samples are due: one in each period, at a moment of it that nothing in the target can be in
/// step with.
struct Ticks {
    began: Instant,
    period: Duration,
    number: u32,
    random: u64,
}

impl Ticks {
    fn new(frequency: u64) -> Self {
        let period = Duration::from_secs_f64(1.0 / frequency.max(1) as f64);
        let random = 0x9e37_79b9_7f4a_7c15 ^ u64::from(std::process::id());
        Self { began: Instant::now(), period, number: 0, random }
    }

    /// Sleeps until the next sample is due; how many were due before and are left out.
    fn wait(&mut self) -> u64 {
        let now = (self.began.elapsed().as_secs_f64() / self.period.as_secs_f64()) as u32;
        let late = now.saturating_sub(self.number.saturating_add(1));
        self.number = self.number.saturating_add(late);
        // xorshift64 (Marsaglia).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        let due = self.period.as_secs_f64() * (f64::from(self.number) + part);
        self.number = self.number.saturating_add(1);
        let due = self.began + Duration::from_secs_f64(due);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        u64::from(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_the_rate() {
        let mut ticks = Ticks::new(1000);
        let mut late = 0;
        for _ in 0..50 {
            late += ticks.wait();
        }
        // Each in its own period, those left out included.
        let elapsed = ticks.began.elapsed().as_secs_f64() * 1000.0;
        assert!(elapsed >= 49.0 + late as f64 - 1.0, "{elapsed} ms, {late} late");
        thread::sleep(Duration::from_millis(20));
        assert!(ticks.wait() >= 18);
    }
}

//! Steering a recording: its source runs on a thread of its own while this one waits for the end
//! (time, Ctrl-C, SIGTERM, the end of what is recorded) and shows how far it is.

use std::{
    io::{self, IsTerminal as _, stderr},
    process::ExitStatus,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    export::text::thousands,
    model::profile::Recording,
    source::{Source, session::Session},
    target::command,
};

/// How long a command that was asked to end is waited for.
const MAX_COMMAND_WAIT: Duration = Duration::from_secs(1);

/// When a recording ends, at the latest.
#[derive(Default)]
pub struct End {
    /// How long it is to take, for the progress line.
    pub expected: Option<Duration>,
    /// When it is stopped; none: by the source itself, by the command's end or by a signal.
    pub limit: Option<Duration>,
    /// The command that is started when recording has begun, and whose end is the recording's.
    pub command: Option<command::Waiting>,
}

/// What came of a recording.
#[derive(Debug)]
pub struct Steered<R> {
    /// The stacks.
    pub recording: Recording,
    /// What the source tells beside them.
    pub report: R,
    /// When the recording was to end.
    pub stopped: Instant,
    /// What became of the command, in words.
    pub command: Option<String>,
}

/// Runs a source until the end. `start` is called on the source's own thread; the time runs from
/// when it returns.
///
/// # Errors
/// What kept the recording from beginning.
pub fn steer<S: Source>(
    end: End,
    session: &Arc<Session>,
    start: impl FnOnce() -> anyhow::Result<S> + Send + 'static,
) -> anyhow::Result<Steered<S::Report>>
where
    S::Report: Send + 'static,
{
    let (ready, is_ready) = oneshot::channel();
    let (done, is_done) = oneshot::channel();
    let recorder = {
        let session = Arc::clone(session);
        thread::Builder::new().name("recorder".to_owned()).spawn(move || {
            let source = start()?;
            // Nobody waits any more when the recording was ended first.
            let _ = ready.send(());
            let recorded = source.record(&session);
            drop(done);
            recorded
        })?
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let steering = Steering { end, session, is_ready, is_done };
    let steered = runtime.block_on(steering.run());
    let stopped = Instant::now();
    session.stop();
    runtime.shutdown_background();
    let recorded = recorder.join().map_err(|_| anyhow!("the recorder failed unexpectedly"))?;
    // What kept the recording from beginning explains more than what that led to.
    let (recording, report) = recorded?;
    Ok(Steered { recording, report, stopped, command: steered? })
}

/// What decides when a recording ends.
struct Steering<'a> {
    end: End,
    session: &'a Session,
    is_ready: oneshot::Receiver<()>,
    is_done: oneshot::Receiver<()>,
}

impl Steering<'_> {
    /// Waits for the end; what became of the command, in words.
    async fn run(self) -> anyhow::Result<Option<String>> {
        let Self { end: End { expected, limit, command }, session, is_ready, mut is_done } = self;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        if is_ready.await.is_err() {
            // It could not begin; the command, if any, ends with us.
            return Ok(None);
        }
        let pid = command.as_ref().map(|command| command.pid);
        let running = command.map(command::Waiting::go).transpose()?;
        let mut ended =
            running.map(|mut running| tokio::task::spawn_blocking(move || running.wait()));
        let progress = Progress::new(expected);
        let mut ticks = interval(Duration::from_millis(200));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let began = Instant::now();
        let time_out = async {
            match limit {
                Some(duration) => sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(time_out);
        let mut status = None;
        loop {
            let command_ends = async {
                match &mut ended {
                    Some(ended) => ended.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = &mut is_done => break,
                () = &mut time_out => break,
                result = command_ends => {
                    status = Some(result.context("cannot wait for the command")??);
                    break;
                }
                _ = ticks.tick() => progress.show(began.elapsed(), session.progress()),
            }
        }
        session.stop();
        progress.clear();
        let (Some(pid), Some(ended)) = (pid, ended) else {
            return Ok(None);
        };
        let said = match status {
            Some(status) => format!("the command ended with {status}"),
            None => end_command(pid, ended).await?,
        };
        Ok(Some(said))
    }
}

/// Ends a command that outlives its recording: nobody else knows of it.
async fn end_command(
    pid: u32,
    ended: JoinHandle<io::Result<ExitStatus>>,
) -> anyhow::Result<String> {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        // When it has ended meanwhile there is nothing to end.
        let _ = kill_process(pid, Signal::TERM);
    }
    match timeout(MAX_COMMAND_WAIT, ended).await {
        Ok(status) => {
            let status = status.context("cannot wait for the command")??;
            Ok(format!("the recording was over first: the command was ended, with {status}"))
        }
        Err(_) => Ok(format!("the command still runs (pid {pid}): it ignores SIGTERM")),
    }
}

/// The line that a terminal shows while a recording runs.
struct Progress {
    bar: Option<ProgressBar>,
    duration: Option<Duration>,
}

impl Progress {
    fn new(duration: Option<Duration>) -> Self {
        let bar = stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(bar) = &bar
            && let Ok(style) = ProgressStyle::with_template("{spinner} {msg}")
        {
            bar.set_style(style);
        }
        Self { bar, duration }
    }

    fn show(&self, elapsed: Duration, (samples, lost): (u64, u64)) {
        let Some(bar) = &self.bar else {
            return;
        };
        let of = self.duration.map(|all| format!(" of {:.0} s", all.as_secs_f64()));
        bar.set_message(format!(
            "recording: {:.0} s{}, {} samples, {} lost (Ctrl-C ends it and draws)",
            elapsed.as_secs_f64(),
            of.unwrap_or_default(),
            thousands(samples),
            thousands(lost),
        ));
        bar.tick();
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

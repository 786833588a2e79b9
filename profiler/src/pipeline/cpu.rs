//! `flame-graph cpu`, from the plan to the profile: who is recorded, when it ends, what is shown
//! meanwhile.

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

use super::{Exit, check, engine, finish, say, stats::Stats};
use crate::{
    export::{output, text::thousands},
    fold::Side,
    model::profile::{Profile, Recording},
    plan::{CpuPlan, Target},
    source::{
        native::{Report, Scope, Settings},
        session::Session,
    },
    symbolize::{self, symbolize},
    target::{
        command::{self, User},
        process::Proc,
    },
};

/// How long a command that was asked to end is waited for.
const MAX_COMMAND_WAIT: Duration = Duration::from_secs(1);

/// Records and draws.
///
/// # Errors
/// One sentence on what failed.
pub fn cpu(plan: &CpuPlan) -> anyhow::Result<Exit> {
    let start = Instant::now();
    check(&plan.outputs)?;
    if let Some(path) = &plan.stats {
        output::check_output(path)?;
    }
    let prepared = prepare(&plan.target)?;
    let session = Session::new(start).context("cannot set up a recording")?;
    let Recorded { recording, report, stopped, command } = record(plan, prepared, &session)?;
    let cutoff = recording.metadata.duration;
    let options = symbolize::Options {
        inlines: plan.view.inlined,
        kernel: plan.view.side != Side::User,
        ..symbolize::Options::default()
    };
    let profile: Profile = symbolize(recording, &options);
    let mut stats = Stats::of(&profile, report);
    let exit = finish(profile, &plan.outputs, plan.view, &why_empty(&plan.target, cutoff))?;
    stats.finish(stopped.elapsed());
    if let Some(path) = &plan.stats {
        output::write_bytes(path, &stats.to_json()?)?;
    }
    if let Some(said) = command {
        say(format_args!("{said}\n"));
    }
    Ok(exit)
}

fn why_empty(target: &Target, duration: Duration) -> String {
    match target {
        Target::Host => format!("no CPU did any work for {duration:.1?}"),
        Target::Processes { .. } => format!(
            "the target used no CPU for {duration:.1?}: it slept or waited, and waiting is shown \
             by `offcpu`"
        ),
        Target::Command { .. } => {
            "the command ended before a CPU sample was due: record it at a higher --frequency, or \
             its waiting by `offcpu`"
                .to_owned()
        }
    }
}

/// Who is recorded, as the source wants to know it.
struct Prepared {
    scope: Scope,
    target: String,
    command: Option<command::Waiting>,
}

fn prepare(target: &Target) -> anyhow::Result<Prepared> {
    match target {
        Target::Host => {
            Ok(Prepared { scope: Scope::Host, target: "whole host".to_owned(), command: None })
        }
        Target::Processes { pids, children } => {
            let proc = Proc::new();
            let mut all = Vec::new();
            for pid in pids {
                let info = proc.target(*pid)?;
                if let Some(remark) = info.remark() {
                    say(format_args!("note: {remark}\n"));
                }
                all.push(*pid);
                if *children {
                    all.extend(proc.descendants(*pid).unwrap_or_default());
                }
            }
            all.sort_unstable();
            all.dedup();
            Ok(Prepared {
                scope: Scope::Processes { pids: all, children: *children },
                target: name_processes(&proc, pids),
                command: None,
            })
        }
        Target::Command { argv, user } => {
            let user = user.as_deref().map(User::find).transpose()?;
            let waiting = command::Waiting::start(argv, user)?;
            let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
            Ok(Prepared {
                scope: Scope::Processes { pids: vec![waiting.pid], children: true },
                target: words.join(" "),
                command: Some(waiting),
            })
        }
    }
}

/// `pid 12 (nginx)`, `pids 12, 13`.
fn name_processes(proc: &Proc, pids: &[u32]) -> String {
    match pids {
        [pid] => {
            let comm = proc.comm(*pid).unwrap_or_default();
            format!("pid {pid} ({})", String::from_utf8_lossy(&comm))
        }
        _ => {
            let numbers: Vec<_> = pids.iter().map(u32::to_string).collect();
            format!("pids {}", numbers.join(", "))
        }
    }
}

struct Recorded {
    recording: Recording,
    report: Report,
    /// When the recording was to end.
    stopped: Instant,
    /// What became of the command.
    command: Option<String>,
}

/// Runs the source on a thread of its own while this one waits for the end.
fn record(plan: &CpuPlan, prepared: Prepared, session: &Arc<Session>) -> anyhow::Result<Recorded> {
    let Prepared { scope, target, command } = prepared;
    let (ready, is_ready) = oneshot::channel();
    let (done, is_done) = oneshot::channel();
    let settings = Settings {
        scope,
        frequency: plan.frequency,
        user: plan.view.side != Side::Kernel,
        kernel: plan.view.side != Side::User,
        measure: plan.stats.is_some(),
        threads: plan.threads,
        prepare: command.is_none(),
        title: plan.title.clone(),
        target,
    };
    let recorder = {
        let session = Arc::clone(session);
        let wanted = plan.engine;
        thread::Builder::new().name("recorder".to_owned()).spawn(move || {
            let running = engine::start(wanted, &settings)?;
            // Nobody waits any more when the recording was ended first.
            let _ = ready.send(());
            let recorded = running.record(&session);
            drop(done);
            recorded
        })?
    };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let steering = Steering { plan, session, is_ready, is_done, command };
    let steered = runtime.block_on(steering.run());
    let stopped = Instant::now();
    session.stop();
    runtime.shutdown_background();
    let recorded = recorder.join().map_err(|_| anyhow!("the recorder failed unexpectedly"))?;
    // What kept the recording from beginning explains more than what that led to.
    let (recording, report) = recorded?;
    Ok(Recorded { recording, report, stopped, command: steered? })
}

/// What decides when a recording ends.
struct Steering<'a> {
    plan: &'a CpuPlan,
    session: &'a Session,
    is_ready: oneshot::Receiver<()>,
    is_done: oneshot::Receiver<()>,
    command: Option<command::Waiting>,
}

impl Steering<'_> {
    /// Waits for the end; what became of the command, in words.
    async fn run(self) -> anyhow::Result<Option<String>> {
        let Self { plan, session, is_ready, mut is_done, command } = self;
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
        let progress = Progress::new(plan.duration);
        let mut ticks = interval(Duration::from_millis(200));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let began = Instant::now();
        let time_out = async {
            match plan.duration {
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

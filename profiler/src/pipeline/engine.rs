//! Which engine records, decided by trying: eBPF first, perf events where that fails, and of waits the
//! program perf where these are refused, too.

use anyhow::{anyhow, bail};

use super::say;
use crate::{
    cli,
    model::profile::Recording,
    source::{
        Source,
        native::{
            Report, Scope, Settings,
            by_perf::{self, ByPerf},
            drive,
            ebpf::source::{self as ebpf, EbpfEngine},
            perf_event::source::{self as perf_event, PerfEventEngine},
        },
        session::Session,
    },
    target::{
        capabilities::Host,
        engine::{self, EngineChoice, Task},
    },
};

/// An engine that samples.
pub enum Running {
    /// eBPF.
    Ebpf(Box<drive::Running<EbpfEngine>>),
    /// Perf events.
    PerfEvent(Box<drive::Running<PerfEventEngine>>),
    /// `perf record`.
    Perf(Box<ByPerf>),
}

impl Source for Running {
    type Report = Report;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Report)> {
        match self {
            Self::Ebpf(running) => running.record(session),
            Self::PerfEvent(running) => running.record(session),
            Self::Perf(running) => running.record(session),
        }
    }
}

/// Starts an engine, and says which one and why unless it is the one that everyone expects.
///
/// # Errors
/// One sentence on what no engine can do here, and what is possible instead.
pub fn start(wanted: Option<cli::Engine>, settings: &Settings) -> anyhow::Result<Running> {
    let asked = "it was asked for by --engine";
    if wanted == Some(cli::Engine::PerfEvent) {
        let running = by_perf_events(settings, None)?;
        chosen("perf-event", asked);
        return Ok(running);
    }
    if wanted == Some(cli::Engine::Perf) {
        let running = by_perf(settings)?;
        chosen("perf", asked);
        return Ok(running);
    }
    let error = match ebpf::start(settings.clone()) {
        Ok(running) => {
            match wanted {
                Some(cli::Engine::Ebpf) => chosen("ebpf", asked),
                Some(_) => chosen("ebpf", "every BPF feature that it needs works"),
                None => {}
            }
            return Ok(Running::Ebpf(Box::new(running)));
        }
        Err(error) => error,
    };
    if wanted == Some(cli::Engine::Ebpf) {
        return Err(error);
    }
    let host = Host::detect_for_cpu();
    let task = if settings.waits.is_some() { Task::Time } else { Task::Sample };
    // What a feature lacks is clearer than what the kernel answered; where all seem to be there,
    // only the answer is left.
    let why = engine::ebpf(&host, task).err().unwrap_or_else(|| format!("{error:#}"));
    let error = match by_perf_events(settings, Some((&host, &why))) {
        Ok(running) => {
            chosen("perf-event", &why);
            return Ok(running);
        }
        Err(error) => error,
    };
    // A perf with capabilities of its own may record all the same.
    if settings.waits.is_none_or(|waits| waits.on_cpu) {
        return Err(error);
    }
    match by_perf(settings) {
        Ok(running) => {
            chosen("perf", &format!("{error:#}"));
            Ok(running)
        }
        // What neither tells of waits is said once.
        Err(second) if format!("{second:#}") == format!("{error:#}") => Err(error),
        Err(second) => bail!("{error:#}; {second:#}"),
    }
}

/// Starts `perf record`.
fn by_perf(settings: &Settings) -> anyhow::Result<Running> {
    let note = check_waits(settings, true)?;
    let running = by_perf::start(settings.clone())?;
    say(format_args!("{note}"));
    Ok(Running::Perf(Box::new(running)))
}

fn chosen(engine: &str, why: &str) {
    say(format_args!("engine {engine}: {why}\n"));
}

/// Starts the engine of perf events; `instead`: what was found out about eBPF before.
fn by_perf_events(settings: &Settings, instead: Option<(&Host, &str)>) -> anyhow::Result<Running> {
    let detected;
    let host = match instead {
        Some((host, _)) => host,
        None => {
            detected = Host::detect_for_cpu();
            &detected
        }
    };
    let choice = engine::perf_event(host).map_err(|second| match instead {
        Some((_, first)) => anyhow!("cannot record here: {first}; {second}"),
        None => anyhow!("cannot record here: {second}"),
    })?;
    let EngineChoice { scope, kernel_frames, .. } = choice;
    if settings.scope == Scope::Host && scope != engine::Scope::Host {
        bail!(
            "the whole host can be recorded by root only; without privileges you can record your \
             own processes, by --pid PID or `-- COMMAND`"
        );
    }
    let note = check_waits(settings, kernel_frames)?;
    if !settings.user && !kernel_frames {
        bail!("--kernel-only: this user may not see kernel frames; run as root");
    }
    let running = perf_event::start(settings.clone(), kernel_frames)?;
    say(format_args!("{note}"));
    Ok(Running::PerfEvent(Box::new(running)))
}

/// A note on what perf events do not tell of waits, if these are asked for.
fn check_waits(settings: &Settings, kernel_frames: bool) -> anyhow::Result<String> {
    let Some(waits) = settings.waits else { return Ok(String::new()) };
    let refused = [
        ("--wakers", waits.wakers),
        ("--state (but runnable)", waits.states.tells_reasons()),
        ("--cgroup", settings.filter.cgroup.is_some()),
        ("--comm", settings.filter.names.is_some()),
    ];
    if let Some((option, _)) = refused.into_iter().find(|(_, is_given)| *is_given) {
        bail!("{option}: perf events do not tell that of waits; it needs the eBPF engine");
    }
    let stacks = match kernel_frames {
        true => "",
        false => "; where a thread waits is told to root only",
    };
    Ok(format!(
        "note: by perf events all of a wait that is not for want of a CPU from its first moment on is \
         [blocked]{stacks}\n"
    ))
}

//! The collectors, from the plan to the profile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;

use super::{
    Exit,
    attach::{self, Attached},
    check, finish, local, say,
    stats::Stats,
    steer::{End, Steered, steer},
};
use crate::{
    export::output,
    fold::View,
    plan::{Attach, CollectPlan, Collector, Common},
    source::{
        Collected, Source, hce,
        http::{Address, GRACE, HttpError},
        session::Session,
    },
    symbolize::{self, symbolize},
    target::runtime::Runtime,
};

/// Why a service's recording is empty: an empty answer is an error of its own.
const ENDED_EARLY: &str = "the service sends its profile at the end of the window, and the \
                           recording was ended before";
/// Why the recording of a .NET process is empty.
const NOTHING_MANAGED: &str = "the process ran no managed code meanwhile";
/// Why a process's recording is empty.
const SLEPT: &str = "the program did nothing meanwhile: it slept or waited";
/// The source's own time-outs come first, and say more.
const LATEST: Duration = Duration::from_secs(15);

/// Has a service or a runtime record, and draws.
///
/// # Errors
/// One sentence on what failed.
pub fn collect(plan: CollectPlan) -> anyhow::Result<Exit> {
    let CollectPlan { collector, common } = plan;
    match collector {
        Collector::Bun { url: Some(url), attach } => {
            attached(&common, attach, move |attach| attach::bun_at(attach, url))
        }
        Collector::Bun { url: None, attach } => {
            let pid = choose(attach.pid, Runtime::Bun)?;
            attached(&common, attach, move |attach| attach::bun(attach, pid))
        }
        Collector::Hce { service: Some(service), attach } => hce(service, attach, common),
        Collector::Hce { service: None, attach } => match attach.pid {
            Some(pid) => attached(&common, attach, move |attach| attach::any(attach, pid)),
            None => bail!("there is neither a service nor a process to record"),
        },
        Collector::Node(attach) => {
            let pid = choose(attach.pid, Runtime::Node)?;
            attached(&common, attach, move |attach| attach::node(attach, pid))
        }
        Collector::Api(settings) => {
            let address = settings.service.address.clone();
            let end = answered(Some(settings.window()));
            match run(&common, end, ENDED_EARLY, move || settings.start()) {
                Err(error) if lacks_profile(&error) => Err(offer(error, &address)),
                done => done,
            }
        }
        Collector::Dotnet(settings) => {
            let duration = Some(settings.duration);
            let end = End { expected: duration, limit: duration, command: None };
            run(&common, end, NOTHING_MANAGED, move || settings.start())
        }
        Collector::Python(plan) => local::python(plan, &common),
        Collector::Perf(plan) => local::perf(plan, &common),
        Collector::Pprof(settings) => {
            let (_, window) = settings.endpoint();
            run(&common, answered(window), ENDED_EARLY, move || settings.start())
        }
    }
}

/// The process that is meant; said, when it was not named.
fn choose(pid: Option<u32>, kind: Runtime) -> anyhow::Result<u32> {
    let (pid, remark) = attach::choose(pid, kind)?;
    if let Some(remark) = remark {
        say(format_args!("note: {remark}\n"));
    }
    Ok(pid)
}

/// Has ResQ's coordination service record, or records it from outside: its endpoint may be missing,
/// or the runtime below it unable.
fn hce(service: hce::Settings, attach: Attach, mut common: Common) -> anyhow::Result<Exit> {
    let address = service.service.address.clone();
    let end = answered(Some(service.duration));
    let error = match run(&common, end, ENDED_EARLY, move || service.start()) {
        Err(error) if lacks_profile(&error) => error,
        done => return done,
    };
    let Some(pid) = attach::behind(&address) else { return Err(error) };
    say(format_args!("note: {error:#}; attaching to its process {pid} instead\n"));
    common.warnings.clear();
    attached(&common, attach, move |attach| attach::any(attach, pid))
}

fn lacks_profile(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(HttpError::lacks_profile)
}

/// The error, with what can be done about a service of this host that gives no profile.
fn offer(error: anyhow::Error, address: &Address) -> anyhow::Error {
    match attach::instead(address) {
        Some(instead) => anyhow!("{error:#}; {instead}"),
        None => error,
    }
}

/// Records a process that is attached to, for as long as was asked for.
fn attached(
    common: &Common,
    attach: Attach,
    start: impl FnOnce(&Attach) -> anyhow::Result<Attached> + Send + 'static,
) -> anyhow::Result<Exit> {
    let time = Some(attach.duration);
    let end = End { expected: time, limit: time, command: None };
    run(common, end, SLEPT, move || start(&attach))
}

/// The end of a recording that the other side ends by answering.
fn answered(window: Option<Duration>) -> End {
    let limit = window.unwrap_or_default() + GRACE + LATEST;
    End { expected: window, limit: Some(limit), command: None }
}

/// Runs a collector until the end and draws what it brings.
pub fn run<S, F>(
    common: &Common,
    end: End,
    why_empty: &str,
    start: impl FnOnce() -> anyhow::Result<S> + Send + 'static,
) -> anyhow::Result<Exit>
where
    S: Source<Report = Collected<F>>,
    F: Serialize + Send + 'static,
{
    let began = Instant::now();
    check(&common.outputs)?;
    if let Some(path) = &common.stats {
        output::check_output(path)?;
    }
    for warning in &common.warnings {
        say(format_args!("warning: {warning}\n"));
    }
    let session = Session::new(began).context("cannot set up a recording")?;
    let Steered { recording, report, stopped, command } = steer(end, &session, start)?;
    let profile = symbolize(recording, &symbolize::Options::default());
    for remark in &report.remarks {
        say(format_args!("note: {remark}\n"));
    }
    let mut stats = Stats::of(&profile, report);
    let exit = finish(profile, &common.outputs, View::default(), why_empty)?;
    stats.finish(stopped.elapsed());
    if let Some(path) = &common.stats {
        output::write_bytes(path, &stats.to_json()?)?;
    }
    if let Some(said) = command {
        say(format_args!("{said}\n"));
    }
    Ok(exit)
}

//! The collectors, from the plan to the profile.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    Exit, check, finish, say,
    stats::Stats,
    steer::{End, Steered, steer},
};
use crate::{
    export::output,
    fold::View,
    plan::{CollectPlan, Collector, Common},
    source::{Collected, Source, http::GRACE, session::Session},
    symbolize::{self, symbolize},
};

/// Why a service's recording is empty: an empty answer is an error of its own.
const ENDED_EARLY: &str = "the service sends its profile at the end of the window, and the \
                           recording was ended before";
/// The source's own time-outs come first, and say more.
const LATEST: Duration = Duration::from_secs(15);

/// Has a service or a runtime record, and draws.
///
/// # Errors
/// One sentence on what failed.
pub fn collect(plan: CollectPlan) -> anyhow::Result<Exit> {
    let CollectPlan { collector, common } = plan;
    match collector {
        Collector::Hce(settings) => {
            let end = answered(Some(settings.duration));
            run(&common, end, ENDED_EARLY, move || settings.start())
        }
        Collector::Api(settings) => {
            let end = answered(Some(settings.window()));
            run(&common, end, ENDED_EARLY, move || settings.start())
        }
        Collector::Pprof(settings) => {
            let (_, window) = settings.endpoint();
            run(&common, answered(window), ENDED_EARLY, move || settings.start())
        }
    }
}

/// The end of a recording that the other side ends by answering.
fn answered(window: Option<Duration>) -> End {
    let limit = window.unwrap_or_default() + GRACE + LATEST;
    End { expected: window, limit: Some(limit), command: None }
}

/// Runs a collector until the end and draws what it brings.
fn run<S, F>(
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

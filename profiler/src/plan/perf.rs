//! Recordings by `perf record`: whom, how, how long.

use std::{ffi::OsString, time::Duration};

use super::{
    CollectPlan, Collector, DEFAULT_DURATION, Host, PlanError, collect, native::frequency,
};
use crate::{cli, source::perf};

/// A recording by perf.
#[derive(Clone, Debug)]
pub struct PerfPlan {
    /// Who is recorded.
    pub target: PerfTarget,
    /// How.
    pub settings: perf::Settings,
    /// How long; none: until the command ends.
    pub duration: Option<Duration>,
}

/// Who is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PerfTarget {
    /// The whole host.
    Host,
    /// A process and what it forks.
    Process(u32),
    /// A command that is run, and what it forks.
    Command(Vec<OsString>),
}

/// The plan of `flame-graph perf`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn perf(perf: cli::Perf, host: &Host) -> Result<CollectPlan, PlanError> {
    let cli::Perf { common, cmd, event, frequency: hertz, call_graph, command } = perf;
    let local = collect::local(common, "perf")?;
    let given = [
        ("--pid", local.pid.is_some()),
        ("--cmd", cmd.is_some()),
        ("a command", !command.is_empty()),
    ];
    let mut given = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name);
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        return Err(PlanError::TwoTargets(first, second));
    }
    let target = match (local.pid, cmd) {
        (Some(pid), _) => PerfTarget::Process(pid),
        (None, Some(line)) => PerfTarget::Command(vec!["/bin/sh".into(), "-c".into(), line]),
        (None, None) if command.is_empty() => PerfTarget::Host,
        (None, None) => PerfTarget::Command(command),
    };
    let until_end = matches!(target, PerfTarget::Command(_));
    let settings = perf::Settings {
        event,
        frequency: frequency(&hertz, host)?,
        call_graph: match call_graph {
            cli::CallGraph::Dwarf => perf::CallGraph::Dwarf,
            cli::CallGraph::Fp => perf::CallGraph::FramePointers,
            cli::CallGraph::Lbr => perf::CallGraph::LastBranches,
        },
        threads: local.threads,
        title: local.title,
    };
    let duration = local.duration.or((!until_end).then_some(DEFAULT_DURATION));
    let plan = PerfPlan { target, settings, duration };
    Ok(CollectPlan { collector: Collector::Perf(plan), common: local.common })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{cli::Cli, plan::Plan};

    fn plan(args: &[&str]) -> Result<PerfPlan, String> {
        let words = ["flame-graph", "perf"].iter().chain(args);
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let host = Host { max_frequency: Some(50_000), ..Host::default() };
        match Plan::new(cli, &host).map_err(|error| error.to_string())? {
            Plan::Collect(plan) => match plan.collector {
                Collector::Perf(perf) => Ok(perf),
                other => Err(format!("{other:?}")),
            },
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_target_is_one_of_several() {
        let host = plan(&[]).unwrap();
        assert_eq!((host.target, host.duration), (PerfTarget::Host, Some(DEFAULT_DURATION)));
        assert_eq!((&*host.settings.event, host.settings.frequency), ("cpu-clock", 99));
        assert_eq!(host.settings.call_graph, perf::CallGraph::Dwarf);
        assert_eq!(plan(&["--pid", "12"]).unwrap().target, PerfTarget::Process(12));
        let shell = plan(&["--cmd", "cargo bench"]).unwrap();
        let argv = ["/bin/sh", "-c", "cargo bench"].map(OsString::from).to_vec();
        assert_eq!((shell.target, shell.duration), (PerfTarget::Command(argv), None));
        let command = plan(&["-d", "2", "--call-graph", "fp", "--", "ls", "-l"]).unwrap();
        assert_eq!(command.target, PerfTarget::Command(vec!["ls".into(), "-l".into()]));
        assert_eq!(command.duration, Some(Duration::from_secs(2)));
        assert_eq!(command.settings.call_graph, perf::CallGraph::FramePointers);
        for (args, said) in [
            (&["--pid", "1", "--cmd", "x"][..], "--pid and --cmd name two"),
            (&["--cmd", "x", "--", "y"], "--cmd and a command name two"),
            (&["--pid", "x"], "not a process id"),
            (&["-F", "0"], "--frequency"),
            (&["-F", "50001"], "limit of 50000"),
            (&["--url", "http://h"], "--url"),
            (&["--api-key", "k"], "--api-key"),
            (&["--call-graph", "x"], "possible values"),
        ] {
            let error = plan(args).unwrap_err();
            assert!(error.contains(said), "{args:?}: {error}");
        }
    }
}

//! Recordings of Python processes: which one, how, how long.

use std::time::Duration;

use super::{
    CollectPlan, Collector, DEFAULT_DURATION, Host, PlanError, collect, native::frequency,
};
use crate::{
    cli,
    source::{http::Address, py_spy},
};

/// Where ResQ's Python service listens.
const PDIE_URL: &str = "http://localhost:8000";
/// Reading an interpreter takes a good part of a millisecond.
const MAX_FREQUENCY: u64 = 1000;

/// A recording of a Python process.
#[derive(Clone, Debug)]
pub struct PythonPlan {
    /// Which one.
    pub target: PythonTarget,
    /// How.
    pub settings: py_spy::Settings,
    /// How long.
    pub duration: Duration,
}

/// A Python process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PythonTarget {
    /// This one.
    Process(u32),
    /// The only one.
    Only,
    /// The one that serves an address of this host.
    Listener(Address),
}

/// The plan of `flame-graph python`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn python(python: cli::Python) -> Result<CollectPlan, PlanError> {
    let cli::Python { process, mut common, sampling } = python;
    if process.is_some() && common.pid.is_some() {
        return Err(PlanError::TwoTargets("--pid", "a process id"));
    }
    common.pid = common.pid.or(process);
    plan(common, sampling, "python", PythonTarget::Only)
}

/// The plan of `flame-graph pdie`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn pdie(pdie: cli::Pdie) -> Result<CollectPlan, PlanError> {
    let cli::Pdie { mut common, sampling } = pdie;
    let url = common.url.take();
    if url.is_some() && common.pid.is_some() {
        return Err(PlanError::TwoTargets("--url", "--pid"));
    }
    let address = Address::parse(url.as_deref().unwrap_or(PDIE_URL))?;
    plan(common, sampling, "pdie", PythonTarget::Listener(address))
}

fn plan(
    common: cli::Common,
    sampling: cli::Sampling,
    command: &'static str,
    target: PythonTarget,
) -> Result<CollectPlan, PlanError> {
    let cli::Sampling { frequency: hertz, subprocesses, gil, nonblocking, idle, native } = sampling;
    let local = collect::local(common, command)?;
    let limit = Host { max_frequency: Some(MAX_FREQUENCY), ..Host::default() };
    let settings = py_spy::Settings {
        frequency: frequency(&hertz, &limit)?,
        idle,
        native,
        subprocesses,
        gil,
        threads: local.threads,
        nonblocking,
        title: local.title,
    };
    let target = local.pid.map_or(target, PythonTarget::Process);
    let duration = local.duration.unwrap_or(DEFAULT_DURATION);
    let plan = PythonPlan { target, settings, duration };
    Ok(CollectPlan { collector: Collector::Python(plan), common: local.common })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{cli::Cli, plan::Plan};

    fn plan(args: &str) -> Result<PythonPlan, String> {
        let words = ["flame-graph"].into_iter().chain(args.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        match Plan::new(cli, &Host::default()).map_err(|error| error.to_string())? {
            Plan::Collect(plan) => match plan.collector {
                Collector::Python(python) => Ok(python),
                other => Err(format!("{other:?}")),
            },
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_process_is_named_in_two_ways() {
        for args in ["python --pid 12", "python 12", "pdie --pid 12"] {
            assert_eq!(plan(args).unwrap().target, PythonTarget::Process(12), "{args}");
        }
        let only = plan("python").unwrap();
        assert_eq!((only.target, only.duration), (PythonTarget::Only, DEFAULT_DURATION));
        assert_eq!(only.settings, py_spy::Settings { frequency: 100, ..Default::default() });
        let args = "python 12 --idle --subprocesses --gil --threads --nonblocking -F 50 -d 2";
        let all = plan(args).unwrap();
        let settings = py_spy::Settings {
            frequency: 50,
            idle: true,
            native: false,
            subprocesses: true,
            gil: true,
            threads: true,
            nonblocking: true,
            title: None,
        };
        assert_eq!((all.settings, all.duration), (settings, Duration::from_secs(2)));
        for (args, said) in [
            ("python 12 --pid 13", "two targets"),
            ("python x", "not a process id"),
            ("python 12 -F 1001", "limit of 1000"),
            ("python 12 -F 0", "--frequency"),
            ("python 12 --native --nonblocking", "cannot be used with"),
            ("python --url http://h", "takes no --url"),
            ("python --token t", "takes no --token"),
            ("pdie --api-key k", "takes no --api-key"),
            ("pdie --url x", "--url"),
            ("pdie --url http://h --pid 1", "two targets"),
        ] {
            let error = plan(args).unwrap_err();
            assert!(error.contains(said), "{args}: {error}");
        }
    }

    #[test]
    fn a_service_is_found_by_its_address() {
        let PythonTarget::Listener(address) = plan("pdie").unwrap().target else { panic!() };
        assert_eq!((address.host(), address.port()), ("localhost", 8000));
        let other = plan("pdie --url http://[::1]:81/base").unwrap().target;
        let PythonTarget::Listener(address) = other else { panic!() };
        assert_eq!((address.host(), address.port()), ("[::1]", 81));
    }
}

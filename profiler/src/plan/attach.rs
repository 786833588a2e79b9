//! Recordings of JavaScript processes by their inspectors: which process, how long, how densely.

use std::time::Duration;

use super::{
    CollectPlan, Collector, DEFAULT_DURATION, Host, PlanError,
    collect::{Typed, typed},
    time,
};
use crate::{
    cli,
    source::{bun, node, websocket::SocketUrl},
};

/// JavaScriptCore's own, which cannot be changed.
const BUN_INTERVAL: Duration = Duration::from_millis(1);
/// Nothing samples more rarely.
const MAX_INTERVAL: Duration = Duration::from_secs(1);

/// A JavaScript process that is attached to.
#[derive(Clone, Debug)]
pub struct Attach {
    /// Which one; none: the only one.
    pub pid: Option<u32>,
    /// How long it records.
    pub duration: Duration,
    /// Time between two samples.
    pub interval: Duration,
    /// Whether the time in which nothing ran is shown.
    pub idle: bool,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Heading of the picture; none: made from what is recorded.
    pub title: Option<String>,
    /// Samples a second on each CPU, where our own engine has to step in.
    pub frequency: u64,
}

impl Attach {
    /// How a Bun is recorded, by its pid or its inspector's address.
    #[must_use]
    pub fn bun(&self, pid: Option<u32>, url: Option<SocketUrl>) -> bun::Settings {
        let Self { duration, threads, .. } = *self;
        bun::Settings { pid, url, duration, threads, title: self.title.clone() }
    }

    /// How a Node with this pid is recorded.
    #[must_use]
    pub fn node(&self, pid: u32) -> node::Settings {
        let Self { duration, interval, idle, threads, .. } = *self;
        node::Settings { pid, duration, interval, idle, threads, title: self.title.clone() }
    }
}

/// The plan of `flame-graph bun`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn bun(bun: cli::Bun, host: &Host) -> Result<CollectPlan, PlanError> {
    let mut common = bun.common;
    // Not that of a service.
    let url = common.url.take().map(|url| SocketUrl::parse(&url)).transpose()?;
    let Typed { pid, duration, threads, title, common, .. } = typed(common)?;
    let duration = duration.unwrap_or(DEFAULT_DURATION);
    let frequency = frequency(BUN_INTERVAL, host);
    let attach =
        Attach { pid, duration, interval: BUN_INTERVAL, idle: false, threads, title, frequency };
    Ok(CollectPlan { collector: Collector::Bun { url, attach }, common })
}

/// The plan of `flame-graph node`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn node(node: cli::Node, host: &Host) -> Result<CollectPlan, PlanError> {
    let cli::Node { common, interval: text, idle } = node;
    let Typed { url, pid, duration, threads, title, common, .. } = typed(common)?;
    if url.is_some() {
        return Err(PlanError::NoUrl("node"));
    }
    let interval = interval(text)?;
    let duration = duration.unwrap_or(DEFAULT_DURATION);
    let frequency = frequency(interval, host);
    let attach = Attach { pid, duration, interval, idle, threads, title, frequency };
    Ok(CollectPlan { collector: Collector::Node(attach), common })
}

/// A time between two samples.
pub(super) fn interval(text: String) -> Result<Duration, PlanError> {
    let interval = time(&text).filter(|time| *time >= Duration::from_micros(1));
    interval.filter(|time| *time <= MAX_INTERVAL).ok_or(PlanError::Interval(text))
}

/// As often as an interval asks for, as far as is usual for our own engine and allowed here.
pub(super) fn frequency(interval: Duration, host: &Host) -> u64 {
    /// Dense enough for any picture.
    const MOST: u64 = 999;
    let asked = (1.0 / interval.as_secs_f64()) as u64;
    asked.clamp(1, MOST.min(host.max_frequency.unwrap_or(MOST)).max(1))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{cli::Cli, plan::Plan};

    fn plan(args: &str) -> Result<Attach, String> {
        let words = ["flame-graph"].into_iter().chain(args.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        match Plan::new(cli, &Host::default()).map_err(|error| error.to_string())? {
            Plan::Collect(plan) => match plan.collector {
                Collector::Node(attach) => Ok(attach),
                other => Err(format!("{other:?}")),
            },
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_node_is_recorded_for_thirty_seconds() {
        let attach = plan("node --pid 12").unwrap();
        assert_eq!((attach.pid, attach.duration), (Some(12), DEFAULT_DURATION));
        assert_eq!((attach.interval, attach.frequency), (Duration::from_millis(1), 999));
        assert_eq!(plan("node").unwrap().pid, None);
        assert_eq!(plan("node --interval 10ms").unwrap().frequency, 100);
        assert!(plan("node --pid x").unwrap_err().contains("--pid"));
        assert!(plan("node --interval 0").unwrap_err().contains("--interval"));
        assert!(plan("node --url http://localhost").unwrap_err().contains("--url"));
    }

    #[test]
    fn a_bun_has_a_process_or_an_address() {
        let plan = |args: &str| {
            let words = ["flame-graph", "bun"].into_iter().chain(args.split_whitespace());
            let plan = Plan::new(Cli::try_parse_from(words).unwrap(), &Host::default());
            match plan.map_err(|error| error.to_string())? {
                Plan::Collect(plan) => match plan.collector {
                    Collector::Bun { url, attach } => Ok((url, attach.pid)),
                    other => Err(format!("{other:?}")),
                },
                other => Err(format!("{other:?}")),
            }
        };
        assert_eq!(plan("--pid 12 --duration 30").unwrap(), (None, Some(12)));
        let (url, pid) = plan("--url ws://localhost:6499/abc").unwrap();
        assert_eq!((url.unwrap().port(), pid), (6499, None));
        assert!(
            plan("--url http://localhost:6499").unwrap_err().contains("--url: this is not a ws")
        );
        assert!(plan("--url wss://h/x").unwrap_err().contains("not wss"));
    }

    #[test]
    fn frequencies_stay_within_what_is_allowed() {
        let host = |max_frequency| Host { max_frequency, ..Host::default() };
        let us = Duration::from_micros;
        assert_eq!(frequency(us(100), &host(None)), 999);
        assert_eq!(frequency(us(100), &host(Some(50))), 50);
        assert_eq!(frequency(us(100), &host(Some(0))), 1);
        assert_eq!(frequency(Duration::from_secs(1), &host(Some(100_000))), 1);
    }
}

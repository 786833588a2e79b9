//! `flame-graph cpu`, `offcpu` and `wall`, from the plan to the profile.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{
    Exit, check, engine, finish, perf_maps, say,
    stats::Stats,
    steer::{End, Steered, steer},
    waited,
};
use crate::{
    export::output,
    fold::{Side, waits},
    model::profile::Profile,
    plan::{CpuPlan, Target, native},
    source::{
        native::{Filter, Report, Scope, Settings, limits::Limits, times::WOKEN},
        session::Session,
    },
    symbolize::{self, symbolize_marked},
    target::{
        cgroup::Cgroup,
        command::{self, User},
        process::Proc,
    },
};

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
    let prepared = prepare(&plan.target, &plan.filter)?;
    let session = Session::new(start).context("cannot set up a recording")?;
    let Steered { recording, report, stopped, command } = record(plan, prepared, &session)?;
    let cutoff = recording.metadata.duration;
    let options = options(plan);
    let asked = plan.perf_maps.then(|| perf_maps::ask(&recording));
    let mut places = waited::places(&report.waited);
    let mut profile: Profile = symbolize_marked(recording, &mut places, &options);
    drop(asked);
    let table = waited::table(&report.waited, &places, &profile.stacks);
    if plan.waits.is_some() {
        profile.stacks = waits::arrange(&profile.stacks, WOKEN);
    }
    let mut stats = Stats::of(&profile, report);
    let exit = finish(profile, &plan.outputs, plan.view, &why_empty(plan, cutoff))?;
    say(format_args!("{table}"));
    stats.finish(stopped.elapsed());
    if let Some(path) = &plan.stats {
        output::write_bytes(path, &stats.to_json()?)?;
    }
    if let Some(said) = command {
        say(format_args!("{said}\n"));
    }
    Ok(exit)
}

fn options(plan: &CpuPlan) -> symbolize::Options {
    let debuginfod = plan.debuginfod.clone();
    let debuginfod = debuginfod.map(|native::Debuginfod { servers, cache }| {
        symbolize::debuginfod::Settings { servers, cache, tell: say }
    });
    symbolize::Options {
        inlines: plan.view.inlined,
        kernel: collects_kernel(plan),
        debug_caches: debuginfod.iter().filter_map(|settings| settings.cache.clone()).collect(),
        debuginfod,
        ..symbolize::Options::default()
    }
}

/// Whether kernel frames are collected. Where who ends waits is asked for, they tell interrupts from
/// what these interrupted.
fn collects_kernel(plan: &CpuPlan) -> bool {
    plan.view.side != Side::User || plan.waits.is_some_and(|waits| waits.wakers)
}

fn why_empty(plan: &CpuPlan, duration: Duration) -> String {
    if plan.waits.is_some() {
        return format!("no thread of the target was there in {duration:.1?}");
    }
    if plan.filter != native::Filter::default() {
        return format!(
            "nothing that passes --cgroup and --comm used a CPU for {duration:.1?}: it was not \
             there, or it waited, and waiting is shown by `offcpu`"
        );
    }
    match plan.target {
        Target::Host => format!("no CPU did any work for {duration:.1?}"),
        Target::Processes { .. } | Target::Threads { .. } => format!(
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
    filter: Filter,
    target: String,
    command: Option<command::Waiting>,
}

fn prepare(target: &Target, filter: &native::Filter) -> anyhow::Result<Prepared> {
    let native::Filter { cgroup, names } = filter;
    let cgroup = cgroup.as_deref().map(Cgroup::open).transpose()?;
    let filter = Filter { cgroup, names: names.clone() };
    match target {
        Target::Host => Ok(Prepared {
            scope: Scope::Host,
            filter,
            target: "whole host".to_owned(),
            command: None,
        }),
        Target::Threads { tids, pids } => threads(tids, pids, filter),
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
                    all.extend(proc.descendants(&[*pid]).unwrap_or_default());
                }
            }
            all.sort_unstable();
            all.dedup();
            Ok(Prepared {
                scope: Scope::Processes { pids: all, children: *children },
                filter,
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
                filter,
                target: words.join(" "),
                command: Some(waiting),
            })
        }
    }
}

/// The threads, each of which must be of one of these processes; of any when there are none.
fn threads(tids: &[u32], only: &[u32], filter: Filter) -> anyhow::Result<Prepared> {
    let proc = Proc::new();
    only.iter().try_for_each(|pid| proc.target(*pid).map(|_| ()))?;
    let mut pids = Vec::new();
    for tid in tids {
        let process = proc.target_thread(*tid)?;
        if !only.is_empty() && !only.contains(&process.pid) {
            bail!("thread {tid} belongs to process {}, which --pid does not name", process.pid);
        }
        if let Some(remark) = process.remark() {
            say(format_args!("note: {remark}\n"));
        }
        pids.push(process.pid);
    }
    let target = match (tids, &pids[..]) {
        ([tid], [pid]) => format!("thread {tid} of {}", name_processes(&proc, &[*pid])),
        _ => format!("threads {}", list(tids)),
    };
    pids.sort_unstable();
    pids.dedup();
    let scope = Scope::Threads { tids: tids.to_vec(), pids };
    Ok(Prepared { scope, filter, target, command: None })
}

/// `pid 12 (nginx)`, `pids 12, 13`.
pub fn name_processes(proc: &Proc, pids: &[u32]) -> String {
    match pids {
        [pid] => {
            let comm = proc.comm(*pid).unwrap_or_default();
            format!("pid {pid} ({})", String::from_utf8_lossy(&comm))
        }
        _ => format!("pids {}", list(pids)),
    }
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

fn record(
    plan: &CpuPlan,
    prepared: Prepared,
    session: &Arc<Session>,
) -> anyhow::Result<Steered<Report>> {
    let Prepared { scope, filter, target, command } = prepared;
    let wakers = plan.waits.is_some_and(|waits| waits.wakers);
    let known = if wakers { &Scope::Host } else { &scope };
    let limits = Limits::of(known, plan.frequency);
    let limits = if plan.waits.is_some() { limits.for_waits() } else { limits };
    let settings = Settings {
        scope,
        filter,
        frequency: plan.frequency,
        waits: plan.waits,
        user: plan.view.side != Side::Kernel,
        kernel: collects_kernel(plan),
        measure: plan.stats.is_some(),
        labels: plan.labels,
        limits: limits.lowered(&plan.limits),
        prepare: command.is_none(),
        title: plan.title.clone(),
        target,
    };
    let end = End { expected: plan.duration, limit: plan.duration, command };
    let wanted = plan.engine;
    steer(end, session, move || engine::start(wanted, &settings))
}

//! Timing waits by `perf record`: where this user's perf may record what our own engines may not, as
//! it has capabilities of its own (the kernel's "Perf events and tool security").
//!
//! It tells what perf events tell: records of switches, and at each a sample of where the thread
//! leaves its CPU, whose stack perf copies and walks.

use std::{
    path::Path,
    time::{Instant, SystemTime},
};

use anyhow::Context as _;
use profiler_ebpf::threads::stack;
use rustc_hash::FxHashMap;

use super::{
    Report, Scope, Settings, Waits,
    drive::now,
    kept::{Known, Timed},
    times::{
        Figures, Sums,
        counted::Counted,
        draw::{Canvas, Drawn},
        ledger::{self, Ledger},
    },
};
use crate::{
    format::perf_script::{self, Moment, Switch, What},
    model::{
        frame::RawFrame,
        loss::{Loss, Losses},
        metric::Metric,
        profile::{Metadata, Recording},
        stacks::{StackId, Stacks},
    },
    source::{
        Source,
        perf_record::{Record, synthesized},
        session::Session,
    },
};

/// `perf record`, timing waits.
pub struct ByPerf {
    settings: Settings,
    waits: Waits,
    record: Record,
    counted: Counted,
    ledger: Ledger,
    start: SystemTime,
    began: Instant,
}

/// Has perf begin.
///
/// # Errors
/// When something else than waits is asked for; when perf is missing, or what it says.
pub fn start(settings: Settings) -> anyhow::Result<ByPerf> {
    let waits = settings.waits.filter(|waits| !waits.on_cpu);
    let waits = waits.context("perf times waits only (`offcpu`)")?;
    // perf refuses all of them when one has ended.
    let is_there = |id: &&u32| Path::new(&format!("/proc/{id}")).exists();
    let list =
        |ids: &[u32]| ids.iter().filter(is_there).map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut arguments = vec![
        "--event=context-switches".to_owned(),
        "--count=1".to_owned(),
        "--switch-events".to_owned(),
        "--call-graph=dwarf".to_owned(),
        "--clockid=CLOCK_MONOTONIC".to_owned(),
        match &settings.scope {
            Scope::Host => "--all-cpus".to_owned(),
            Scope::Processes { pids, .. } => format!("--pid={}", list(pids)),
            Scope::Threads { tids, .. } => format!("--tid={}", list(tids)),
        },
    ];
    // There is nothing to prepare of a command that has yet to run.
    arguments.extend(synthesized(!settings.prepare));
    let record = Record::start(&arguments)?;
    let (start, began) = (SystemTime::now(), Instant::now());
    let counted = Counted::of(&settings.scope);
    let mut ledger = Ledger::new(waits, now());
    counted.take_up(&settings.scope, &mut ledger);
    Ok(ByPerf { settings, waits, record, counted, ledger, start, began })
}

impl Source for ByPerf {
    type Report = Report;

    fn record(mut self, session: &Session) -> anyhow::Result<(Recording, Report)> {
        let duration = self.record.wait(session)?;
        let end = now();
        self.record.finish()?;
        let Self { settings, waits, record, counted, ledger, start, began } = self;
        let Heard { stacks, timed, sums, switches, lost } =
            listen(&record, ledger, end, |moment| counted.has(moment.pid, moment.tid))?;
        let mut losses = Losses::default();
        losses.lose(Loss::SidebandLost, lost);
        let canvas = Canvas::new(&stacks, &timed, waits, settings.labels);
        let Drawn { stacks, counted, complete, waited } = canvas.draw(&sums, &mut losses);
        let report = Report {
            event: "context-switches",
            start_to_recording_ms: (began - session.start).as_secs_f64() * 1e3,
            times: Some(Figures { switches, ..sums.figures() }),
            waited,
            ..Report::default()
        };
        let metadata = Metadata {
            title: settings.title,
            target: settings.target,
            engine: "perf".to_owned(),
            start,
            duration,
            frequency: None,
        };
        let recording = Recording {
            metadata,
            metrics: vec![Metric::waited()],
            stacks,
            modules: Vec::new(),
            losses,
            samples: counted,
            complete,
        };
        Ok((recording, report))
    }
}

/// What perf's text comes to.
struct Heard {
    stacks: Stacks<RawFrame>,
    timed: Timed,
    sums: Sums,
    switches: u64,
    /// Samples and records.
    lost: u64,
}

/// Takes in what happened to the threads that count, up to the end.
fn listen(
    record: &Record,
    mut ledger: Ledger,
    end: u64,
    counts: impl Fn(&Moment<'_>) -> bool,
) -> anyhow::Result<Heard> {
    let mut names: FxHashMap<StackId, u64> = FxHashMap::default();
    let mut timed = Timed::default();
    let read = record.script(&["--show-switch-events"], |text| {
        perf_script::read_switches(text, |moment| {
            if moment.time > end || !counts(&moment) {
                return;
            }
            let what = match moment.what {
                What::Stack(stack, cause) => {
                    let next = stack::of_wait((names.len() as u64) << 2);
                    let name = *names.entry(stack).or_insert(next);
                    timed.known.insert(name, Known { stack, cause });
                    ledger::What::Stack(name)
                }
                What::Switched(Switch::In) => ledger::What::In,
                What::Switched(switch) => {
                    ledger::What::Out { preempted: switch == Switch::Preempted }
                }
                What::Named { name, exec } => ledger::What::Named { name: name.into(), exec },
                What::Made(parent) => ledger::What::Made(parent),
                What::Ended => ledger::What::Ended,
            };
            let Moment { time, pid, tid, .. } = moment;
            ledger.take(ledger::Moment { time, pid, tid, what });
        })
    })?;
    let perf_script::Switches { stacks, lost } =
        read.context("cannot read what `perf script` writes")?;
    let switches = ledger.switches();
    Ok(Heard { stacks, timed, sums: ledger.finish(end), switches, lost })
}

//! Collectors of local processes that ask no service.

use super::{Exit, collect::run, cpu::name_processes, steer::End};
use crate::{
    plan::{Common, PerfPlan, PerfTarget},
    source::perf,
    target::{command, process::Proc},
};

/// Has perf record.
///
/// # Errors
/// One sentence on what failed.
pub fn perf(plan: PerfPlan, common: &Common) -> anyhow::Result<Exit> {
    let PerfPlan { target, settings, duration } = plan;
    let (target, name, command) = match target {
        PerfTarget::Host => (perf::Target::Host, "whole host".to_owned(), None),
        PerfTarget::Process(pid) => {
            let proc = Proc::new();
            proc.target(pid)?;
            (perf::Target::Process(pid), name_processes(&proc, &[pid]), None)
        }
        PerfTarget::Command(argv) => {
            let waiting = command::Waiting::start(&argv, None)?;
            let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
            (perf::Target::Process(waiting.pid), words.join(" "), Some(waiting))
        }
    };
    let end = End { expected: duration, limit: duration, command };
    let why_empty = "no CPU time was used, or perf lost all of it";
    run(common, end, why_empty, move || settings.start(&target, name))
}

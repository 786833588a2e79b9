//! Collectors of local processes that ask no service.

use anyhow::bail;

use super::{Exit, attach::choose, collect::run, cpu::name_processes, say, steer::End};
use crate::{
    plan::{Common, PerfPlan, PerfTarget, PythonPlan, PythonTarget},
    source::{http::Address, perf},
    target::{
        command, listener, pick,
        process::Proc,
        runtime::{self, Runtime},
    },
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
            (perf::Target::Command(waiting.pid), words.join(" "), Some(waiting))
        }
    };
    let end = End { expected: duration, limit: duration, command };
    let why_empty = "no CPU time was used, or perf lost all of it";
    run(common, end, why_empty, move || settings.start(&target, name))
}

/// Records a Python process.
///
/// # Errors
/// One sentence on what failed.
pub fn python(plan: PythonPlan, common: &Common) -> anyhow::Result<Exit> {
    let PythonPlan { target, mut settings, duration } = plan;
    let (pid, remark) = match target {
        PythonTarget::Process(pid) => (pid, None),
        PythonTarget::Only => choose(None, Runtime::Python)?,
        PythonTarget::Listener(address) => {
            let (pid, forks, remark) = served_by(&address)?;
            // The parent of a pre-forking server only waits for its children.
            settings.subprocesses |= forks;
            (pid, Some(remark))
        }
    };
    if let Some(remark) = remark {
        say(format_args!("note: {remark}\n"));
    }
    let end = End { expected: Some(duration), limit: Some(duration), command: None };
    let why_empty = "no thread of it ran Python code: it waited (--idle shows that), or what runs \
                     are child processes (--subprocesses)";
    run(common, end, why_empty, move || settings.start(pid))
}

/// The local Python process that serves an address, whether it forked others for that, and what is
/// to be said.
fn served_by(address: &Address) -> anyhow::Result<(u32, bool, String)> {
    let proc = Proc::new();
    let port = address.port();
    let addresses = listener::local_addresses(address.host())?;
    let found = listener::find(&proc, &addresses, port)?;
    let is_python = |pid: u32| runtime::has(&proc, pid, Runtime::Python);
    let serving: Vec<_> = found.iter().filter(|listener| is_python(listener.pid)).collect();
    // What listens in a container counts where nothing does in our own network.
    let own: Vec<_> = serving.iter().copied().filter(|listener| !listener.elsewhere).collect();
    let serving = if own.is_empty() { serving } else { own };
    let Some(first) = serving.first() else {
        let pids: Vec<u32> = found.iter().map(|listener| listener.pid).collect();
        bail!("no Python listens on port {port}, but {} does", name_processes(&proc, &pids));
    };
    if serving.len() > 1 {
        let pids: Vec<u32> = serving.iter().map(|listener| listener.pid).collect();
        let picked = pick::one(&proc, &pids, "Python process that listens there")?;
        return Ok((picked.process.pid, false, picked.remark));
    }
    let named = pick::describe(&proc, &proc.target(first.pid)?);
    let place = if first.elsewhere { ", in another network namespace" } else { "" };
    let remark = match first.workers.len() {
        0 => format!("process {named} listens on port {port}{place}"),
        others => format!(
            "{} processes listen on port {port}{place}: their parent {named} is recorded, with its \
             children",
            others + 1
        ),
    };
    Ok((first.pid, !first.workers.is_empty(), remark))
}

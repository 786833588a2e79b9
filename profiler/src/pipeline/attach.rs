//! JavaScript processes: recorded by their inspector, and by our own engine where they have none.

use anyhow::bail;
use serde::Serialize;

use super::engine;
use crate::{
    model::profile::Recording,
    plan::Attach,
    source::{
        Collected, Source, bun,
        http::Address,
        inspector::NoInspector,
        native::{self, Filter, Labels, Scope, limits::Limits},
        node,
        session::Session,
        websocket::SocketUrl,
    },
    target::{
        listener, pick,
        process::Proc,
        runtime::{self, Runtime},
    },
};

/// A JavaScript process that is being recorded.
pub enum Attached {
    /// By the inspector of a Bun.
    Bun(Box<bun::Profiling>),
    /// By the inspector of a Node.
    Node(Box<node::Profiling>),
    /// By our own engine, and why; meanwhile the inspector of a Node may open after all.
    Native(Box<engine::Running>, String, Option<node::Watch>),
}

/// What the one or the other tells.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Figures {
    /// A Bun's inspector.
    Bun(bun::Figures),
    /// A Node's inspector.
    Node(node::Figures),
    /// Our own engine.
    Native(Box<native::Report>),
}

impl Source for Attached {
    type Report = Collected<Figures>;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Self::Report)> {
        match self {
            Self::Bun(profiling) => {
                let (recording, Collected { figures, remarks }) = profiling.record(session)?;
                Ok((recording, Collected { figures: Figures::Bun(figures), remarks }))
            }
            Self::Node(profiling) => {
                let (recording, Collected { figures, remarks }) = profiling.record(session)?;
                Ok((recording, Collected { figures: Figures::Node(figures), remarks }))
            }
            Self::Native(running, why, watch) => {
                let recorded = running.record(session);
                let late = watch.and_then(node::Watch::end);
                let (recording, report) = recorded?;
                let figures = Figures::Native(Box::new(report));
                let remarks = [Some(why), late].into_iter().flatten().collect();
                Ok((recording, Collected { figures, remarks }))
            }
        }
    }
}

/// The process that is meant: the one that was named, or the only one; and what is to be said.
///
/// # Errors
/// None, or several.
pub fn choose(pid: Option<u32>, kind: Runtime) -> anyhow::Result<(u32, Option<String>)> {
    if let Some(pid) = pid {
        return Ok((pid, None));
    }
    let proc = Proc::new();
    let candidates = runtime::processes(&proc, kind)?;
    let picked = pick::one(&proc, &candidates, &format!("{kind} process"))?;
    Ok((picked.process.pid, Some(picked.remark)))
}

/// Begins to record a Bun by the address of its inspector.
///
/// # Errors
/// What its inspector cannot do.
pub fn bun_at(attach: &Attach, url: SocketUrl) -> anyhow::Result<Attached> {
    let profiling = attach.bun(attach.pid, Some(url)).start()?;
    Ok(Attached::Bun(Box::new(profiling)))
}

/// Begins to record a Bun.
///
/// # Errors
/// What neither its inspector nor our own engine can do.
pub fn bun(attach: &Attach, pid: u32) -> anyhow::Result<Attached> {
    let error = match attach.bun(Some(pid), None).start() {
        Ok(profiling) => return Ok(Attached::Bun(Box::new(profiling))),
        Err(error) => error,
    };
    let Some(NoInspector(why)) = error.downcast_ref() else { return Err(error) };
    let named = if has_jitdump(pid) {
        "the jitdump that it writes names JavaScript functions"
    } else {
        "BUN_JSC_useJITDump=1 in its environment would name JavaScript functions, too"
    };
    let why = format!("{why}; recorded by sampling from outside instead: {named}");
    Ok(Attached::Native(Box::new(native(attach, pid)?), why, None))
}

/// Begins to record a Node.
///
/// # Errors
/// What neither its inspector nor our own engine can do.
pub fn node(attach: &Attach, pid: u32) -> anyhow::Result<Attached> {
    let error = match attach.node(pid).start() {
        Ok(profiling) => return Ok(Attached::Node(Box::new(profiling))),
        Err(error) => error,
    };
    let (why, watch) = match error.downcast::<node::Late>() {
        Ok(late) => (late.to_string(), Some(late.watch())),
        Err(error) => (error.downcast::<NoInspector>()?.0, None),
    };
    let named = if has_perf_map(pid) {
        "as it was started with --perf-basic-prof, JavaScript functions have names"
    } else {
        "started with --perf-basic-prof, it would name JavaScript functions"
    };
    let why = format!("{why}; recorded by sampling from outside instead: {named}");
    match native(attach, pid) {
        Ok(running) => Ok(Attached::Native(Box::new(running), why, watch)),
        Err(error) => match watch.and_then(node::Watch::end) {
            Some(late) => Err(error.context(late)),
            None => Err(error),
        },
    }
}

/// Begins to record any JavaScript process.
///
/// # Errors
/// As for the runtime that it is.
pub fn any(attach: &Attach, pid: u32) -> anyhow::Result<Attached> {
    let proc = Proc::new();
    proc.target(pid)?;
    if runtime::has(&proc, pid, Runtime::Node) {
        return node(attach, pid);
    }
    if runtime::has(&proc, pid, Runtime::Bun) {
        return bun(attach, pid);
    }
    bail!("process {pid} is neither a Node nor a Bun; `cpu --pid {pid}` records it");
}

/// The local JavaScript process that serves an address; none: it is another host's, or another
/// kind of program.
#[must_use]
pub fn behind(address: &Address) -> Option<u32> {
    let proc = Proc::new();
    let speaks = |pid: &u32| {
        [Runtime::Node, Runtime::Bun].into_iter().any(|kind| runtime::has(&proc, *pid, kind))
    };
    servers(&proc, address).into_iter().find(speaks)
}

/// How the local process that serves an address is recorded from outside, a clause; none: it is
/// another host's.
#[must_use]
pub fn instead(address: &Address) -> Option<String> {
    let proc = Proc::new();
    let pid = *servers(&proc, address).first()?;
    let comm = proc.comm(pid).ok()?;
    let name = String::from_utf8_lossy(&comm).into_owned();
    Some(format!("`flame-graph cpu --pid {pid}` records its process, {name:?}, from outside"))
}

/// The local processes that serve an address; none: it is another host's.
fn servers(proc: &Proc, address: &Address) -> Vec<u32> {
    let Ok(addresses) = listener::local_addresses(address.host()) else { return Vec::new() };
    let listeners = listener::find(proc, &addresses, address.port()).unwrap_or_default();
    listeners.into_iter().map(|listener| listener.pid).collect()
}

fn has_jitdump(pid: u32) -> bool {
    let mappings = Proc::new().executable_mappings(pid).unwrap_or_default();
    mappings.iter().any(|mapping| {
        let name = mapping.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name.starts_with(b"jit-") && name.ends_with(b".dump")
    })
}

fn has_perf_map(pid: u32) -> bool {
    let proc = Proc::new();
    let options = proc.variable(pid, "NODE_OPTIONS").ok().flatten().unwrap_or_default();
    let mut words = proc.command_line(pid).unwrap_or_default();
    words.extend(options.split(|byte| *byte == b' ').map(<[u8]>::to_vec));
    let wanted = [&b"--perf-basic-prof"[..], b"--perf-prof", b"--perf_basic_prof", b"--perf_prof"];
    words.iter().any(|word| wanted.contains(&&word[..]))
}

/// Begins to record a process by our own engine.
fn native(attach: &Attach, pid: u32) -> anyhow::Result<engine::Running> {
    let proc = Proc::new();
    let process = proc.target(pid)?;
    let target = format!("pid {pid} ({})", String::from_utf8_lossy(&process.comm));
    let scope = Scope::Processes { pids: vec![pid], children: false };
    let settings = native::Settings {
        limits: Limits::of(&scope, attach.frequency),
        scope,
        filter: Filter::default(),
        frequency: attach.frequency,
        waits: None,
        user: true,
        kernel: true,
        measure: false,
        labels: Labels { threads: attach.threads, ..Labels::default() },
        prepare: true,
        title: attach.title.clone().unwrap_or_else(|| format!("cpu of {target}")),
        target,
    };
    engine::start(None, &settings)
}

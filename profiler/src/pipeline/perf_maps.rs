//! Perf maps that runtimes are asked for when the recording is over: what they made and what was
//! sampled is named by these. Only processes in whose own code samples lie are asked.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::fs::{AtFlags, statat, unlinkat};

use super::say;
use crate::{
    model::profile::{Module, ModuleKind, Recording},
    target::{
        diagnostics::{dotnet::Dotnet, java, socket},
        process::{Proc, ProcessInfo},
        runtime::{self, Runtime},
    },
};

/// More processes are not asked: each may take some seconds.
const MAX_ASKED: usize = 64;

/// The maps that were written because they were asked for. They are removed with this value, those
/// that were there before are not.
#[derive(Debug, Default)]
pub struct Asked {
    files: Vec<Written>,
}

#[derive(Debug)]
struct Written {
    folder: OwnedFd,
    name: String,
}

impl Drop for Written {
    fn drop(&mut self) {
        // The process may have removed it.
        let _ = unlinkat(&self.folder, &*self.name, AtFlags::empty());
    }
}

/// Asks the runtimes of a recording that can write a map while they run.
pub fn ask(recording: &Recording) -> Asked {
    let proc = Proc::new();
    let mut pids: Vec<u32> = recording.modules.iter().filter_map(|module| maker(module)).collect();
    pids.sort_unstable();
    pids.dedup();
    let mut asked = Asked::default();
    let able = pids.into_iter().filter_map(|pid| Some((pid, able(&proc, pid)?)));
    for (number, (pid, runtime)) in able.enumerate() {
        if number == MAX_ASKED {
            say(format_args!(
                "note: more than {MAX_ASKED} runtimes: the others are not asked for perf maps\n"
            ));
            break;
        }
        match proc.process(pid) {
            Ok(process) => asked.one(&proc, &process, runtime),
            Err(error) => say(format_args!("note: no perf map: {error}\n")),
        }
    }
    asked
}

/// The process whose own code a module is.
fn maker(module: &Module) -> Option<u32> {
    match module.kind {
        ModuleKind::Anonymous { pid } => Some(pid),
        ModuleKind::File | ModuleKind::Vdso => None,
    }
}

/// The runtime of a process, if it is one that can be asked.
fn able(proc: &Proc, pid: u32) -> Option<Runtime> {
    runtime::of(proc, pid).filter(|runtime| matches!(runtime, Runtime::Dotnet | Runtime::Java))
}

impl Asked {
    fn one(&mut self, proc: &Proc, process: &ProcessInfo, runtime: Runtime) {
        let absent = absent(proc, process).unwrap_or_default();
        let written = match runtime {
            Runtime::Java => java::write_perf_map(proc, process).map_err(anyhow::Error::from),
            _ => Dotnet::of(proc, process)
                .and_then(|dotnet| dotnet.write_perf_map())
                .map_err(anyhow::Error::from),
        };
        self.files.extend(absent);
        match written {
            Ok(()) => log::info!("process {} ({runtime}) wrote a perf map", process.pid),
            Err(error) => say(format_args!("note: no perf map: {error}\n")),
        }
    }
}

/// The files that a runtime writes, where they are not there yet.
fn absent(proc: &Proc, process: &ProcessInfo) -> io::Result<Vec<Written>> {
    let root = socket::root(proc, process.pid).map_err(io::Error::other)?;
    let inner = proc.ns_pid(process.pid).map_err(io::Error::other)?;
    let mut absent = Vec::new();
    for name in [format!("perf-{inner}.map"), format!("perfinfo-{inner}.map")] {
        let folder = socket::open_folder(&root, Path::new("/tmp"))?;
        if statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            absent.push(Written { folder, name });
        }
    }
    Ok(absent)
}

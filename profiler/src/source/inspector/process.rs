//! A local process whose inspector is spoken to.

use std::{
    fmt,
    fs::File,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::target::{
    process::{Proc, ProcessInfo},
    runtime::{self, Runtime},
};

/// A process that may have an inspector.
#[derive(Debug)]
pub struct Inspected {
    /// The process.
    pub process: ProcessInfo,
    /// Where it is looked at.
    pub proc: Proc,
    handle: OwnedFd,
    network: Option<File>,
}

impl Inspected {
    /// Looks at a process, which must have this runtime; `command` is the one that wants it.
    ///
    /// # Errors
    /// When there is none, it is of another kind, or it cannot be looked into.
    pub fn new(pid: u32, kind: Runtime, command: &str) -> anyhow::Result<Self> {
        let proc = Proc::new();
        proc.target(pid)?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.with_context(|| format!("{pid} is no process id"))?;
        let handle = pidfd_open(raw, PidfdFlags::empty())
            .with_context(|| format!("cannot open process {pid}"))?;
        // From here on the number stands for the process that the handle does, or for none.
        let process = proc.target(pid)?;
        // Who may not look at its descriptors may not speak to it either.
        proc.sockets(pid)?;
        if !runtime::has(&proc, pid, kind) {
            let is = match runtime::of(&proc, pid) {
                Some(other) => format!("it runs {other}"),
                None => format!("it does not run {kind}"),
            };
            bail!(
                "process {pid} cannot be recorded by `{command}`: {is}; `cpu --pid {pid}` does it"
            );
        }
        let network = proc.other_network(pid)?;
        Ok(Self { process, proc, handle, network })
    }

    /// Names the very process, whatever becomes of its number (a pidfd).
    #[must_use]
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// The network that it is in; none: ours.
    #[must_use]
    pub fn network(&self) -> Option<&File> {
        self.network.as_ref()
    }

    /// Its number as it knows it itself.
    ///
    /// # Errors
    /// When it has ended.
    pub fn own_pid(&self) -> anyhow::Result<u32> {
        Ok(self.proc.ns_pid(self.process.pid)?)
    }

    /// What it is called in a picture. Newer Nodes name their first thread by what it does.
    #[must_use]
    pub fn name(&self) -> String {
        let name = String::from_utf8_lossy(&self.process.comm).into_owned();
        if name.ends_with("MainThread") { "node".to_owned() } else { name }
    }

    /// Where it listens itself.
    ///
    /// # Errors
    /// When it has ended, or may not be looked into.
    pub fn listeners(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let own = self.proc.sockets(self.process.pid)?;
        let sockets = self.proc.listening_sockets(self.process.pid)?.into_iter();
        Ok(sockets.filter(|socket| own.contains(&socket.inode)).map(|s| s.address).collect())
    }

    /// Whether it has ended, or is about to: its connections end before it does.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        const ABOUT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
        // Readable when all threads have ended (pidfd_open(2)).
        let mut handles = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut handles, Some(&ABOUT)).is_ok_and(|ready| ready > 0)
    }

    /// Whether somebody beside us is connected to a port of it.
    #[must_use]
    pub fn has_other_guests(&self, port: u16) -> bool {
        self.proc.connections(self.process.pid, port).is_ok_and(|count| count > 1)
    }
}

impl fmt::Display for Inspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.process.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_another_kind_are_refused() {
        let new = |pid| Inspected::new(pid, Runtime::Node, "node").unwrap_err().to_string();
        assert!(new(std::process::id()).contains("flame-graph itself"));
        let mut sleep = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let refused = new(sleep.id());
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert!(refused.contains("cannot be recorded by `node`"), "{refused}");
        assert!(new(sleep.id()).contains("there is no process"));
    }
}

//! `perf record` as a child: it is told through a FIFO when to begin, and ends by a signal.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use super::{PATIENCE, Settings, Target, missing};
use crate::{source::session::Session, target::command::ends_with_us};

/// Names in the folder of a recording.
pub const DATA: &str = "perf.data";
/// What perf said.
pub const SAID: &str = "record.err";
const CONTROL: &str = "control";
const ACKNOWLEDGED: &str = "acknowledged";

/// A running `perf record`, ended when this is dropped.
#[derive(Debug)]
pub struct Record {
    child: Child,
    pidfd: OwnedFd,
    ended: bool,
}

impl Record {
    /// Starts it; it waits to be enabled.
    pub fn start(settings: &Settings, target: &Target, folder: &Path) -> anyhow::Result<Self> {
        for name in [CONTROL, ACKNOWLEDGED] {
            let mode = Mode::from_raw_mode(0o600);
            mknodat(CWD, folder.join(name), FileType::Fifo, mode, 0)
                .context("cannot make a FIFO for perf")?;
        }
        let mut command = Command::new("perf");
        // No build-id cache: nothing stays behind in anybody's home.
        command.args(["record", "--quiet", "--no-buildid-cache", "--delay=-1", "--output"]);
        command.arg(folder.join(DATA));
        command.arg(format!("--event={}", settings.event));
        command.arg(format!("--freq={}", settings.frequency));
        command.arg(format!("--call-graph={}", settings.call_graph.name()));
        let mut control = std::ffi::OsString::from("--control=fifo:");
        control.push(folder.join(CONTROL));
        control.push(",");
        control.push(folder.join(ACKNOWLEDGED));
        command.arg(control);
        match target {
            Target::Host => command.arg("--all-cpus"),
            Target::Process(pid) => command.arg(format!("--pid={pid}")),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(folder.join(SAID))?);
        // A Ctrl-C of the terminal is ours: it ends perf when we say so.
        command.process_group(0);
        let child = ends_with_us(&mut command).spawn().map_err(missing)?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch `perf record`")?;
        Ok(Self { child, pidfd, ended: false })
    }

    /// Has it begin, and returns when it has.
    pub fn enable(&mut self, folder: &Path) -> anyhow::Result<()> {
        // Opened for both directions, so that nobody need have the other end.
        let open = |name| {
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(flags).open(folder.join(name))
        };
        let (mut control, mut acknowledged) = (open(CONTROL)?, open(ACKNOWLEDGED)?);
        control.write_all(b"enable\n").context("cannot tell `perf record` to begin")?;
        let until = Instant::now() + PATIENCE;
        let [began, ended] = wait([acknowledged.as_fd(), self.pidfd.as_fd()], Some(until))?;
        if ended {
            bail!("`perf record` ended before it began");
        }
        if !began {
            bail!("`perf record` did not begin within {} s", PATIENCE.as_secs());
        }
        let mut answer = [0; 16];
        let length = acknowledged.read(&mut answer)?;
        if !answer[..length].starts_with(b"ack") {
            bail!("`perf record` does not understand how it is told to begin: it is too old");
        }
        Ok(())
    }

    /// Waits until the session or `perf record` ends; how long that took.
    pub fn wait(&self, session: &Session) -> anyhow::Result<Duration> {
        let began = Instant::now();
        wait([session.stop_fd(), self.pidfd.as_fd()], None)?;
        Ok(began.elapsed())
    }

    /// Has it end and write down what it has; whether it did so as it should.
    pub fn finish(&mut self) -> anyhow::Result<bool> {
        // When it has ended there is nothing to end.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let [ended] = wait([self.pidfd.as_fd()], Some(Instant::now() + PATIENCE))?;
        if !ended {
            self.end();
            bail!("it did not write down its data within {} s", PATIENCE.as_secs());
        }
        let status = self.child.wait()?;
        self.ended = true;
        // It ends as by the signal when that ended it, else with the status of the recording.
        Ok(status.code().is_none_or(|code| code == 0 || code == 128 + 2))
    }

    /// Ends it at once.
    pub fn end(&mut self) {
        if !self.ended {
            // Errors mean that it has ended.
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.ended = true;
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until one of these is readable, or for some time; which of them are.
fn wait<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    until: Option<Instant>,
) -> anyhow::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left =
            left.map(Timespec::try_from).transpose().context("a time-out is out of range")?;
        match poll(&mut polled, left.as_ref()) {
            Ok(_) => return Ok(polled.map(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for `perf record`"),
        }
    }
}

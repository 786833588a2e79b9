//! `perf record` as a child: it is told through a FIFO when to begin, and ends by a signal; and
//! `perf script`, which writes what was recorded as text.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    },
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    process::{Pid, PidfdFlags, Signal, geteuid, kill_process, pidfd_open},
};
use tempfile::TempDir;

use super::session::Session;
use crate::{format::perf_script::PerfScriptError, target::command::ends_with_us};

/// Names in the folder of a recording.
const DATA: &str = "perf.data";
/// What `perf record` said.
const SAID: &str = "record.err";
/// What `perf script` said.
const SCRIPT_SAID: &str = "script.err";
const CONTROL: &str = "control";
const ACKNOWLEDGED: &str = "acknowledged";
/// How long `perf record` may take to begin, and to write down what it has.
const PATIENCE: Duration = Duration::from_secs(20);
/// Deeper stacks are cut by perf: as deep as any that a copy of the stack of 8 KiB holds.
const MAX_STACK: &str = "4096";
/// So much is read of what perf says on standard error.
const MAX_SAID: u64 = 64 << 10;
/// Characters of it that a message repeats.
const MAX_SENTENCE: usize = 300;

/// A running `perf record`, ended when this is dropped, with what it wrote.
#[derive(Debug)]
pub struct Record {
    folder: TempDir,
    child: Child,
    pidfd: OwnedFd,
    ended: bool,
}

impl Record {
    /// Starts it with these arguments; it records when this returns.
    ///
    /// # Errors
    /// When perf is missing, or what it says.
    pub fn start(arguments: &[String]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("flame-graph-perf-")
            .tempdir()
            .context("cannot make a folder for perf's data")?;
        let mut record = Self::spawn(arguments, folder)?;
        if let Err(error) = record.enable() {
            record.end();
            bail!(failed("perf record", &record.said(SAID)).unwrap_or(error));
        }
        Ok(record)
    }

    /// It waits to be enabled.
    fn spawn(arguments: &[String], folder: TempDir) -> anyhow::Result<Self> {
        let path = folder.path();
        for name in [CONTROL, ACKNOWLEDGED] {
            let mode = Mode::from_raw_mode(0o600);
            mknodat(CWD, path.join(name), FileType::Fifo, mode, 0)
                .context("cannot make a FIFO for perf")?;
        }
        let mut command = Command::new("perf");
        // Without build IDs: nothing stays behind in anybody's home, and what was recorded is not read
        // once more before perf ends.
        command.args(["record", "--quiet", "--no-buildid", "--delay=-1", "--output"]);
        command.arg(path.join(DATA)).args(arguments);
        let mut control = std::ffi::OsString::from("--control=fifo:");
        control.push(path.join(CONTROL));
        control.push(",");
        control.push(path.join(ACKNOWLEDGED));
        command.arg(control);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if !geteuid().is_root() {
            // A perf with capabilities of its own is not ended by the kernel when we are killed. It
            // ends with its command, and that with the pipe whose other end is ours.
            command.args(["--", "cat"]).stdin(Stdio::piped());
        }
        command.stderr(File::create(path.join(SAID))?);
        // A Ctrl-C of the terminal is ours: it ends perf when we say so.
        command.process_group(0);
        let child = ends_with_us(&mut command).spawn().map_err(missing)?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch `perf record`")?;
        Ok(Self { folder, child, pidfd, ended: false })
    }

    /// Has it begin, and returns when it has.
    fn enable(&self) -> anyhow::Result<()> {
        // Opened for both directions, so that nobody need have the other end.
        let open = |name| {
            let flags = OFlags::NONBLOCK.bits().cast_signed();
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(flags).open(self.folder.path().join(name))
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
    ///
    /// # Errors
    /// When there is nothing to wait with.
    pub fn wait(&self, session: &Session) -> anyhow::Result<Duration> {
        let began = Instant::now();
        wait([session.stop_fd(), self.pidfd.as_fd()], None)?;
        Ok(began.elapsed())
    }

    /// Has it end and write down what it has; how many bytes that are.
    ///
    /// # Errors
    /// When it does not, with what it says.
    pub fn finish(&mut self) -> anyhow::Result<u64> {
        // When it has ended there is nothing to end.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let [ended] = wait([self.pidfd.as_fd()], Some(Instant::now() + PATIENCE))?;
        if !ended {
            self.end();
            bail!("`perf record` did not write down its data within {} s", PATIENCE.as_secs());
        }
        let status = self.child.wait().context("cannot end `perf record`")?;
        self.ended = true;
        let bytes = self.folder.path().join(DATA).metadata().map_or(0, |data| data.len());
        // It ends as by the signal when that ended it, else with the status of the recording.
        if bytes == 0 || status.code().is_some_and(|code| code != 0 && code != 128 + 2) {
            let why = failed("perf record", &self.said(SAID));
            bail!(why.unwrap_or_else(|| anyhow::anyhow!("`perf record` ended without its data")));
        }
        Ok(bytes)
    }

    /// Has `perf script` write what was recorded as text, which `read` reads while it comes. Of what
    /// `read` says against it, what makes the text unreadable is an error here.
    ///
    /// # Errors
    /// When perf fails, with what it says; when the text is more than can be read.
    pub fn script<T>(
        &self,
        arguments: &[&str],
        read: impl FnOnce(BufReader<ChildStdout>) -> Result<T, PerfScriptError>,
    ) -> anyhow::Result<Result<T, PerfScriptError>> {
        let mut command = Command::new("perf");
        // For inlined calls perf 6.1 asks addr2line, frame by frame: minutes for a large program.
        command.args(["script", "--force", "--no-inline", "--show-lost-events"]);
        command.args(["--show-task-events", "--max-stack", MAX_STACK, "--fields"]);
        command.args(["comm,pid,tid,time,event,ip,sym,dso", "--ns"]).args(arguments);
        command.arg("--input").arg(self.folder.path().join(DATA));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(File::create(self.folder.path().join(SCRIPT_SAID))?);
        let mut child = ends_with_us(&mut command).spawn().map_err(missing)?;
        let output = child.stdout.take().context("`perf script` has no output")?;
        let read = read(BufReader::with_capacity(1 << 16, output));
        if read.is_err() {
            // What it would still write nobody reads.
            let _ = child.kill();
        }
        let status = child.wait().context("cannot wait for `perf script`")?;
        match read {
            Err(error @ PerfScriptError::TooManyNames) => {
                Err(error).context("cannot read perf's text")
            }
            read if status.success() => Ok(read),
            _ => {
                let why = failed("perf script", &self.said(SCRIPT_SAID));
                bail!(why.unwrap_or_else(|| anyhow::anyhow!("`perf script` ended with {status}")));
            }
        }
    }

    /// What a child wrote on its standard error.
    fn said(&self, name: &str) -> String {
        said(&self.folder.path().join(name))
    }

    /// Ends it at once.
    fn end(&mut self) {
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

/// What perf is to find out of what runs already. Of a process that has yet to run its command not what
/// it has mapped: perf (6.1) takes that for mapped still when the command runs, and where a library
/// that the two share lay lower before, it walks no further than into that.
#[must_use]
pub fn synthesized(has_yet_to_run: bool) -> Option<String> {
    // perf has this option since 5.15.
    has_yet_to_run.then(|| "--synth=task".to_owned())
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

/// Why perf cannot be run.
fn missing(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::NotFound {
        return anyhow::anyhow!(
            "there is no `perf` on this host's PATH: on Debian the package linux-perf has it; \
             `flame-graph cpu` records CPU time without it"
        );
    }
    anyhow::Error::from(error).context("cannot run `perf`")
}

fn said(path: &Path) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is not said.
    let _ = File::open(path).and_then(|file| file.take(MAX_SAID).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The first sentence of what perf said, as an error of ours; none: it said nothing.
fn failed(program: &str, said: &str) -> Option<anyhow::Error> {
    let lines = said.lines().map(str::trim);
    let mut lines = lines.filter(|line| {
        let heading = matches!(line.trim_end_matches('!'), "Error:" | "Warning:" | "");
        let usage = ["Usage:", "or: perf", "Run 'perf", "WARNING:"]
            .iter()
            .any(|start| line.starts_with(start));
        !heading && !usage && !line.starts_with("[ perf record")
    });
    let mut text = String::new();
    for line in &mut lines {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(line);
        if line.ends_with(['.', '!']) || text.len() > MAX_SENTENCE {
            break;
        }
    }
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let text: String = clean.take(MAX_SENTENCE).collect();
    let text = text.trim_end_matches(['.', '!']);
    (!text.is_empty()).then(|| anyhow::anyhow!("`{program}` failed: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_says_why_in_a_sentence() {
        let why = |said| failed("perf record", said).map(|error| error.to_string());
        assert_eq!(why(""), None);
        assert_eq!(why("Error:\n\n[ perf record: Woken up 1 times ]\n"), None);
        let refused = "Error:\nAccess to performance monitoring and observability operations is \
                       limited.\nConsider adjusting /proc/sys/kernel/perf_event_paranoid\n";
        assert_eq!(
            why(refused).unwrap(),
            "`perf record` failed: Access to performance monitoring and observability operations \
             is limited"
        );
        let event = "event syntax error: 'nonsense'\n                     \\___ parser error\n\
                     Run 'perf list' for a list of valid events\n\n Usage: perf record\n";
        assert!(why(event).unwrap().contains("'nonsense' \\___ parser error"), "{event}");
        assert!(why(&"\x1b[2Jx".repeat(500)).unwrap().len() < 400);
    }
}

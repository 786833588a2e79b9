//! Attaching to HotSpot, as `jcmd` does: a file and SIGQUIT have it open a socket, on which it takes
//! commands (`attachListener_posix.cpp` of the JDK).

use std::{
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, openat, unlinkat},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::socket::{self, Socket, SocketError};
use crate::target::process::{Proc, ProcError, ProcessInfo};

/// Where HotSpot looks, whatever the environment says.
const FOLDER: &str = "/tmp";
/// How long it takes to open its socket, at the most.
const PATIENCE: Duration = Duration::from_secs(3);
/// More of an answer is not read, in bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// The first version of the protocol, `jcmd`, its command, and two arguments that it does not have.
const PERF_MAP: &[u8] = b"1\0jcmd\0Compiler.perfmap\0\0\0";

/// Why a Java process cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum JavaError {
    /// The socket is none to talk to.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// SIGQUIT would end it.
    #[error(
        "process {0} does not catch SIGQUIT: it is no Java (HotSpot), or runs with -Xrs \
         and lost its socket"
    )]
    Deaf(u32),
    /// No socket.
    #[error(
        "process {0} did not let us attach: it runs with -XX:+DisableAttachMechanism, or is stopped"
    )]
    Closed(u32),
    /// A command that it does not carry out.
    #[error("process {pid} writes no perf map: {said}")]
    Refused {
        /// The process.
        pid: u32,
        /// What it said.
        said: String,
    },
}

impl From<ProcError> for JavaError {
    fn from(error: ProcError) -> Self {
        Self::Socket(error.into())
    }
}

/// Has a Java process write a perf map of the code that it has made until now: JDK 17 or later.
///
/// # Errors
/// Why it does not.
pub fn write_perf_map(proc: &Proc, process: &ProcessInfo) -> Result<(), JavaError> {
    let socket = attach(proc, process)?;
    let failed = |error| JavaError::from(socket.failed(error));
    let mut stream = socket.connect()?;
    stream.write_all(PERF_MAP).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    // A number, 0 where all went well, then what the command says.
    let (code, said) = answer.split_once('\n').unwrap_or((&answer, ""));
    let wrong = said.contains("Unknown diagnostic command") || said.contains("Exception");
    if code == "0" && !wrong {
        return Ok(());
    }
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or(code);
    let said = line.chars().filter(|char| !char.is_control()).take(200).collect();
    Err(JavaError::Refused { pid: process.pid, said })
}

/// The socket, opened now if it is not yet. HotSpot leaves it open.
fn attach(proc: &Proc, process: &ProcessInfo) -> Result<Socket, JavaError> {
    let pid = process.pid;
    let inner = proc.ns_pid(pid)?;
    let name = format!(".java_pid{inner}");
    let find = || Socket::find(proc, process, Path::new(FOLDER), |found| found == name);
    if let Some(socket) = find()? {
        return Ok(socket);
    }
    // What is not caught would end the process.
    if !proc.catches(pid, Signal::QUIT.as_raw())? {
        return Err(JavaError::Deaf(pid));
    }
    let failed = |source: io::Error| SocketError::Io { pid, source };
    let handle = Pid::from_raw(pid as i32).ok_or(JavaError::Deaf(pid))?;
    let handle = pidfd_open(handle, PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
    // The number may be another process's since it was looked up; the handle is not.
    if proc.process(pid)?.start_time != process.start_time {
        return Err(ProcError::NoSuchProcess { pid }.into());
    }
    let _request = Request::make(proc, pid, inner).map_err(failed)?;
    pidfd_send_signal(&handle, Signal::QUIT).map_err(|error| failed(error.into()))?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(socket) = find()? {
            return Ok(socket);
        }
        sleep(Duration::from_millis(10));
    }
    Err(JavaError::Closed(pid))
}

/// The file that tells HotSpot what SIGQUIT is for; it is gone with this value. HotSpot wants it to
/// be its own user's or root's.
struct Request {
    folder: OwnedFd,
    name: String,
}

impl Request {
    fn make(proc: &Proc, pid: u32, inner: u32) -> io::Result<Self> {
        let root = socket::root(proc, pid).map_err(io::Error::other)?;
        let folder = socket::open_folder(&root, Path::new(FOLDER))?;
        let name = format!(".attach_pid{inner}");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&folder, &*name, flags | OFlags::WRONLY, Mode::from_raw_mode(0o600))?;
        Ok(Self { folder, name })
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // HotSpot may have removed it.
        let _ = unlinkat(&self.folder, &*self.name, AtFlags::empty());
    }
}

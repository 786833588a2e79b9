//! Why a process cannot be read or profiled, each in one sentence that says what to do.

use std::io;
use std::path::PathBuf;

/// Why a process cannot be read or profiled.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// Nothing runs by this number, or it has just ended.
    #[error("there is no process {pid}: it has ended, or the number is wrong (`ps -e` lists them)")]
    NoSuchProcess {
        /// The number asked for.
        pid: u32,
    },
    /// The number is a thread's.
    #[error("{tid} is a thread of process {tgid}, not a process: use --pid {tgid}")]
    Thread {
        /// The number asked for.
        tid: u32,
        /// The process it belongs to.
        tgid: u32,
    },
    /// No thread has this number.
    #[error("there is no thread {tid}: it has ended, or the number is wrong (`ps -eL` lists them)")]
    NoSuchThread {
        /// The number asked for.
        tid: u32,
    },
    /// It has ended.
    #[error(
        "process {pid} ({comm}) has ended and only waits for its parent to notice (a zombie): \
         there is nothing to record"
    )]
    Zombie {
        /// The number asked for.
        pid: u32,
        /// Its name, fit to print.
        comm: String,
    },
    /// It is us.
    #[error("process {pid} is flame-graph itself: name the process that is to be recorded")]
    Own {
        /// The number asked for.
        pid: u32,
    },
    /// Number 0, by which the kernel means the idle task.
    #[error("0 is the idle task, not a process: name no process to record the whole host")]
    Idle,
    /// It belongs to someone else.
    #[error("no permission to read {}: run as root, or as the owner of process {pid}", path.display())]
    Denied {
        /// The process.
        pid: u32,
        /// The file.
        path: PathBuf,
    },
    /// More mappings than anything sane has.
    #[error("process {pid} has more than {limit} mappings: it cannot be recorded")]
    TooManyMappings {
        /// The process.
        pid: u32,
        /// The bound.
        limit: usize,
    },
    /// The file is not what the kernel writes.
    #[error("{} does not read like the kernel's: is it a real /proc?", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ProcError {
    /// What an I/O error means that a file of this process gave.
    pub(super) fn of(pid: u32, path: PathBuf, source: io::Error) -> Self {
        // ESRCH: the file was open when the process ended.
        let gone = source.raw_os_error() == Some(libc::ESRCH);
        match source.kind() {
            _ if gone => Self::NoSuchProcess { pid },
            io::ErrorKind::NotFound => Self::NoSuchProcess { pid },
            io::ErrorKind::PermissionDenied => Self::Denied { pid, path },
            _ => Self::Read { path, source },
        }
    }

    pub(super) fn from_procfs(pid: u32, path: PathBuf, error: procfs::ProcError) -> Self {
        match error {
            procfs::ProcError::NotFound(_) => Self::NoSuchProcess { pid },
            procfs::ProcError::PermissionDenied(_) => Self::Denied { pid, path },
            procfs::ProcError::Io(source, _) => Self::of(pid, path, source),
            _ => Self::Malformed { path },
        }
    }
}

/// A name fit for a message: control characters cannot reach the terminal.
pub fn printable(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

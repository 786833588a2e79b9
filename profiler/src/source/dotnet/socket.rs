//! The diagnostics socket of a .NET process: finding it where anybody can write, and talking to it.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, Stat, openat2},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};

use super::wire::{self, AnswerError};
use crate::target::process::{Proc, ProcError, ProcessInfo};

/// How long a runtime that lives takes to answer, at the most.
const PATIENCE: Duration = Duration::from_secs(5);
/// Folders of so many entries are not searched to their end.
const MAX_ENTRIES: usize = 1 << 20;
/// Sockets by the same name are those of processes that had the number before; so many are tried.
const MAX_SOCKETS: usize = 64;

/// Why a process cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// What `/proc` said.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// No socket.
    #[error(
        "process {pid} has no diagnostics socket in its {}: it is no .NET process (Core 3.0 or \
         later), or runs with DOTNET_EnableDiagnostics=0", .folder.display()
    )]
    None {
        /// The process.
        pid: u32,
        /// Where it would be, as the process sees it.
        folder: PathBuf,
    },
    /// A socket that is not the process's.
    #[error(
        "{} is not asked, for it does not belong to process {pid}: {why}", .path.display()
    )]
    Stranger {
        /// The process.
        pid: u32,
        /// The socket, as the process sees it.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// No answer.
    #[error("process {0} does not answer on its diagnostics socket: it may be stopped")]
    Silent(u32),
    /// The socket failed.
    #[error("the diagnostics socket of process {pid} failed: {source}")]
    Io {
        /// The process.
        pid: u32,
        /// What went wrong.
        source: io::Error,
    },
    /// An answer that does not help.
    #[error("process {pid} was asked over its diagnostics socket, but {source}")]
    Answer {
        /// The process.
        pid: u32,
        /// What it said.
        source: AnswerError,
    },
}

/// A process's diagnostics socket.
#[derive(Debug)]
pub struct Socket {
    pid: u32,
    /// Its inode: what its name leads to may change.
    inode: OwnedFd,
    path: PathBuf,
}

impl Socket {
    /// Finds it in the process's own mount namespace.
    ///
    /// # Errors
    /// That there is none that is the process's.
    pub fn of(proc: &Proc, process: &ProcessInfo) -> Result<Self, SocketError> {
        let pid = process.pid;
        let inner = proc.ns_pid(pid)?;
        let folder = proc.temporary_folder(pid)?;
        let failed = |source: io::Error| SocketError::Io { pid, source };
        let root = proc.root().join(proc.living_thread(pid)?.to_string()).join("root");
        let opened = open_folder(&root, &folder).map_err(failed)?;
        let prefix = format!("dotnet-diagnostic-{inner}-");
        let mut stranger = None;
        let entries = rustix::fs::Dir::read_from(&opened).map_err(|error| failed(error.into()))?;
        let mut tried = 0;
        for entry in entries.take(MAX_ENTRIES).map_while(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with(&prefix) || !name.ends_with("-socket") {
                continue;
            }
            tried += 1;
            if tried > MAX_SOCKETS {
                break;
            }
            let path = folder.join(&name);
            let is_own = open_socket(&opened, &name, process.uid).and_then(|inode| {
                let socket = Self { pid, inode, path: path.clone() };
                socket.dial(process.pid).map(|_| socket)
            });
            match is_own {
                Ok(socket) => return Ok(socket),
                Err(Refused::Silent) => return Err(SocketError::Silent(pid)),
                Err(Refused::Gone) => {}
                Err(Refused::Stranger(why)) => {
                    stranger = Some(SocketError::Stranger { pid, path, why });
                }
            }
        }
        Err(stranger.unwrap_or(SocketError::None { pid, folder }))
    }

    /// Sends a command on a connection of its own; that, and the number in the answer.
    ///
    /// # Errors
    /// No answer, or one that does not help.
    pub fn ask(&self, message: &[u8]) -> Result<(UnixStream, u64), SocketError> {
        let mut stream = self.send(message)?;
        let number = self.answer(&mut stream)?;
        Ok((stream, number))
    }

    /// Sends a command on a connection of its own, and leaves the answer there.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send(&self, message: &[u8]) -> Result<UnixStream, SocketError> {
        let pid = self.pid;
        let mut stream = self.dial(pid).map_err(|refused| match refused {
            Refused::Silent => SocketError::Silent(pid),
            Refused::Gone => SocketError::Proc(ProcError::NoSuchProcess { pid }),
            Refused::Stranger(why) => SocketError::Stranger { pid, path: self.path.clone(), why },
        })?;
        stream.write_all(message).map_err(|source| self.failed(source))?;
        Ok(stream)
    }

    /// Reads the answer to a command.
    ///
    /// # Errors
    /// No answer, or one that does not help.
    pub fn answer(&self, stream: &mut UnixStream) -> Result<u64, SocketError> {
        let wrong = |source| SocketError::Answer { pid: self.pid, source };
        let mut header = [0; wire::HEADER];
        stream.read_exact(&mut header).map_err(|source| self.failed(source))?;
        let answer = wire::answer(header).map_err(wrong)?;
        let mut body = vec![0; answer.size];
        stream.read_exact(&mut body).map_err(|source| self.failed(source))?;
        answer.number(&body).map_err(wrong)
    }

    fn failed(&self, source: io::Error) -> SocketError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => SocketError::Silent(self.pid),
            _ => SocketError::Io { pid: self.pid, source },
        }
    }

    /// A connection to it, when the process itself listens there.
    fn dial(&self, pid: u32) -> Result<UnixStream, Refused> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(Refused::of)?;
        for timeout in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE)).map_err(Refused::of)?;
        }
        let path = format!("/proc/self/fd/{}", self.inode.as_raw_fd());
        let address = SocketAddrUnix::new(&*path).map_err(Refused::of)?;
        rustix::net::connect(&socket, &address).map_err(Refused::of)?;
        // Who called listen(2), as our PID namespace counts.
        let peer = sockopt::socket_peercred(&socket).map_err(Refused::of)?;
        if peer.pid.as_raw_nonzero().get() as u32 != pid {
            let other = peer.pid.as_raw_nonzero();
            return Err(Refused::Stranger(format!("process {other} listens there")));
        }
        Ok(socket.into())
    }
}

/// Why a socket is not used.
#[derive(Debug)]
enum Refused {
    /// Nobody listens: its process has ended.
    Gone,
    /// Whoever listens does not take the connection.
    Silent,
    /// It is somebody else's.
    Stranger(String),
}

impl Refused {
    fn of(error: rustix::io::Errno) -> Self {
        match error {
            rustix::io::Errno::AGAIN => Self::Silent,
            rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT => Self::Gone,
            error => Self::Stranger(error.to_string()),
        }
    }
}

/// Opens a folder below a process's root: no symbolic link leads out of that.
fn open_folder(root: &Path, folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::PATH, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&root, folder, flags | OFlags::RDONLY, Mode::empty(), inside)?)
}

/// The inode of a socket that this user owns, or root; no symbolic link is followed.
fn open_socket(folder: impl AsFd, name: &str, user: u32) -> Result<OwnedFd, Refused> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inode = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(Refused::of)?;
    let Stat { st_mode, st_uid, .. } = rustix::fs::fstat(&inode).map_err(Refused::of)?;
    if FileType::from_raw_mode(st_mode) != FileType::Socket {
        return Err(Refused::Stranger("it is no socket".to_owned()));
    }
    if st_uid != user && st_uid != 0 {
        return Err(Refused::Stranger(format!(
            "user {st_uid} owns it, the process is user {user}'s"
        )));
    }
    Ok(inode)
}

//! The sockets of runtimes: finding one where anybody can write, and connecting to it.

use std::{
    io,
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
    /// A socket that is not the process's.
    #[error("{} is not asked, for it does not belong to process {pid}: {why}", .path.display())]
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
}

/// A socket on which a process listens.
#[derive(Debug)]
pub struct Socket {
    pid: u32,
    /// Its inode: what its name leads to may change.
    inode: OwnedFd,
    path: PathBuf,
}

impl Socket {
    /// Finds it by its name in a folder of the process's own mount namespace; none: there is none on
    /// which anybody listens.
    ///
    /// # Errors
    /// That it is not the process's, or what reading gave.
    pub fn find(
        proc: &Proc,
        process: &ProcessInfo,
        folder: &Path,
        is: impl Fn(&str) -> bool,
    ) -> Result<Option<Self>, SocketError> {
        let pid = process.pid;
        let failed = |source: io::Error| SocketError::Io { pid, source };
        let opened = open_folder(&root(proc, pid)?, folder).map_err(failed)?;
        let entries = rustix::fs::Dir::read_from(&opened).map_err(|error| failed(error.into()))?;
        let names = entries.take(MAX_ENTRIES).map_while(Result::ok);
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut stranger = None;
        for name in names.filter(|name| is(name)).take(MAX_SOCKETS) {
            let path = folder.join(&name);
            let own = open_socket(&opened, &name, process.uid).and_then(|inode| {
                let socket = Self { pid, inode, path: path.clone() };
                socket.dial().map(|_| socket)
            });
            match own {
                Ok(socket) => return Ok(Some(socket)),
                Err(Refused::Silent) => return Err(SocketError::Silent(pid)),
                Err(Refused::Gone) => {}
                Err(Refused::Stranger(why)) => {
                    stranger = Some(SocketError::Stranger { pid, path, why });
                }
            }
        }
        stranger.map_or(Ok(None), Err)
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A connection of its own. Neither sending nor receiving takes longer than some seconds.
    ///
    /// # Errors
    /// When the process is gone or does not take it.
    pub fn connect(&self) -> Result<UnixStream, SocketError> {
        let pid = self.pid;
        self.dial().map_err(|refused| match refused {
            Refused::Silent => SocketError::Silent(pid),
            Refused::Gone => SocketError::Proc(ProcError::NoSuchProcess { pid }),
            Refused::Stranger(why) => SocketError::Stranger { pid, path: self.path.clone(), why },
        })
    }

    /// What went wrong with a connection.
    #[must_use]
    pub fn failed(&self, source: io::Error) -> SocketError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => SocketError::Silent(self.pid),
            _ => SocketError::Io { pid: self.pid, source },
        }
    }

    /// A connection to it, when the process itself listens there.
    fn dial(&self) -> Result<UnixStream, Refused> {
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
        if peer.pid.as_raw_nonzero().get() as u32 != self.pid {
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

/// The root folder of a process, as a path of ours.
///
/// # Errors
/// When the process is gone.
pub fn root(proc: &Proc, pid: u32) -> Result<PathBuf, ProcError> {
    Ok(proc.root().join(proc.living_thread(pid)?.to_string()).join("root"))
}

/// Opens a folder below a process's root: no symbolic link leads out of that.
///
/// # Errors
/// When it cannot be opened.
pub fn open_folder(root: &Path, folder: &Path) -> io::Result<OwnedFd> {
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

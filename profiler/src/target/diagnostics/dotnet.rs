//! .NET's diagnostics socket: `dotnet-diagnostic-PID-KEY-socket`, which every runtime since Core 3.0
//! listens on.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use super::{
    socket::{Socket, SocketError},
    wire::{self, AnswerError},
};
use crate::target::process::{Proc, ProcError, ProcessInfo};

/// Why a .NET process cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum DotnetError {
    /// The socket is none to talk to.
    #[error(transparent)]
    Socket(#[from] SocketError),
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
    /// An answer that does not help.
    #[error("process {pid} was asked over its diagnostics socket, but {source}")]
    Answer {
        /// The process.
        pid: u32,
        /// What it said.
        source: AnswerError,
    },
}

impl From<ProcError> for DotnetError {
    fn from(error: ProcError) -> Self {
        Self::Socket(error.into())
    }
}

/// A process's diagnostics socket.
#[derive(Debug)]
pub struct Dotnet {
    socket: Socket,
}

impl Dotnet {
    /// Finds it in the process's own mount namespace.
    ///
    /// # Errors
    /// That there is none that is the process's.
    pub fn of(proc: &Proc, process: &ProcessInfo) -> Result<Self, DotnetError> {
        let pid = process.pid;
        let folder = proc.temporary_folder(pid)?;
        let prefix = format!("dotnet-diagnostic-{}-", proc.ns_pid(pid)?);
        let is = |name: &str| name.starts_with(&prefix) && name.ends_with("-socket");
        match Socket::find(proc, process, &folder, is)? {
            Some(socket) => Ok(Self { socket }),
            None => Err(DotnetError::None { pid, folder }),
        }
    }

    /// Sends a command on a connection of its own; that, and the number in the answer.
    ///
    /// # Errors
    /// No answer, or one that does not help.
    pub fn ask(&self, message: &[u8]) -> Result<(UnixStream, u64), DotnetError> {
        let mut stream = self.send(message)?;
        let number = self.answer(&mut stream)?;
        Ok((stream, number))
    }

    /// Sends a command on a connection of its own, and leaves the answer there.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn send(&self, message: &[u8]) -> Result<UnixStream, DotnetError> {
        let mut stream = self.socket.connect()?;
        stream.write_all(message).map_err(|error| self.socket.failed(error))?;
        Ok(stream)
    }

    /// Reads the answer to a command.
    ///
    /// # Errors
    /// No answer, or one that does not help.
    pub fn answer(&self, stream: &mut UnixStream) -> Result<u64, DotnetError> {
        let wrong = |source| DotnetError::Answer { pid: self.socket.pid(), source };
        let mut header = [0; wire::HEADER];
        stream.read_exact(&mut header).map_err(|error| self.socket.failed(error))?;
        let answer = wire::answer(header).map_err(wrong)?;
        let mut body = vec![0; answer.size];
        stream.read_exact(&mut body).map_err(|error| self.socket.failed(error))?;
        answer.number(&body).map_err(wrong)
    }

    /// Has the runtime write a perf map of the code that it has made, and no further.
    ///
    /// # Errors
    /// No answer, or a version before .NET 8.
    pub fn write_perf_map(&self) -> Result<(), DotnetError> {
        self.ask(&wire::enable_perf_map())?;
        // It would go on writing.
        self.ask(&wire::disable_perf_map())?;
        Ok(())
    }
}

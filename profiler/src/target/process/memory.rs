//! Memory of processes.

use std::{fs::File, os::unix::fs::FileExt as _};

use super::{Proc, ProcError};

impl Proc {
    /// Reads a process's memory at an address, all of `bytes`.
    ///
    /// # Errors
    ///
    /// What reading gave: there is no such process, the memory is not there, or not for us.
    pub fn read_memory(&self, pid: u32, address: u64, bytes: &mut [u8]) -> Result<(), ProcError> {
        let folder = self.open(pid)?;
        let read = folder.file("mem")?.read_exact_at(bytes, address);
        read.map_err(|source| folder.failed("mem", source))
    }

    /// A process's memory, to be read at addresses. Behind an exec, and its end, there is nothing to
    /// read in it any more.
    ///
    /// # Errors
    ///
    /// There is no such process, or it is not for us.
    pub fn memory(&self, pid: u32) -> Result<File, ProcError> {
        self.open(pid)?.file("mem")
    }
}

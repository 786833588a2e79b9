//! Memory of processes.

use std::os::unix::fs::FileExt as _;

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
}

//! The code of a process, for a walk on the host that has no unwind rows where it stands.

use std::os::unix::fs::FileExt as _;

use super::{
    frames::code_address,
    modules::Modules,
    regions::{Region, Regions, region_at},
};
use crate::{
    model::{frame::ModuleId, profile::ModuleKind},
    target::process::Proc,
};

/// The code that a process has mapped.
pub struct Code<'a> {
    /// The process.
    pub pid: u32,
    /// Its regions when it was sampled.
    pub regions: &'a Regions,
    /// What they map.
    pub modules: &'a Modules,
}

impl Code<'_> {
    /// The region of a frame as a sample carries it.
    #[must_use]
    pub fn region(&self, frame: u64) -> Option<&Region> {
        region_at(self.regions, code_address(frame).lookup())
    }

    /// The module at a frame whose rows are not there yet.
    #[must_use]
    pub fn pending(&self, frame: u64) -> Option<ModuleId> {
        let module = self.region(frame)?.module;
        self.modules.rows(module).are_pending().then_some(module)
    }

    /// The 8 bytes at an address: of the file that is mapped there, else of the process's memory,
    /// while it lives.
    #[must_use]
    pub fn word(&self, address: u64) -> Option<u64> {
        let Region { start, offset, module, .. } = *region_at(self.regions, address)?;
        let module = self.modules.module(module);
        let mut word = [0; 8];
        match (module.kind, &module.file) {
            (ModuleKind::File, Some(file)) => {
                file.read_exact_at(&mut word, address - start + offset).ok()?;
            }
            (ModuleKind::Anonymous { .. }, _) => {
                Proc::new().read_memory(self.pid, address, &mut word).ok()?;
            }
            _ => return None,
        }
        Some(u64::from_ne_bytes(word))
    }
}

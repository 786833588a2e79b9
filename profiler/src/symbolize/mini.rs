//! MiniDebugInfo: the symbols that stripping would take, packed into a section of the file itself,
//! as Fedora and RHEL ship them (GDB's manual, "Debugging information in a special section").

use object::{Object as _, ObjectSection as _};

use super::elf;
use crate::format::xz;

/// Unpacked it is not larger: the symbols of a few hundred thousand functions.
const MAX_UNPACKED: usize = 64 << 20;

/// The name of the function that covers each of these addresses (ascending).
#[must_use]
pub fn names(file: &object::File<'_>, addresses: &[u64]) -> Vec<Option<Vec<u8>>> {
    let packed = file.section_by_name(".gnu_debugdata").and_then(|section| section.data().ok());
    let unpacked = packed.and_then(|packed| xz::unpack(packed, MAX_UNPACKED).ok());
    let Some(symbols) = unpacked.as_deref().and_then(elf::parse) else {
        return vec![None; addresses.len()];
    };
    elf::names(&symbols, addresses).into_iter().map(|name| name.map(<[u8]>::to_vec)).collect()
}

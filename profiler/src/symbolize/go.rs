//! Names of functions in stripped Go programs, from the table that their runtime uses itself.

use object::{Object, ObjectSection};

use crate::format::go_pclntab::Table;

/// Sections in which the linker puts the runtime's description of the program.
const MODULE_DATA: [&str; 4] = [".go.module", ".noptrdata", ".data", ".data.rel.ro"];

/// Where that description (`runtime.moduledata`, Go 1.18 to 1.26) has the address of the first
/// function: behind the header's address, six slices and one more pointer.
const FIRST_FUNCTION: usize = 8 + 6 * 24 + 8;

/// The names of those of these addresses that are in the table of a Go program.
#[must_use]
pub fn names<'data>(file: &object::File<'data>, addresses: &[u64]) -> Vec<Option<&'data [u8]>> {
    find(file, addresses).unwrap_or_else(|| vec![None; addresses.len()])
}

fn find<'data>(file: &object::File<'data>, addresses: &[u64]) -> Option<Vec<Option<&'data [u8]>>> {
    let section = file
        .section_by_name(".gopclntab")
        .or_else(|| file.section_by_name(".data.rel.ro.gopclntab"))?;
    let table = Table::parse(section.data().ok()?)?;
    let text = text(file, &table, section.address())?;
    let name = |address: &u64| table.name(address.checked_sub(text)?);
    Some(addresses.iter().map(name).collect())
}

/// Where the table's text begins.
fn text(file: &object::File<'_>, table: &Table<'_>, header: u64) -> Option<u64> {
    if table.text != 0 {
        return Some(table.text);
    }
    if let Some(first) = first_function(file, header) {
        return first.checked_sub(table.first()?);
    }
    // Without C code in it, all text is Go's, and the program begins in Go's own code.
    let text = file.section_by_name(".text")?.address();
    let entry = table.name(file.entry().checked_sub(text)?)?;
    entry.starts_with(b"_rt0_").then_some(text)
}

/// The address of the first function as the runtime's description has it, which begins with the
/// address of the table's header. Files that are relocated when loaded hold zeros there.
fn first_function(file: &object::File<'_>, header: u64) -> Option<u64> {
    MODULE_DATA.iter().filter_map(|name| file.section_by_name(name)?.data().ok()).find_map(|data| {
        let word = |at: usize| Some(u64::from_le_bytes(*data.get(at..)?.first_chunk()?));
        let found = (0..data.len()).step_by(8).find(|at| word(*at) == Some(header))?;
        word(found + FIRST_FUNCTION).filter(|first| *first != 0)
    })
}

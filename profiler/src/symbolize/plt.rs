//! Names of procedure linkage stubs (`malloc@plt`), which have no symbols of their own: each jumps
//! through a slot that a dynamic relocation fills with the address of a symbol. x86-64 only.

use object::{
    Architecture, Object, ObjectSection, ObjectSymbol, ObjectSymbolTable, RelocationTarget,
};
use rustc_hash::FxHashMap;

/// Sections with stubs, as GNU and LLVM linkers name them.
const SECTIONS: [&str; 3] = [".plt", ".plt.sec", ".plt.got"];

/// `jmp *offset(%rip)`.
const JUMP: [u8; 2] = [0xff, 0x25];

/// The names of those of these addresses that lie in stubs.
#[must_use]
pub fn names(file: &object::File<'_>, addresses: &[u64]) -> Vec<Option<Vec<u8>>> {
    let mut names = vec![None; addresses.len()];
    if file.architecture() != Architecture::X86_64 {
        return names;
    }
    let stubs: Vec<(u64, &[u8])> = SECTIONS
        .iter()
        .filter_map(|name| file.section_by_name(name))
        .filter_map(|section| Some((section.address(), section.data().ok()?)))
        .collect();
    let slot = |address: u64| {
        stubs.iter().find_map(|(start, code)| slot(*start, code, address.checked_sub(*start)?))
    };
    let slots: Vec<Option<u64>> = addresses.iter().map(|address| slot(*address)).collect();
    if slots.iter().all(Option::is_none) {
        return names;
    }
    let symbols = symbols(file);
    for (name, slot) in names.iter_mut().zip(slots) {
        *name = slot.and_then(|slot| Some([symbols.get(&slot)?, &b"@plt"[..]].concat()));
    }
    names
}

/// The slot that the stub at an offset into a section jumps through.
fn slot(start: u64, code: &[u8], offset: u64) -> Option<u64> {
    let offset = usize::try_from(offset).ok().filter(|offset| *offset < code.len())?;
    // Stubs take 16 bytes, those without lazy binding may take 8.
    let short = code.get(..2) == Some(&JUMP) && code.get(8..10) == Some(&JUMP);
    let size = if short { 8 } else { 16 };
    let begin = offset / size * size;
    let stub = code.get(begin..(begin + size).min(code.len()))?;
    // Before the jump may be `endbr64` and a `bnd` prefix.
    let at = stub.windows(2).position(|bytes| *bytes == JUMP)?;
    let distance = i32::from_le_bytes(*stub.get(at + 2..)?.first_chunk()?);
    let after = start.wrapping_add((begin + at + 6) as u64);
    Some(after.wrapping_add_signed(i64::from(distance)))
}

/// The symbol that each slot is filled with.
fn symbols<'data>(file: &object::File<'data>) -> FxHashMap<u64, &'data [u8]> {
    let mut symbols = FxHashMap::default();
    let (Some(relocations), Some(table)) =
        (file.dynamic_relocations(), file.dynamic_symbol_table())
    else {
        return symbols;
    };
    for (slot, relocation) in relocations {
        if let RelocationTarget::Symbol(index) = relocation.target()
            && let Ok(name) = table.symbol_by_index(index).and_then(|symbol| symbol.name_bytes())
            && !name.is_empty()
        {
            symbols.insert(slot, name);
        }
    }
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_leads_to_its_slot() {
        // endbr64; bnd jmp *0x2f00(%rip); nop
        let checked = [
            0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0x00, 0x2f, 0x00, 0x00, 0x0f, 0x1f, 0x44, 0,
            0,
        ];
        assert_eq!(slot(0x1000, &checked, 0), Some(0x1000 + 11 + 0x2f00));
        assert_eq!(slot(0x1000, &checked, 15), Some(0x1000 + 11 + 0x2f00));
        assert_eq!(slot(0x1000, &checked, 16), None);
        // Two short ones.
        let short = [0xff, 0x25, 2, 0, 0, 0, 0x66, 0x90, 0xff, 0x25, 4, 0, 0, 0, 0x66, 0x90];
        assert_eq!(slot(0, &short, 3), Some(8));
        assert_eq!(slot(0, &short, 8), Some(18));
        // Cut off, and no jump at all.
        assert_eq!(slot(0, &short[..12], 8), None);
        assert_eq!(slot(0, &[0x90; 16], 8), None);
    }
}

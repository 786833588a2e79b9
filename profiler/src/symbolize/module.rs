//! Names for the addresses of one mapped file.

use object::Object;

use super::{
    Options,
    dwarf::{self, Call, Position},
    elf,
    image::Image,
    names::{demangle, made},
};
use crate::model::profile::Module;

/// A function at an address, ready to become a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Demangled name.
    pub name: String,
    /// Where in it the address is, as far as known.
    pub position: Position,
}

impl Named {
    /// A function that a runtime made and named.
    #[must_use]
    pub fn made(name: &[u8]) -> Self {
        Self { name: made(name), position: Position::default() }
    }
}

/// The functions at an address: the compiled one, then those inlined into it, outermost first.
/// Empty when it has no name.
pub type Chain = Vec<Named>;

/// The functions at each byte of the file (offsets ascending and distinct).
///
/// Whatever is wrong with the file costs only its names.
#[must_use]
pub fn resolve(module: &Module, offsets: &[u64], options: &Options) -> Vec<Chain> {
    let Some(image) = module.file.as_ref().and_then(|file| Image::of(file).ok()) else {
        return vec![Chain::new(); offsets.len()];
    };
    resolve_image(&image, module, offsets, options)
}

/// [`resolve`] for a file that is in memory.
#[must_use]
pub fn resolve_image(
    image: &[u8],
    module: &Module,
    offsets: &[u64],
    options: &Options,
) -> Vec<Chain> {
    let mut chains = vec![Chain::new(); offsets.len()];
    let Ok(file) = object::File::parse(image) else { return chains };
    let segments = elf::Segments::of(&file);
    // Two offsets can lead to one address, and their order may differ from that of the addresses.
    let mut at: Vec<(u64, usize)> = offsets
        .iter()
        .enumerate()
        .filter_map(|(index, offset)| segments.address(*offset).map(|address| (address, index)))
        .collect();
    at.sort_unstable();
    let mut addresses: Vec<u64> = at.iter().map(|(address, _)| *address).collect();
    addresses.dedup();
    let found = resolve_addresses(&file, module, &addresses, options);
    for (address, index) in at {
        if let Ok(position) = addresses.binary_search(&address) {
            chains[index].clone_from(&found[position]);
        }
    }
    chains
}

fn resolve_addresses(
    file: &object::File<'_>,
    _module: &Module,
    addresses: &[u64],
    options: &Options,
) -> Vec<Chain> {
    let symbols = elf::names(file, addresses);
    let calls = if options.inlines && file.section_by_name(".debug_info").is_some() {
        let sections = dwarf::Sections::of(file);
        dwarf::resolve(&sections.dwarf(), addresses)
    } else {
        vec![dwarf::Chain::new(); addresses.len()]
    };
    symbols.into_iter().zip(calls).map(|(symbol, calls)| chain(symbol, calls)).collect()
}

/// What symbol table and DWARF know of an address, together.
fn chain(symbol: Option<&[u8]>, calls: Vec<Call>) -> Chain {
    if calls.is_empty() {
        let named = symbol.map(|s| Named { name: demangle(s), position: Position::default() });
        return named.into_iter().collect();
    }
    let mut named = Chain::with_capacity(calls.len());
    for (level, call) in calls.into_iter().enumerate() {
        // The compiled function's own symbol also tells its clones apart; a function that has
        // neither still stands for the call.
        let name = match (level, symbol, call.name) {
            (0, Some(symbol), _) => demangle(symbol),
            (_, _, Some(name)) => demangle(&name),
            (0, None, None) => return Chain::new(),
            (_, _, None) => "[inlined function]".to_owned(),
        };
        named.push(Named { name, position: call.position });
    }
    named
}

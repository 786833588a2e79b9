//! Names for the addresses of one mapped file.

use std::path::Path;

use object::Object;

use super::{
    Options, debug_files,
    dwarf::{self, Call, Position},
    elf, go,
    image::Image,
    names::{demangle, file_name, made, unknown},
    plt, unnamed,
};
use crate::model::profile::Module;

/// A function at an address, ready to become a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Demangled name, or a placeholder.
    pub name: String,
    /// Whether somebody gave it this name.
    pub known: bool,
    /// Where in it the address is, as far as known.
    pub position: Position,
}

impl Named {
    /// A function whose name is not mangled.
    #[must_use]
    pub fn made(name: &[u8]) -> Self {
        Self { name: made(name), known: true, position: Position::default() }
    }
}

/// The functions at an address: the compiled one, then those inlined into it, outermost first.
/// Empty when nothing is known of it.
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
    let Some(file) = elf::parse(image) else { return chains };
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
    let mut found = resolve_addresses(&file, module, &addresses, options);
    let unnamed = found.iter().zip(&addresses).filter(|(chain, _)| chain.is_empty());
    let unnamed: Vec<u64> = unnamed.map(|(_, address)| *address).collect();
    let stubs = plt::names(&file, &unnamed);
    let starts = unnamed::starts(&file, &unnamed);
    let unnamed = found.iter_mut().filter(|chain| chain.is_empty());
    for (chain, (stub, start)) in unnamed.zip(stubs.into_iter().zip(starts)) {
        if let Some(stub) = stub {
            chain.push(Named::made(&stub));
        } else if let Some(offset) = start.and_then(|start| segments.offset(start)) {
            let name = unknown(file_name(&module.path), offset);
            chain.push(Named { name, known: false, position: Position::default() });
        }
    }
    for (address, index) in at {
        if let Ok(position) = addresses.binary_search(&address) {
            chains[index].clone_from(&found[position]);
        }
    }
    chains
}

fn resolve_addresses(
    file: &object::File<'_>,
    module: &Module,
    addresses: &[u64],
    options: &Options,
) -> Vec<Chain> {
    let path = module.path.strip_suffix(" (deleted)").unwrap_or(&module.path);
    let path = Path::new(path);
    let mut symbols = elf::names(file, addresses);
    let has_info = file.section_by_name(".debug_info").is_some();
    // A debug file is looked for when there is something to be found in it.
    let lacks_info = options.inlines && !has_info;
    let lacks_symbols = file.section_by_name(".symtab").is_none() && symbols.contains(&None);
    let debug = (lacks_info || lacks_symbols)
        .then(|| debug_files::separate(file, path, &options.debug_dirs))
        .flatten();
    let debug_file = debug.as_ref().and_then(|debug| elf::parse(&debug.image));
    if symbols.contains(&None) {
        for (symbol, found) in symbols.iter_mut().zip(go::names(file, addresses)) {
            *symbol = symbol.or(found);
        }
    }
    if let Some(debug_file) = &debug_file {
        for (symbol, found) in symbols.iter_mut().zip(elf::names(debug_file, addresses)) {
            *symbol = found.or(*symbol);
        }
    }
    let calls = match (&debug, &debug_file) {
        _ if !options.inlines => None,
        _ if has_info => Some(inlined(file, path, path, addresses, options)),
        (Some(debug), Some(file)) => Some(inlined(file, &debug.path, path, addresses, options)),
        _ => None,
    };
    let calls = calls.unwrap_or_else(|| vec![dwarf::Chain::new(); addresses.len()]);
    symbols.into_iter().zip(calls).map(|(symbol, calls)| chain(symbol, calls)).collect()
}

/// What DWARF in a file at `path` tells about the addresses of the module at `module`.
fn inlined(
    file: &object::File<'_>,
    path: &Path,
    module: &Path,
    addresses: &[u64],
    options: &Options,
) -> Vec<dwarf::Chain> {
    let sections = dwarf::Sections::of(file);
    let shared = debug_files::supplementary(file, path, &options.debug_dirs);
    let shared = shared.as_ref().and_then(|shared| elf::parse(&shared.image));
    let shared = shared.as_ref().map(dwarf::Sections::of);
    let package = debug_files::package(module).or_else(|| debug_files::package(path));
    let package = package.as_ref().and_then(|package| elf::parse(&package.image));
    let elsewhere = dwarf::Elsewhere::new(package.as_ref(), module.parent());
    dwarf::resolve(&sections.dwarf(shared.as_ref()), &elsewhere, addresses)
}

/// What symbol table and DWARF know of an address, together.
fn chain(symbol: Option<&[u8]>, calls: Vec<Call>) -> Chain {
    if calls.is_empty() {
        let named =
            symbol.map(|s| Named { name: demangle(s), known: true, position: Position::default() });
        return named.into_iter().collect();
    }
    let mut named = Chain::with_capacity(calls.len());
    for (level, call) in calls.into_iter().enumerate() {
        // The compiled function's own symbol also tells its clones apart.
        let name = match (level, symbol, call.name) {
            (0, Some(symbol), _) => demangle(symbol),
            (_, _, Some(name)) => demangle(&name),
            // A line without a function.
            (0, None, None) => return Chain::new(),
            (_, _, None) => continue,
        };
        named.push(Named { name, known: true, position: call.position });
    }
    named
}

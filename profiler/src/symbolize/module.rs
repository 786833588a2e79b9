//! Names for the addresses of one mapped file.
//!
//! blazesym is asked first when the file is trusted ([`super::blaze`] says why only then), our own
//! readers are asked for all addresses that have no answer yet.

use std::{fs::File, path::Path};

use object::Object;

use super::{
    Options,
    blaze::{self, Blaze},
    debug_files,
    dwarf::{self, Call, Position},
    elf, go, mini,
    names::{demangle, made},
    plt, unnamed,
};
use crate::{
    model::{
        frame::{file_name, unknown},
        profile::Module,
    },
    target::image::Image,
    unwind,
};

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
    let image = module.file.as_ref().and_then(|file| Some((file, Image::of(file).ok()?)));
    let Some((file, image)) = image else { return vec![Chain::new(); offsets.len()] };
    resolve_in(&image, Some(file), module, offsets, options)
}

/// What C libraries call their signal trampoline, where they do not say.
const TRAMPOLINE: &[u8] = b"__restore_rt";

/// [`resolve`] for a file that is in memory.
#[must_use]
pub fn resolve_image(
    image: &[u8],
    module: &Module,
    offsets: &[u64],
    options: &Options,
) -> Vec<Chain> {
    resolve_in(image, None, module, offsets, options)
}

fn resolve_in(
    image: &[u8],
    handle: Option<&File>,
    module: &Module,
    offsets: &[u64],
    options: &Options,
) -> Vec<Chain> {
    let mut chains = vec![Chain::new(); offsets.len()];
    let Some(source) = Source::of(image, handle, options) else { return chains };
    let file = &source.file;
    let segments = elf::Segments::of(file);
    // Two offsets can lead to one address, and their order may differ from that of the addresses.
    // A handler's return address is looked up one byte before the trampoline that it leads to.
    let trampoline = |offset| unwind::signal_trampoline(image, offset);
    let inside = |offset| trampoline(offset).map_or(offset, |start| start.max(offset));
    let mut at: Vec<(u64, usize)> = offsets
        .iter()
        .enumerate()
        .filter_map(|(index, offset)| Some((segments.address(inside(*offset))?, index)))
        .collect();
    at.sort_unstable();
    let mut addresses: Vec<u64> = at.iter().map(|(address, _)| *address).collect();
    addresses.dedup();
    let mut found = resolve_addresses(&source, module, &addresses, options);
    let unnamed = found.iter().zip(&addresses).filter(|(chain, _)| chain.is_empty());
    let unnamed: Vec<u64> = unnamed.map(|(_, address)| *address).collect();
    let stubs = plt::names(file, &unnamed);
    let starts = unnamed::starts(file, &unnamed);
    let starts = unnamed.iter().copied().zip(starts);
    let unnamed = found.iter_mut().filter(|chain| chain.is_empty());
    for (chain, (stub, start)) in unnamed.zip(stubs.into_iter().zip(starts)) {
        let (address, start) = start;
        if let Some(stub) = stub {
            chain.push(Named::made(&stub));
        } else if segments.offset(address).and_then(trampoline).is_some() {
            chain.push(Named::made(TRAMPOLINE));
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

/// A file that is read, by one reader or by both.
struct Source<'a> {
    file: object::File<'a>,
    /// For blazesym; of trusted files only.
    handle: Option<&'a File>,
}

impl<'a> Source<'a> {
    /// None when the bytes are no ELF file.
    fn of(image: &'a [u8], handle: Option<&'a File>, options: &Options) -> Option<Self> {
        let file = elf::parse(image)?;
        Some(Self { file, handle: handle.filter(|handle| (options.trusts)(handle)) })
    }

    /// The symbol at each address.
    fn symbols(&self, addresses: &[u64]) -> Vec<Option<Vec<u8>>> {
        let mut names = vec![None; addresses.len()];
        if let Some(handle) = self.handle {
            let symbols = Blaze::new(handle).symbols(addresses);
            // Of data among the code, too, which has no name in what follows.
            let preferred = elf::aliases(&self.file, &symbols.iter().flatten().copied().collect());
            for (name, symbol) in names.iter_mut().zip(symbols) {
                *name = symbol.and_then(|symbol| preferred.get(&symbol).map(|name| name.to_vec()));
            }
        }
        complete(&mut names, addresses, |left| owned(elf::names(&self.file, left)));
        names
    }

    /// What DWARF in this file, which is at `path`, tells about the addresses of the module at
    /// `module`.
    fn calls(
        &self,
        path: &Path,
        module: &Path,
        addresses: &[u64],
        options: &Options,
    ) -> Vec<Option<dwarf::Chain>> {
        let mut calls = match self.handle {
            Some(handle) if blaze::legible(&self.file) => Blaze::new(handle).calls(addresses),
            _ => vec![None; addresses.len()],
        };
        complete(&mut calls, addresses, |left| {
            let found = inlined(&self.file, path, module, left, options);
            found.into_iter().map(|chain| Some(chain).filter(|chain| !chain.is_empty())).collect()
        });
        calls
    }
}

/// Asks for the answers that are missing.
fn complete<T>(
    answers: &mut [Option<T>],
    addresses: &[u64],
    ask: impl FnOnce(&[u64]) -> Vec<Option<T>>,
) {
    let missing = answers.iter().zip(addresses).filter(|(answer, _)| answer.is_none());
    let missing: Vec<u64> = missing.map(|(_, address)| *address).collect();
    if !missing.is_empty() {
        let gaps = answers.iter_mut().filter(|answer| answer.is_none());
        gaps.zip(ask(&missing)).for_each(|(gap, found)| *gap = found);
    }
}

fn owned(names: Vec<Option<&[u8]>>) -> Vec<Option<Vec<u8>>> {
    names.into_iter().map(|name| name.map(<[u8]>::to_vec)).collect()
}

fn resolve_addresses(
    source: &Source<'_>,
    module: &Module,
    addresses: &[u64],
    options: &Options,
) -> Vec<Chain> {
    let file = &source.file;
    let path = module.path.strip_suffix(" (deleted)").unwrap_or(&module.path);
    let path = Path::new(path);
    let mut symbols = source.symbols(addresses);
    let has_info = file.section_by_name(".debug_info").is_some();
    // A debug file is looked for when there is something to be found in it.
    let lacks_info = options.inlines && !has_info;
    let lacks_symbols = file.section_by_name(".symtab").is_none() && symbols.contains(&None);
    let debug = (lacks_info || lacks_symbols)
        .then(|| debug_files::separate(file, path, &options.debug_dirs, &options.debug_caches))
        .flatten();
    let debug_source =
        debug.as_ref().and_then(|debug| Source::of(&debug.image, Some(&debug.file), options));
    complete(&mut symbols, addresses, |left| owned(go::names(file, left)));
    complete(&mut symbols, addresses, |left| mini::names(file, left));
    if let Some(debug_source) = &debug_source {
        for (symbol, found) in symbols.iter_mut().zip(debug_source.symbols(addresses)) {
            *symbol = found.or_else(|| symbol.take());
        }
    }
    let calls = match (&debug, &debug_source) {
        _ if !options.inlines => None,
        _ if has_info => Some(source.calls(path, path, addresses, options)),
        (Some(debug), Some(source)) => Some(source.calls(&debug.path, path, addresses, options)),
        _ => None,
    };
    let calls = calls.unwrap_or_else(|| vec![None; addresses.len()]);
    let known = symbols.iter().zip(calls);
    known.map(|(symbol, calls)| chain(symbol.as_deref(), calls.unwrap_or_default())).collect()
}

/// What our own reader finds in the DWARF of a file at `path` about the addresses of the module
/// at `module`.
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

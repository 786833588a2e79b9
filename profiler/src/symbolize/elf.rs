//! ELF headers and symbol tables: where a file offset lies, and which symbol covers an address.

use object::{
    Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionFlags, SegmentFlags, SymbolKind, elf,
};
use rustc_hash::{FxHashMap, FxHashSet};

/// Reads the headers of an ELF file; None when it is none, or they make no sense.
#[must_use]
pub fn parse(image: &[u8]) -> Option<object::File<'_>> {
    // The parser knows other formats, which nothing here expects.
    image.starts_with(&elf::ELFMAG).then(|| object::File::parse(image).ok()).flatten()
}

/// Where the bytes of a file are in its own address space.
#[derive(Debug)]
pub struct Segments(Vec<Segment>);

#[derive(Debug)]
struct Segment {
    offset: u64,
    size: u64,
    address: u64,
    executable: bool,
}

impl Segments {
    /// The loadable segments of a file.
    #[must_use]
    pub fn of(file: &object::File<'_>) -> Self {
        let mut segments: Vec<Segment> = file
            .segments()
            .map(|segment| {
                let (offset, size) = segment.file_range();
                let executable = matches!(segment.flags(),
                    SegmentFlags::Elf { p_flags, .. } if p_flags.contains(elf::PF_X));
                Segment { offset, size, address: segment.address(), executable }
            })
            .collect();
        // Segments may share a page of the file; code is what we are asked for.
        segments.sort_by_key(|segment| !segment.executable);
        Self(segments)
    }

    /// The address, as the file's own headers use it, of a byte in the file.
    #[must_use]
    pub fn address(&self, offset: u64) -> Option<u64> {
        self.0
            .iter()
            .find(|s| offset.checked_sub(s.offset).is_some_and(|into| into < s.size))
            .map(|s| s.address.wrapping_add(offset - s.offset))
    }

    /// The other way round.
    #[must_use]
    pub fn offset(&self, address: u64) -> Option<u64> {
        self.0
            .iter()
            .find(|s| address.checked_sub(s.address).is_some_and(|into| into < s.size))
            .map(|s| s.offset.wrapping_add(address - s.address))
    }
}

/// A symbol and the code it covers.
struct Function<'data> {
    start: u64,
    end: u64,
    /// Among symbols of the same extent the greatest is taken.
    rank: Rank<'data>,
}

/// Preference between names of one function: functions before plain labels, global before weak
/// before local, few leading underscores, then short, then first in the alphabet.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'data> {
    function: bool,
    binding: u8,
    name: std::cmp::Reverse<(usize, usize, &'data [u8])>,
}

/// The name of the function that covers each of these addresses (ascending).
///
/// A symbol covers what its size says. One without size (hand-written code) covers all up to the
/// next symbol or the end of its section when it is in `.symtab`; in `.dynsym`, where most symbols
/// are missing, only its first byte.
#[must_use]
pub fn names<'data>(file: &object::File<'data>, addresses: &[u64]) -> Vec<Option<&'data [u8]>> {
    let mut names = from_table(file, false, addresses);
    if names.contains(&None) {
        let exported = from_table(file, true, addresses);
        for (name, exported) in names.iter_mut().zip(exported) {
            *name = name.or(exported);
        }
    }
    names
}

/// The preferred name among the symbols with each of these extents (start and size).
#[must_use]
pub fn aliases<'data>(
    file: &object::File<'data>,
    extents: &FxHashSet<(u64, u64)>,
) -> FxHashMap<(u64, u64), &'data [u8]> {
    let code = code_sections(file);
    let preferred = |symbols: object::SymbolIterator<'data, '_>| {
        let mut best: FxHashMap<(u64, u64), Rank<'data>> = FxHashMap::default();
        for symbol in symbols {
            let Some(extent) = Extent::of(&symbol, &code) else { continue };
            let extent = (extent.start, extent.size);
            let Ok(name) = symbol.name_bytes() else { continue };
            if extents.contains(&extent) && !name.is_empty() {
                let rank = rank(&symbol, name);
                if best.get(&extent).is_none_or(|known| *known < rank) {
                    best.insert(extent, rank);
                }
            }
        }
        best
    };
    let mut best = preferred(file.symbols());
    if best.len() < extents.len() {
        for (extent, rank) in preferred(file.dynamic_symbols()) {
            best.entry(extent).or_insert(rank);
        }
    }
    best.into_iter().map(|(extent, rank)| (extent, rank.name.0.2)).collect()
}

/// [`names`] from one symbol table; a sparse one lacks most symbols.
fn from_table<'data, 'file>(
    file: &'file object::File<'data>,
    sparse: bool,
    addresses: &[u64],
) -> Vec<Option<&'data [u8]>> {
    let code = code_sections(file);
    let next = |address: u64| addresses.partition_point(|a| *a < address);
    let symbols = || {
        let table = if sparse { file.dynamic_symbols() } else { file.symbols() };
        table.filter_map(|symbol| Extent::of(&symbol, &code).map(|extent| (symbol, extent)))
    };

    // The nearest symbol at or before each address: only it bounds the sizeless ones.
    let mut nearest: Vec<Option<u64>> = vec![None; addresses.len()];
    for (_, extent) in symbols() {
        if let Some(slot) = nearest.get_mut(next(extent.start)) {
            *slot = (*slot).max(Some(extent.start));
        }
    }
    let mut latest = None;
    for slot in &mut nearest {
        latest = latest.max(*slot);
        *slot = latest;
    }

    let mut functions: Vec<Function<'data>> = Vec::new();
    let mut sizeless: FxHashMap<u64, Function<'data>> = FxHashMap::default();
    for (symbol, extent) in symbols() {
        let start = extent.start;
        let first = next(start);
        let Some(bound) = addresses.get(first).copied() else { continue };
        let end = match extent.size {
            0 if nearest[first] != Some(start) => continue,
            0 if sparse => start.saturating_add(1),
            0 => extent.section_end,
            size => start.saturating_add(size),
        };
        let Ok(name) = symbol.name_bytes() else { continue };
        if end <= bound || name.is_empty() {
            continue;
        }
        let function = Function { start, end, rank: rank(&symbol, name) };
        if extent.size > 0 {
            functions.push(function);
        } else if sizeless.get(&start).is_none_or(|known| known.rank < function.rank) {
            sizeless.insert(start, function);
        }
    }
    let mut names = sweep(functions, addresses);
    for ((name, nearest), address) in names.iter_mut().zip(nearest).zip(addresses) {
        *name = name.or_else(|| {
            let function = sizeless.get(&nearest?)?;
            (*address < function.end).then_some(function.rank.name.0.2)
        });
    }
    names
}

/// For each address the covering function that begins last.
fn sweep<'data>(
    mut functions: Vec<Function<'data>>,
    addresses: &[u64],
) -> Vec<Option<&'data [u8]>> {
    functions.sort_by(|a, b| {
        a.start.cmp(&b.start).then(b.end.cmp(&a.end)).then_with(|| a.rank.cmp(&b.rank))
    });
    let mut functions = functions.iter().peekable();
    let mut open: Vec<&Function<'data>> = Vec::new();
    addresses
        .iter()
        .map(|address| {
            while let Some(function) = functions.next_if(|f| f.start <= *address) {
                open.push(function);
            }
            // Addresses ascend: what ended before this one covers no later one either.
            while open.last().is_some_and(|f| f.end <= *address) {
                open.pop();
            }
            open.last().map(|f| f.rank.name.0.2)
        })
        .collect()
}

fn rank<'data>(symbol: &impl ObjectSymbol<'data>, name: &'data [u8]) -> Rank<'data> {
    let underscores = name.iter().take_while(|byte| **byte == b'_').count();
    Rank {
        function: symbol.kind() == SymbolKind::Text,
        binding: match (symbol.is_weak(), symbol.is_global()) {
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => 0,
        },
        name: std::cmp::Reverse((underscores, name.len(), name)),
    }
}

/// Where a symbol that can be code lies; a size of 0 means that it is not known.
struct Extent {
    start: u64,
    size: u64,
    section_end: u64,
}

impl Extent {
    fn of<'data>(symbol: &impl ObjectSymbol<'data>, code: &[Option<u64>]) -> Option<Self> {
        let kind = symbol.kind();
        if !matches!(kind, SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown) {
            return None;
        }
        let section_end = (*code.get(symbol.section_index()?.0)?)?;
        Some(Self { start: symbol.address(), size: symbol.size(), section_end })
    }
}

/// By section number: where a section with code ends.
fn code_sections(file: &object::File<'_>) -> Vec<Option<u64>> {
    let mut ends = Vec::new();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        if sh_flags.contains(elf::SHF_EXECINSTR) {
            let number = section.index().0;
            if ends.len() <= number {
                ends.resize(number + 1, None);
            }
            ends[number] = Some(section.address().saturating_add(section.size()));
        }
    }
    ends
}

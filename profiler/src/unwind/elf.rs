//! Where an ELF file keeps its text and its unwind tables.

use std::borrow::Cow;

use gimli::{BaseAddresses, LittleEndian};
use object::{
    Endianness,
    elf::{
        EM_X86_64, FileHeader32, FileHeader64, PF_X, PT_GNU_EH_FRAME, PT_LOAD, ProgramHeader64,
        SHF_COMPRESSED, SHT_NOBITS, STT_FUNC, SectionHeader64, Sym64,
    },
    pod::slice_from_all_bytes,
    read::{
        CompressedData, CompressionFormat,
        elf::{FileHeader, ProgramHeader, SectionHeader},
    },
};

use super::{
    MAX_ADDRESS, MAX_SECTION, MAX_SECTIONS, MAX_SEGMENTS, MAX_TEXT, TextRange, UnwindError,
};

pub const LITTLE: Endianness = Endianness::Little;
const PAGE: u64 = profiler_ebpf::wire::TEXT_PAGE;

/// The sections of all symbols and of their names.
pub const SYMBOLS: (&[u8], &[u8]) = (b".symtab", b".strtab");
/// Those that other files may use.
pub const DYNAMIC_SYMBOLS: (&[u8], &[u8]) = (b".dynsym", b".dynstr");

/// An ELF file whose headers were read.
pub struct File<'a> {
    data: &'a [u8],
    segments: &'a [ProgramHeader64<Endianness>],
    sections: &'a [SectionHeader64<Endianness>],
    names: &'a [u8],
    entry: u64,
    /// Executable segments, sorted.
    pub text: Vec<TextRange>,
}

/// Bytes of a table of call frame information.
pub struct Section<'a> {
    /// The bytes.
    pub data: Cow<'a, [u8]>,
    /// What pointers in it are relative to.
    pub bases: BaseAddresses,
    /// A terminator ends it: what follows belongs to something else.
    pub terminated: bool,
    /// The most FDEs to read.
    pub limit: usize,
}

impl<'a> File<'a> {
    /// Reads the headers.
    pub fn parse(data: &'a [u8]) -> Result<Self, UnwindError> {
        let header = header(data)?;
        let segments = header
            .program_headers(LITTLE, data)
            .map_err(|_| UnwindError::Damaged("no readable program headers"))?;
        // Section headers are not needed to run: damaged ones are as good as none.
        let sections = header.section_headers(LITTLE, data).unwrap_or_default();
        let sections = &sections[..sections.len().min(MAX_SECTIONS)];
        let names = header
            .shstrndx(LITTLE, data)
            .ok()
            .and_then(|index| sections.get(index as usize)?.data(LITTLE, data).ok())
            .unwrap_or_default();
        let text = text_ranges(segments, data.len() as u64)?;
        let entry = header.e_entry.get(LITTLE);
        Ok(Self { data, segments, sections, names, entry, text })
    }

    /// The address of the entry point.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// The text range that holds an address, or the first one behind it.
    pub fn text_from(&self, address: u64) -> Option<&TextRange> {
        let index = self.text.partition_point(|range| range.address + range.size <= address);
        self.text.get(index)
    }

    /// The section of this name with its bytes as they lie in the file.
    pub fn section(&self, name: &[u8]) -> Option<(&'a SectionHeader64<Endianness>, &'a [u8])> {
        let section = self.sections.iter().find(|section| {
            // No search for the end of the name: names of hostile files have none.
            self.names
                .get(section.sh_name.get(LITTLE) as usize..)
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.first() == Some(&0))
        })?;
        if section.sh_type(LITTLE) == SHT_NOBITS {
            return None;
        }
        let data = section.data(LITTLE, self.data).ok()?;
        Some((section, &data[..data.len().min(MAX_SECTION as usize)]))
    }

    /// Where a section of code lies.
    pub fn text_of(&self, name: &[u8]) -> Option<(u64, u64)> {
        let (section, _) = self.section(name)?;
        let (start, size) = (section.sh_addr(LITTLE), section.sh_size(LITTLE));
        let end = start.checked_add(size)?;
        let text = self.text_from(start)?;
        (size > 0 && start >= text.address && end <= text.address + text.size)
            .then_some((start, end))
    }

    /// The address ranges of the functions of these names in a symbol table.
    pub fn functions(&self, table: (&[u8], &[u8]), wanted: &[&[u8]]) -> Vec<(u64, u64)> {
        let Some((_, strings)) = self.section(table.1) else { return Vec::new() };
        let functions = self.symbols(table.0).filter(|symbol| {
            let name = strings.get(symbol.st_name.get(LITTLE) as usize..).unwrap_or_default();
            let is = |wanted: &&[u8]| {
                name.strip_prefix(*wanted).is_some_and(|rest| rest.first() == Some(&0))
            };
            wanted.iter().any(is)
        });
        functions
            .filter_map(|symbol| {
                let start = symbol.st_value.get(LITTLE);
                Some((start, start.checked_add(symbol.st_size.get(LITTLE))?))
            })
            .collect()
    }

    /// Where functions begin, by both symbol tables, sorted.
    pub fn function_starts(&self) -> Vec<u64> {
        let tables = [SYMBOLS, DYNAMIC_SYMBOLS].into_iter();
        let symbols = tables.flat_map(|(table, _)| self.symbols(table));
        let mut starts: Vec<u64> = symbols.map(|symbol| symbol.st_value.get(LITTLE)).collect();
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// The functions of a symbol table.
    fn symbols(&self, table: &[u8]) -> impl Iterator<Item = &'a Sym64<Endianness>> {
        let data = self.section(table).map_or(&[][..], |(_, data)| data);
        let whole = data.len() - data.len() % size_of::<Sym64<Endianness>>();
        let symbols = slice_from_all_bytes::<Sym64<Endianness>>(&data[..whole]);
        symbols.unwrap_or_default().iter().filter(|symbol| symbol.st_type() == STT_FUNC)
    }

    fn section_address(&self, name: &[u8]) -> Option<u64> {
        self.section(name).map(|(section, _)| section.sh_addr.get(LITTLE))
    }

    /// The `.eh_frame` table.
    pub fn eh_frame(&self) -> Option<Section<'a>> {
        let mut bases = BaseAddresses::default();
        if let Some(address) = self.section_address(b".text") {
            bases = bases.set_text(address);
        }
        if let Some(address) = self.section_address(b".got") {
            bases = bases.set_got(address);
        }
        match self.section(b".eh_frame") {
            Some((section, data)) if !data.is_empty() => Some(Section {
                data: Cow::Borrowed(data),
                bases: bases.set_eh_frame(section.sh_addr.get(LITTLE)),
                terminated: false,
                limit: super::MAX_FDES,
            }),
            _ => self.loaded_eh_frame(bases),
        }
    }

    /// The `.eh_frame` table as the running program finds it: through `PT_GNU_EH_FRAME`.
    fn loaded_eh_frame(&self, bases: BaseAddresses) -> Option<Section<'a>> {
        let segment =
            self.segments.iter().find(|segment| segment.p_type(LITTLE) == PT_GNU_EH_FRAME)?;
        let address = segment.p_vaddr(LITTLE);
        let bytes = segment.data(LITTLE, self.data).ok()?;
        let bases = bases.set_eh_frame_hdr(address);
        let header = gimli::EhFrameHdr::new(bytes, LittleEndian).parse(&bases, 8).ok()?;
        let frame = header.eh_frame_ptr().direct().ok()?;
        let data = self.loaded(frame)?;
        // Layout of all linkers: version 1, pointers sdata4 and relative, count udata4
        // (LSB Core 5.0, section 10.6.2).
        let limit = match bytes {
            [1, _, 3, _, rest @ ..] => rest.get(4..8).and_then(le_u32).map(|count| count as usize),
            _ => None,
        };
        Some(Section {
            data: Cow::Borrowed(data),
            bases: bases.set_eh_frame(frame),
            terminated: true,
            limit: limit.unwrap_or(super::MAX_FDES),
        })
    }

    /// The file's bytes from an address to the end of the segment that loads them.
    pub fn loaded(&self, address: u64) -> Option<&'a [u8]> {
        let mut loads = self.segments.iter().filter(|segment| segment.p_type(LITTLE) == PT_LOAD);
        loads.find_map(|segment| {
            let offset = address.checked_sub(segment.p_vaddr(LITTLE))?;
            let data = segment.data(LITTLE, self.data).ok()?;
            let rest = data.get(usize::try_from(offset).ok()?..).filter(|data| !data.is_empty())?;
            Some(&rest[..rest.len().min(MAX_SECTION as usize)])
        })
    }

    /// The bytes of each loaded segment that is not text.
    pub fn segments_of_data(&self) -> impl Iterator<Item = &'a [u8]> {
        let data = self.segments.iter().filter(|segment| {
            segment.p_type(LITTLE) == PT_LOAD && !segment.p_flags(LITTLE).contains(PF_X)
        });
        let bytes = data.filter_map(|segment| segment.data(LITTLE, self.data).ok());
        bytes.take(MAX_SEGMENTS).map(|data| &data[..data.len().min(MAX_SECTION as usize)])
    }

    /// The text between two addresses of one range.
    pub fn code(&self, start: u64, end: u64) -> Option<&'a [u8]> {
        let text = self.text_from(start)?;
        let first = text.offset.checked_add(start.checked_sub(text.address)?)?;
        let len = end.min(text.address + text.size).checked_sub(start)?;
        let last = first.checked_add(len)?;
        self.data.get(usize::try_from(first).ok()?..usize::try_from(last).ok()?)
    }

    /// The `.debug_frame` table, decompressed.
    pub fn debug_frame(&self) -> Option<Section<'a>> {
        let data = match self.section(b".debug_frame") {
            Some((section, data)) if section.sh_flags(LITTLE).contains(SHF_COMPRESSED) => {
                decompress(data)?
            }
            Some((_, data)) => Cow::Borrowed(data),
            None => decompress_gnu(self.section(b".zdebug_frame")?.1)?,
        };
        let bases = BaseAddresses::default();
        Some(Section { data, bases, terminated: false, limit: super::MAX_FDES })
    }
}

fn header(data: &[u8]) -> Result<&FileHeader64<Endianness>, UnwindError> {
    if !data.starts_with(b"\x7fELF") {
        return Err(UnwindError::NotElf);
    }
    let Ok(header) = FileHeader64::<Endianness>::parse(data) else {
        return Err(match FileHeader32::<Endianness>::parse(data) {
            Ok(_) => UnwindError::NotSupported("a 32-bit machine".to_owned()),
            Err(_) => UnwindError::Damaged("no readable file header"),
        });
    };
    if header.is_big_endian() {
        return Err(UnwindError::NotSupported("a big-endian machine".to_owned()));
    }
    match header.e_machine(LITTLE) {
        EM_X86_64 => Ok(header),
        other => Err(UnwindError::NotSupported(format!("machine number {}", other.0))),
    }
}

/// The executable segments as far as the file has bytes for them. Ones that the kernel would
/// refuse to map are left out.
fn text_ranges(
    segments: &[ProgramHeader64<Endianness>],
    len: u64,
) -> Result<Vec<TextRange>, UnwindError> {
    let mut text = Vec::new();
    for segment in segments {
        if segment.p_type(LITTLE) != PT_LOAD || !segment.p_flags(LITTLE).contains(PF_X) {
            continue;
        }
        let (address, offset) = (segment.p_vaddr(LITTLE), segment.p_offset(LITTLE));
        let size = segment.p_filesz(LITTLE).min(len.saturating_sub(offset));
        let end = address.checked_add(size).and_then(|end| end.checked_add(PAGE));
        let mapped = end.is_some_and(|end| end <= MAX_ADDRESS);
        if size > 0 && mapped && address % PAGE == offset % PAGE {
            text.push(TextRange { address, offset, size });
        }
    }
    text.sort_unstable_by_key(|range| range.address);
    let mut end = 0;
    text.retain(|range| {
        let apart = range.address >= end;
        if apart {
            end = range.address + range.size;
        }
        apart
    });
    if text.len() > MAX_SEGMENTS {
        let limit = MAX_SEGMENTS as u64;
        return Err(UnwindError::TooLarge { what: "executable segments", limit });
    }
    if text.iter().map(|range| range.size).sum::<u64>() > MAX_TEXT {
        return Err(UnwindError::TooLarge { what: "bytes of text", limit: MAX_TEXT });
    }
    Ok(text)
}

/// Reads four bytes.
pub fn le_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.first_chunk()?))
}

/// Reads eight bytes.
pub fn le_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.first_chunk()?))
}

/// Decompresses a section that begins with `Elf64_Chdr`. Read by hand: the Go linker does not
/// align it.
fn decompress(data: &[u8]) -> Option<Cow<'_, [u8]>> {
    let format = match le_u32(data)? {
        1 => CompressionFormat::Zlib,
        2 => CompressionFormat::Zstandard,
        _ => return None,
    };
    let size = le_u64(data.get(8..)?)?;
    inflate(format, data.get(24..)?, size)
}

/// Decompresses a `.zdebug` section: "ZLIB", the size as a big-endian number, then the stream.
fn decompress_gnu(data: &[u8]) -> Option<Cow<'_, [u8]>> {
    let rest = data.strip_prefix(b"ZLIB")?;
    let size = u64::from_be_bytes(*rest.first_chunk()?);
    inflate(CompressionFormat::Zlib, rest.get(8..)?, size)
}

fn inflate(
    format: CompressionFormat,
    data: &[u8],
    uncompressed_size: u64,
) -> Option<Cow<'_, [u8]>> {
    // Neither format can do better than this ratio on any input that is not an attack.
    let most = MAX_SECTION.min((data.len() as u64).saturating_mul(1100));
    if uncompressed_size > most {
        return None;
    }
    CompressedData { format, data, uncompressed_size }.decompress().ok()
}

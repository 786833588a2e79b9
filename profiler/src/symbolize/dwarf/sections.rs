//! The debug sections of a file, decompressed where needed.

use std::borrow::Cow;

use gimli::{EndianSlice, LittleEndian, SectionId};
use object::{CompressionFormat, Object, ObjectSection};

use super::Reader;

/// Compressed sections of a file may unfold to this together.
const MAX_UNCOMPRESSED: u64 = 1 << 30;

/// Sections that are never read here.
const UNUSED: [SectionId; 6] = [
    SectionId::DebugFrame,
    SectionId::EhFrame,
    SectionId::EhFrameHdr,
    SectionId::DebugLoc,
    SectionId::DebugLocLists,
    SectionId::DebugTypes,
];

/// The debug sections of a file: borrowed from its image, or decompressed.
pub struct Sections<'data>(gimli::DwarfSections<Cow<'data, [u8]>>);

impl<'data> Sections<'data> {
    /// The sections of a file; what it lacks, or what cannot be decompressed, is empty.
    #[must_use]
    pub fn of(file: &object::File<'data>) -> Self {
        let mut left = MAX_UNCOMPRESSED;
        let sections = gimli::DwarfSections::load(|id| {
            let name = Some(id.name()).filter(|_| !UNUSED.contains(&id));
            let data = name.and_then(|name| section(file, name, &mut left));
            Ok::<_, std::convert::Infallible>(data.unwrap_or_default())
        });
        match sections {
            Ok(sections) => Self(sections),
            Err(never) => match never {},
        }
    }

    /// The sections as gimli reads them.
    #[must_use]
    pub fn dwarf(&self) -> gimli::Dwarf<Reader<'_>> {
        self.0.borrow(|section| EndianSlice::new(section, LittleEndian))
    }
}

fn section<'data>(
    file: &object::File<'data>,
    name: &str,
    left: &mut u64,
) -> Option<Cow<'data, [u8]>> {
    let section = file.section_by_name(name)?;
    let compressed = section.compressed_data().ok()?;
    if compressed.format != CompressionFormat::None {
        *left = left.checked_sub(compressed.uncompressed_size)?;
    }
    compressed.decompress().ok()
}

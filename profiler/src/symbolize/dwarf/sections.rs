//! The debug sections of a file, decompressed where needed.

use std::borrow::Cow;

use gimli::{DwarfPackageSections, EndianSlice, LittleEndian, SectionId};
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
        Self::load(file, |id| Some(id.name()))
    }

    /// The sections of a `.dwo` file.
    #[must_use]
    pub fn of_dwo(file: &object::File<'data>) -> Self {
        Self::load(file, SectionId::dwo_name)
    }

    fn load(file: &object::File<'data>, name: fn(SectionId) -> Option<&'static str>) -> Self {
        let mut left = MAX_UNCOMPRESSED;
        let sections = gimli::DwarfSections::load(|id| {
            let name = name(id).filter(|_| !UNUSED.contains(&id));
            Ok::<_, std::convert::Infallible>(section(file, name, &mut left))
        });
        match sections {
            Ok(sections) => Self(sections),
            Err(never) => match never {},
        }
    }

    /// The sections as gimli reads them, with those of the supplementary file.
    #[must_use]
    pub fn dwarf<'a>(&'a self, supplementary: Option<&'a Self>) -> gimli::Dwarf<Reader<'a>> {
        let reader = |section: &'a Cow<'data, [u8]>| EndianSlice::new(section, LittleEndian);
        self.0.borrow_with_sup(supplementary.map(|sections| &sections.0), reader)
    }
}

/// The sections of a DWARF package. Its index refers to those that are not read here too.
#[must_use]
pub fn package<'data>(file: &object::File<'data>) -> DwarfPackageSections<Cow<'data, [u8]>> {
    let mut left = MAX_UNCOMPRESSED;
    let sections = DwarfPackageSections::load(|id| {
        Ok::<_, gimli::Error>(section(file, id.dwo_name(), &mut left))
    });
    sections.unwrap_or_default()
}

/// One section; empty when there is none or it cannot be decompressed.
fn section<'data>(
    file: &object::File<'data>,
    name: Option<&str>,
    left: &mut u64,
) -> Cow<'data, [u8]> {
    let section = name.and_then(|name| file.section_by_name(name));
    let data = section.and_then(|section| {
        let compressed = section.compressed_data().ok()?;
        if compressed.format != CompressionFormat::None {
            *left = left.checked_sub(compressed.uncompressed_size)?;
        }
        compressed.decompress().ok()
    });
    data.unwrap_or_default()
}

//! Split DWARF: units of which the file holds only a skeleton, the rest being in a `.dwo` file or
//! together in a `.dwp` package. The id in the skeleton proves what belongs to it.

use std::{
    borrow::Cow,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use gimli::{Dwarf, DwarfPackageSections, DwoId, EndianSlice, LittleEndian, Unit};
use object::{Object, ObjectSection};

use super::{Reader, sections::Sections};
use crate::{
    symbolize::elf,
    target::image::{Image, open_regular},
};

/// Whether units of this file are skeletons.
///
/// Of DWARF 5 their headers tell. Before that, split DWARF was an extension, and the only one that
/// has a section with addresses.
#[must_use]
pub fn is_split(file: &object::File<'_>) -> bool {
    if file.section_by_name(".debug_addr").is_none() {
        return false;
    }
    let Some(info) = file.section_by_name(".debug_info") else { return false };
    let Ok(info) = info.uncompressed_data() else { return false };
    let mut headers = gimli::DebugInfo::new(&info, LittleEndian).units();
    while let Ok(Some(header)) = headers.next() {
        if header.version() < 5 || matches!(header.type_(), gimli::UnitType::Skeleton(_)) {
            return true;
        }
    }
    false
}

/// Where the rest of split units may be.
#[derive(Default)]
pub struct Elsewhere<'data> {
    package: Option<DwarfPackageSections<Cow<'data, [u8]>>>,
    folder: Option<PathBuf>,
}

impl<'data> Elsewhere<'data> {
    /// In this package, or in files named as the skeleton says: below the folder it was compiled
    /// in, or in `folder`.
    #[must_use]
    pub fn new(package: Option<&object::File<'data>>, folder: Option<&Path>) -> Self {
        Self { package: package.map(super::sections::package), folder: folder.map(Path::to_owned) }
    }

    /// Visits the unit that a skeleton stands for; None when it is not found.
    ///
    /// # Errors
    ///
    /// When what is found cannot be read.
    pub fn visit<'a, 'parent: 'a, T>(
        &'a self,
        parent: &Dwarf<Reader<'parent>>,
        skeleton: &Unit<Reader<'parent>>,
        id: DwoId,
        visit: impl FnOnce(&Dwarf<Reader<'_>>, &Rc<Unit<Reader<'_>>>) -> gimli::Result<T>,
    ) -> gimli::Result<Option<T>> {
        if let Some(package) = &self.package {
            let reader = |section| EndianSlice::new(section, LittleEndian);
            let package = package.borrow(|section| reader(section), reader(&[]))?;
            if let Some(dwo) = package.find_cu(id, parent)? {
                return visit_unit(&dwo, skeleton, id, visit);
            }
        }
        let Some(image) = self.file(parent, skeleton)? else { return Ok(None) };
        let Some(file) = elf::parse(&image) else { return Ok(None) };
        let sections = Sections::of_dwo(&file);
        let mut dwo = sections.dwarf(None);
        dwo.make_dwo(parent);
        visit_unit(&dwo, skeleton, id, visit)
    }

    fn file(
        &self,
        parent: &Dwarf<Reader<'_>>,
        skeleton: &Unit<Reader<'_>>,
    ) -> gimli::Result<Option<Image>> {
        let Some(name) = skeleton.dwo_name()? else { return Ok(None) };
        let name = parent.attr_string(skeleton, name)?;
        let path = |text: Reader<'_>| PathBuf::from(OsStr::from_bytes(text.slice()));
        let name = path(name);
        let compiled = skeleton.comp_dir.map(path).unwrap_or_default().join(&name);
        let beside = self.folder.as_ref().and_then(|folder| Some(folder.join(name.file_name()?)));
        let candidates = std::iter::once(compiled).filter(|path| path.is_absolute()).chain(beside);
        let mut images = candidates.filter_map(|path| Image::of(&open_regular(&path).ok()?).ok());
        Ok(images.next())
    }
}

fn visit_unit<'data, T>(
    dwo: &Dwarf<Reader<'data>>,
    skeleton: &Unit<Reader<'data>>,
    id: DwoId,
    visit: impl FnOnce(&Dwarf<Reader<'data>>, &Rc<Unit<Reader<'data>>>) -> gimli::Result<T>,
) -> gimli::Result<Option<T>> {
    let mut headers = dwo.units();
    while let Some(header) = headers.next()? {
        let mut unit = dwo.unit(header)?;
        if unit.dwo_id == Some(id) {
            unit.copy_relocated_attributes(skeleton);
            return visit(dwo, &Rc::new(unit)).map(Some);
        }
    }
    Ok(None)
}

//! Opening the very file that a process has mapped.
//!
//! The processes are not ours and the paths are theirs: a path may lead to another file by now, to
//! a device, or into another mount namespace. So a candidate must be a regular file, which
//! [`image::open_regular`] finds out without side effects, and prove to be the mapped one by its
//! build ID or inode.

use std::{
    fs::File,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use object::{Object as _, read::ReadCache};

use super::sideband::Identity;
use crate::target::image;

/// A mapping of a file in a process.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Process id.
    pub pid: u32,
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Which file, as the kernel told.
    pub identity: &'a Identity,
    /// Its path as the process sees it, or a name such as `//anon`.
    pub path: &'a [u8],
}

impl Place<'_> {
    /// Whether it is a mapping of a file at all.
    #[must_use]
    pub fn is_file(&self) -> bool {
        let named = self.path.starts_with(b"/") && !self.path.starts_with(b"//");
        named && !matches!(self.identity, Identity::Inode { inode: 0, .. })
    }
}

/// What tells an opened file from others, also from what is written into it later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// A file that was opened.
#[derive(Debug)]
pub struct Opened {
    /// For reading.
    pub file: File,
    /// Which file it is.
    pub id: FileId,
    /// Its GNU build ID.
    pub build_id: Option<Vec<u8>>,
    /// Whether it begins like an ELF file.
    pub is_elf: bool,
}

/// Opens the mapped file.
///
/// # Errors
///
/// Why no candidate was the one: a sentence without the path.
pub fn open(place: &Place<'_>) -> Result<Opened, String> {
    let mut why = None;
    for candidate in candidates(place) {
        match open_candidate(&candidate, place.identity) {
            Ok(opened) => return Ok(opened),
            Err(error) => why = why.or(Some(error)),
        }
    }
    Err(why.unwrap_or_else(|| "the mapped file cannot be found".to_owned()))
}

fn candidates(place: &Place<'_>) -> Vec<PathBuf> {
    let Place { pid, start, end, .. } = place;
    let path = place.path.strip_suffix(b" (deleted)").unwrap_or(place.path);
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let mut in_root = PathBuf::from(format!("/proc/{pid}/root")).into_os_string();
    in_root.push(path);
    // The first leads to the file itself, whatever has become of its path since.
    vec![
        PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}")),
        PathBuf::from(in_root),
        path.to_owned(),
    ]
}

fn open_candidate(path: &Path, identity: &Identity) -> Result<Opened, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut file = image::open_regular(path).map_err(text)?;
    let metadata = file.metadata().map_err(text)?;
    let mut magic = [0; 4];
    let is_elf = file.read_exact(&mut magic).is_ok() && magic == *b"\x7fELF";
    let build_id = if is_elf { build_id(&file) } else { None };
    let same = match identity {
        Identity::BuildId(id) => build_id.as_ref() == Some(id),
        // Overlay and Btrfs report other devices in /proc than in stat(2).
        Identity::Inode { inode, .. } => *inode == metadata.ino(),
    };
    if !same {
        return Err("the file at its path is another one by now".to_owned());
    }
    let id = FileId {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    };
    Ok(Opened { file, id, build_id, is_elf })
}

/// The GNU build ID of an ELF file.
fn build_id(file: &File) -> Option<Vec<u8>> {
    let cache = ReadCache::new(file);
    let elf = object::read::elf::ElfFile64::<object::LittleEndian, _>::parse(&cache).ok()?;
    Some(elf.build_id().ok()??.to_vec())
}

//! Debug information that is kept in other files: by build ID, by debug link, the supplementary
//! file that several share, and DWARF packages.
//!
//! What a file says about where its debug information lies is taken as a hint from a stranger:
//! only regular files are opened ([`open_regular`]), and each must prove that it belongs to the
//! file by build ID or checksum. Paths are the host's: the mount namespace of a process that has
//! exited cannot be reached any more.

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use object::Object;

use super::{debuginfod, elf};
use crate::target::image::{Image, open_regular};

/// A file with debug information and where it was found.
pub struct DebugFile {
    /// Its handle.
    pub file: File,
    /// Its bytes.
    pub image: Image,
    /// Its path on the host.
    pub path: PathBuf,
}

impl DebugFile {
    fn open(path: PathBuf) -> Option<Self> {
        let file = open_regular(&path).ok()?;
        let image = Image::of(&file).ok()?;
        Some(Self { file, image, path })
    }

    fn has_build_id(&self, id: &[u8]) -> bool {
        let file = elf::parse(&self.image);
        file.is_some_and(|file| file.build_id().ok().flatten() == Some(id))
    }
}

/// The debug file of an executable or library, whose path is `path` in its process's view: below
/// one of `dirs`, beside the file, or in one of `caches`, which have debuginfod's layout.
#[must_use]
pub fn separate(
    file: &object::File<'_>,
    path: &Path,
    dirs: &[PathBuf],
    caches: &[PathBuf],
) -> Option<DebugFile> {
    let build_id = file.build_id().ok().flatten();
    if let Some(id) = build_id {
        let below = dirs.iter().filter_map(|dir| Some(dir.join(by_build_id(id)?)));
        let cached = caches.iter().filter_map(|cache| debuginfod::file_in(cache, id));
        let found = below
            .chain(cached)
            .find_map(|path| DebugFile::open(path).filter(|found| found.has_build_id(id)));
        if found.is_some() {
            return found;
        }
    }
    let (name, checksum) = file.gnu_debuglink().ok().flatten()?;
    let name = plain_name(name)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let inside = folder.strip_prefix("/").unwrap_or(folder);
    let mut candidates = vec![folder.join(name), folder.join(".debug").join(name)];
    candidates.extend(dirs.iter().map(|dir| dir.join(inside).join(name)));
    candidates.extend(dirs.iter().map(|dir| dir.join(name)));
    candidates.into_iter().find_map(|path| {
        DebugFile::open(path).filter(|found| {
            // The same build ID saves reading all of the file.
            build_id.is_some_and(|id| found.has_build_id(id))
                || crc32fast::hash(&found.image) == checksum
        })
    })
}

/// The supplementary file that a file with debug information refers to (`.gnu_debugaltlink`, as
/// `dwz` makes it); `path` is where that file is.
#[must_use]
pub fn supplementary(file: &object::File<'_>, path: &Path, dirs: &[PathBuf]) -> Option<DebugFile> {
    let (name, id) = file.gnu_debugaltlink().ok().flatten()?;
    let named = path.parent().unwrap_or(Path::new("/")).join(OsStr::from_bytes(name));
    let by_id = dirs.iter().filter_map(|dir| Some(dir.join(by_build_id(id)?)));
    std::iter::once(named)
        .chain(by_id)
        .find_map(|path| DebugFile::open(path).filter(|found| found.has_build_id(id)))
}

/// The DWARF package beside a file, `PATH.dwp`; its units prove themselves by their ids.
#[must_use]
pub fn package(path: &Path) -> Option<DebugFile> {
    let mut name = path.as_os_str().to_owned();
    name.push(".dwp");
    DebugFile::open(PathBuf::from(name))
}

/// `.build-id/ab/cdef….debug`.
fn by_build_id(id: &[u8]) -> Option<PathBuf> {
    // Shorter ones do not identify anything.
    let (first, rest) = id.split_first().filter(|(_, rest)| rest.len() >= 7)?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(PathBuf::from(format!(".build-id/{first:02x}/{rest}.debug")))
}

/// A debug link names a file, not a path.
fn plain_name(name: &[u8]) -> Option<&Path> {
    let path = Path::new(OsStr::from_bytes(name));
    let mut parts = path.components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    plain.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_link_leads_to_no_other_folder() {
        for name in ["../secret", "/etc/shadow", "..", ".", "", "a/b"] {
            assert_eq!(plain_name(name.as_bytes()), None, "{name}");
        }
        assert_eq!(plain_name(b"prog.debug"), Some(Path::new("prog.debug")));
    }

    #[test]
    fn a_build_id_is_a_path() {
        let path = by_build_id(&[0xab, 1, 2, 3, 4, 5, 6, 0xff]);
        assert_eq!(path.unwrap(), Path::new(".build-id/ab/010203040506ff.debug"));
        assert_eq!(by_build_id(&[1, 2]), None);
    }
}

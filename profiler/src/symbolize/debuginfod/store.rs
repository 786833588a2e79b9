//! The folder that debug files are kept in, laid out as debuginfod's other clients have it:
//! `HEX/debuginfo`.
//!
//! The folder may be in the home of somebody else than who runs this program, whom its owner could
//! lead astray: nothing is written into folders that are not our own. What comes lies in a folder
//! that goes with the program then.

use std::{
    fs::{DirBuilder, File},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use object::Object as _;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use tempfile::{NamedTempFile, TempDir};

use crate::{symbolize::elf, target::image::Image};

/// Where the debug file of a build ID lies in such a folder. None: too short to identify a file.
#[must_use]
pub fn file_in(folder: &Path, id: &[u8]) -> Option<PathBuf> {
    (id.len() >= 8).then(|| folder.join(hex(id)).join("debuginfo"))
}

/// A build ID in letters.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The folder.
#[derive(Clone)]
pub struct Store {
    path: PathBuf,
    folder: Arc<OwnedFd>,
    /// It goes with the last of us.
    _temporary: Option<Arc<TempDir>>,
}

impl Store {
    /// The cache folder, made if need be, or another one when it is not our own.
    pub fn open(cache: Option<&Path>) -> io::Result<Self> {
        if let Some(path) = cache
            && let Ok(folder) = own_folder(path)
        {
            let folder = Arc::new(folder);
            return Ok(Self { path: path.to_owned(), folder, _temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("flame-graph-").tempdir()?;
        let folder = Arc::new(own_folder(temporary.path())?);
        let path = temporary.path().to_owned();
        Ok(Self { path, folder, _temporary: Some(Arc::new(temporary)) })
    }

    /// Its path.
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// Begins to write the file of a build ID.
    pub fn begin(&self, id: &[u8]) -> io::Result<Writing> {
        let name = hex(id);
        match mkdirat(&*self.folder, &name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = ours(openat(&*self.folder, &name, flags, Mode::empty())?)?;
        // By its handle, which nobody can exchange. The file has mode 0600.
        let file =
            tempfile::Builder::new().prefix(".debuginfo-").tempfile_in(by_handle(&folder))?;
        Ok(Writing { file, folder })
    }
}

/// A file that is being written. It goes when it is not finished.
pub struct Writing {
    /// It goes first: its path leads through the folder's handle.
    file: NamedTempFile,
    folder: OwnedFd,
}

impl Writing {
    /// Adds bytes.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_file_mut().write_all(bytes)
    }

    /// Puts the file in its place, if it has this build ID.
    pub fn finish(self, id: &[u8]) -> io::Result<()> {
        let has_id = {
            let image = Image::of(self.file.as_file())?;
            elf::parse(&image).is_some_and(|file| file.build_id().ok().flatten() == Some(id))
        };
        if !has_id {
            return Err(io::Error::other("it is another file than was asked for"));
        }
        self.file
            .persist(by_handle(&self.folder).join("debuginfo"))
            .map_err(|error| error.error)?;
        Ok(())
    }
}

fn by_handle(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// Opens a folder of ours, and makes it where that is ours to do.
fn own_folder(path: &Path) -> io::Result<OwnedFd> {
    if !path.exists() {
        let parents = path.ancestors().skip(1);
        let above = parents.filter(|above| !above.as_os_str().is_empty()).find(|at| at.exists());
        ours(File::open(above.unwrap_or(Path::new(".")))?.into())?;
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    ours(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The folder, when nobody else can write into it.
fn ours(folder: OwnedFd) -> io::Result<OwnedFd> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let metadata = File::from(folder.as_fd().try_clone_to_owned()?).metadata()?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & WRITABLE_BY_OTHERS == 0;
    if is_ours { Ok(folder) } else { Err(io::Error::other("the folder is somebody else's")) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// The test's own file, which has a build ID or not, as the linker made it.
    fn own() -> Option<(Vec<u8>, Vec<u8>)> {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let id = elf::parse(&bytes)?.build_id().ok()??.to_vec();
        Some((bytes, id))
    }

    fn store(store: &Store, bytes: &[u8], id: &[u8]) -> io::Result<()> {
        let mut file = store.begin(id)?;
        file.write_all(bytes)?;
        file.finish(id)
    }

    #[test]
    fn a_file_is_kept_for_us_alone() {
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join("new/cache");
        let opened = Store::open(Some(&cache)).unwrap();
        assert_eq!(opened.folder(), cache);
        // Another file than was asked for.
        assert!(store(&opened, b"not even ELF", &[7; 20]).is_err());
        let path = file_in(&cache, &[7; 20]).unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        let Some((bytes, id)) = own() else { return };
        store(&opened, &bytes, &id).unwrap();
        let path = file_in(&cache, &id).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn folders_that_others_can_write_into_are_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join("cache");
        std::fs::create_dir(&cache).unwrap();
        std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o777)).unwrap();
        for refused in [cache.clone(), cache.join("below")] {
            let opened = Store::open(Some(&refused)).unwrap();
            assert_ne!(opened.folder(), refused);
            let temporary = opened.folder().to_owned();
            assert!(temporary.is_dir());
            drop(opened);
            assert!(!temporary.exists());
        }
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
        // A link in the place of a folder.
        std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o700)).unwrap();
        let elsewhere = home.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, cache.join(hex(&[7; 20]))).unwrap();
        assert!(Store::open(Some(&cache)).unwrap().begin(&[7; 20]).is_err());
    }
}

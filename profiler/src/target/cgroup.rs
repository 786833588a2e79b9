//! Cgroups of the second version (Documentation/admin-guide/cgroup-v2.rst of the kernel). A cgroup
//! is a folder, and the number of the folder's inode is the id by which the kernel knows it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::statfs;

/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP2: u64 = 0x6367_7270;
/// `CGROUP_SUPER_MAGIC`.
const CGROUP1: u64 = 0x0027_e0eb;
/// Folders that are looked into, at the most.
const MAX_FOLDERS: usize = 1 << 16;

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

/// Why a path names no cgroup that can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// It cannot be looked at.
    #[error("--cgroup: cannot open the folder {}: {source}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It belongs to the first version.
    #[error(
        "--cgroup: {} is a cgroup of version 1; give a folder of version 2 (`findmnt -t cgroup2` \
         tells where they are)", .0.display()
    )]
    FirstVersion(PathBuf),
    /// It is something else.
    #[error(
        "--cgroup: {} is not the folder of a cgroup; `findmnt -t cgroup2` tells where they are",
        .0.display()
    )]
    NoCgroup(PathBuf),
}

impl Cgroup {
    /// The cgroup of this folder.
    ///
    /// # Errors
    ///
    /// [`CgroupError`].
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let failed = |source| CgroupError::Open { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(failed)?;
        let kind = statfs(path).map_err(|error| failed(error.into()))?.f_type;
        match kind as u64 {
            CGROUP2 if metadata.is_dir() => Ok(Self { path: path.to_owned(), id: metadata.ino() }),
            CGROUP1 => Err(CgroupError::FirstVersion(path.to_owned())),
            _ => Err(CgroupError::NoCgroup(path.to_owned())),
        }
    }

    /// Its folder, as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its id and those of all cgroups below it, as far as they are there now.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        let mut ids = vec![self.id];
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                if ids.len() == MAX_FOLDERS {
                    return ids;
                }
                if let Ok(metadata) = entry.metadata() {
                    ids.push(metadata.ino());
                    folders.push(entry.path());
                }
            }
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_folders_are_no_cgroups() {
        let folder = tempfile::tempdir().unwrap();
        let error = Cgroup::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is not the folder of a cgroup"), "{error}");
        let error = Cgroup::open(&folder.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("cannot open the folder"), "{error}");
    }
}

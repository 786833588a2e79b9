//! The bytes of an executable file, mapped so that its owner cannot hurt us.
//!
//! Reading a mapped page that the file no longer has (it was truncated meanwhile) kills the reader
//! with SIGBUS. Files that only root can change are mapped as they are; of any other file a copy in
//! sealed memory is mapped. The copy costs about 0.4 ms per MB, and memory until it is dropped.

use std::{
    fs::File,
    io,
    ops::Deref,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use memmap2::Mmap;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

/// Files of others are not copied beyond this size, unless asked for.
const MAX_COPY: u64 = 1 << 30;

/// File systems whose server can fail or change a read, whoever owns the file: FUSE, NFS, CIFS and
/// SMB (magic numbers of `linux/magic.h`).
const REMOTE: [u32; 5] = [0x6573_5546, 0x6969, 0xff53_4d42, 0xfe53_4d42, 0x517b];

/// The bytes of a file.
#[derive(Debug)]
pub struct Image {
    map: Mmap,
}

impl Deref for Image {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Image {
    /// Maps an open file.
    ///
    /// # Errors
    ///
    /// When it is not a regular file, is empty, too large to copy, or cannot be read.
    pub fn of(file: &File) -> io::Result<Self> {
        Self::within(file, MAX_COPY)
    }

    /// Maps an open file, copying one of others when it has at most `max_copy` bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::of`].
    pub fn within(file: &File, max_copy: u64) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        if metadata.len() == 0 {
            return Err(io::Error::other("the file is empty"));
        }
        let map = if owned_by_root(file, &metadata) {
            map(file)?
        } else {
            map(&sealed_copy(file, metadata.len(), max_copy)?)?
        };
        Ok(Self { map })
    }
}

/// Opens a regular file for reading without following what could hang or act: the path is looked
/// at before it is opened, so no FIFO blocks and no device notices.
///
/// # Errors
///
/// When it does not exist, cannot be opened, or is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let handle = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    reopen_regular(handle.as_fd())
}

/// Opens for reading what an `O_PATH` handle points to, when that is a regular file.
///
/// # Errors
///
/// When it is no regular file or cannot be opened.
pub fn reopen_regular(handle: impl AsFd) -> io::Result<File> {
    let handle = handle.as_fd();
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(handle)?.st_mode);
    if kind != rustix::fs::FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

/// Whether nobody but root can change the file.
#[must_use]
pub fn only_root_changes(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| owned_by_root(file, &metadata))
}

fn owned_by_root(file: &File, metadata: &std::fs::Metadata) -> bool {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    metadata.uid() == 0
        && metadata.mode() & WRITABLE_BY_OTHERS == 0
        && rustix::fs::fstatfs(file)
            .is_ok_and(|fs| u32::try_from(fs.f_type).is_ok_and(|magic| !REMOTE.contains(&magic)))
}

/// A copy of the file in memory that can no longer change.
fn sealed_copy(file: &File, len: u64, max_copy: u64) -> io::Result<File> {
    if len > max_copy {
        return Err(io::Error::other(format!(
            "it is not root's and larger than {} MB",
            max_copy >> 20
        )));
    }
    let copy = File::from(rustix::fs::memfd_create(
        "flame-graph",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    let mut offset = 0;
    while offset < len {
        let rest = usize::try_from(len - offset).unwrap_or(usize::MAX);
        // sendfile moves `offset` on and leaves the file's own position alone, which others share.
        if rustix::fs::sendfile(&copy, file, Some(&mut offset), rest)? == 0 {
            return Err(io::Error::other("the file was truncated while it was read"));
        }
    }
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(copy)
}

fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is read-only and private, and the file is either a sealed copy of ours
    // or one that only root can change (see the module's documentation).
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_file_of_others_survives_truncation() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 20_000]).unwrap();
        file.as_file().set_permissions(PermissionsExt::from_mode(0o666)).unwrap();
        let image = Image::of(file.as_file()).unwrap();
        file.as_file().set_len(0).unwrap();
        assert_eq!(image.len(), 20_000);
        assert!(image.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_others_can_change_is_not_trusted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let trusted = |mode| {
            file.as_file().set_permissions(PermissionsExt::from_mode(mode)).unwrap();
            only_root_changes(file.as_file())
        };
        let root = rustix::process::geteuid().is_root();
        assert_eq!([0o644, 0o755, 0o400].map(trusted), [root; 3]);
        assert_eq!([0o664, 0o646, 0o777].map(trusted), [false; 3]);
    }

    #[test]
    fn what_is_no_file_is_refused_without_hanging() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(open_regular(&fifo).is_err());
        assert!(open_regular(dir.path()).is_err());
        assert!(open_regular(Path::new("/dev/null")).is_err());
        assert!(Image::of(tempfile::tempfile().as_ref().unwrap()).is_err());
    }
}

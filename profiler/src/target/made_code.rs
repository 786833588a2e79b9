//! The files in which a runtime tells what code it made: jitdumps and perf maps. Both lie where
//! anybody can write and are read as root, so they must be regular files, reached through no
//! symbolic link, of the process's own user or root.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::image::{open_regular, reopen_regular};

/// Whether a path is one that a jitdump has: `jit-PID.dump`.
#[must_use]
pub fn is_jitdump(path: &str) -> bool {
    let name = path.strip_suffix(" (deleted)").unwrap_or(path);
    let name = name.rsplit('/').next().unwrap_or(name);
    name.starts_with("jit-") && name.ends_with(".dump")
}

/// A process that makes code, and may be gone.
#[derive(Debug)]
pub struct Maker {
    pid: u32,
    folder: PathBuf,
    /// Its user, and its id in its own PID namespace; None when it is gone.
    status: Option<(u32, u32)>,
}

impl Maker {
    /// The process of this number.
    #[must_use]
    pub fn of(pid: u32, proc_root: &Path) -> Self {
        let folder = proc_root.join(pid.to_string());
        let status = std::fs::read(folder.join("status")).ok();
        let status = status.and_then(|status| {
            // The name in it can be any bytes.
            let status = String::from_utf8_lossy(&status);
            let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
            // Real, effective, saved and file system user: files are made as the last.
            let user = field("Uid:")?.split_whitespace().nth(3)?.parse().ok()?;
            let inner = field("NSpid:").and_then(|ids| ids.split_whitespace().last()?.parse().ok());
            Some((user, inner.unwrap_or(pid)))
        });
        Self { pid, folder, status }
    }

    /// Its perf map, in its own mount namespace while it lives.
    #[must_use]
    pub fn map(&self) -> Option<File> {
        let map = match self.status {
            Some((_, inner)) => {
                open_beneath(&self.folder.join("root"), &format!("tmp/perf-{inner}.map"))
            }
            None => open_beneath(Path::new("/"), &format!("tmp/perf-{}.map", self.pid)),
        };
        map.ok().filter(|map| self.is_trusted(map))
    }

    /// Its jitdump: the one that was held when it mapped a page of it, which runtimes do for
    /// profilers to find it, or else one that it maps now.
    #[must_use]
    pub fn dump(&self, held: Option<&File>) -> Option<File> {
        // A handle of our own: positions of the held one stay as they are.
        let held = held.and_then(|held| reopen_regular(held).ok());
        held.or_else(|| self.mapped_dump()).filter(|dump| self.is_trusted(dump))
    }

    fn mapped_dump(&self) -> Option<File> {
        let maps = std::fs::read(self.folder.join("maps")).ok()?;
        let maps = String::from_utf8_lossy(&maps);
        let (range, path) = maps.lines().find_map(|line| {
            let (fields, path) = line.split_once('/').filter(|(_, path)| is_jitdump(path))?;
            Some((fields.split(' ').next()?, path))
        })?;
        // The very file that is mapped; without privilege, the one at its path.
        open_regular(&self.folder.join("map_files").join(range))
            .or_else(|_| open_beneath(&self.folder.join("root"), path))
            .ok()
    }

    /// Whether a file can be the process's own. When the process is gone its user is not known;
    /// then a file must at least be writable by its owner only, and have no second name.
    fn is_trusted(&self, file: &File) -> bool {
        const WRITABLE_BY_OTHERS: u32 = 0o022;
        let Ok(metadata) = file.metadata() else { return false };
        let owner = metadata.uid();
        match self.status {
            Some((user, _)) => owner == user || owner == 0,
            None => metadata.nlink() <= 1 && metadata.mode() & WRITABLE_BY_OTHERS == 0,
        }
    }
}

/// Opens a regular file below a folder that is taken for the root: no symbolic link, of whatever
/// kind, leads out of it, and the file itself is none.
fn open_beneath(root: &Path, path: &str) -> io::Result<File> {
    let folder =
        rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let handle = rustix::fs::openat2(
        &folder,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    reopen_regular(&handle)
}

//! Names of code that was made at run time, from the files its runtime writes: jitdumps and perf
//! maps. Both lie where anybody can write and are read as root, so they must be regular files,
//! reached through no symbolic link, of the process's own user or root, and bounded in size.
//!
//! They are read after the recording, for runtimes write names as they go. Addresses are reused;
//! the last name wins.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::{
    format::{jitdump, perf_map},
    model::{frame::file_name, profile::Module},
    target::image::{open_regular, reopen_regular},
};

/// Of longer perf maps the end is read, which is the newest.
const MAX_MAP: u64 = 256 << 20;
/// jitdumps hold the code too; what lies beyond is not read.
const MAX_DUMP: u64 = 1 << 30;

/// The names of code in the anonymous memory of a process, for each of its addresses (ascending
/// and distinct).
#[must_use]
pub fn names(
    pid: u32,
    addresses: &[u64],
    proc_root: &Path,
    modules: &[impl AsRef<Module>],
) -> Vec<Option<Vec<u8>>> {
    let process = Process::of(pid, proc_root);
    let mut latest = Latest::new(addresses);
    if let Some(dump) = process.dump(modules)
        && let Ok(code) = jitdump::read(BufReader::new(dump.take(MAX_DUMP)))
    {
        for code in code.into_iter().rev() {
            latest.claim(code.start, code.size, &code.name);
        }
    }
    if let Some(map) = process.map().and_then(|map| tail(map).ok()) {
        for entry in perf_map::latest_first(&map) {
            if latest.is_complete() {
                break;
            }
            latest.claim(entry.start, entry.size, entry.name);
        }
    }
    latest.names
}

/// A process that may be gone.
struct Process {
    pid: u32,
    folder: PathBuf,
    /// Its user, and its id in its own PID namespace; None when it is gone.
    status: Option<(u32, u32)>,
}

impl Process {
    fn of(pid: u32, proc_root: &Path) -> Self {
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
    fn map(&self) -> Option<File> {
        let map = match self.status {
            Some((_, inner)) => {
                open_beneath(&self.folder.join("root"), &format!("tmp/perf-{inner}.map"))
            }
            None => open_beneath(Path::new("/"), &format!("tmp/perf-{}.map", self.pid)),
        };
        map.ok().filter(|map| self.is_trusted(map))
    }

    /// Its jitdump. Runtimes map a page of it for profilers to find; once the process is gone the
    /// recording may still hold it.
    fn dump(&self, modules: &[impl AsRef<Module>]) -> Option<File> {
        let is_dump = |path: &str| {
            let name = file_name(path);
            name.starts_with("jit-") && name.ends_with(".dump")
        };
        let maps = std::fs::read(self.folder.join("maps")).unwrap_or_default();
        let maps = String::from_utf8_lossy(&maps);
        let mapped =
            maps.lines().find(|line| line.split_once('/').is_some_and(|(_, path)| is_dump(path)));
        let dump = match mapped {
            Some(line) => {
                let range = line.split(' ').next()?;
                let (_, path) = line.split_once('/')?;
                // The very file that is mapped; without privilege, the one at its path.
                open_regular(&self.folder.join("map_files").join(range))
                    .or_else(|_| open_beneath(&self.folder.join("root"), path))
                    .ok()
            }
            None => {
                let name = format!("jit-{}.dump", self.pid);
                let module = modules
                    .iter()
                    .map(AsRef::as_ref)
                    .find(|module| file_name(&module.path) == name)?;
                // A handle of our own: positions of the recording's stay as they are.
                reopen_regular(module.file.as_ref()?).ok()
            }
        };
        dump.filter(|dump| self.is_trusted(dump))
    }

    /// Whether a file can be the process's own. When the process is gone its user is not known;
    /// then a file must at least be writable by its owner only, and have no other name.
    fn is_trusted(&self, file: &File) -> bool {
        const WRITABLE_BY_OTHERS: u32 = 0o022;
        let Ok(metadata) = file.metadata() else { return false };
        let owner = metadata.uid();
        match self.status {
            Some((user, _)) => owner == user || owner == 0,
            None => metadata.nlink() == 1 && metadata.mode() & WRITABLE_BY_OTHERS == 0,
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

/// The last part of a file, up to [`MAX_MAP`].
fn tail(mut file: File) -> io::Result<Vec<u8>> {
    let skipped = file.metadata()?.len().saturating_sub(MAX_MAP);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(MAX_MAP).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Names for ascending addresses, given from the latest on: each address keeps the first it gets.
/// Time does not grow with how often ranges overlap.
struct Latest<'a> {
    addresses: &'a [u64],
    names: Vec<Option<Vec<u8>>>,
    /// For each address the next one (or itself) without a name, shortened as it is followed.
    next: Vec<usize>,
}

impl<'a> Latest<'a> {
    fn new(addresses: &'a [u64]) -> Self {
        Self {
            addresses,
            names: vec![None; addresses.len()],
            next: (0..=addresses.len()).collect(),
        }
    }

    fn claim(&mut self, start: u64, size: u64, name: &[u8]) {
        let end = start.saturating_add(size);
        let mut at = self.nameless(self.addresses.partition_point(|address| *address < start));
        while self.addresses.get(at).is_some_and(|address| *address < end) {
            self.names[at] = Some(name.to_vec());
            self.next[at] = at + 1;
            at = self.nameless(at);
        }
    }

    fn nameless(&mut self, from: usize) -> usize {
        let mut at = from;
        while self.next[at] != at {
            self.next[at] = self.next[self.next[at]];
            at = self.next[at];
        }
        at
    }

    fn is_complete(&mut self) -> bool {
        self.nameless(0) == self.addresses.len()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A process folder whose root has a `tmp`; pid 42 is 7 in its own namespace.
    fn process(user: u32) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        let folder = proc.path().join("42");
        std::fs::create_dir_all(folder.join("root/tmp")).unwrap();
        let status = format!("Name:\tx\nUid:\t{user}\t{user}\t{user}\t{user}\nNSpid:\t42\t7\n");
        std::fs::write(folder.join("status"), status).unwrap();
        proc
    }

    fn me() -> u32 {
        rustix::process::getuid().as_raw()
    }

    fn names_in(proc: &Path, addresses: &[u64]) -> Vec<Option<String>> {
        let names = names(42, addresses, proc, &[] as &[std::sync::Arc<Module>]);
        names.into_iter().map(|n| n.map(|n| String::from_utf8(n).unwrap())).collect()
    }

    fn write_map(proc: &Path, text: &str) -> PathBuf {
        let path = proc.join("42/root/tmp/perf-7.map");
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn the_last_of_overlapping_entries_wins() {
        let proc = process(me());
        write_map(proc.path(), "1000 100 old\n2000 10 other\nrubbish\n1080 100 new\n");
        let found = names_in(proc.path(), &[0xfff, 0x1000, 0x107f, 0x1080, 0x1100, 0x1180, 0x2000]);
        let expected =
            [None, Some("old"), Some("old"), Some("new"), Some("new"), None, Some("other")];
        assert_eq!(found, expected.map(|name| name.map(str::to_owned)));
    }

    #[test]
    fn symbolic_links_are_refused() {
        let proc = process(me());
        let path = write_map(proc.path(), "1000 100 name\n");
        assert_eq!(names_in(proc.path(), &[0x1000]), [Some("name".to_owned())]);
        let elsewhere = path.with_file_name("elsewhere");
        std::fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!(names_in(proc.path(), &[0x1000]), [None]);
        // A folder that is a link stays inside the process's root.
        std::fs::remove_file(&path).unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("perf-7.map"), "1000 100 outside\n").unwrap();
        let tmp = proc.path().join("42/root/tmp");
        std::fs::remove_dir_all(&tmp).unwrap();
        symlink(outside.path(), &tmp).unwrap();
        assert_eq!(names_in(proc.path(), &[0x1000]), [None]);
    }

    #[test]
    fn files_of_another_user_are_refused() {
        if me() != 0 {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        let proc = process(12_345);
        let path = write_map(proc.path(), "1000 100 name\n");
        for (owner, expected) in [(12_345, true), (0, true), (54_321, false)] {
            std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
            assert_eq!(names_in(proc.path(), &[0x1000])[0].is_some(), expected, "{owner}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_without_hanging() {
        let proc = process(me());
        let path = proc.path().join("42/root/tmp/perf-7.map");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(names_in(proc.path(), &[0x1000]), [None]);
    }

    #[test]
    fn a_process_that_is_gone_leaves_its_map_and_its_dump() {
        let gone = tempfile::tempdir().unwrap();
        // No process has this number.
        let pid = 4_194_304 + std::process::id();
        let path = PathBuf::from(format!("/tmp/perf-{pid}.map"));
        std::fs::write(&path, "1000 100 left\n").unwrap();
        let none: &[std::sync::Arc<Module>] = &[];
        let found = names(pid, &[0x1000], gone.path(), none);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let writable = names(pid, &[0x1000], gone.path(), none);
        std::fs::remove_file(&path).unwrap();
        assert_eq!((found, writable), (vec![Some(b"left".to_vec())], vec![None]));

        let dump = gone.path().join(format!("jit-{pid}.dump"));
        std::fs::write(&dump, jitdump::tests::dump(&[(0x1000, 16, "a"), (0x1000, 8, "b")]))
            .unwrap();
        let module = std::sync::Arc::new(Module {
            kind: crate::model::profile::ModuleKind::File,
            path: dump.to_str().unwrap().into(),
            build_id: None,
            file: Some(File::open(&dump).unwrap()),
            refused: None,
        });
        let found = names(pid, &[0x1000, 0x1008, 0x1010], gone.path(), &[module]);
        assert_eq!(found, [Some(b"b".to_vec()), Some(b"a".to_vec()), None]);
    }

    #[test]
    fn a_living_process_tells_where_its_dump_is() {
        let proc = process(me());
        let dump = jitdump::tests::dump(&[(0x1000, 16, "dumped")]);
        let line = "7f00-8f00 r-xp 00000000 08:01 77 /tmp/jit-7.dump\n";
        std::fs::write(proc.path().join("42/maps"), line).unwrap();
        write_map(proc.path(), "1000 100 mapped\n");
        // By its path in the process's root.
        let path = proc.path().join("42/root/tmp/jit-7.dump");
        std::fs::write(&path, &dump).unwrap();
        let expected = [Some("dumped".to_owned()), Some("mapped".to_owned())];
        assert_eq!(names_in(proc.path(), &[0x1008, 0x1010]), expected);
        // By its mapping.
        let files = proc.path().join("42/map_files");
        std::fs::create_dir(&files).unwrap();
        std::fs::rename(&path, files.join("7f00-8f00")).unwrap();
        assert_eq!(names_in(proc.path(), &[0x1008, 0x1010]), expected);
    }

    #[test]
    fn overlapping_ranges_take_no_longer() {
        let addresses: Vec<u64> = (0..50_000).collect();
        let mut latest = Latest::new(&addresses);
        for _ in 0..200_000 {
            latest.claim(0, 50_000, b"x");
        }
        assert!(latest.is_complete());
    }
}

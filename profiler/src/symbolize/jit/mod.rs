//! Names of code that was made at run time, from the files its runtime writes
//! ([`crate::target::made_code`]), of which no more than a bound is read.
//!
//! They are read after the recording, for runtimes write names as they go. Addresses are reused:
//! jitdumps tell when, so that each sample is named by what lay at its address at its time
//! ([`timeline`]); of perf maps the last line wins.

mod timeline;

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use rustc_hash::FxHashMap;

use crate::{
    format::{jitdump, perf_map},
    target::made_code::Maker,
};

/// Of longer perf maps the end is read, which is the newest.
const MAX_MAP: u64 = 256 << 20;
/// jitdumps hold the code too; what lies beyond is not read.
const MAX_DUMP: u64 = 1 << 30;

/// An address in made code, and when it was sampled (`CLOCK_MONOTONIC`, nanoseconds;
/// [`LATEST`]: what lay there last is asked for).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment {
    /// The process's own address.
    pub address: u64,
    /// The time.
    pub time: u64,
}

/// No time.
pub const LATEST: u64 = u64::MAX;

/// Names, and which of them each [`Moment`] has.
#[derive(Debug, Default)]
pub struct Found {
    /// The names.
    pub names: Vec<Vec<u8>>,
    /// By moment, as they were asked for.
    pub by_moment: Vec<Option<usize>>,
}

/// The names of code in the anonymous memory of a process, for each of these moments (ascending
/// and distinct). `dump` is the jitdump that was held when the process mapped it.
#[must_use]
pub fn names(pid: u32, moments: &[Moment], proc_root: &Path, dump: Option<&File>) -> Found {
    let process = Maker::of(pid, proc_root);
    let mut found = Found { names: Vec::new(), by_moment: vec![None; moments.len()] };
    if let Some(dump) = process.dump(dump)
        && let Ok(dump) = jitdump::read(BufReader::new(dump.take(MAX_DUMP)))
    {
        found.by_moment = timeline::resolve(&dump, moments);
        found.names = dump.code.into_iter().map(|code| code.name).collect();
    }
    let nameless = |found: &Found| {
        let all = moments.iter().zip(&found.by_moment);
        let nameless = all.filter(|(_, name)| name.is_none());
        let mut addresses: Vec<u64> = nameless.map(|(moment, _)| moment.address).collect();
        addresses.dedup();
        addresses
    };
    let addresses = nameless(&found);
    if !addresses.is_empty()
        && let Some(map) = process.map().and_then(|map| tail(map).ok())
    {
        let mut latest = Latest::new(&addresses);
        for entry in perf_map::latest_first(&map) {
            if latest.is_complete() {
                break;
            }
            latest.claim(entry.start, entry.size, entry.name);
        }
        let named: FxHashMap<u64, usize> = (found.names.len()..)
            .zip(
                addresses
                    .iter()
                    .zip(&mut latest.names)
                    .filter_map(|(at, name)| Some((at, name.take()?))),
            )
            .map(|(number, (address, name))| {
                found.names.push(name);
                (*address, number)
            })
            .collect();
        let gaps = found.by_moment.iter_mut().zip(moments).filter(|(name, _)| name.is_none());
        gaps.for_each(|(name, moment)| *name = named.get(&moment.address).copied());
    }
    found
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
    use std::{
        os::unix::fs::{PermissionsExt, symlink},
        path::PathBuf,
    };

    use rustix::fs::Mode;

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

    fn names_of(
        pid: u32,
        addresses: &[u64],
        proc: &Path,
        dump: Option<&File>,
    ) -> Vec<Option<String>> {
        let moments = addresses.iter().map(|address| Moment { address: *address, time: LATEST });
        let found = names(pid, &moments.collect::<Vec<_>>(), proc, dump);
        let name = |number: usize| String::from_utf8(found.names[number].clone()).unwrap();
        found.by_moment.iter().map(|number| number.map(name)).collect()
    }

    fn names_in(proc: &Path, addresses: &[u64]) -> Vec<Option<String>> {
        names_of(42, addresses, proc, None)
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
        let found = names_of(pid, &[0x1000], gone.path(), None);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let writable = names_of(pid, &[0x1000], gone.path(), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!((found, writable), (vec![Some("left".to_owned())], vec![None]));

        let dump = gone.path().join(format!("jit-{pid}.dump"));
        std::fs::write(&dump, jitdump::tests::dump(&[(0x1000, 16, "a"), (0x1000, 8, "b")]))
            .unwrap();
        let held = File::open(&dump).unwrap();
        std::fs::remove_file(&dump).unwrap();
        let found = names_of(pid, &[0x1000, 0x1008, 0x1010], gone.path(), Some(&held));
        assert_eq!(found, [Some("b".to_owned()), Some("a".to_owned()), None]);
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

//! Processes and threads, as `/proc` shows them.
//!
//! [`Proc`] is the one way to `/proc`; its root can be chosen, so that tests read a folder of their
//! own. A process's folder is opened once and its files relative to that (by the `procfs` crate),
//! so that a number that is used again cannot mix two processes. The files are parsed here, from
//! bytes: `procfs` refuses names that are not UTF-8 and panics on a cut `stat`.
//! Every read has a bound. Formats: `proc(5)`.

mod error;
mod files;
pub mod maps;
mod memory;
mod parse;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

pub use error::ProcError;
pub(super) use error::printable;
pub use files::ListeningSocket;
pub use maps::ProcMapping;

/// Most bytes read of a small file (`stat`, `status`, `comm`, `cgroup`).
const SMALL_FILE: u64 = 64 << 10;

/// Most mappings kept of one process: sixteen times the kernel's default `vm.max_map_count`.
const MAX_MAPPINGS: usize = 1 << 20;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its number, as this `/proc` counts.
    pub pid: u32,
    /// Its name: at most 15 bytes of any value but NUL; a kernel thread's may be longer.
    pub comm: Vec<u8>,
    /// Its parent; 0: none, or one outside of our PID namespace.
    pub ppid: u32,
    /// When it began, in clock ticks since the host's start. With `pid` it names a process for good.
    pub start_time: u64,
    /// Its effective user.
    pub uid: u32,
    /// It runs in the kernel alone.
    pub kernel_thread: bool,
    /// It has ended, its parent has not taken notice.
    pub zombie: bool,
    /// How many threads it has.
    pub threads: u32,
}

impl ProcessInfo {
    /// What the user should know before this process is profiled, in a sentence.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        self.kernel_thread.then(|| {
            format!(
                "process {} ({}) is a kernel thread: it has kernel frames only, no user stacks",
                self.pid,
                printable(&self.comm)
            )
        })
    }
}

/// `/proc`, or a folder that looks like it.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
    own_pid: Option<u32>,
}

impl Default for Proc {
    fn default() -> Self {
        Self::new()
    }
}

impl Proc {
    /// The host's `/proc`.
    #[must_use]
    pub fn new() -> Self {
        Self::at(PathBuf::from("/proc"))
    }

    /// A `/proc` below another root.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        // Our number as this /proc counts: it may be mounted for another PID namespace.
        let own = fs::read_link(root.join("self")).ok();
        let own_pid = own.and_then(|link| parse::decimal(link.as_os_str().as_encoded_bytes()));
        Self { root, own_pid }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Our own number, as this `/proc` counts.
    #[must_use]
    pub fn own_pid(&self) -> Option<u32> {
        self.own_pid
    }

    /// The numbers of all processes, ascending.
    ///
    /// # Errors
    ///
    /// When the root cannot be listed.
    pub fn pids(&self) -> Result<Vec<u32>, ProcError> {
        let entries = fs::read_dir(&self.root)
            .map_err(|source| ProcError::Read { path: self.root.clone(), source })?;
        Ok(numbers(entries))
    }

    /// What is known of one process. A thread's number is refused.
    ///
    /// # Errors
    ///
    /// [`ProcError::NoSuchProcess`], [`ProcError::Thread`], or what reading gave.
    pub fn process(&self, pid: u32) -> Result<ProcessInfo, ProcError> {
        let folder = self.open(pid)?;
        // /proc opens threads by number too, though it does not list them.
        let status = folder.read("status")?;
        let tgid = parse::status_number(&status, b"Tgid").ok_or_else(|| folder.odd("status"))?;
        if tgid != pid {
            return Err(ProcError::Thread { tid: pid, tgid });
        }
        let stat = folder.stat()?;
        let uid = parse::status_field(&status, b"Uid")
            .and_then(|ids| parse::words(ids).nth(1))
            .and_then(parse::decimal);
        Ok(ProcessInfo {
            pid,
            ppid: stat.ppid,
            start_time: stat.start_time,
            uid: uid.ok_or_else(|| folder.odd("status"))?,
            kernel_thread: stat.kernel_thread,
            zombie: stat.zombie,
            threads: stat.threads,
            comm: stat.comm,
        })
    }

    /// A process that is to be profiled. A kernel thread is allowed, see [`ProcessInfo::remark`].
    ///
    /// # Errors
    ///
    /// As [`Proc::process`], and [`ProcError::Zombie`], [`ProcError::Own`].
    pub fn target(&self, pid: u32) -> Result<ProcessInfo, ProcError> {
        if pid == 0 {
            return Err(ProcError::Idle);
        }
        if self.own_pid == Some(pid) {
            return Err(ProcError::Own { pid });
        }
        let info = self.process(pid)?;
        // A process whose first thread has ended is a zombie with other threads: it still runs.
        if info.zombie && info.threads <= 1 {
            return Err(ProcError::Zombie { pid, comm: printable(&info.comm) });
        }
        Ok(info)
    }

    /// The process of a thread that is to be profiled.
    ///
    /// # Errors
    ///
    /// [`ProcError::NoSuchThread`], and as [`Proc::target`].
    pub fn target_thread(&self, tid: u32) -> Result<ProcessInfo, ProcError> {
        let gone = |error| match error {
            ProcError::NoSuchProcess { .. } => ProcError::NoSuchThread { tid },
            error => error,
        };
        // /proc opens threads by number, too, though it does not list them.
        let folder = self.open(tid).map_err(gone)?;
        let status = folder.read("status").map_err(gone)?;
        let pid = parse::status_number(&status, b"Tgid").ok_or_else(|| folder.odd("status"))?;
        let stat = self.open(pid)?.read(&format!("task/{tid}/stat")).map_err(gone)?;
        // A first thread that has ended stays as long as the others run.
        if parse::stat(&stat).is_none_or(|stat| stat.zombie) {
            return Err(ProcError::NoSuchThread { tid });
        }
        self.target(pid)
    }

    /// All mappings of a process, in the order of addresses. Lines that are not understood are
    /// left out.
    ///
    /// # Errors
    ///
    /// [`ProcError::TooManyMappings`], or what reading gave.
    pub fn mappings(&self, pid: u32) -> Result<Vec<ProcMapping>, ProcError> {
        self.mappings_where(pid, |_| true)
    }

    /// The executable mappings of a process.
    ///
    /// # Errors
    ///
    /// As [`Proc::mappings`].
    pub fn executable_mappings(&self, pid: u32) -> Result<Vec<ProcMapping>, ProcError> {
        self.mappings_where(pid, |mapping| mapping.executable)
    }

    fn mappings_where(
        &self,
        pid: u32,
        keep: impl Fn(&ProcMapping) -> bool,
    ) -> Result<Vec<ProcMapping>, ProcError> {
        let folder = self.open(pid)?;
        let (kept, empty) = folder.mappings("maps", &keep)?;
        if !empty {
            return Ok(kept);
        }
        // Kernel threads and ended processes have none; nor has a first thread that has ended, but
        // the others go on in the same memory.
        match self.living_thread(pid) {
            Ok(tid) if tid != pid => Ok(folder.mappings(&format!("task/{tid}/maps"), &keep)?.0),
            _ => Ok(kept),
        }
    }

    /// A thread of the process that has not ended: the first one, unless it has. Where it is
    /// another, `task/TID/…` shows what `/proc/PID/…` no longer does: `maps`, `root`, `exe`, `mem`.
    ///
    /// # Errors
    ///
    /// [`ProcError::NoSuchProcess`] when all have ended, or what reading gave.
    pub fn living_thread(&self, pid: u32) -> Result<u32, ProcError> {
        let folder = self.open(pid)?;
        if !folder.stat()?.zombie {
            return Ok(pid);
        }
        let lives = |tid: &u32| {
            let stat = folder.read(&format!("task/{tid}/stat")).ok();
            stat.and_then(|stat| parse::stat(&stat)).is_some_and(|stat| !stat.zombie)
        };
        self.threads(pid)?.into_iter().find(lives).ok_or(ProcError::NoSuchProcess { pid })
    }

    /// The numbers of a process's threads, ascending.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn threads(&self, pid: u32) -> Result<Vec<u32>, ProcError> {
        let path = self.root.join(pid.to_string()).join("task");
        let entries = fs::read_dir(&path).map_err(|source| ProcError::of(pid, path, source))?;
        Ok(numbers(entries))
    }

    /// A process's name.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn comm(&self, pid: u32) -> Result<Vec<u8>, ProcError> {
        self.open(pid)?.read("comm").map(without_newline)
    }

    /// A thread's name.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn thread_comm(&self, pid: u32, tid: u32) -> Result<Vec<u8>, ProcError> {
        self.open(pid)?.read(&format!("task/{tid}/comm")).map(without_newline)
    }

    /// The processes that a process has started and that still run, ascending.
    ///
    /// # Errors
    ///
    /// When the root cannot be listed.
    pub fn children(&self, pid: u32) -> Result<Vec<u32>, ProcError> {
        Ok(self.parents()?.remove(&pid).unwrap_or_default())
    }

    /// The children of processes, their children, and so on; themselves not. It is one pass over all
    /// processes: what forks meanwhile may be missing.
    ///
    /// # Errors
    ///
    /// When the root cannot be listed.
    pub fn descendants(&self, pids: &[u32]) -> Result<Vec<u32>, ProcError> {
        let parents = self.parents()?;
        // In one pass numbers may be used again, so the links need not be a tree.
        let mut seen: HashSet<u32> = pids.iter().copied().collect();
        let mut found = pids.to_vec();
        let mut next = 0;
        while let Some(parent) = found.get(next) {
            let children = parents.get(parent).into_iter().flatten();
            let new: Vec<u32> = children.copied().filter(|child| seen.insert(*child)).collect();
            found.extend(new);
            next += 1;
        }
        Ok(found.split_off(pids.len()))
    }

    /// The number of a process in its own, innermost PID namespace.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn ns_pid(&self, pid: u32) -> Result<u32, ProcError> {
        let folder = self.open(pid)?;
        let status = folder.read("status")?;
        let numbers = parse::status_field(&status, b"NSpid").map(parse::words);
        // Kernels without PID namespaces have no such line.
        let Some(innermost) = numbers.and_then(Iterator::last) else { return Ok(pid) };
        parse::decimal(innermost).ok_or_else(|| folder.odd("status"))
    }

    /// The path of a process's cgroup (v2, from the root of its hierarchy: `/system.slice/…`);
    /// `None` where the host has only the first version.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn cgroup(&self, pid: u32) -> Result<Option<Vec<u8>>, ProcError> {
        let text = self.open(pid)?.read("cgroup")?;
        let mut lines = text.split(|byte| *byte == b'\n');
        Ok(lines.find_map(|line| line.strip_prefix(b"0::")).map(<[u8]>::to_vec))
    }

    /// Whether this controller of cgroups is in a hierarchy of the first version, as seen from a
    /// process.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn has_first_version(&self, pid: u32, controller: &str) -> Result<bool, ProcError> {
        let text = self.open(pid)?.read("cgroup")?;
        // Lines of `NUMBER:CONTROLLER[,CONTROLLER…]:PATH`.
        let controllers = text
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.split(|byte| *byte == b':').nth(1));
        let mut names = controllers.flat_map(|names| names.split(|byte| *byte == b','));
        Ok(names.any(|name| name == controller.as_bytes()))
    }

    /// Children by parent. Processes that end meanwhile are left out.
    fn parents(&self) -> Result<HashMap<u32, Vec<u32>>, ProcError> {
        let mut parents: HashMap<u32, Vec<u32>> = HashMap::new();
        for pid in self.pids()? {
            if let Ok(stat) = self.open(pid).and_then(|folder| folder.stat()) {
                parents.entry(stat.ppid).or_default().push(pid);
            }
        }
        Ok(parents)
    }

    fn open(&self, pid: u32) -> Result<Folder, ProcError> {
        let path = self.root.join(pid.to_string());
        match procfs::process::Process::new_with_root(path.clone()) {
            Ok(process) => Ok(Folder { process, path, pid }),
            Err(error) => Err(ProcError::from_procfs(pid, path, error)),
        }
    }
}

/// The open folder of one process.
struct Folder {
    process: procfs::process::Process,
    path: PathBuf,
    pid: u32,
}

impl Folder {
    fn file(&self, name: &str) -> Result<fs::File, ProcError> {
        let opened = self.process.open_relative(name);
        opened.map_err(|error| ProcError::from_procfs(self.pid, self.path.join(name), error))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ProcError> {
        let mut bytes = Vec::new();
        let read = self.file(name)?.take(SMALL_FILE).read_to_end(&mut bytes);
        read.map_err(|source| self.failed(name, source))?;
        Ok(bytes)
    }

    /// The mappings of a `maps` file that are kept, and whether the file had no line at all.
    fn mappings(
        &self,
        name: &str,
        keep: impl Fn(&ProcMapping) -> bool,
    ) -> Result<(Vec<ProcMapping>, bool), ProcError> {
        let file = BufReader::with_capacity(SMALL_FILE as usize, self.file(name)?);
        let mut kept = Vec::new();
        let (mut whole, mut empty) = (true, true);
        maps::each_line(file, |line| {
            empty = false;
            if let Some(mapping) = maps::parse_line(line).filter(&keep) {
                whole = kept.len() < MAX_MAPPINGS;
                if whole {
                    kept.push(mapping);
                }
            }
            whole
        })
        .map_err(|source| self.failed(name, source))?;
        if whole {
            Ok((kept, empty))
        } else {
            Err(ProcError::TooManyMappings { pid: self.pid, limit: MAX_MAPPINGS })
        }
    }

    fn stat(&self) -> Result<parse::Stat, ProcError> {
        parse::stat(&self.read("stat")?).ok_or_else(|| self.odd("stat"))
    }

    fn failed(&self, name: &str, source: std::io::Error) -> ProcError {
        ProcError::of(self.pid, self.path.join(name), source)
    }

    fn odd(&self, name: &str) -> ProcError {
        ProcError::Malformed { path: self.path.join(name) }
    }
}

/// Names of a folder's entries that are numbers, ascending.
fn numbers(entries: fs::ReadDir) -> Vec<u32> {
    let names = entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
    let mut numbers: Vec<u32> =
        names.filter_map(|name| parse::decimal(name.as_encoded_bytes())).collect();
    numbers.sort_unstable();
    numbers
}

/// The kernel ends a name with one line break; the name itself may hold more.
fn without_newline(mut text: Vec<u8>) -> Vec<u8> {
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    text
}

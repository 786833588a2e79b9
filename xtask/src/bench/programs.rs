//! The programs that are recorded, and their life: compiled, started, watched, ended.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{perf_script::Frame, tools::Subject};
use crate::shell::{self, command, root};

/// A program and how it is run.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// As the table names it.
    pub name: &'static str,
    /// File in the folder of compiled programs; an absolute path is one of the system's.
    pub file: &'static str,
    /// Arguments before the page's path.
    pub before: &'static [&'static str],
    /// Arguments after it.
    pub after: &'static [&'static str],
}

const fn compiled(name: &'static str, file: &'static str, after: &'static [&str]) -> Program {
    Program { name, file, before: &[], after }
}

pub const RECURSION_4: Program = compiled("recursion, 4 deep", "recursion", &["4"]);
pub const RECURSION_45: Program = compiled("recursion, 45 deep", "recursion", &["45"]);
pub const RECURSION_120: Program = compiled("recursion, 120 deep", "recursion", &["120"]);
pub const SHARES: Program = compiled("shares 50/30/20", "shares", &[]);
pub const PYTHON: Program = python("CPython, fib", &[]);
pub const PYTHON_NATIVE: Program = python("CPython, fib through map", &["native"]);

const fn python(name: &'static str, after: &'static [&str]) -> Program {
    Program { name, file: "/usr/bin/python3", before: &["tests/programs/bench/fib.py"], after }
}

/// Programs whose stacks are counted.
pub const ALL: &[Program] = &[
    RECURSION_4,
    RECURSION_45,
    RECURSION_120,
    compiled("C, non-PIE", "recursion-no-pie", &["45"]),
    compiled("C, static", "recursion-static", &["45"]),
    compiled("C, clang", "recursion-clang", &["45"]),
    compiled("C, shared library", "with_library", &[]),
    compiled("C++, threads", "threads", &[]),
    compiled("Rust", "closures", &[]),
    PYTHON_NATIVE,
];

/// What is compiled: output, compiler, arguments.
const BUILDS: &[(&str, &str, &[&str])] = &[
    ("measure", "gcc", &["measure.c"]),
    ("ping_pong", "gcc", &["ping_pong.c"]),
    ("recursion", "gcc", &["recursion.c"]),
    ("recursion-no-pie", "gcc", &["-no-pie", "-fno-pie", "recursion.c"]),
    ("recursion-static", "gcc", &["-static", "recursion.c"]),
    ("recursion-clang", "clang", &["recursion.c"]),
    ("shares", "gcc", &["shares.c"]),
    ("threads", "g++", &["threads.cpp", "-pthread"]),
    ("libbench.so", "gcc", &["-shared", "-fPIC", "library.c"]),
];

/// The folder of compiled programs.
pub fn folder() -> PathBuf {
    shell_target().join("bench")
}

/// Cargo's target folder.
pub fn shell_target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Compiles every program.
///
/// # Errors
/// When a compiler is missing or fails.
pub fn compile() -> Result<()> {
    let to = folder();
    fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    let sources = root().join("tests/programs/bench");
    let common = ["-O2", "-g", "-fomit-frame-pointer", "-o"];
    for (name, compiler, arguments) in BUILDS {
        let mut command = command(compiler);
        shell::run(command.current_dir(&sources).args(common).arg(to.join(name)).args(*arguments))?;
    }
    let mut linked = command("gcc");
    linked.current_dir(&sources).args(common).arg(to.join("with_library")).arg("with_library.c");
    shell::run(linked.arg("-L").arg(&to).args(["-lbench", "-Wl,-rpath,$ORIGIN"]))?;
    let mut rustc = command("rustc");
    rustc.current_dir(&sources).args(["--edition", "2024", "-C", "opt-level=2", "-g"]);
    rustc.args(["-C", "force-frame-pointers=no", "closures.rs", "-o"]);
    shell::run(rustc.arg(to.join("closures")))
}

/// Bytes of the page that a program shares with us: slots, then roots (`work.h`).
const SLOTS: usize = 8;
const ROOTS_OFFSET: usize = SLOTS * 16;
const PAGE: usize = ROOTS_OFFSET + SLOTS * 8;
/// Code of `_start` that a return address may lie in.
const START_CODE: u64 = 64;

/// Work done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    pub units: f64,
    pub cpu_seconds: f64,
}

impl Work {
    /// Units for each second of CPU time since `before`; None when there was no time.
    pub fn rate_since(self, before: Self) -> Option<f64> {
        let rate = (self.units - before.units) / (self.cpu_seconds - before.cpu_seconds);
        (rate.is_finite() && rate > 0.0).then_some(rate)
    }
}

/// A program that runs; it ends with this value.
pub struct Running {
    child: Child,
    page: fs::File,
    /// Where its stacks begin.
    roots: Vec<Root>,
}

impl Running {
    /// Starts a program and waits until it works.
    ///
    /// # Errors
    /// When it cannot be started or does not begin to work.
    pub fn start(program: &Program, scratch: &Path) -> Result<Self> {
        let path = scratch.join("page");
        fs::write(&path, [0; PAGE]).with_context(|| format!("cannot write {}", path.display()))?;
        let page = fs::File::open(&path)?;
        let file = folder().join(program.file);
        let child = Command::new(&file)
            .current_dir(root())
            .args(program.before)
            .arg(&path)
            .args(program.after)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", file.display()))?;
        let mut running = Self { child, page, roots: Vec::new() };
        let deadline = Instant::now() + Duration::from_secs(10);
        while running.work()?.units < 3.0 {
            if let Some(status) = running.child.try_wait()? {
                bail!("{} ended at once: {status}", file.display());
            }
            if Instant::now() > deadline {
                bail!("{} does not begin to work", file.display());
            }
            sleep(Duration::from_millis(5));
        }
        running.roots = running.find_roots(&file)?;
        Ok(running)
    }

    /// Stops it until its end.
    pub fn pause(&self) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // It has ended when this fails, which is as good.
            let _ = kill_process(pid, Signal::STOP);
        }
    }

    /// What it did so far.
    ///
    /// # Errors
    /// When its page cannot be read.
    pub fn work(&self) -> Result<Work> {
        Ok(work(&self.read_page()?))
    }

    fn read_page(&self) -> Result<[u8; PAGE]> {
        let mut bytes = [0; PAGE];
        self.page.read_exact_at(&mut bytes, 0).context("cannot read a program's page")?;
        Ok(bytes)
    }

    /// The main thread's root is in `_start`, at the file's entry point; a thread's is where the
    /// program's own unwinder found it.
    fn find_roots(&self, file: &Path) -> Result<Vec<Root>> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid()))?;
        let maps: Vec<Mapping> = maps.lines().filter_map(Mapping::parse).collect();
        let mut ranges = roots(&self.read_page()?);
        let file = fs::canonicalize(file)?;
        let header = fs::read(&file)?;
        let base = maps.iter().find(|mapping| file == Path::new(mapping.path));
        if let (Some(entry), Some(base)) = (entry(&header), base) {
            let entry = if is_fixed(&header) { entry } else { entry + base.start };
            ranges.push((entry, entry + START_CODE));
        }
        Ok(ranges.into_iter().filter_map(|range| Root::of(range, &maps)).collect())
    }
}

impl Subject for Running {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn rate(&self, window: Duration) -> Result<Option<f64>> {
        let before = self.work()?;
        sleep(window);
        Ok(self.work()?.rate_since(before))
    }

    fn is_root(&self, frame: &Frame) -> bool {
        self.roots.iter().any(|root| root.holds(frame.address, &frame.file))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn work(page: &[u8]) -> Work {
    let sum = |offset| (0..SLOTS).filter_map(|slot| word(page, slot * 16 + offset)).sum::<u64>();
    Work { units: sum(0) as f64, cpu_seconds: sum(8) as f64 / 1e9 }
}

fn roots(page: &[u8]) -> Vec<(u64, u64)> {
    let words = (0..SLOTS).filter_map(|slot| word(page, ROOTS_OFFSET + slot * 8));
    words.filter(|root| *root > 0).map(|root| (root - 1, root + 1)).collect()
}

/// `e_entry` of a 64-bit ELF file.
fn entry(header: &[u8]) -> Option<u64> {
    (header.get(..5)? == b"\x7fELF\x02").then(|| word(header, 24)).flatten()
}

/// Whether a file is loaded where it says (`ET_EXEC`).
fn is_fixed(header: &[u8]) -> bool {
    header.get(16) == Some(&2)
}

/// A line of `/proc/PID/maps` that maps a file.
struct Mapping<'a> {
    start: u64,
    end: u64,
    offset: u64,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let offset = words.nth(1)?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let path = line.find('/').map(|at| &line[at..])?;
        Some(Self { start: hex(start)?, end: hex(end)?, offset: hex(offset)?, path })
    }
}

/// Code in which stacks begin. Some unwinders give the return address, others the byte before.
#[derive(Debug, PartialEq, Eq)]
struct Root {
    path: String,
    /// Addresses in the process.
    addresses: (u64, u64),
    /// The first of them in the file.
    offset: u64,
    /// The same from where the file begins in memory.
    relative: u64,
}

impl Root {
    fn of(addresses: (u64, u64), maps: &[Mapping<'_>]) -> Option<Self> {
        let mapping = maps.iter().find(|m| (m.start..m.end).contains(&addresses.0))?;
        let offset = addresses.0 - mapping.start + mapping.offset;
        let of_file = maps.iter().filter(|m| m.path == mapping.path);
        let relative = addresses.0 - of_file.map(|m| m.start).min()?;
        Some(Self { path: mapping.path.to_owned(), addresses, offset, relative })
    }

    /// perf gives offsets in the file, or addresses where it does not know the file's symbols; samply
    /// tells how far from where the file begins in memory.
    fn holds(&self, address: u64, file: &str) -> bool {
        let (from, to) = self.addresses;
        let mut starts = [from, self.offset, self.relative].into_iter();
        self.path == file && starts.any(|start| (start..start + (to - from)).contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_work_and_roots() {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(&5_u64.to_ne_bytes());
        page[8..16].copy_from_slice(&2_000_000_000_u64.to_ne_bytes());
        page[16..24].copy_from_slice(&3_u64.to_ne_bytes());
        page[ROOTS_OFFSET..ROOTS_OFFSET + 8].copy_from_slice(&0x1000_u64.to_ne_bytes());
        let before = Work { units: 4.0, cpu_seconds: 1.0 };
        assert_eq!(work(&page), Work { units: 8.0, cpu_seconds: 2.0 });
        assert_eq!(work(&page).rate_since(before), Some(4.0));
        assert_eq!(before.rate_since(before), None);
        assert_eq!(roots(&page), [(0xfff, 0x1001)]);
    }

    #[test]
    fn an_entry_point_is_read_from_the_header() {
        let mut header = [0; 64];
        header[..5].copy_from_slice(b"\x7fELF\x02");
        header[16] = 3;
        header[24..32].copy_from_slice(&0x1080_u64.to_ne_bytes());
        assert_eq!(entry(&header), Some(0x1080));
        assert!(!is_fixed(&header));
        assert_eq!(entry(&header[..30]), None);
        assert_eq!(entry(b"#!/bin/sh"), None);
    }

    #[test]
    fn a_root_is_known_by_address_and_by_offset() {
        let maps = "00400000-00401000 r--p 00000000 00:10 1    /bin/x\n\
                    7e00-7f00 r--p 00000000 00:10 2    /bin/a b\n\
                    7f00-7f20 r-xp 00000080 00:10 2    /bin/a b\n\
                    8000-9000 rw-p 00000000 00:00 0\n";
        let maps: Vec<Mapping> = maps.lines().filter_map(Mapping::parse).collect();
        assert_eq!(maps.len(), 3);
        let root = Root::of((0x7f08, 0x7f0a), &maps).unwrap();
        assert_eq!((root.path.as_str(), root.offset), ("/bin/a b", 0x88));
        for address in [0x7f08, 0x7f09, 0x88, 0x89, 0x108, 0x109] {
            assert!(root.holds(address, "/bin/a b"), "{address:#x}");
        }
        assert!(!root.holds(0x7f0a, "/bin/a b"));
        assert!(!root.holds(0x108, "/bin/x"));
        assert_eq!(Root::of((0x8000, 0x8002), &maps), None);
    }
}

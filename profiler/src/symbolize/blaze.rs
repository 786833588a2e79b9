//! Symbols, inlined calls and source lines by blazesym, of files that only root can change.
//!
//! blazesym trusts what it reads. It allocates what compressed sections claim to need, recurses
//! along the nesting of debug entries, adds up addresses without a check, and opens files wherever
//! a debug link or a link to a supplementary file leads. As root, on files of others, each is a way
//! to stop the profiler. So it reads the files that only root can change ([`crate::target::image`]), and the
//! readers in [`super::elf`] and [`super::dwarf`], which bound all of this, read every other one,
//! and the addresses to which blazesym has no answer (see [`super::module`]).
//!
//! Links are followed by [`super::debug_files`], which wants proof that a file belongs to another
//! (blazesym does not look for build IDs unless there is a debug link, too), and the file that was
//! found is then trusted, or not, like any other. Of functions that `dwz` moved to a supplementary
//! file blazesym finds no names, so [`legible`] leaves these files to our own reader.
//!
//! A file is named to blazesym by its open handle, so a path that leads to another file by now
//! cannot mislead it. Each has its own [`Symbolizer`], which is gone when the file is done: blazesym
//! keeps what it has read for as long as it lives.

use std::{
    fs::File,
    os::fd::AsRawFd,
    panic::{AssertUnwindSafe, catch_unwind},
};

use blazesym::symbolize::{
    CodeInfo, Input, Sym, Symbolizer,
    source::{Elf, Source},
};

use object::{Object, ObjectSection};

use super::dwarf::{self, Call, Chain, Position};

/// blazesym reads debug information up to this size of `.debug_info`; larger one is left to our own
/// reader.
///
/// blazesym makes an index of all units and keeps what it has read, ours keeps answers only, so
/// blazesym takes more memory by about the size of `.debug_info`. Measured for 3000 addresses of
/// Rust programs, time and peak: with 48 MB of it 0.55 s and 153 MB, ours 0.52 s and 100 MB; with
/// 37 MB 0.51 s and 131 MB, ours 0.30 s and 83 MB; with 6 MB 0.21 s and 39 MB, ours 0.20 s and
/// 26 MB. Programs with gigabytes of it are common, and two files are read at a time.
const MAX_INFO: u64 = 16 << 20;

/// Sections that make blazesym open other files.
const LINKS: [&str; 3] = [".gnu_debuglink", ".gnu_debugaltlink", ".debug_sup"];

/// Whether the debug information of a file is for blazesym to read.
#[must_use]
pub fn legible(file: &object::File<'_>) -> bool {
    info_size(file) <= MAX_INFO
        && LINKS.iter().all(|link| file.section_by_name(link).is_none())
        // It reads packages beside the path only, which is that of the handle here.
        && !dwarf::is_split(file)
}

/// The size of `.debug_info` once it is decompressed; 0 when there is none.
fn info_size(file: &object::File<'_>) -> u64 {
    let info = file.section_by_name(".debug_info");
    let info = info.and_then(|info| info.compressed_data().ok());
    info.map_or(0, |info| info.uncompressed_size)
}

/// blazesym on one open file.
pub struct Blaze<'file> {
    symbolizer: Symbolizer,
    file: &'file File,
}

impl<'file> Blaze<'file> {
    /// Reads this file.
    #[must_use]
    pub fn new(file: &'file File) -> Self {
        let symbolizer = Symbolizer::builder()
            // The handle's file cannot become another one.
            .enable_auto_reload(false)
            // `super::names` does this for all sources alike.
            .enable_demangling(false)
            .set_debug_dirs(Some([""; 0]))
            .build();
        Self { symbolizer, file }
    }

    /// Start and size of the symbol that covers each address. blazesym takes any of the names that
    /// are there, so it is left to the caller to choose one. A symbol without a size is left out:
    /// blazesym lets it reach to the next one, across the ends of sections.
    #[must_use]
    pub fn symbols(&self, addresses: &[u64]) -> Vec<Option<(u64, u64)>> {
        self.look_up(false, addresses, |symbol| {
            let size = symbol.size.filter(|size| *size > 0)? as u64;
            Some((symbol.addr, size))
        })
    }

    /// What the debug information tells of each address: the compiled function, then those
    /// inlined into it, outermost first. None also when one of these has no name.
    #[must_use]
    pub fn calls(&self, addresses: &[u64]) -> Vec<Option<Chain>> {
        self.look_up(true, addresses, |symbol| {
            // Without a line it is from the symbol table.
            let compiled = place(symbol.code_info.as_deref()?);
            let mut chain = vec![Call { name: name(&symbol.name), position: compiled }];
            for inlined in &symbol.inlined {
                let name = Some(name(&inlined.name)?);
                let position = inlined.code_info.as_ref().map(place).unwrap_or_default();
                chain.push(Call { name, position });
            }
            Some(chain)
        })
    }

    /// What `take` takes from the answer to each address; None for all when there is no answer.
    fn look_up<T>(
        &self,
        debug_syms: bool,
        addresses: &[u64],
        take: impl Fn(&Sym<'_>) -> Option<T>,
    ) -> Vec<Option<T>> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let mut elf = Elf::new(path);
        elf.debug_syms = debug_syms;
        let source = Source::Elf(elf);
        // A file can be broken without bad intent. The other reader takes over then.
        let found = catch_unwind(AssertUnwindSafe(|| {
            let found = self.symbolizer.symbolize(&source, Input::VirtOffset(addresses)).ok()?;
            Some(found.iter().map(|found| found.as_sym().and_then(&take)).collect())
        }));
        let found: Option<Vec<Option<T>>> = found.ok().flatten();
        found.unwrap_or_else(|| addresses.iter().map(|_| None).collect())
    }
}

fn name(name: &str) -> Option<Vec<u8>> {
    (!name.is_empty()).then(|| name.as_bytes().to_vec())
}

fn place(code: &CodeInfo<'_>) -> Position {
    let path = code.to_path();
    let path = path.to_string_lossy().into_owned();
    let file = (!code.file.is_empty()).then_some(path);
    Position { file, line: code.line.filter(|line| *line > 0) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::symbolize::elf;

    /// Called by nobody, so that nothing but `outer` covers its code.
    const PROGRAM: &str = "\
static inline __attribute__((always_inline)) int inner(volatile int *p) { return *p * 3; }
int outer(volatile int *p) { return inner(p) + 2; }
";

    fn library(arguments: &[&str]) -> (tempfile::TempDir, File, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lib.c"), PROGRAM).unwrap();
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-g", "-shared", "-nostdlib", "lib.c", "-o", "lib.so"]).args(arguments);
        assert!(gcc.current_dir(dir.path()).status().unwrap().success());
        opened(dir)
    }

    fn opened(dir: tempfile::TempDir) -> (tempfile::TempDir, File, Vec<u8>) {
        let path = dir.path().join("lib.so");
        let file = File::open(&path).unwrap();
        (dir, file, std::fs::read(path).unwrap())
    }

    fn objcopy(dir: &tempfile::TempDir, argument: &str) {
        let mut objcopy = Command::new("objcopy");
        objcopy.args([argument, "lib.so"]).current_dir(dir.path());
        assert!(objcopy.status().unwrap().success());
    }

    /// The other reader would hide it if blazesym had no answers.
    #[test]
    fn blazesym_answers_by_itself() {
        for (version, compression) in
            [("-gdwarf-4", "none"), ("-gdwarf-5", "none"), ("-g", "zlib"), ("-g", "zstd")]
        {
            let (dir, _, _) = library(&[version]);
            objcopy(&dir, &format!("--compress-debug-sections={compression}"));
            let (_dir, file, data) = opened(dir);
            let elf = elf::parse(&data).unwrap();
            let text = elf.section_by_name(".text").unwrap();
            let addresses: Vec<u64> = (text.address()..text.address() + text.size()).collect();
            let blaze = Blaze::new(&file);
            let symbols = blaze.symbols(&addresses);
            assert!(symbols.iter().all(|s| *s == Some((text.address(), text.size()))));
            let calls = blaze.calls(&addresses);
            let chains = calls.into_iter().map(|chain| {
                let name = |call: Call| String::from_utf8(call.name.unwrap()).unwrap();
                chain.unwrap().into_iter().map(name).collect::<Vec<_>>()
            });
            let deepest = chains.max_by_key(Vec::len).unwrap();
            assert_eq!(deepest, ["outer", "inner"], "{version} {compression}");
        }
    }

    #[test]
    fn what_leads_elsewhere_or_is_too_large_is_left_to_the_other_reader() {
        let legible = |data: &[u8]| legible(&elf::parse(data).unwrap());
        let (dir, _, plain) = library(&[]);
        assert!(legible(&plain));
        assert!(!legible(&library(&["-gsplit-dwarf", "-gdwarf-4"]).2));
        assert!(!legible(&library(&["-gsplit-dwarf", "-gdwarf-5"]).2));
        // Compressed, the size that counts is the one it claims to unfold to.
        let (_dir, _, compressed) = library(&["-gz=zlib"]);
        assert!(legible(&compressed));
        let sizes = [&plain, &compressed].map(|data| info_size(&elf::parse(data).unwrap()));
        assert_eq!(sizes[0], sizes[1]);
        objcopy(&dir, "--add-gnu-debuglink=lib.c");
        assert!(!legible(&opened(dir).2));
    }

    #[test]
    fn what_is_no_elf_file_has_no_answers() {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0x7f; 4096]).unwrap();
        let blaze = Blaze::new(&file);
        assert_eq!(blaze.symbols(&[1, 2]), [None, None]);
        assert_eq!(blaze.calls(&[1, 2]), [None, None]);
    }
}

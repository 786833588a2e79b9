//! Symbols, inlined calls and source lines by blazesym, of files that only root can change.
//!
//! blazesym trusts what it reads. It opens files wherever a debug link or a supplementary link
//! leads, allocates what compressed sections claim to need, recurses along the nesting of debug
//! entries, and adds up addresses without a check. As root, on files of others, each is a way to
//! stop the profiler. So it reads the files that only root can change ([`super::image`]), and the
//! readers in [`super::elf`] and [`super::dwarf`], which bound all of this, read every other one,
//! and the addresses to which blazesym has no answer (see [`super::module`]).
//!
//! A file is named to blazesym by its open handle, so a path that leads to another file by now
//! cannot mislead it, and each has its own [`Symbolizer`], which is gone when the file is done:
//! blazesym keeps what it has read for as long as it lives.

use std::{
    fs::File,
    os::fd::AsRawFd,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use blazesym::symbolize::{
    CodeInfo, Input, Sym, Symbolizer,
    source::{Elf, Source},
};

use super::dwarf::{Call, Chain, Position};

/// blazesym on one open file.
pub struct Blaze<'file> {
    symbolizer: Symbolizer,
    file: &'file File,
}

impl<'file> Blaze<'file> {
    /// Reads this file, and debug files that it refers to from these folders.
    #[must_use]
    pub fn new(file: &'file File, debug_dirs: &[PathBuf]) -> Self {
        let symbolizer = Symbolizer::builder()
            // The handle's file cannot become another one.
            .enable_auto_reload(false)
            // `super::names` does this for all sources alike.
            .enable_demangling(false)
            .set_debug_dirs(Some(debug_dirs))
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
    /// inlined into it, outermost first. None also when one of these has no name, as when `dwz`
    /// moved it to a supplementary file.
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

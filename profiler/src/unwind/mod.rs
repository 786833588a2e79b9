//! Unwind rows from `.eh_frame`, `.debug_frame` and Go's tables: which rule holds from which address on.
//!
//! Pure: ELF bytes in, rows out. The bytes belong to other users, so every loop is bounded by
//! their length and every table by a constant here. x86-64 only.
//!
//! * [`elf`] finds the text and the tables in the file,
//! * [`cfi`] evaluates their programs, [`rule`] says what a row means for the walker,
//! * [`assembly`] follows the instructions of functions without tables,
//! * [`contexts`] knows where C libraries go over to another stack,
//! * [`haskell`] knows where Haskell's code runs on the C stack,
//! * [`go`] knows Go's own tables, which stripped programs keep,
//! * [`trampoline`] knows signal trampolines without tables,
//! * [`rows`] joins the rows of several sources.

mod assembly;
mod cfi;
mod contexts;
mod elf;
mod go;
mod haskell;
mod roots;
mod rows;
mod rule;
mod stubs;
#[cfg(test)]
mod tests;
mod trampoline;

use profiler_ebpf::wire::Rule;

pub use assembly::{PAGE, Page, frame_at, ways_out};
pub use trampoline::around as signal_trampoline;

/// Executable text of a file: one segment that is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextRange {
    /// Virtual address as the ELF file has it.
    pub address: u64,
    /// Offset in the file; equal to `address` modulo the page size.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// Where a rule begins to hold; it does up to the next row. Large files have millions of them, so
/// each takes 8 bytes: 48 of its bits are the address.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct RowAt {
    low: u32,
    high: u16,
    rule: u16,
}

impl RowAt {
    /// At a virtual address as the ELF file has it, below [`MAX_ADDRESS`], a rule holds.
    #[must_use]
    pub const fn new(address: u64, rule: u16) -> Self {
        Self { low: address as u32, high: (address >> 32) as u16, rule }
    }

    /// The virtual address.
    #[must_use]
    pub const fn address(self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }

    /// Index into [`UnwindRows::rules`].
    #[must_use]
    pub const fn rule(self) -> u16 {
        self.rule
    }
}

impl std::fmt::Debug for RowAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}: {}", self.address(), self.rule)
    }
}

/// The unwind rows of a file.
#[derive(Clone, Debug)]
pub struct UnwindRows {
    /// Executable segments, sorted, not overlapping.
    pub text: Vec<TextRange>,
    /// Rules; the first is [`Rule::NONE`].
    pub rules: Vec<Rule>,
    /// Rows within the text, sorted; no two have one address, neighbours differ in their rule.
    pub rows: Vec<RowAt>,
    /// Entries (FDEs and CIEs) that could not be read.
    pub skipped: u64,
}

impl Default for UnwindRows {
    fn default() -> Self {
        Self { text: Vec::new(), rules: vec![Rule::NONE], rows: Vec::new(), skipped: 0 }
    }
}

/// Why a file has no unwind rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnwindError {
    /// It does not begin like an ELF file.
    #[error("this is not an ELF file")]
    NotElf,
    /// An ELF file of another machine or width.
    #[error("unwind rows exist for 64-bit x86 only, and this ELF file is for {0}")]
    NotSupported(String),
    /// Its headers contradict the file.
    #[error("the ELF headers are damaged: {0}")]
    Damaged(&'static str),
    /// More than any real program has.
    #[error("the ELF file has more {what} than the limit of {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
}

/// The first address that no text has.
const MAX_ADDRESS: u64 = 1 << 48;
/// The most executable segments of a file.
const MAX_SEGMENTS: usize = 64;
/// The most bytes of text in a file.
const MAX_TEXT: u64 = 1 << 30;
/// The most rows of a file.
const MAX_ROWS: usize = 8 << 20;
/// The most FDEs of one section.
const MAX_FDES: usize = 4 << 20;
/// The most rules of a file; further ones become [`profiler_ebpf::wire::cfa::UNSUPPORTED`].
const MAX_FILE_RULES: usize = 4096;
/// The most section headers that are looked at.
const MAX_SECTIONS: usize = 1 << 20;
/// The most bytes of a section that are read, or that a compressed one may become.
const MAX_SECTION: u64 = 256 << 20;

/// Compiles the unwind rows of an ELF file.
///
/// A file without unwind information has no rows. Entries that cannot be read are left out and
/// counted.
///
/// # Errors
///
/// Not an x86-64 ELF file, headers that contradict the file, or more of something than a limit.
pub fn compile(elf: &[u8]) -> Result<UnwindRows, UnwindError> {
    let file = elf::File::parse(elf)?;
    let mut rules = rule::Rules::default();
    let mut skipped = 0;
    let mut rows = Vec::new();
    if let Some(section) = file.eh_frame() {
        rows = cfi::eh_frame(&section, &file, &mut rules, &mut skipped)?;
        rows.shrink_to_fit();
    }
    // Go's tables know the frame pointer and the roots; its .debug_frame does not.
    let functions = go::rows(&file, &mut rules)?;
    if !functions.is_empty() {
        rows = rows::fill_gaps(&rows, &functions)?;
    }
    if let Some(section) = file.debug_frame() {
        let more = cfi::debug_frame(&section, &file, &rows, &mut rules, &mut skipped)?;
        rows = rows::fill_gaps(&rows, &more)?;
    }
    let trampolines = trampoline::find(&file, &rows, &mut rules)?;
    if !trampolines.is_empty() {
        rows = rows::fill_gaps(&trampolines, &rows)?;
    }
    let contexts = contexts::find(&file, &mut rules)?;
    if !contexts.is_empty() {
        rows = rows::fill_gaps(&contexts, &rows)?;
    }
    let stubs = stubs::find(&file, &rows, &mut rules)?;
    rows = rows::fill_few_gaps(rows, &stubs)?;
    let roots = roots::find(&file, &rows, &mut rules)?;
    rows = rows::fill_few_gaps(rows, &roots)?;
    let haskell = haskell::frame(&rules);
    let functions = assembly::find(&file, &rows, haskell.is_some(), &mut rules)?;
    rows = rows::fill_few_gaps(rows, &functions)?;
    if let Some(frame) = haskell {
        let haskell = haskell::find(&file, &rows, frame, &mut rules)?;
        rows = rows::fill_few_gaps(rows, &haskell)?;
    }
    stubs::mark_padding(&mut rows, &mut rules);
    rows.shrink_to_fit();
    let rules = rules.used(&mut rows);
    trampoline::extend(&mut rows, &rules);
    Ok(UnwindRows { text: file.text, rules, rows, skipped })
}

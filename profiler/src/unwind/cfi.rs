//! Call frame information: finds the FDEs of a section and evaluates their programs to rows.

use gimli::{
    BaseAddresses, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice, FrameDescriptionEntry,
    LittleEndian, Register, RegisterRule, UnwindContext, UnwindContextStorage, UnwindOffset,
    UnwindSection, UnwindTableRow,
};
use rustc_hash::FxHashMap;

use super::{
    MAX_FDES, RowAt, UnwindError,
    elf::{self, Section},
    rows::Builder,
    rule::{Frame, Rules},
};

/// Reads bytes of the section.
pub type Bytes<'a> = EndianSlice<'a, LittleEndian>;
type Cie<'a> = CommonInformationEntry<Bytes<'a>>;
type Fde<'a> = FrameDescriptionEntry<Bytes<'a>>;

/// The longest CIE that is believed. They are evaluated again for each of their FDEs; real ones
/// have less than 100 bytes.
const MAX_CIE: usize = 1024;

/// Storage for the evaluation: the stack deep enough for nested `remember_state`, the rules few
/// enough that copying them is cheap (a signal trampoline has 17).
pub struct Store;

impl UnwindContextStorage<usize> for Store {
    type Rules = [(Register, RegisterRule<usize>); 40];
    type Stack = [UnwindTableRow<usize, Self>; 8];
}

/// Rows of an `.eh_frame` section.
pub fn eh_frame(
    section: &Section<'_>,
    file: &elf::File<'_>,
    rules: &mut Rules,
    skipped: &mut u64,
) -> Result<Vec<RowAt>, UnwindError> {
    let data: &[u8] = &section.data;
    let mut table = EhFrame::new(data, LittleEndian);
    table.set_address_size(8);
    let cies = FxHashMap::default();
    Compiler { table, data, cie_id: 0, section, file, known: &[], cies, rules, skipped }.run()
}

/// Rows of a `.debug_frame` section for functions that `known` has no rows for.
pub fn debug_frame(
    section: &Section<'_>,
    file: &elf::File<'_>,
    known: &[RowAt],
    rules: &mut Rules,
    skipped: &mut u64,
) -> Result<Vec<RowAt>, UnwindError> {
    let data: &[u8] = &section.data;
    let mut table = DebugFrame::new(data, LittleEndian);
    table.set_address_size(8);
    let (cie_id, cies) = (u64::from(u32::MAX), FxHashMap::default());
    Compiler { table, data, cie_id, section, file, known, cies, rules, skipped }.run()
}

/// An FDE that covers text.
struct Function {
    start: u64,
    end: u64,
    offset: usize,
}

/// One length-prefixed entry of the section.
struct Entry {
    len: usize,
    /// Offset of the next entry.
    end: usize,
    is_cie: bool,
}

impl Entry {
    /// The entry at an offset; None: the section ends there, or in the midst of the entry.
    fn at(data: &[u8], offset: usize, cie_id: u64) -> Option<Self> {
        let rest = data.get(offset..)?;
        let (len, head, id) = match elf::le_u32(rest)? {
            0 => return Some(Self { len: 0, end: offset + 4, is_cie: false }),
            u32::MAX => (elf::le_u64(&rest[4..])?, 12, elf::le_u64(rest.get(12..)?)?),
            len => (u64::from(len), 4, u64::from(elf::le_u32(&rest[4..])?)),
        };
        let len = usize::try_from(len).ok()?;
        let end = offset.checked_add(head)?.checked_add(len)?;
        // A 64-bit entry has the ID with all bits set, too.
        let is_cie = id == cie_id || (head == 12 && cie_id != 0 && id == u64::MAX);
        (end <= data.len()).then_some(Self { len, end, is_cie })
    }
}

struct Compiler<'s, S> {
    table: S,
    data: &'s [u8],
    /// What marks a CIE in this kind of section.
    cie_id: u64,
    section: &'s Section<'s>,
    file: &'s elf::File<'s>,
    /// Rows from a better source.
    known: &'s [RowAt],
    cies: FxHashMap<usize, Option<Cie<'s>>>,
    rules: &'s mut Rules,
    skipped: &'s mut u64,
}

impl<'s, S> Compiler<'s, S>
where
    S: UnwindSection<Bytes<'s>>,
    S::Offset: UnwindOffset<usize>,
{
    fn run(mut self) -> Result<Vec<RowAt>, UnwindError> {
        let mut functions = self.functions()?;
        functions.sort_unstable_by_key(|function| (function.start, function.offset));
        let mut rows = Builder::default();
        let mut context = Box::new(UnwindContext::<usize, Store>::new_in());
        let mut covered = 0;
        for function in &functions {
            // Of functions that overlap, the one that begins first keeps its text.
            let start = function.start.max(covered);
            if start >= function.end {
                continue;
            }
            let mark = rows.mark();
            if self.evaluate(function, start, &mut context, &mut rows)? {
                covered = function.end;
                rows.push(function.end, 0)?;
            } else {
                rows.rewind(mark);
                *self.skipped += 1;
            }
        }
        Ok(rows.finish())
    }

    /// The FDEs of the section that cover text, in the order of the section.
    fn functions(&mut self) -> Result<Vec<Function>, UnwindError> {
        let mut functions = Vec::new();
        let mut seen = 0;
        let mut offset = 0;
        while offset < self.data.len() && seen < self.section.limit {
            let Some(entry) = Entry::at(self.data, offset, self.cie_id) else {
                *self.skipped += 1;
                break;
            };
            if entry.len == 0 && self.section.terminated {
                break;
            }
            if entry.len > 0 && !entry.is_cie {
                seen += 1;
                match self.fde(offset) {
                    Some(fde) => functions.extend(self.clip(&fde)),
                    None => *self.skipped += 1,
                }
            }
            if seen > MAX_FDES {
                return Err(UnwindError::TooLarge { what: "FDEs", limit: MAX_FDES as u64 });
            }
            offset = entry.end;
        }
        Ok(functions)
    }

    fn fde(&mut self, offset: usize) -> Option<Fde<'s>> {
        let Self { table, data, cie_id, section, cies, .. } = self;
        let cie_of = |table: &S, bases: &BaseAddresses, offset: S::Offset| {
            let at: usize = UnwindOffset::into(offset);
            let cie = cies.entry(at).or_insert_with(|| {
                let entry = Entry::at(data, at, *cie_id)?;
                let plausible = entry.is_cie && entry.len <= MAX_CIE;
                plausible.then(|| table.cie_from_offset(bases, offset).ok()).flatten()
            });
            cie.clone().ok_or(gimli::Error::NotCieId(at as u64))
        };
        table.fde_from_offset(&section.bases, S::Offset::from(offset), cie_of).ok()
    }

    /// The part of an FDE's range that lies in text.
    fn clip(&self, fde: &Fde<'_>) -> Option<Function> {
        let (start, end) = (fde.initial_address(), fde.initial_address().checked_add(fde.len())?);
        if start == 0 {
            // Where a linker dropped the function. Even if text is loaded there, an ELF header is.
            return None;
        }
        let text = self.file.text_from(start)?;
        let (start, end) = (start.max(text.address), end.min(text.address + text.size));
        let behind = self.known.partition_point(|row| row.address() <= start);
        let is_known = behind > 0 && self.known[behind - 1].rule != 0;
        (start < end && !is_known).then_some(Function { start, end, offset: fde.offset() })
    }

    /// Evaluates an FDE's program from an address on. False: it could not be read.
    fn evaluate(
        &mut self,
        function: &Function,
        start: u64,
        context: &mut UnwindContext<usize, Store>,
        rows: &mut Builder,
    ) -> Result<bool, UnwindError> {
        let Some(fde) = self.fde(function.offset) else {
            return Ok(false);
        };
        let Ok(mut table) = fde.rows(&self.table, &self.section.bases, context) else {
            return Ok(false);
        };
        let frame = Frame::new(&self.table, fde.cie());
        loop {
            match table.next_row() {
                Ok(Some(row)) => {
                    let (from, to) = (row.start_address().max(start), row.end_address());
                    if from < to.min(function.end) {
                        rows.push(from, self.rules.number(&frame.rule(row)))?;
                    }
                }
                Ok(None) => return Ok(true),
                Err(_) => return Ok(false),
            }
        }
    }
}

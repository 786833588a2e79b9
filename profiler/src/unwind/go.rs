//! Go's own table of functions (`.gopclntab`), which programs keep when they are stripped.
//!
//! It says for each instruction by how much the stack pointer has moved, and which functions are
//! roots. Layout: `runtime/symtab.go` (`pcHeader`) and `runtime/runtime2.go` (`_func`) of Go 1.18
//! and later.

use profiler_ebpf::wire::{Rule, cfa, saved};

use super::{
    RowAt, UnwindError,
    elf::{File, le_u32, le_u64},
    rows::Builder,
    rule::{END, Rules},
    trampoline,
};

/// `internal/abi.Go118PCLnTabMagic` and `Go120PCLnTabMagic`.
const MAGIC: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// `internal/abi.FuncFlagTopFrame`: the outermost frame of a stack.
const TOP_FRAME: u8 = 1;
/// `internal/abi.FuncFlagSPWrite`: it moves the stack pointer as the table cannot say.
const SP_WRITE: u8 = 2;
/// `push %rbp` and `mov %rsp, %rbp`, as the assembler begins functions.
const PUSH_BP: u8 = 0x55;
const MOVE_BP: [u8; 3] = [0x48, 0x89, 0xe5];
/// `mov %rbp, disp8(%rsp)` and `disp32(%rsp)`, which began functions before Go 1.21.
const STORE_BP: [&[u8]; 2] = [&[0x48, 0x89, 0x6c, 0x24], &[0x48, 0x89, 0xac, 0x24]];

/// Step by the frame pointer, and nothing else knows better.
const BY_POINTER: Rule = Rule { fp: saved::UNDEFINED, ..Rule::NONE };

struct Table<'a> {
    names: &'a [u8],
    deltas: &'a [u8],
    functions: &'a [u8],
    count: usize,
    /// Address of `runtime.text`, if the table has it.
    text: u64,
    /// Offset of the function's flags in its record.
    flags: usize,
    quantum: u64,
}

struct Function<'a> {
    start: u64,
    end: u64,
    record: &'a [u8],
    name: &'a [u8],
}

/// Rows of all Go functions; none when the file has no table that can be trusted.
pub fn rows(file: &File<'_>, rules: &mut Rules) -> Result<Vec<RowAt>, UnwindError> {
    let Some(table) = Table::find(file) else {
        return Ok(Vec::new());
    };
    let Some(text) = table.find_text(file) else {
        return Ok(Vec::new());
    };
    let mut rows = Builder::default();
    let mut covered = 0;
    for index in 0..table.count {
        let Some(function) = table.function(index, text) else {
            continue;
        };
        let Some(range) = file.text_from(function.start) else {
            continue;
        };
        let end = function.end.min(range.address + range.size);
        if function.start < covered.max(range.address) || function.start >= end {
            continue;
        }
        table.push(&Function { end, ..function }, file, rules, &mut rows)?;
        rows.push(end, 0)?;
        covered = end;
    }
    Ok(rows.finish())
}

impl<'a> Table<'a> {
    /// The table, wherever the linker has put it.
    fn find(file: &File<'a>) -> Option<Self> {
        let sections: [&[u8]; 2] = [b".gopclntab", b".data.rel.ro.gopclntab"];
        if let Some((_, data)) = sections.iter().find_map(|name| file.section(name)) {
            return Self::parse(data);
        }
        // lld merges it into a section for other things.
        file.section(b".go.buildinfo")?;
        let begin = |magic: &u32| {
            let [a, b, c, d] = magic.to_le_bytes();
            [a, b, c, d, 0, 0, 1, 8]
        };
        let begins = [begin(&MAGIC[0]), begin(&MAGIC[1])];
        file.segments_of_data().find_map(|data| {
            let mut words = data.as_chunks::<8>().0.iter().enumerate();
            words.find_map(|(at, word)| {
                begins.contains(word).then(|| Self::parse(&data[at * 8..])).flatten()
            })
        })
    }

    fn parse(data: &'a [u8]) -> Option<Self> {
        let magic = le_u32(data)?;
        let [0, 0, quantum, 8] = *data.get(4..8)?.first_chunk()? else {
            return None;
        };
        if !MAGIC.contains(&magic) || quantum == 0 {
            return None;
        }
        let word = |number: usize| le_u64(data.get(8 + 8 * number..)?);
        let part = |number: usize| data.get(usize::try_from(word(number)?).ok()?..);
        let functions = part(7)?;
        let count = usize::try_from(word(0)?).ok()?;
        // The table of functions ends with the end of the last one.
        functions.get(..count.checked_mul(8)?.checked_add(4)?)?;
        Some(Self {
            names: part(3)?,
            deltas: part(6)?,
            functions,
            count,
            text: word(2)?,
            flags: if magic == MAGIC[0] { 37 } else { 41 },
            quantum: u64::from(quantum),
        })
    }

    fn function(&self, index: usize, text: u64) -> Option<Function<'a>> {
        let entry = self.functions.get(index * 8..)?;
        let start = text.checked_add(u64::from(le_u32(entry)?))?;
        let end = text.checked_add(u64::from(le_u32(entry.get(8..)?)?))?;
        let record = self.functions.get(le_u32(entry.get(4..)?)? as usize..)?;
        let name = self.names.get(le_u32(record.get(4..)?)? as usize..)?;
        Some(Function { start, end, record, name })
    }

    /// Where the text begins that the table's offsets are relative to. Linkers stopped to write
    /// it there, so each candidate is proved by a function whose code is known.
    fn find_text(&self, file: &File<'_>) -> Option<u64> {
        let all = || (0..self.count).filter_map(|index| self.function(index, 0));
        let exit = all().find(|function| function.is("runtime.goexit"))?;
        // Two calling conventions: more than a few of one name are an attack.
        let callees: Vec<u64> = all()
            .filter(|function| function.is("runtime.goexit1"))
            .map(|function| function.start)
            .take(4)
            .collect();
        let proves = |text: u64| {
            // nop; call runtime.goexit1
            let start = text.checked_add(exit.start)?;
            let code = file.code(start, start.checked_add(6)?)?;
            let [0x90, 0xe8, a, b, c, d] = *code.first_chunk()? else {
                return None;
            };
            let callee =
                (exit.start + 6).wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
            callees.contains(&callee).then_some(text)
        };
        let section = file
            .section(b".text")
            .map(|(section, _)| section.sh_addr.get(object::Endianness::Little));
        let known = [Some(self.text), section].into_iter().flatten().find_map(proves);
        // With another linker, C code comes first: look for the function itself.
        known.or_else(|| {
            file.text.iter().find_map(|range| {
                let first = range.address.next_multiple_of(32);
                let mut starts = (first..range.address + range.size).step_by(32);
                starts.find_map(|start| proves(start.checked_sub(exit.start)?))
            })
        })
    }

    /// The rows of one function.
    fn push(
        &self,
        function: &Function<'_>,
        file: &File<'_>,
        rules: &mut Rules,
        rows: &mut Builder,
    ) -> Result<(), UnwindError> {
        let code = file.code(function.start, function.end).unwrap_or_default();
        let flags = function.record.get(self.flags).copied().unwrap_or(0);
        if trampoline::is_trampoline(code) {
            return rows.push(function.start, rules.number(&trampoline::signal_frame()));
        }
        // The walk goes on behind a signal handler, where Go's own ends.
        if flags & TOP_FRAME != 0 && !function.is("runtime.sigtramp") {
            return rows.push(function.start, rules.number(&END));
        }
        let mut frame = FrameState { switches: flags & SP_WRITE != 0, ..FrameState::default() };
        frame.parks = function.is("runtime.mcall");
        let Some(offset) = function.record.get(16..).and_then(le_u32) else {
            return Ok(());
        };
        let mut deltas = self.deltas.get(offset as usize..).unwrap_or_default();
        let (mut address, mut delta, mut first) = (function.start, -1, true);
        while address < function.end {
            let Some((step, length)) = next_delta(&mut deltas, first) else {
                break;
            };
            if length == 0 {
                break;
            }
            first = false;
            delta = i32::wrapping_add(delta, step);
            let from = (address - function.start) as usize;
            frame.enter(code, from, delta);
            for (at, rule) in frame.rules(from, delta).into_iter().flatten() {
                let at = function.start + at as u64;
                if at < function.end {
                    rows.push(at, rules.number(&rule))?;
                }
            }
            address = address.saturating_add(u64::from(length) * self.quantum);
        }
        if address < function.end {
            rows.push(address, 0)?;
        }
        Ok(())
    }
}

impl Function<'_> {
    /// Whether it has this name, in either calling convention.
    fn is(&self, name: &str) -> bool {
        let rest = self.name.strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b"\0") || rest.starts_with(b".abi0\0"))
    }
}

/// What was learnt of a function's frame so far.
#[derive(Default)]
struct FrameState {
    /// It moves to another stack.
    switches: bool,
    /// It moves to another stack for good.
    parks: bool,
    /// The stack pointer has moved.
    entered: bool,
    /// The frame pointer was pushed right below the return address.
    pushed: bool,
    /// From here on it points to where it was pushed.
    set_at: usize,
}

impl FrameState {
    /// Looks at the code where the stack pointer first moves.
    fn enter(&mut self, code: &[u8], at: usize, delta: i32) {
        if self.entered || delta <= 0 {
            return;
        }
        self.entered = true;
        let rest = code.get(at..).unwrap_or_default();
        let push = at > 0 && code.get(at - 1) == Some(&PUSH_BP);
        self.pushed = push || STORE_BP.iter().any(|store| rest.starts_with(store));
        if push && rest.starts_with(&MOVE_BP) {
            self.set_at = at + MOVE_BP.len();
        }
    }

    /// The rules from an offset on, where the stack pointer has moved by `delta`.
    fn rules(&self, from: usize, delta: i32) -> [Option<(usize, Rule)>; 2] {
        let saved_bp = self.pushed && delta > 0;
        let by_sp = Rule {
            cfa: cfa::SP,
            cfa_offset: delta.saturating_add(8),
            fp: if saved_bp { saved::AT_CFA } else { saved::SAME },
            fp_offset: if saved_bp { -16 } else { 0 },
            ra: saved::AT_CFA,
            ra_offset: -8,
            ..Rule::NONE
        };
        if delta < 0 {
            return [Some((from, BY_POINTER)), None];
        }
        if !self.switches {
            return [Some((from, by_sp)), None];
        }
        if !saved_bp || self.set_at == 0 {
            return [Some((from, BY_POINTER)), None];
        }
        // The frame pointer stays on the old stack.
        let by_bp = Rule { cfa: cfa::BP_SWITCH, cfa_offset: 16, ..by_sp };
        let switched = if self.parks { END } else { by_bp };
        [(from < self.set_at).then_some((from, by_sp)), Some((from.max(self.set_at), switched))]
    }
}

/// Takes the next pair off a table of deltas: the change of the value and for how many units it
/// holds. None: the table ends.
fn next_delta(table: &mut &[u8], first: bool) -> Option<(i32, u32)> {
    let step = varint(table)?;
    if step == 0 && !first {
        return None;
    }
    let value = if step & 1 != 0 { !(step >> 1) } else { step >> 1 };
    Some((value as i32, varint(table)?))
}

/// Takes a number of 7 bits to the byte off the front.
fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for shift in (0..32).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

//! Functions without unwind information, as codecs, numeric libraries and switches of stacks have
//! them, written by hand: their rows by following their instructions.
//!
//! A function counts only when all ways through it keep to the calling convention: the stack pointer
//! is back where it was at every return and at every jump to another function, of which there is one
//! at the least. Others stay without rows. What is tracked of the registers are addresses in the frame
//! and values of the caller's.
//!
//! * [`function`] follows the ways through a function,
//! * [`state`] knows what its instructions do to registers and stack,
//! * [`onward`] follows code that was made at run time, from any place in it to where it returns,
//! * [`backward`] looks for where such code begins that never does.

mod backward;
mod function;
mod onward;
mod state;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use profiler_ebpf::wire::Rule;

pub use self::{
    backward::frame_at,
    onward::{PAGE, Page, ways_out},
};
use self::{
    function::{Function, Odd},
    state::State,
};
use super::{
    RowAt, UnwindError,
    elf::File,
    rows::{Builder, holes},
    rule::Rules,
};

/// Text that BOLT leaves behind and that nothing calls.
const UNUSED: &[u8] = b".bolt.org.text";
/// The most bytes of a file that are followed.
const MAX_BYTES: u64 = 16 << 20;
/// The most instructions that are gone over for a file, some of them several times.
const MAX_STEPS: usize = 8 << 20;
/// What hand-written functions are aligned to, in bytes.
const ALIGNMENT: u64 = 16;

/// Rows for such functions in text that has no other rows. `must_return`: only for functions that do,
/// as there is code that goes on by jumps alone in a frame that is not its own.
pub fn find(
    file: &File<'_>,
    rows: &[RowAt],
    must_return: bool,
    rules: &mut Rules,
) -> Result<Vec<RowAt>, UnwindError> {
    let mut found = Builder::default();
    let (mut symbols, mut bytes, steps) = (None, MAX_BYTES, Cell::new(MAX_STEPS));
    let unused = file.text_of(UNUSED);
    let is_used =
        |(start, end): &(u64, u64)| unused.is_none_or(|(from, to)| *end <= from || *start >= to);
    for (start, end) in holes(&file.text, rows).into_iter().filter(is_used) {
        let Some(left) = bytes.checked_sub(end - start) else { continue };
        let Some(code) = file.code(start, end) else { continue };
        bytes = left;
        let symbols = symbols.get_or_insert_with(|| file.function_starts());
        let range = [start, end].map(|edge| symbols.partition_point(|symbol| *symbol < edge));
        let symbols = &symbols[range[0]..range[1]];
        let hole = Hole { code, start, symbols, must_return, steps: &steps };
        for (from, (to, rule)) in hole.follow(rules) {
            found.push(from, rule)?;
            found.push(to, 0)?;
        }
    }
    Ok(found.finish())
}

/// Text without rows.
struct Hole<'a> {
    code: &'a [u8],
    start: u64,
    /// Where functions begin in it by its symbols, sorted.
    symbols: &'a [u64],
    /// Whether only functions that return count.
    must_return: bool,
    /// The most instructions to go over.
    steps: &'a Cell<usize>,
}

/// Where rules hold: from each address to another one, that of this number.
type Known = BTreeMap<u64, (u64, u16)>;

impl Hole<'_> {
    fn decoder(&self, address: u64) -> Option<Decoder<'_>> {
        let from = usize::try_from(address.checked_sub(self.start)?).ok()?;
        let code = self.code.get(from..).filter(|code| !code.is_empty())?;
        Some(Decoder::with_ip(64, code, address, DecoderOptions::NONE))
    }

    fn is_symbol(&self, address: u64) -> bool {
        self.symbols.binary_search(&address).is_ok()
    }

    /// Goes over one more instruction; none: these were enough.
    fn step(&self) -> Option<()> {
        self.steps.set(self.steps.get().checked_sub(1)?);
        Some(())
    }

    fn follow(&self, rules: &mut Rules) -> Known {
        let mut known = Known::new();
        let mut starts: BTreeSet<u64> = self.symbols.iter().copied().collect();
        starts.extend(self.first_code(self.start));
        while let Some(start) = starts.pop_first() {
            let mut behind = start;
            if at(&known, start).is_none() {
                let found = self.function(start, &known, rules);
                if found.is_empty() && !self.symbols.is_empty() {
                    continue;
                }
                if found.is_empty() {
                    // Within it are no beginnings, but where it ends is not known.
                    behind = self.behind_end(start).next_multiple_of(ALIGNMENT);
                }
                for (from, to, rule) in found {
                    add(&mut known, from, to, rules.number(&rule));
                }
            }
            while let (Some(()), Some((end, _))) = (self.step(), at(&known, behind)) {
                behind = end;
            }
            starts.extend(self.first_code(behind).filter(|next| *next > start));
        }
        known
    }

    /// Where which rule holds in the function that begins there, or in a piece of one that only a table
    /// of jumps knows; in any order. None: nothing is known.
    fn function(&self, start: u64, known: &Known, rules: &Rules) -> Vec<(u64, u64, Rule)> {
        let mut state = State::at_entry();
        loop {
            let mut function = Function::new(self, known, rules);
            match function.follow(start, &state) {
                Ok(()) if function.is_function() => return function.rules(),
                Err(Odd { deeper }) if deeper > 0 && state.is_back() && !self.is_symbol(start) => {
                    state = State::within(deeper);
                }
                _ => return Vec::new(),
            }
        }
    }

    /// The first instruction from there on that is no padding.
    fn first_code(&self, mut address: u64) -> Option<u64> {
        loop {
            self.step()?;
            let from = usize::try_from(address.checked_sub(self.start)?).ok()?;
            // No function begins with a zero, but an instruction of two bytes does.
            let zeros = self.code.get(from..)?.iter().position(|byte| *byte != 0)?;
            if zeros > 0 {
                address += zeros as u64;
                continue;
            }
            let instruction = self.decoder(address)?.decode();
            if !is_padding(&instruction) {
                return Some(address);
            }
            address = instruction.next_ip();
        }
    }

    /// Behind the first instruction from there on that nothing follows.
    fn behind_end(&self, address: u64) -> u64 {
        let mut last = address + 1;
        for instruction in self.decoder(address).iter_mut().flatten() {
            last = instruction.next_ip();
            let flow = instruction.flow_control();
            let goes_on = !matches!(
                flow,
                FlowControl::Return
                    | FlowControl::UnconditionalBranch
                    | FlowControl::IndirectBranch
                    | FlowControl::Exception
            );
            if !goes_on || is_stop(&instruction) || self.step().is_none() {
                break;
            }
        }
        last
    }
}

/// Whether an instruction that is no zeros lies between functions.
pub fn is_padding(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
}

/// Whether a program does not go on behind an instruction that is none of a jump.
pub fn is_stop(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Hlt | Mnemonic::Int3)
}

/// What is known at an address: up to where, and the number of the rule.
fn at(known: &Known, address: u64) -> Option<(u64, u16)> {
    let (_, (end, rule)) = known.range(..=address).next_back()?;
    (address < *end).then_some((*end, *rule))
}

/// Adds a rule where none is known.
fn add(known: &mut Known, from: u64, to: u64, rule: u16) {
    let next = known.range(from..).next().map_or(to, |(next, _)| to.min(*next));
    if at(known, from).is_some() || from >= next {
        return;
    }
    let before = known.range_mut(..from).next_back();
    match before {
        Some((_, (end, last))) if *end == from && *last == rule => *end = next,
        _ => drop(known.insert(from, (next, rule))),
    }
}

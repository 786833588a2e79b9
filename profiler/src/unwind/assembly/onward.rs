//! Where code that was made at run time returns to: by following it onward from a place, to where it
//! does. What lies before, and where its function begins, need not be known.
//!
//! What is tracked are the stack pointer, rbp and rbx, from what they are at the place.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind,
    Register,
};
use profiler_ebpf::wire::{Rule, TEXT_PAGE, cfa, saved};

use super::{is_stop, state::written};

/// The most instructions to follow from one place.
const MAX_STEPS: usize = 1 << 11;
/// The most pages of code to look at.
const MAX_PAGES: usize = 64;
/// The most ways out that are of interest: one of them is the true one.
const MAX_WAYS: usize = 8;
/// The largest frame, in bytes.
pub const MAX_FRAME: i64 = 1 << 24;
/// The most instructions of a piece of code that only leads to another.
const MAX_THUNK: usize = 8;
/// Bytes of a page of code.
pub const PAGE: usize = TEXT_PAGE as usize;
/// The longest instruction, in bytes.
const LONGEST: usize = 15;

/// A page of code.
pub type Page = Box<[u8; PAGE]>;

/// A register at the place, to which addresses are relative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Sp,
    Bp,
}

/// An address on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    base: Base,
    offset: i32,
}

/// The stack pointer at the place.
const START: Address = Address { base: Base::Sp, offset: 0 };

impl Address {
    fn plus(self, by: i64) -> Option<Self> {
        let offset = i64::from(self.offset).checked_add(by).filter(|at| at.abs() <= MAX_FRAME)?;
        Some(Self { offset: i32::try_from(offset).ok()?, ..self })
    }
}

/// What rbp or rbx holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// What it held at the place.
    Own,
    /// An address on the stack.
    Address(Address),
    /// What lies there at the place.
    Saved(Address),
    /// Anything.
    Unknown,
}

/// What rbp held at the place, as an address.
const OWN_BP: Value = Value::Address(Address { base: Base::Bp, offset: 0 });

/// What is known before an instruction.
#[derive(Clone, Copy, Debug)]
struct State {
    sp: Address,
    bp: Value,
    bx: Value,
    /// Where on the way rbp was put, as it was at the place.
    kept: Option<Address>,
    /// The register that a number was put into last, and the number.
    number: Option<(Register, u64)>,
}

/// The ways out of code from an address on: rules of which one says where the frame's caller is, the
/// nearest first. `read` gives the page at an address, a multiple of [`PAGE`]; none: it is no such code.
/// `steps` are the most instructions to follow; those that were are taken off.
pub fn ways_out(
    address: u64,
    steps: &mut usize,
    read: &mut dyn FnMut(u64) -> Option<Page>,
) -> Vec<Rule> {
    let state = State { sp: START, bp: Value::Own, bx: Value::Own, kept: None, number: None };
    let mut search = Search {
        start: address,
        code: Code { pages: BTreeMap::new(), read },
        info: InstructionInfoFactory::new(),
        seen: BTreeSet::new(),
        open: VecDeque::from([(address, state)]),
        ways: Vec::new(),
    };
    let most = MAX_STEPS.min(*steps);
    let mut left = most;
    while let Some((address, state)) = search.open.pop_front() {
        search.follow(address, state, &mut left);
        if left == 0 || search.ways.len() >= MAX_WAYS {
            break;
        }
    }
    *steps -= most - left;
    search.ways
}

struct Code<'r> {
    pages: BTreeMap<u64, Option<Page>>,
    read: &'r mut dyn FnMut(u64) -> Option<Page>,
}

impl Code<'_> {
    /// Whether no more pages may be looked at, and this is one.
    fn is_beyond(&self, at: u64) -> bool {
        self.pages.len() >= MAX_PAGES && !self.pages.contains_key(&at)
    }

    fn page(&mut self, at: u64) -> Option<&[u8; PAGE]> {
        if self.is_beyond(at) {
            return None;
        }
        let read = &mut self.read;
        self.pages.entry(at).or_insert_with(|| read(at)).as_deref()
    }

    /// The instruction at an address.
    fn instruction(&mut self, address: u64) -> Option<Instruction> {
        let offset = (address % PAGE as u64) as usize;
        let first = address - offset as u64;
        let mut bytes = [0; LONGEST];
        let here = LONGEST.min(PAGE - offset);
        bytes[..here].copy_from_slice(&self.page(first)?[offset..offset + here]);
        let mut len = here;
        if here < LONGEST
            && let Some(next) = first.checked_add(PAGE as u64)
            && let Some(next) = self.page(next)
        {
            bytes[here..].copy_from_slice(&next[..LONGEST - here]);
            len = LONGEST;
        }
        let mut decoder = Decoder::with_ip(64, &bytes[..len], address, DecoderOptions::NONE);
        Some(decoder.decode()).filter(|instruction| !instruction.is_invalid())
    }
}

struct Search<'r> {
    /// The place.
    start: u64,
    code: Code<'r>,
    info: InstructionInfoFactory,
    /// Instructions that were followed.
    seen: BTreeSet<u64>,
    /// Where to go on.
    open: VecDeque<(u64, State)>,
    ways: Vec<Rule>,
}

impl Search<'_> {
    /// Follows one way until it ends, or meets another one.
    fn follow(&mut self, mut address: u64, mut state: State, left: &mut usize) {
        // A few instructions before a jump are one of those pieces of code that only lead to another.
        let mut is_thunk = address == self.start;
        let first = *left;
        while *left > 0 && self.seen.insert(address) {
            *left -= 1;
            is_thunk &= first - *left <= MAX_THUNK;
            let Some(instruction) = self.code.instruction(address) else {
                return;
            };
            address = instruction.next_ip();
            match instruction.flow_control() {
                FlowControl::Return => {
                    let dropped = match instruction.op0_kind() {
                        OpKind::Immediate16 => i32::from(instruction.immediate16()),
                        _ => 0,
                    };
                    self.out(&state, dropped);
                    return;
                }
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => {
                    let Some(target) = state.target(&instruction) else {
                        // As the last thing that is done.
                        if is_thunk && state.sp == START {
                            self.out(&state, 0);
                        }
                        return;
                    };
                    address = target;
                    let page = address - address % PAGE as u64;
                    if self.code.is_beyond(page) {
                        return;
                    }
                    if self.code.page(page).is_none() {
                        // To code of another kind.
                        self.out(&state, 0);
                        return;
                    }
                }
                FlowControl::ConditionalBranch => {
                    self.open.push_back((instruction.near_branch_target(), state));
                }
                FlowControl::Exception => return,
                FlowControl::Call | FlowControl::IndirectCall => {
                    let asks_itself = instruction.near_branch_target() == address;
                    let moved = if asks_itself { state.sp.plus(-8) } else { Some(state.sp) };
                    let Some(sp) = moved else { return };
                    (state.sp, state.number, is_thunk) = (sp, None, false);
                }
                _ if is_stop(&instruction) => return,
                _ => {
                    let Some(next) = self.step(&instruction, &state) else { return };
                    state = next;
                }
            }
        }
    }

    /// What an instruction that is no jump makes of a state; none: the stack pointer is lost.
    fn step(&mut self, instruction: &Instruction, state: &State) -> Option<State> {
        let mut next = *state;
        let (to, from) = (instruction.op0_register(), instruction.op1_register());
        let kinds = (instruction.op0_kind(), instruction.op1_kind());
        match (instruction.mnemonic(), kinds) {
            (Mnemonic::Push | Mnemonic::Pushfq, _) => {
                next.sp = state.sp.plus(instruction.stack_pointer_increment().into())?;
                next.keep(next.sp, to);
            }
            (Mnemonic::Pop | Mnemonic::Popfq, _) => {
                next.set(to, state.load(state.sp))?;
                next.sp = state.sp.plus(instruction.stack_pointer_increment().into())?;
            }
            (Mnemonic::Leave, _) => {
                let Value::Address(frame) = state.value(Register::RBP) else { return None };
                next.bp = state.load(frame);
                next.sp = frame.plus(8)?;
            }
            (Mnemonic::Add | Mnemonic::Sub, (OpKind::Register, _))
                if to == Register::RSP && instruction.op1_kind() != OpKind::Register =>
            {
                if instruction.op1_kind() == OpKind::Memory {
                    return None;
                }
                let by = instruction.immediate(1) as i64;
                let by = if instruction.mnemonic() == Mnemonic::Add { by } else { -by };
                next.sp = state.sp.plus(by)?;
            }
            (Mnemonic::Mov, (OpKind::Register, OpKind::Register)) if is_tracked(to) => {
                next.set(to, state.value(from))?;
            }
            (Mnemonic::Lea, _) if is_tracked(to) => {
                next.set(to, state.place(instruction).map_or(Value::Unknown, Value::Address))?;
            }
            (Mnemonic::Mov, (OpKind::Register, OpKind::Memory)) if is_tracked(to) => {
                let place = state.place(instruction);
                next.set(to, place.map_or(Value::Unknown, |place| state.load(place)))?;
            }
            (Mnemonic::Mov, (OpKind::Memory, OpKind::Register)) => {
                if let Some(place) = state.place(instruction) {
                    next.keep(place, from);
                }
            }
            _ => {
                for register in written(instruction, &mut self.info) {
                    next.set(register, Value::Unknown)?;
                }
                if let Some(number) = state.number(instruction) {
                    next.number = Some((to, number));
                }
            }
        }
        Some(next)
    }

    /// Notes a way out, on which the stack pointer is at the return address.
    fn out(&mut self, state: &State, dropped: i32) {
        let Address { base, offset: at } = state.sp;
        let Some(end) = at.checked_add(8 + dropped) else { return };
        let saved = |value| match value {
            Value::Own => (saved::SAME, 0),
            Value::Saved(slot) if slot.base == base => (saved::AT_CFA, slot.offset - end),
            Value::Saved(slot) if slot.base == Base::Bp => (saved::AT_BP, slot.offset),
            Value::Saved(slot) => (saved::AT_SP, slot.offset),
            Value::Address(_) | Value::Unknown => (saved::UNDEFINED, 0),
        };
        let (fp, fp_offset) = saved(state.bp);
        let bx_offset = match saved(state.bx) {
            (saved::AT_CFA, offset) => offset,
            _ => 0,
        };
        let way = Rule {
            cfa: if base == Base::Sp { cfa::SP } else { cfa::BP },
            cfa_offset: end,
            fp,
            fp_offset,
            ra: saved::AT_CFA,
            ra_offset: -8 - dropped,
            bx_offset,
            ..Rule::NONE
        };
        if !self.ways.contains(&way) {
            self.ways.push(way);
        }
    }
}

fn is_tracked(register: Register) -> bool {
    matches!(register, Register::RSP | Register::RBP | Register::RBX)
}

impl State {
    /// What a register holds.
    fn value(&self, register: Register) -> Value {
        match (register, self.bp, self.bx) {
            (Register::RSP, ..) => Value::Address(self.sp),
            // It is an address on the stack if it is used as one.
            (Register::RBP, Value::Own, _) => OWN_BP,
            (Register::RBP, value, _) => value,
            (Register::RBX, _, value @ Value::Address(_)) => value,
            _ => Value::Unknown,
        }
    }

    /// What lies at an address on the stack.
    fn load(&self, address: Address) -> Value {
        match self.kept {
            Some(kept) if kept == address => Value::Own,
            // Below the stack pointer at the place: what is put there on the way.
            _ if address.base == Base::Sp && address.offset < 0 => Value::Unknown,
            _ => Value::Saved(address),
        }
    }

    /// Notes that a register is put somewhere.
    fn keep(&mut self, address: Address, register: Register) {
        if register == Register::RBP && self.bp == Value::Own {
            self.kept = Some(address);
        } else if self.kept == Some(address) {
            self.kept = None;
        }
    }

    /// Sets a register; none: the stack pointer is lost.
    fn set(&mut self, register: Register, value: Value) -> Option<()> {
        if self.number.is_some_and(|(number, _)| number == register) {
            self.number = None;
        }
        match register {
            Register::RSP => match value {
                Value::Address(address) => self.sp = address,
                _ => return None,
            },
            Register::RBP if value == OWN_BP => self.bp = Value::Own,
            Register::RBP => self.bp = value,
            Register::RBX if value == Value::Own => self.bx = Value::Unknown,
            Register::RBX => self.bx = value,
            _ => {}
        }
        Some(())
    }

    /// The number that an instruction puts into a register: one that it has, or the sum of one and
    /// that which was put there before (PyPy).
    fn number(&self, instruction: &Instruction) -> Option<u64> {
        match instruction.mnemonic() {
            Mnemonic::Mov if instruction.op1_kind() == OpKind::Immediate64 => {
                Some(instruction.immediate64())
            }
            Mnemonic::Lea if instruction.memory_index() == Register::None => {
                let (register, number) = self.number?;
                let displacement = instruction.memory_displacement64();
                (register == instruction.memory_base()).then(|| number.wrapping_add(displacement))
            }
            _ => None,
        }
    }

    /// Where a jump leads to.
    fn target(&self, jump: &Instruction) -> Option<u64> {
        if jump.flow_control() == FlowControl::UnconditionalBranch {
            return Some(jump.near_branch_target());
        }
        let (register, number) = self.number?;
        (register == jump.op0_register()).then_some(number)
    }

    /// The address on the stack that an instruction names.
    fn place(&self, instruction: &Instruction) -> Option<Address> {
        let plain = instruction.memory_index() == Register::None
            && instruction.segment_prefix() == Register::None;
        match self.value(instruction.memory_base()) {
            Value::Address(base) if plain => base.plus(instruction.memory_displacement64() as i64),
            _ => None,
        }
    }
}

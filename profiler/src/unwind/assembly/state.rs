//! What is known of registers and stack at one place of a function, and what an instruction makes of
//! it.

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use profiler_ebpf::wire::{Rule, cfa, saved};

use crate::unwind::rule::END;

/// The largest frame, in bytes.
const MAX_FRAME: i64 = 1 << 24;
/// General registers.
const REGISTERS: usize = 16;
/// Numbers of some in instructions.
const BX: usize = 3;
pub const SP: usize = 4;
const BP: usize = 5;
/// The DWARF numbers of registers by those in instructions (System V ABI x86-64, figure 3.36).
const DWARF: [u8; REGISTERS] = [0, 2, 1, 3, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];
/// Registers that a function need not preserve: rax, rcx, rdx, rsi, rdi, r8 to r11.
const SCRATCH: [usize; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];

/// What a register holds, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Anything.
    Unknown,
    /// The canonical frame address, and this.
    Frame(i32),
    /// What this register held at the beginning.
    Entry(u8),
    /// The return address.
    Return,
    /// Nothing.
    Zero,
    /// An address that was rounded down to a multiple, and this.
    Aligned(i32),
}

/// What is known before an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// By their numbers in instructions.
    pub registers: [Value; REGISTERS],
    /// Where rbp and rbx of the caller were saved, from the canonical frame address.
    bp: Option<i32>,
    bx: Option<i32>,
    /// Where the stack pointer was kept, and which.
    kept: Option<(Value, i32)>,
    /// Where the stack pointer was when it was last kept somewhere: a switch to another stack that was
    /// left by the same code finds the same layout there.
    left: Option<i32>,
}

impl State {
    pub fn at_entry() -> Self {
        let mut registers = std::array::from_fn(|register| Value::Entry(register as u8));
        registers[SP] = Value::Frame(-8);
        Self { registers, bp: None, bx: None, kept: None, left: None }
    }

    /// In a function whose frame is larger by this.
    pub fn within(deeper: i32) -> Self {
        let mut registers = [Value::Unknown; REGISTERS];
        registers[SP] = Value::Frame(-8).plus(-i64::from(deeper));
        Self { registers, bp: None, bx: None, kept: None, left: None }
    }

    /// Whether the stack pointer is what it was at the beginning.
    pub fn is_back(&self) -> bool {
        self.registers[SP] == Value::Frame(-8)
    }

    /// Keeps what holds in both; whether that is less than before.
    pub fn join(&mut self, other: &Self) -> bool {
        fn both<T: PartialEq>(mine: &mut Option<T>, other: &Option<T>) -> bool {
            let is_less = mine.is_some() && *mine != *other;
            if is_less {
                *mine = None;
            }
            is_less
        }
        let mut is_less = false;
        for (mine, other) in self.registers.iter_mut().zip(&other.registers) {
            if *mine != *other && *mine != Value::Unknown {
                (*mine, is_less) = (Value::Unknown, true);
            }
        }
        is_less |= both(&mut self.bp, &other.bp) | both(&mut self.bx, &other.bx);
        is_less | both(&mut self.kept, &other.kept) | both(&mut self.left, &other.left)
    }

    /// What an instruction does that is no jump.
    pub fn step(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        let (to, from) = (number(instruction.op0_register()), number(instruction.op1_register()));
        let kinds = (instruction.op0_kind(), instruction.op1_kind());
        match (instruction.mnemonic(), kinds, to, from) {
            (Mnemonic::Push, (OpKind::Register, _), Some(register), _) => {
                let value = self.registers[register];
                self.move_stack(-8);
                self.store(self.registers[SP], value);
            }
            (Mnemonic::Pop, (OpKind::Register, _), Some(register), _) => {
                let value = self.load(self.registers[SP]);
                self.move_stack(8);
                self.set(register, value);
            }
            (Mnemonic::Mov, (OpKind::Register, OpKind::Register), Some(to), Some(from)) => {
                self.keep(from);
                self.set(to, self.registers[from]);
            }
            (Mnemonic::Mov, (OpKind::Memory, OpKind::Register), _, Some(from)) => {
                self.keep(from);
                self.store(self.address(instruction), self.registers[from]);
            }
            (Mnemonic::Mov, (OpKind::Register, OpKind::Memory), Some(to), _) => {
                self.set(to, self.load(self.address(instruction)));
            }
            (Mnemonic::Xor, (OpKind::Register, OpKind::Register), ..)
                if instruction.op0_register() == instruction.op1_register()
                    && instruction.op0_register().size() >= 4
                    && instruction.op0_register().is_gpr() =>
            {
                self.registers[instruction.op0_register().full_register().number()] = Value::Zero;
            }
            (Mnemonic::Lea, _, Some(to), _) => self.set(to, self.address(instruction)),
            (Mnemonic::Leave, ..) => {
                self.registers[SP] = self.registers[BP];
                let value = self.load(self.registers[SP]);
                self.move_stack(8);
                self.registers[BP] = value;
            }
            (
                Mnemonic::Add | Mnemonic::Sub | Mnemonic::And,
                (OpKind::Register, kind),
                Some(to),
                None,
            ) if kind != OpKind::Memory && instruction.op1_kind() != OpKind::Register => {
                let immediate = instruction.immediate(1) as i64;
                self.registers[to] = match (instruction.mnemonic(), self.registers[to]) {
                    (Mnemonic::Add, value) => value.plus(immediate),
                    (Mnemonic::Sub, value) => value.plus(immediate.wrapping_neg()),
                    // Frames are aligned to 16 bytes (System V ABI x86-64, 3.2.2).
                    (_, Value::Frame(at)) if immediate == -16 => Value::Frame(at & -16),
                    (_, Value::Frame(_) | Value::Aligned(_)) => {
                        self.kept = None;
                        Value::Aligned(0)
                    }
                    _ => Value::Unknown,
                };
            }
            _ if to_vector(instruction) => {}
            _ => {
                let moved = instruction.stack_pointer_increment();
                for register in written(instruction, info) {
                    if let Some(register) = number(register)
                        && !(register == SP && moved != 0)
                    {
                        self.registers[register] = Value::Unknown;
                    }
                }
                self.move_stack(i64::from(moved));
            }
        }
    }

    /// Calls a function, or one of the same hand, which leaves addresses of frames alone.
    pub fn call(&mut self, is_near: bool) {
        for register in SCRATCH {
            if !(is_near && matches!(self.registers[register], Value::Frame(_))) {
                self.registers[register] = Value::Unknown;
            }
        }
    }

    pub fn move_stack(&mut self, by: i64) {
        self.registers[SP] = self.registers[SP].plus(by);
    }

    /// Notes that the stack pointer was put somewhere.
    fn keep(&mut self, register: usize) {
        if let (SP, Value::Frame(at)) = (register, self.registers[register]) {
            self.left = Some(at);
        }
    }

    fn set(&mut self, register: usize, value: Value) {
        let is_in_frame = matches!(value, Value::Frame(_) | Value::Aligned(_));
        if register == SP && !is_in_frame {
            if self.left.map(Value::Frame) == Some(self.registers[SP]) {
                self.switch();
            } else {
                self.registers[SP] = Value::Unknown;
            }
            return;
        }
        self.registers[register] = value;
    }

    /// Goes over to a stack that was left here.
    fn switch(&mut self) {
        for register in (0..REGISTERS).filter(|register| *register != SP) {
            self.registers[register] = Value::Unknown;
        }
        self.kept = None;
    }

    fn address(&self, instruction: &Instruction) -> Value {
        let base = number(instruction.memory_base());
        let plain = instruction.memory_index() == Register::None
            && instruction.segment_prefix() == Register::None;
        match base {
            Some(base) if plain => {
                self.registers[base].plus(instruction.memory_displacement64() as i64)
            }
            _ => Value::Unknown,
        }
    }

    fn store(&mut self, address: Value, value: Value) {
        match value {
            Value::Frame(at) if self.left == Some(at) => self.kept = Some((address, at)),
            _ if self.kept.is_some_and(|(kept, _)| kept == address) => self.kept = None,
            _ => {}
        }
        let Value::Frame(at) = address else { return };
        for (slot, register) in [(&mut self.bp, BP), (&mut self.bx, BX)] {
            if value == Value::Entry(register as u8) {
                slot.get_or_insert(at);
            } else if *slot == Some(at) {
                *slot = None;
            }
        }
    }

    fn load(&self, address: Value) -> Value {
        match (address, self.kept) {
            (Value::Frame(-8), _) => Value::Return,
            (Value::Frame(at), _) if self.bp == Some(at) => Value::Entry(BP as u8),
            (Value::Frame(at), _) if self.bx == Some(at) => Value::Entry(BX as u8),
            (Value::Frame(_) | Value::Aligned(_), Some((kept, frame))) if kept == address => {
                Value::Frame(frame)
            }
            _ => Value::Unknown,
        }
    }

    /// How to step from here to the caller.
    pub fn rule(&self) -> Option<Rule> {
        let stacked = Rule { ra: saved::AT_CFA, ra_offset: -8, ..Rule::NONE };
        let base = |kind, offset| Rule { cfa: kind, cfa_offset: offset, ..stacked };
        let frame = match (self.registers[SP], self.registers[BP], self.kept) {
            // A stack on which nothing is left begins, and a frame pointer of zero marks it
            // (System V ABI x86-64, 3.4.1).
            (Value::Frame(0..), Value::Zero, _) => return Some(END),
            // All of it was taken back, and one register has where it returns to.
            (Value::Frame(0), ..) => {
                let register = self.registers.iter().position(|value| *value == Value::Return)?;
                Rule {
                    ra: saved::REGISTER,
                    ra_offset: i32::from(DWARF[register]),
                    ..base(cfa::SP, 0)
                }
            }
            // Before the stack pointer, as what is called may take its arguments from the stack.
            (_, Value::Frame(at), _) => base(cfa::BP, -at),
            (Value::Frame(at), ..) if at < 0 => base(cfa::SP, -at),
            (Value::Aligned(sp), _, Some((Value::Aligned(at), frame))) => {
                Rule { cfa_add: -frame, ..base(cfa::DEREF_SP, at - sp) }
            }
            _ => {
                let is_frame = |value: &Value| matches!(value, Value::Frame(_));
                let register = self.registers.iter().position(is_frame).filter(|at| *at != SP)?;
                let Value::Frame(at) = self.registers[register] else { return None };
                Rule { cfa_register: DWARF[register], ..base(cfa::REGISTER, -at) }
            }
        };
        let caller_bp = Value::Entry(BP as u8);
        let copy = self.registers.iter().position(|value| *value == caller_bp);
        let (fp, fp_offset) = match (self.registers[BP] == caller_bp, self.bp, copy) {
            (true, ..) => (saved::SAME, 0),
            (_, Some(at), _) => (saved::AT_CFA, at),
            (.., Some(copy)) => (saved::REGISTER, i32::from(DWARF[copy])),
            _ => (saved::UNDEFINED, 0),
        };
        let is_same = self.registers[BX] == Value::Entry(BX as u8);
        let bx_offset = if is_same { 0 } else { self.bx.unwrap_or_default() };
        Some(Rule { fp, fp_offset, bx_offset, ..frame })
    }
}

impl Value {
    fn plus(self, by: i64) -> Self {
        let moved = |at: i32| {
            let at = i64::from(at).checked_add(by).filter(|at| at.abs() <= MAX_FRAME)?;
            i32::try_from(at).ok()
        };
        match self {
            Self::Frame(at) => moved(at).map_or(Self::Unknown, Self::Frame),
            Self::Aligned(at) => moved(at).map_or(Self::Unknown, Self::Aligned),
            _ if by == 0 => self,
            _ => Self::Unknown,
        }
    }
}

/// The registers that an instruction writes to, or may, each as a whole.
pub fn written<'i>(
    instruction: &Instruction,
    info: &'i mut InstructionInfoFactory,
) -> impl Iterator<Item = Register> + use<'i> {
    let used = info.info(instruction).used_registers().iter();
    let is_written = |access| {
        matches!(
            access,
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        )
    };
    used.filter(move |used| is_written(used.access())).map(|used| used.register().full_register())
}

/// The number of a 64-bit general register.
pub fn number(register: Register) -> Option<usize> {
    register.is_gpr64().then(|| register.number())
}

/// Whether an instruction writes a vector register and nothing else, as most do in such code.
fn to_vector(instruction: &Instruction) -> bool {
    // Strings are compared into rcx.
    let compares_strings = matches!(
        instruction.mnemonic(),
        Mnemonic::Pcmpestri | Mnemonic::Pcmpistri | Mnemonic::Vpcmpestri | Mnemonic::Vpcmpistri
    );
    instruction.op0_register().is_vector_register() && !compares_strings
}

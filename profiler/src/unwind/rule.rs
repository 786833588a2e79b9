//! What a row of call frame information means for the walker: its [`Rule`].

use gimli::{
    CfaRule, CommonInformationEntry, Encoding, Operation, Register, RegisterRule, UnitOffset,
    UnwindContextStorage, UnwindExpression, UnwindSection, UnwindTableRow, X86_64,
};
use profiler_ebpf::wire::{DWARF_BP, DWARF_SP, GENERAL_REGISTERS, Rule, cfa, saved};
use rustc_hash::FxHashMap;

use super::{MAX_FILE_RULES, RowAt, cfi::Bytes};

/// The rule of text whose unwind information cannot be expressed.
pub const UNSUPPORTED: Rule =
    Rule { cfa: cfa::UNSUPPORTED, ra: saved::UNDEFINED, fp: saved::UNDEFINED, ..Rule::NONE };
/// The rule of outermost frames.
pub const END: Rule = Rule { cfa: cfa::END, ra: saved::UNDEFINED, ..Rule::NONE };

/// The longest expression that is looked at; the PLT's has 8 operations.
const MAX_OPERATIONS: usize = 12;

/// The rules of a file, each once.
pub struct Rules {
    /// By number; the first is [`Rule::NONE`].
    pub list: Vec<Rule>,
    numbers: FxHashMap<Rule, u16>,
}

impl Default for Rules {
    fn default() -> Self {
        let mut rules = Self { list: Vec::new(), numbers: FxHashMap::default() };
        rules.number(&Rule::NONE);
        rules.number(&UNSUPPORTED);
        rules
    }
}

impl Rules {
    /// The number of a rule.
    pub fn number(&mut self, rule: &Rule) -> u16 {
        if let Some(number) = self.numbers.get(rule) {
            return *number;
        }
        if self.list.len() >= MAX_FILE_RULES {
            // Real files have a few hundred: this one must not fill the table of the whole host.
            return self.numbers.get(&UNSUPPORTED).copied().unwrap_or(0);
        }
        let number = self.list.len() as u16;
        self.list.push(*rule);
        self.numbers.insert(*rule, number);
        number
    }

    /// The rules that rows use, and [`Rule::NONE`]; the rows are numbered anew. The host's table
    /// of rules is small, and joining tables leaves some without a row.
    pub fn used(self, rows: &mut [RowAt]) -> Vec<Rule> {
        let mut numbers = vec![None; self.list.len()];
        numbers[0] = Some(0);
        let mut used = vec![Rule::NONE];
        for row in rows {
            let old = row.rule() as usize;
            let number = *numbers[old].get_or_insert_with(|| {
                used.push(self.list[old]);
                used.len() as u16 - 1
            });
            *row = RowAt::new(row.address(), number);
        }
        used
    }
}

/// What the rows of one FDE have in common.
pub struct Frame<'t, S> {
    table: &'t S,
    encoding: Encoding,
    return_address: Register,
    is_signal: bool,
}

/// Where the caller's value of a register is.
type Saved = (u8, i32);

impl<'t, 's, S: UnwindSection<Bytes<'s>>> Frame<'t, S> {
    /// Frames of an entry's functions.
    pub fn new(table: &'t S, cie: &CommonInformationEntry<Bytes<'s>>) -> Self {
        Self {
            table,
            encoding: cie.encoding(),
            return_address: cie.return_address_register(),
            is_signal: cie.is_signal_trampoline(),
        }
    }

    /// The rule of a row.
    pub fn rule<T: UnwindContextStorage<usize>>(&self, row: &UnwindTableRow<usize, T>) -> Rule {
        let return_address = row.register(self.return_address);
        if matches!(return_address, Some(RegisterRule::Undefined)) {
            return END;
        }
        // A register without a rule has the caller's value if callees preserve it, as they do rbp.
        let fp = match row.register(X86_64::RBP) {
            None => (saved::SAME, 0),
            Some(rule) => self.saved(&rule).unwrap_or((saved::UNDEFINED, 0)),
        };
        let ra = return_address.and_then(|rule| self.saved(&rule));
        let (Some(ra), Some(rule)) = (ra, self.cfa(row.cfa())) else {
            return UNSUPPORTED;
        };
        if ra.0 == saved::SAME {
            return UNSUPPORTED;
        }
        let mut moved = 0;
        let sp = match row.register(X86_64::RSP) {
            None | Some(RegisterRule::Undefined) => None,
            Some(saved) => match self.behind_cfa(&saved, &rule) {
                Some(by) => {
                    moved = by;
                    None
                }
                None => Some(self.saved(&saved)),
            },
        };
        if let Some(sp) = sp {
            return match (sp, fp, ra) {
                (Some((saved::AT_SP, sp)), (saved::AT_SP, fp), (saved::AT_SP, ra))
                    if self.is_signal =>
                {
                    signal(sp, fp, ra)
                }
                _ => UNSUPPORTED,
            };
        }
        let bx_offset = match row.register(X86_64::RBX) {
            Some(RegisterRule::Offset(offset)) => i32::try_from(offset).unwrap_or_default(),
            _ => 0,
        };
        let rule = Rule { fp: fp.0, fp_offset: fp.1, ra: ra.0, ra_offset: ra.1, bx_offset, ..rule };
        if moved == 0 { rule } else { move_cfa(&rule, moved).unwrap_or(UNSUPPORTED) }
    }

    /// How far behind the canonical frame address the caller's stack pointer is, where that is the
    /// same everywhere.
    fn behind_cfa(&self, rule: &RegisterRule<usize>, frame: &Rule) -> Option<i32> {
        let offset = match rule {
            RegisterRule::ValOffset(offset) => *offset,
            RegisterRule::ValExpression(expression) => {
                let value = Term::of(&self.operations(expression)?, Some(Base::Cfa))?;
                match (value.base, value.add) {
                    (Base::Cfa, None) => value.offset,
                    (Base::Register(X86_64::RSP), None) if frame.cfa == cfa::SP => {
                        value.offset.checked_sub(frame.cfa_offset.into())?
                    }
                    _ => return None,
                }
            }
            _ => return None,
        };
        i32::try_from(offset).ok()
    }

    /// The part of a rule that says where the canonical frame address is.
    fn cfa(&self, rule: &CfaRule<usize>) -> Option<Rule> {
        match rule {
            CfaRule::RegisterAndOffset { register, offset } => {
                register_cfa(register.0, i32::try_from(*offset).ok()?)
            }
            CfaRule::Expression(expression) => {
                let operations = self.operations(expression)?;
                if let Some(threshold) = plt_threshold(&operations) {
                    return Some(Rule { cfa: cfa::PLT, cfa_offset: threshold, ..Rule::NONE });
                }
                if let Some(rule) = behind_array(&operations) {
                    return Some(rule);
                }
                let value = Term::of(&operations, None)?;
                let offset = i32::try_from(value.offset).ok()?;
                let (Base::Register(register), Some(add)) = (value.base, value.add) else {
                    let Base::Register(register) = value.base else { return None };
                    return register_cfa(register.0, offset);
                };
                let kind = match register {
                    X86_64::RSP => cfa::DEREF_SP,
                    X86_64::RBP => cfa::DEREF_BP,
                    _ => return None,
                };
                let cfa_add = i32::try_from(add).ok()?;
                Some(Rule { cfa: kind, cfa_offset: offset, cfa_add, ..Rule::NONE })
            }
        }
    }

    fn saved(&self, rule: &RegisterRule<usize>) -> Option<Saved> {
        match rule {
            RegisterRule::SameValue => Some((saved::SAME, 0)),
            RegisterRule::Offset(offset) => Some((saved::AT_CFA, i32::try_from(*offset).ok()?)),
            RegisterRule::Register(register) if usize::from(register.0) < GENERAL_REGISTERS => {
                Some((saved::REGISTER, i32::from(register.0)))
            }
            RegisterRule::Expression(expression) => {
                let operations = self.operations(expression)?;
                let address = Term::of(&operations, Some(Base::Cfa))?;
                let offset = i32::try_from(address.offset).ok()?;
                let how = match (address.base, address.add) {
                    (Base::Cfa, None) => saved::AT_CFA,
                    (Base::Register(X86_64::RSP), None) => saved::AT_SP,
                    (Base::Register(X86_64::RBP), None) => saved::AT_BP,
                    _ => return None,
                };
                Some((how, offset))
            }
            _ => None,
        }
    }

    fn operations(
        &self,
        expression: &UnwindExpression<usize>,
    ) -> Option<Vec<Operation<Bytes<'s>>>> {
        let mut rest = expression.get(self.table).ok()?.operations(self.encoding);
        let mut operations = Vec::new();
        while let Some(operation) = rest.next().ok()? {
            if operations.len() == MAX_OPERATIONS {
                return None;
            }
            operations.push(operation);
        }
        Some(operations)
    }
}

/// The rule of the same frame whose canonical frame address is this many bytes further.
fn move_cfa(rule: &Rule, by: i32) -> Option<Rule> {
    let mut moved = *rule;
    let from = match rule.cfa {
        cfa::SP | cfa::BP | cfa::REGISTER => &mut moved.cfa_offset,
        cfa::DEREF_SP | cfa::DEREF_BP | cfa::DEREF_INDEX => &mut moved.cfa_add,
        _ => return None,
    };
    *from = from.checked_add(by)?;
    for (how, offset) in [(rule.fp, &mut moved.fp_offset), (rule.ra, &mut moved.ra_offset)] {
        if how == saved::AT_CFA {
            *offset = offset.checked_sub(by)?;
        }
    }
    if rule.bx_offset != 0 {
        // 0 would say that rbx was not saved.
        moved.bx_offset = rule.bx_offset.checked_sub(by).filter(|offset| *offset != 0)?;
    }
    Some(moved)
}

fn register_cfa(register: u16, cfa_offset: i32) -> Option<Rule> {
    let (kind, cfa_register) = match usize::from(register) {
        DWARF_SP => (cfa::SP, 0),
        DWARF_BP => (cfa::BP, 0),
        number if number < GENERAL_REGISTERS => (cfa::REGISTER, number as u8),
        _ => return None,
    };
    Some(Rule { cfa: kind, cfa_register, cfa_offset, ..Rule::NONE })
}

/// The rule of a signal trampoline, by the offsets of the saved registers from its stack pointer.
pub fn signal(sp: i32, fp: i32, ra: i32) -> Rule {
    Rule {
        cfa: cfa::SIGNAL,
        cfa_offset: sp,
        fp: saved::AT_SP,
        fp_offset: fp,
        ra: saved::AT_SP,
        ra_offset: ra,
        // rbx lies behind rbp in every `struct sigcontext` of x86-64.
        bx_offset: fp.saturating_add(8),
        ..Rule::NONE
    }
}

/// The N of `rsp + 8 + ((rip & 15) >= N) * 8`, which linkers write for their PLT.
fn plt_threshold(operations: &[Operation<Bytes<'_>>]) -> Option<i32> {
    use Operation::{And, Ge, Plus, RegisterOffset, Shl, UnsignedConstant};
    let untyped = UnitOffset(0);
    match operations {
        [
            RegisterOffset { register: X86_64::RSP, offset: 8, base_type: a },
            RegisterOffset { register: X86_64::RA, offset: 0, base_type: b },
            UnsignedConstant { value: 15 },
            And,
            UnsignedConstant { value },
            Ge,
            UnsignedConstant { value: 3 },
            Shl,
            Plus,
        ] if *a == untyped && *b == untyped => i32::try_from(*value).ok().filter(|n| *n < 16),
        _ => None,
    }
}

/// The rule of `*(rsp + offset + register * 8) + add`, which OpenSSL writes where the caller's stack
/// pointer was kept behind an array.
fn behind_array(operations: &[Operation<Bytes<'_>>]) -> Option<Rule> {
    use Operation::{Deref, Mul, Plus, PlusConstant, RegisterOffset, UnsignedConstant};
    let untyped = UnitOffset(0);
    match *operations {
        [
            RegisterOffset { register: X86_64::RSP, offset, base_type: a },
            RegisterOffset { register, offset: 0, base_type: b },
            UnsignedConstant { value: 8 },
            Mul,
            Plus,
            Deref { base_type: c, size: 8, space: false },
            PlusConstant { value },
        ] if [a, b, c] == [untyped; 3] && usize::from(register.0) < GENERAL_REGISTERS => {
            let (cfa_offset, cfa_add) = (i32::try_from(offset).ok()?, i32::try_from(value).ok()?);
            let cfa_register = register.0 as u8;
            Some(Rule { cfa: cfa::DEREF_INDEX, cfa_register, cfa_offset, cfa_add, ..Rule::NONE })
        }
        _ => None,
    }
}

/// What a [`Term`] begins with.
#[derive(Clone, Copy)]
enum Base {
    Cfa,
    Register(Register),
    Zero,
}

/// A value of the form `base + offset`, or `*(base + offset) + add`.
#[derive(Clone, Copy)]
struct Term {
    base: Base,
    offset: i64,
    add: Option<i64>,
}

impl Term {
    fn new(base: Base, offset: i64) -> Self {
        Self { base, offset, add: None }
    }

    /// What an expression leaves on its stack, if it has this form.
    fn of(operations: &[Operation<Bytes<'_>>], initial: Option<Base>) -> Option<Self> {
        let mut stack: Vec<Self> = initial.map(|base| Self::new(base, 0)).into_iter().collect();
        for operation in operations {
            let next = match *operation {
                Operation::RegisterOffset { register, offset, base_type: UnitOffset(0) } => {
                    Self::new(Base::Register(register), offset)
                }
                Operation::UnsignedConstant { value } => Self::new(Base::Zero, value as i64),
                Operation::SignedConstant { value } => Self::new(Base::Zero, value),
                Operation::PlusConstant { value } => stack.pop()?.plus(value as i64)?,
                Operation::Deref { base_type: UnitOffset(0), size: 8, space: false } => {
                    let top = stack.pop()?;
                    top.add.is_none().then_some(Self { add: Some(0), ..top })?
                }
                Operation::Plus => {
                    let (b, a) = (stack.pop()?, stack.pop()?);
                    match (a.constant(), b.constant()) {
                        (_, Some(value)) => a.plus(value)?,
                        (Some(value), None) => b.plus(value)?,
                        (None, None) => return None,
                    }
                }
                Operation::Minus => {
                    let (b, a) = (stack.pop()?, stack.pop()?);
                    a.plus(b.constant()?.checked_neg()?)?
                }
                _ => return None,
            };
            stack.push(next);
        }
        stack.pop()
    }

    fn constant(&self) -> Option<i64> {
        matches!((self.base, self.add), (Base::Zero, None)).then_some(self.offset)
    }

    fn plus(self, value: i64) -> Option<Self> {
        Some(match self.add {
            Some(add) => Self { add: Some(add.checked_add(value)?), ..self },
            None => Self { offset: self.offset.checked_add(value)?, ..self },
        })
    }
}

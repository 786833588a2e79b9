//! The stack walker: from a frame's registers to its caller's, by unwind rows.
//!
//! One source for the kernel and the host. It reads tables and stack memory through [`Env`], keeps
//! its state in [`Walk`], and every loop has a constant bound that the verifier can see.

mod env;

pub use env::{Env, depends};

use crate::wire::{
    DWARF_BP, DWARF_BX, DWARF_SP, FRAME_ADDRESS, FRAME_BY_POINTER, FRAME_EXACT, GENERAL_KNOWN,
    GENERAL_REGISTERS, MAX_PROCESS_MAPPINGS, Mapping, Outcome, ProcessMappings, Registers, Rule,
    TEXT_PAGE, TEXT_PAGE_SHIFT, cfa, mapping_kind, saved,
};

/// Whether a call ends where these 8 bytes of code do.
#[inline(always)]
#[must_use]
pub const fn ends_in_call(before: u64) -> bool {
    /// Opcode of an indirect call, and the bits of its second byte that tell it from a jump or push.
    const INDIRECT: u64 = 0x10ff;
    const MASK: u64 = 0x38ff;
    // The shortest is `call *%rax`, the longest has a SIB byte and 32 bits of offset; a prefix may
    // stand before.
    before >> 24 & 0xff == 0xe8
        || before >> 48 & MASK == INDIRECT
        || before >> 40 & MASK == INDIRECT
        || before >> 32 & MASK == INDIRECT
        || before >> 24 & MASK == INDIRECT
        || before >> 16 & MASK == INDIRECT
        || before >> 8 & MASK == INDIRECT
}

/// State of a walk. It stands at the frame that was recorded last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    /// Registers of the frame.
    pub registers: Registers,
    /// Where the process's mappings are.
    pub mappings: ProcessMappings,
    /// The mapping that was used last.
    pub mapping: Mapping,
    /// The frame's ip, sp, bp, bx and flags, while a way out of made code is tried.
    before: [u64; 5],
    /// Whether that way may lead to code that jumps.
    may_jump: u64,
}

/// Iterations of a binary search over the mappings of a process.
const MAPPING_STEPS: u32 = MAX_PROCESS_MAPPINGS.ilog2() + 1;
/// Iterations of a binary search over the rows of a page.
const ROW_STEPS: u32 = TEXT_PAGE.ilog2() + 1;
/// Addresses below this are never code (`vm.mmap_min_addr` is at most 64 KiB by default).
const LOWEST_CODE: u64 = 4096;
/// First address that is not user space, with five-level page tables.
const USER_END: u64 = 1 << 56;

/// `endbr64`, little-endian as all of these.
const ENDBR64: u32 = 0xfa1e_0ff3;
/// `mov rbp, rsp` as most assemblers encode it, and as V8 and HotSpot do.
const MOV: u32 = 0xe5_8948;
const MOV_LOAD: u32 = 0xec_8b48;
/// `push rbp` in front of it.
const PUSH_MOV: u32 = MOV << 8 | 0x55;
const PUSH_MOV_LOAD: u32 = MOV_LOAD << 8 | 0x55;

/// The stack of a function that is about to set its frame up, or has taken it down.
#[derive(Clone, Copy)]
struct Unframed {
    /// Bytes between the stack pointer and the return address: the pushed frame pointer, or none.
    pushed: u64,
    /// Bytes of arguments that the function drops as it returns.
    dropped: u64,
}

impl Walk {
    /// A walk at the top frame of a thread of this process.
    #[inline(always)]
    #[must_use]
    pub fn new(registers: Registers, mappings: ProcessMappings) -> Self {
        let mapping = Mapping { start: 0, end: 0, first_page: 0, kind: 0 };
        Self { registers, mappings, mapping, before: [0; 5], may_jump: 0 }
    }

    /// The current frame as a sample carries it.
    #[inline(always)]
    #[must_use]
    pub fn frame(&self) -> u64 {
        (self.registers.ip & FRAME_ADDRESS)
            | (self.registers.flags & (FRAME_EXACT | FRAME_BY_POINTER))
    }

    /// Steps to the caller. [`Outcome::Walking`]: the registers are now the caller's; anything
    /// else ends the walk and leaves them as they were.
    #[inline(always)]
    pub fn step<E: Env>(&mut self, env: &mut E) -> Outcome {
        let Registers { ip, flags, .. } = self.registers;
        let address = if flags & FRAME_EXACT != 0 { ip } else { ip.wrapping_sub(1) };
        if !self.find_mapping(env, address) {
            return Outcome::UnknownMapping;
        }
        let is_followed = self.mapping.kind == mapping_kind::FOLLOWED;
        let rule = match self.mapping.kind {
            mapping_kind::PENDING => return Outcome::RowsPending,
            mapping_kind::NO_ROOM => return Outcome::NoRoom,
            mapping_kind::ROWS => self.rule(env, address),
            mapping_kind::FOLLOWED => match self.way(env) {
                None => return Outcome::RowsPending,
                rule => rule,
            },
            _ => Some(Rule::NONE),
        };
        let Some(rule) = rule else { return Outcome::BadTables };
        let outcome = self.step_by(env, &rule);
        if !is_followed || outcome as u32 == Outcome::Walking as u32 && self.has_arrived(env) {
            return outcome;
        }
        let [ip, sp, bp, bx, flags] = self.before;
        (self.registers.ip, self.registers.sp, self.registers.flags) = (ip, sp, flags);
        (self.registers.bp, self.registers.bx) = (bp, bx);
        // Where it led to was looked up meanwhile: none is the last one used, but for its kind.
        self.mapping.end = 0;
        self.mapping.kind = mapping_kind::FOLLOWED;
        Outcome::RowsPending
    }

    /// The way out of the place in made code at which the walk stands, if the code is still the same.
    #[inline(always)]
    fn way<E: Env>(&mut self, env: &mut E) -> Option<Rule> {
        if !E::KNOWS_WAYS {
            return None;
        }
        let Registers { ip, sp, bp, bx, flags, .. } = self.registers;
        let code = env.code(ip)?;
        let way = env.way(ip)?;
        self.before = [ip, sp, bp, bx, flags];
        self.may_jump = way.jumps;
        (code == way.code).then_some(way.rule)
    }

    /// Whether a walk that took a way out of made code stands where it may lead.
    #[inline(always)]
    fn has_arrived<E: Env>(&mut self, env: &mut E) -> bool {
        let ip = self.registers.ip;
        if env.code(ip.wrapping_sub(8)).is_some_and(ends_in_call) {
            return true;
        }
        self.may_jump != 0
            && self.find_mapping(env, ip.wrapping_sub(1))
            && self.mapping.kind == mapping_kind::FOLLOWED
    }

    /// Makes one step by a rule. Each kind stands here once: the verifier follows every copy.
    #[inline(always)]
    pub fn step_by<E: Env>(&mut self, env: &mut E, rule: &Rule) -> Outcome {
        match rule.cfa {
            cfa::END => Outcome::Complete,
            cfa::PADDING if self.registers.flags & FRAME_EXACT == 0 => Outcome::Complete,
            cfa::SIGNAL => self.step_signal(env, rule),
            cfa::NONE | cfa::PADDING => self.step_by_pointer(env),
            _ => self.step_by_rule(env, rule),
        }
    }

    /// The rule at an address of the current mapping. None: the tables contradict each other.
    #[inline(always)]
    fn rule<E: Env>(&self, env: &E, address: u64) -> Option<Rule> {
        match self.rule_number(env, address)? {
            0 => Some(Rule::NONE),
            number => env.rule(number).copied(),
        }
    }

    /// Makes `mapping` the one that holds the address.
    #[inline(always)]
    fn find_mapping<E: Env>(&mut self, env: &E, address: u64) -> bool {
        if address >= self.mapping.start && address < self.mapping.end {
            return true;
        }
        let mut first = self.mappings.first;
        let mut len = self.mappings.len;
        for _ in 0..MAPPING_STEPS {
            if len == 0 {
                break;
            }
            let half = len >> 1;
            let Some(mapping) = env.mapping(first.wrapping_add(half)) else {
                return false;
            };
            if address < mapping.start {
                len = half;
            } else if address >= mapping.end {
                first = first.wrapping_add(half + 1);
                len -= half + 1;
            } else {
                // Field by field: for the whole of it the compiler may call memmove(3), which the
                // verifier does not take.
                self.mapping.start = mapping.start;
                self.mapping.end = mapping.end;
                self.mapping.first_page = mapping.first_page;
                self.mapping.kind = mapping.kind;
                return true;
            }
        }
        false
    }

    /// The number of the rule at an address of the current mapping; 0: none. None: the tables
    /// contradict each other.
    #[inline(always)]
    fn rule_number<E: Env>(&self, env: &E, address: u64) -> Option<u32> {
        let page = ((address - self.mapping.start) >> TEXT_PAGE_SHIFT) as u32;
        let rows = env.page(self.mapping.first_page.wrapping_add(page))?;
        if rows.len == 0 {
            return Some(0);
        }
        let segment = env.segment(rows.segment)?;
        let offset = (address & (TEXT_PAGE - 1)) as u32;
        let mut first = rows.start;
        let mut len = u32::from(rows.len);
        let mut row = env.row(segment, first);
        for _ in 0..ROW_STEPS {
            if len <= 1 {
                break;
            }
            let half = len >> 1;
            let middle = env.row(segment, first.wrapping_add(half));
            if middle.offset() <= offset {
                row = middle;
                first = first.wrapping_add(half);
                len -= half;
            } else {
                len = half;
            }
        }
        Some(row.rule())
    }

    #[inline(always)]
    fn step_by_rule<E: Env>(&mut self, env: &mut E, rule: &Rule) -> Outcome {
        let registers = self.registers;
        let offset = i64::from(rule.cfa_offset);
        env.depends(depends::of(rule));
        let cfa = match rule.cfa {
            cfa::SP => registers.sp.wrapping_add_signed(offset),
            cfa::BP | cfa::BP_SWITCH => registers.bp.wrapping_add_signed(offset),
            cfa::PLT => {
                let pushed = (registers.ip & 15) as i64 >= offset;
                registers.sp.wrapping_add(8 + 8 * u64::from(pushed))
            }
            cfa::DEREF_SP | cfa::DEREF_BP | cfa::DEREF_INDEX => {
                let base = match rule.cfa {
                    cfa::DEREF_SP => registers.sp,
                    cfa::DEREF_BP => registers.bp,
                    _ => match self.general(usize::from(rule.cfa_register)) {
                        Some(words) => registers.sp.wrapping_add(words << 3),
                        None => return Outcome::UnsupportedRule,
                    },
                };
                let Some(word) = env.word(base.wrapping_add_signed(offset)) else {
                    return Outcome::UnreadableStack;
                };
                word.wrapping_add_signed(i64::from(rule.cfa_add))
            }
            cfa::REGISTER => match self.general(usize::from(rule.cfa_register)) {
                Some(value) => value.wrapping_add_signed(offset),
                None => return Outcome::UnsupportedRule,
            },
            _ => return Outcome::UnsupportedRule,
        };
        // Only where the return address is in a register may the frame be empty (vfork(3)).
        let advances = cfa > registers.sp || cfa == registers.sp && rule.ra == saved::REGISTER;
        if !advances && rule.cfa != cfa::BP_SWITCH {
            return Outcome::StackNotAdvancing;
        }
        // The frame pointer was pushed below the return address: reading it first lets a reader
        // that fetches upwards serve both from one fetch.
        let bp = match self.saved(env, depends::BP, rule.fp, rule.fp_offset, cfa) {
            Ok(value) => value.unwrap_or(registers.bp),
            Err(outcome) => return outcome,
        };
        let ip = match self.saved(env, 0, rule.ra, rule.ra_offset, cfa) {
            Ok(Some(value)) => value,
            Ok(None) => return Outcome::UnsupportedRule,
            Err(outcome) => return outcome,
        };
        let how = if rule.bx_offset == 0 { saved::SAME } else { saved::AT_CFA };
        let bx = match self.saved(env, depends::BX, how, rule.bx_offset, cfa) {
            Ok(value) => value.unwrap_or(registers.bx),
            Err(outcome) => return outcome,
        };
        // The rules of a caller know what the top frame left alone.
        let known = if registers.flags & FRAME_EXACT == 0 { 0 } else { GENERAL_KNOWN };
        self.arrive(ip, cfa, [bp, bx], registers.flags & known)
    }

    /// The caller's value of a register, one of [`depends`], or with 0 the return address; Ok(None):
    /// it was not saved.
    #[inline(always)]
    fn saved<E: Env>(
        &self,
        env: &mut E,
        register: u32,
        how: u8,
        offset: i32,
        cfa: u64,
    ) -> Result<Option<u64>, Outcome> {
        let base = match how {
            saved::AT_CFA => cfa,
            saved::AT_BP => self.registers.bp,
            saved::AT_SP => self.registers.sp,
            saved::REGISTER => {
                return match self.general(offset as usize) {
                    Some(value) => Ok(Some(value)),
                    None => Err(Outcome::UnsupportedRule),
                };
            }
            _ => return Ok(None),
        };
        let address = base.wrapping_add_signed(i64::from(offset));
        let word = match register {
            0 => env.word(address),
            register => env.register(register, address),
        };
        match word {
            Some(word) => Ok(Some(word)),
            // A register that was saved on another stack.
            None if E::COPY && register != 0 && address < self.registers.sp => Ok(None),
            None => Err(Outcome::UnreadableStack),
        }
    }

    /// A register of the current frame by DWARF number, where it is known.
    #[inline(always)]
    fn general(&self, number: usize) -> Option<u64> {
        match number {
            DWARF_BP => Some(self.registers.bp),
            DWARF_BX => Some(self.registers.bx),
            DWARF_SP => Some(self.registers.sp),
            _ if self.registers.flags & GENERAL_KNOWN != 0 => {
                Some(self.registers.general[number & (GENERAL_REGISTERS - 1)])
            }
            _ => None,
        }
    }

    /// Steps over a signal trampoline to what the signal interrupted.
    #[inline(always)]
    fn step_signal<E: Env>(&mut self, env: &mut E, rule: &Rule) -> Outcome {
        let base = self.registers.sp;
        let bp = env.register(depends::BP, base.wrapping_add_signed(i64::from(rule.fp_offset)));
        let sp = env.word(base.wrapping_add_signed(i64::from(rule.cfa_offset)));
        let ip = env.word(base.wrapping_add_signed(i64::from(rule.ra_offset)));
        let (Some(bp), Some(sp), Some(ip)) = (bp, sp, ip) else {
            return Outcome::UnreadableStack;
        };
        let bx = env.register(depends::BX, base.wrapping_add_signed(i64::from(rule.bx_offset)));
        // The interrupted stack may be another one, at any address: no check that sp advances.
        self.arrive(ip, sp, [bp, bx.unwrap_or(self.registers.bx)], FRAME_EXACT)
    }

    /// Steps by the frame pointer, for want of unwind information.
    #[inline(always)]
    fn step_by_pointer<E: Env>(&mut self, env: &mut E) -> Outcome {
        let Registers { sp, bp, bx, flags, .. } = self.registers;
        if flags & FRAME_EXACT != 0
            && let Some(unframed) = self.unframed(env)
        {
            let at = sp.wrapping_add(unframed.pushed);
            // Below the return address only the frame pointer can be.
            let caller_bp =
                if unframed.pushed == 0 { Some(bp) } else { env.register(depends::BP, sp) };
            let (Some(caller_bp), Some(ip)) = (caller_bp, env.word(at)) else {
                return Outcome::UnreadableStack;
            };
            let sp = at.wrapping_add(8 + unframed.dropped);
            return self.arrive(ip, sp, [caller_bp, bx], FRAME_BY_POINTER);
        }
        env.depends(depends::BP);
        if bp == 0 && flags & FRAME_EXACT == 0 {
            // The ABI asks the outermost frame to clear it (System V ABI x86-64, 3.4.1).
            return Outcome::Complete;
        }
        if bp < sp || bp & 7 != 0 {
            return Outcome::NoFramePointer;
        }
        let (Some(caller_bp), Some(ip)) =
            (env.register(depends::BP, bp), env.word(bp.wrapping_add(8)))
        else {
            return Outcome::UnreadableStack;
        };
        self.arrive(ip, bp.wrapping_add(16), [caller_bp, bx], FRAME_BY_POINTER)
    }

    /// What the instruction at the frame's very address says of the stack, when the frame pointer
    /// is not yet, or no longer, the function's own.
    #[inline(always)]
    fn unframed<E: Env>(&self, env: &mut E) -> Option<Unframed> {
        // Within the page: the next one need not be there.
        let ip = self.registers.ip;
        let beyond = (ip & 0xfff).saturating_sub(0xff8);
        let code = env.code(ip.wrapping_sub(beyond))? >> (beyond * 8);
        let code = if code as u32 == ENDBR64 { code >> 32 } else { code };
        match code as u32 {
            PUSH_MOV | PUSH_MOV_LOAD => return Some(Unframed { pushed: 0, dropped: 0 }),
            word if matches!(word & 0xff_ffff, MOV | MOV_LOAD) => {
                return Some(Unframed { pushed: 8, dropped: 0 });
            }
            _ => {}
        }
        let dropped = match code as u16 {
            // `ret`, also with a prefix that branch predictors want.
            0xc3f3 => 0,
            half if half & 0xff == 0xc3 => 0,
            // `ret n`
            half if half & 0xff == 0xc2 => code >> 8 & 0xffff,
            _ => return None,
        };
        Some(Unframed { pushed: 0, dropped })
    }

    #[inline(always)]
    fn arrive(&mut self, ip: u64, sp: u64, [bp, bx]: [u64; 2], flags: u64) -> Outcome {
        if ip == 0 {
            return Outcome::Complete;
        }
        if !(LOWEST_CODE..USER_END).contains(&ip) {
            return Outcome::UnknownMapping;
        }
        self.registers.ip = ip;
        self.registers.sp = sp;
        self.registers.bp = bp;
        self.registers.bx = bx;
        self.registers.flags = flags;
        Outcome::Walking
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{PageRows, Row, Way};

    const MADE: Mapping =
        Mapping { start: 0x10000, end: 0x20000, first_page: 0, kind: mapping_kind::FOLLOWED };

    /// Made code with one known way out, the word behind it on the stack, and what lies before any
    /// address of code.
    struct Made {
        way: Way,
        returns_to: u64,
        before: u64,
    }

    impl Env for Made {
        type Segment = ();
        const KNOWS_WAYS: bool = true;

        fn mapping(&self, index: u32) -> Option<&Mapping> {
            (index == 0).then_some(&MADE)
        }
        fn page(&self, _index: u32) -> Option<PageRows> {
            None
        }
        fn segment(&self, _number: u16) -> Option<()> {
            None
        }
        fn row(&self, _segment: (), _index: u32) -> Row {
            Row::new(0, 0)
        }
        fn rule(&self, _number: u32) -> Option<&Rule> {
            None
        }
        fn word(&mut self, address: u64) -> Option<u64> {
            (address == 0x7028).then_some(self.returns_to)
        }
        fn code(&mut self, address: u64) -> Option<u64> {
            Some(if address == 0x10100 { 0x90 } else { self.before })
        }
        fn way(&self, address: u64) -> Option<&Way> {
            (address == 0x10100).then_some(&self.way)
        }
    }

    #[test]
    fn ways_out_of_made_code_are_gone_where_they_lead_behind_a_call() {
        let rule =
            Rule { cfa: cfa::SP, cfa_offset: 0x30, ra: saved::AT_CFA, ra_offset: -8, ..Rule::NONE };
        let way = Way { code: 0x90, rule, jumps: 0 };
        let registers = Registers {
            ip: 0x10100,
            sp: 0x7000,
            bp: 1,
            flags: FRAME_EXACT | GENERAL_KNOWN,
            ..Registers::default()
        };
        let step = |made: Made| {
            let mut walk = Walk::new(registers, ProcessMappings { first: 0, len: 1 });
            let outcome = walk.step(&mut { made });
            let Registers { ip, sp, .. } = walk.registers;
            if outcome != Outcome::Walking {
                assert_eq!((outcome, walk.registers), (Outcome::RowsPending, registers));
                assert_eq!(walk.mapping.kind, mapping_kind::FOLLOWED);
            }
            (outcome == Outcome::Walking).then_some([ip, sp])
        };
        let (call, jump) = (0xe8 << 24, 0xe9 << 24);
        let made = |way, returns_to, before| Made { way, returns_to, before };
        assert_eq!(step(made(way, 0x50000, call)), Some([0x50000, 0x7030]));
        // Not behind a call, in other code or in such; other code meanwhile; no way out of there.
        let jumps = Way { jumps: 1, ..way };
        assert_eq!(step(made(way, 0x50000, jump)), None);
        assert_eq!(step(made(way, 0x10200, jump)), None);
        assert_eq!(step(made(jumps, 0x10200, jump)), Some([0x10200, 0x7030]));
        assert_eq!(step(made(jumps, 0x50000, jump)), None);
        assert_eq!(step(made(Way { code: 0xcc, ..way }, 0x50000, call)), None);
        let lost = Rule { cfa_offset: 0x40, ..rule };
        assert_eq!(step(made(Way { rule: lost, ..way }, 0x50000, call)), None);
    }

    #[test]
    fn calls_end_where_they_do() {
        let ends = |code: &[u8]| {
            let mut before = [0x90; 8];
            before[8 - code.len()..].copy_from_slice(code);
            ends_in_call(u64::from_le_bytes(before))
        };
        for code in [
            &[0xe8, 1, 2, 3, 4][..],
            &[0xff, 0xd0],
            &[0x41, 0xff, 0xd2],
            &[0xff, 0x10],
            &[0xff, 0x50, 8],
            &[0xff, 0x54, 0x24, 8],
            &[0xff, 0x15, 1, 2, 3, 4],
            &[0xff, 0x94, 0x24, 1, 2, 3, 4],
        ] {
            assert!(ends(code), "{code:x?}");
        }
        for code in [&[0xc3][..], &[0xff, 0xe0], &[0xe9, 1, 2, 3, 4], &[0xff, 0x20]] {
            assert!(!ends(code), "{code:x?}");
        }
    }
}

//! What a walk on the host sees.

use profiler_ebpf::{
    walk::Env,
    wire::{Mapping, PageRows, Row, Rule, SEGMENT_ROWS},
};

use super::tables::Storage;

/// [`Env`] on the host: the tables, mappings of one process, its stack and its code as closures.
pub struct HostEnv<'a, S, M, C> {
    storage: &'a S,
    mappings: &'a [Mapping],
    memory: M,
    code: C,
}

impl<'a, S, M, C> HostEnv<'a, S, M, C> {
    /// The tables in `storage`, these mappings, this stack and this code.
    pub fn new(storage: &'a S, mappings: &'a [Mapping], memory: M, code: C) -> Self {
        Self { storage, mappings, memory, code }
    }
}

impl<'a, S, M, C> Env for HostEnv<'a, S, M, C>
where
    S: Storage,
    M: FnMut(u64) -> Option<u64>,
    C: FnMut(u64) -> Option<u64>,
{
    type Segment = &'a [Row];
    const COPY: bool = true;

    fn mapping(&self, index: u32) -> Option<&Mapping> {
        self.mappings.get(index as usize)
    }

    fn page(&self, index: u32) -> Option<PageRows> {
        self.storage.pages_ref().get(index as usize).copied()
    }

    fn segment(&self, number: u16) -> Option<Self::Segment> {
        self.storage.segment_ref(usize::from(number))
    }

    fn row(&self, segment: Self::Segment, index: u32) -> Row {
        segment[index as usize & (SEGMENT_ROWS - 1)]
    }

    fn rule(&self, number: u32) -> Option<&Rule> {
        self.storage.rules_ref().get(number as usize)
    }

    fn word(&mut self, address: u64) -> Option<u64> {
        (self.memory)(address)
    }

    fn code(&mut self, address: u64) -> Option<u64> {
        (self.code)(address)
    }
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::{
        walk::Walk,
        wire::{FRAME_EXACT, Outcome, ProcessMappings, Registers, cfa, mapping_kind, saved},
    };

    use super::*;
    use crate::source::native::{Scope, limits::Limits, perf_event::tables::VecTables};

    #[test]
    fn registers_that_an_epilogue_popped_are_not_read_from_below_the_copy() {
        let mut storage = VecTables::new(&Limits::of(&Scope::Host, 99));
        storage.rules()[1] = Rule {
            cfa: cfa::SP,
            cfa_offset: 8,
            fp: saved::AT_CFA,
            fp_offset: -16,
            ra: saved::AT_CFA,
            ra_offset: -8,
            bx_offset: -24,
            ..Rule::NONE
        };
        storage.add_segment(0).unwrap();
        storage.segment(0).unwrap()[0] = Row::new(0, 1);
        storage.pages()[0] = PageRows { segment: 0, len: 1, start: 0 };
        let kind = mapping_kind::ROWS;
        let mappings = [Mapping { start: 0x10000, end: 0x11000, first_page: 0, kind }];
        let registers = Registers {
            ip: 0x10010,
            sp: 0x2000,
            bp: 0x77,
            bx: 0x88,
            flags: FRAME_EXACT,
            ..Registers::default()
        };
        let mut walk = Walk::new(registers, ProcessMappings { first: 0, len: 1 });
        let memory = |address| (address == 0x2000).then_some(0x10020);
        let mut env = HostEnv::new(&storage, &mappings, memory, |_| None);
        assert_eq!(walk.step(&mut env), Outcome::Walking);
        let Registers { ip, sp, bp, bx, .. } = walk.registers;
        assert_eq!((ip, sp, bp, bx), (0x10020, 0x2008, 0x77, 0x88));
        // What lies above and is not there is missing.
        assert_eq!(walk.step(&mut env), Outcome::UnreadableStack);
    }
    /// The registers after a step out of code without rows at this offset of a page, with the
    /// stack pointer at 0x2000 and the frame pointer at 0x2020.
    fn stepped(at: u64, code: &[u8]) -> Option<[u64; 3]> {
        let storage = VecTables::new(&Limits::of(&Scope::Host, 99));
        let kind = mapping_kind::NO_ROWS;
        let mappings = [Mapping { start: 0x10000, end: 0x12000, first_page: 0, kind }];
        let ip = 0x10000 + at;
        let registers =
            Registers { ip, sp: 0x2000, bp: 0x2020, flags: FRAME_EXACT, ..Registers::default() };
        let stack = |address: u64| match address {
            0x2000 => Some(0x1_0100),
            0x2008 => Some(0x1_0200),
            0x2020 => Some(0x2080),
            0x2028 => Some(0x1_0300),
            _ => None,
        };
        let read = |address: u64| {
            let bytes = (0..8).map(|byte| {
                let address = address + byte;
                // The next page is not there.
                let mapped = (0x10000..0x11000).contains(&address);
                let at = address.checked_sub(ip).and_then(|at| code.get(at as usize));
                mapped.then(|| at.copied().unwrap_or(0x90))
            });
            let bytes: Option<Vec<u8>> = bytes.collect();
            Some(u64::from_le_bytes(bytes?.try_into().unwrap()))
        };
        let mut walk = Walk::new(registers, ProcessMappings { first: 0, len: 1 });
        let mut env = HostEnv::new(&storage, &mappings, stack, read);
        let outcome = walk.step(&mut env);
        let Registers { ip, sp, bp, .. } = walk.registers;
        (outcome == Outcome::Walking).then_some([ip, sp, bp])
    }

    #[test]
    fn prologues_and_returns_of_code_without_rows_are_recognised() {
        let framed = Some([0x1_0300, 0x2030, 0x2080]);
        let entry = Some([0x1_0100, 0x2008, 0x2020]);
        let pushed = Some([0x1_0200, 0x2010, 0x1_0100]);
        for (code, expected) in [
            (&b"\x90\x90"[..], framed),
            (b"\x55\x48\x89\xe5", entry),
            (b"\x55\x48\x8b\xec", entry),
            (b"\xf3\x0f\x1e\xfa\x55\x48\x89\xe5", entry),
            (b"\x48\x89\xe5", pushed),
            (b"\x48\x8b\xec", pushed),
            (b"\xc3", entry),
            (b"\xf3\xc3", entry),
            (b"\xc2\x10\x00", Some([0x1_0100, 0x2018, 0x2020])),
            // `leave`, `pop rbp`, and a push of something else: the frame pointer still is, or
            // may be, the function's own.
            (b"\xc9\xc3", framed),
            (b"\x5d\xc3", framed),
            (b"\x55\x53", framed),
            (b"\x48\x89\xec", framed),
        ] {
            assert_eq!(stepped(0x100, code), expected, "{code:x?}");
        }
        // At the end of what is mapped.
        assert_eq!(stepped(0xfff, b"\xc3"), entry);
        assert_eq!(stepped(0xffc, b"\x55\x48\x89\xe5"), entry);
        assert_eq!(stepped(0xffe, b"\x55\x48"), framed);
    }
}

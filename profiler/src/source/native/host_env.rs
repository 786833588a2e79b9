//! What a walk on the host sees.

use profiler_ebpf::{
    walk::Env,
    wire::{Mapping, PageRows, Row, Rule, SEGMENT_ROWS},
};

use super::tables::Storage;

/// [`Env`] on the host: the tables, mappings of one process and its memory as a closure.
pub struct HostEnv<'a, S, M> {
    storage: &'a S,
    mappings: &'a [Mapping],
    memory: M,
}

impl<'a, S, M> HostEnv<'a, S, M> {
    /// The tables in `storage`, these mappings, and this memory.
    pub fn new(storage: &'a S, mappings: &'a [Mapping], memory: M) -> Self {
        Self { storage, mappings, memory }
    }
}

impl<'a, S: Storage, M: FnMut(u64) -> Option<u64>> Env for HostEnv<'a, S, M> {
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
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::{
        walk::Walk,
        wire::{FRAME_EXACT, Outcome, ProcessMappings, Registers, cfa, mapping_kind, saved},
    };

    use super::*;
    use crate::source::native::perf_event::tables::VecTables;

    #[test]
    fn registers_that_an_epilogue_popped_are_not_read_from_below_the_copy() {
        let mut storage = VecTables::default();
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
        let mut env = HostEnv::new(&storage, &mappings, memory);
        assert_eq!(walk.step(&mut env), Outcome::Walking);
        let Registers { ip, sp, bp, bx, .. } = walk.registers;
        assert_eq!((ip, sp, bp, bx), (0x10020, 0x2008, 0x77, 0x88));
        // What lies above and is not there is missing.
        assert_eq!(walk.step(&mut env), Outcome::UnreadableStack);
    }
}

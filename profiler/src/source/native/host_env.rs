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

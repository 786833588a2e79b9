//! The walker's tables in plain memory: nothing but walks on the host reads them.

use profiler_ebpf::wire::{Mapping, PageRows, ProcessMappings, Row, Rule, SEGMENT_ROWS};

use crate::source::native::{
    limits::{Bound, Limits},
    tables::Storage,
};

/// The tables.
pub struct VecTables {
    pages: Vec<PageRows>,
    rules: Vec<Rule>,
    segments: Vec<Vec<Row>>,
}

impl VecTables {
    /// Empty tables of these sizes.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            pages: vec![PageRows::default(); limits.get(Bound::Pages)],
            rules: vec![Rule::NONE; limits.get(Bound::Rules)],
            segments: Vec::new(),
        }
    }
}

impl Storage for VecTables {
    fn pages(&mut self) -> &mut [PageRows] {
        &mut self.pages
    }

    fn rules(&mut self) -> &mut [Rule] {
        &mut self.rules
    }

    fn mappings(&mut self) -> &mut [Mapping] {
        &mut []
    }

    fn segment(&mut self, number: usize) -> Option<&mut [Row]> {
        self.segments.get_mut(number).map(Vec::as_mut_slice)
    }

    fn add_segment(&mut self, _number: usize) -> anyhow::Result<()> {
        self.segments.push(vec![Row(0); SEGMENT_ROWS]);
        Ok(())
    }

    fn publishes(&self) -> bool {
        false
    }

    fn publish(&mut self, _pid: u32, _mappings: Option<ProcessMappings>) -> bool {
        true
    }

    fn pages_ref(&self) -> &[PageRows] {
        &self.pages
    }

    fn rules_ref(&self) -> &[Rule] {
        &self.rules
    }

    fn segment_ref(&self, number: usize) -> Option<&[Row]> {
        self.segments.get(number).map(Vec::as_slice)
    }
}

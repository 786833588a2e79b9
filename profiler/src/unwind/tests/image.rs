//! Compiled rows as the walker's tables.

use profiler_ebpf::{
    walk::Env,
    wire::{Mapping, PageRows, ProcessMappings, Row, Rule, TEXT_PAGE, mapping_kind},
};

use crate::unwind::{TextRange, UnwindRows};

/// One text range at the addresses that the file gives it.
pub struct Image<'a, M> {
    mapping: Mapping,
    pages: Vec<PageRows>,
    rows: Vec<Row>,
    rules: &'a [Rule],
    memory: M,
}

impl<'a, M: FnMut(u64) -> Option<u64>> Image<'a, M> {
    pub fn new(compiled: &'a UnwindRows, text: &TextRange, memory: M) -> Self {
        let start = text.address & !(TEXT_PAGE - 1);
        let end = (text.address + text.size).next_multiple_of(TEXT_PAGE);
        let mut image = Self {
            mapping: Mapping { start, end, first_page: 0, kind: mapping_kind::ROWS },
            pages: Vec::new(),
            rows: Vec::new(),
            rules: &compiled.rules,
            memory,
        };
        for page in (start..end).step_by(TEXT_PAGE as usize) {
            let from = compiled.rows.partition_point(|row| row.address <= page);
            let to = compiled.rows.partition_point(|row| row.address < page + TEXT_PAGE);
            let first = image.rows.len();
            let carried = from.checked_sub(1).map_or(0, |at| compiled.rows[at].rule);
            image.rows.push(Row::new(0, carried as u16));
            image.rows.extend(
                compiled.rows[from..to]
                    .iter()
                    .map(|row| Row::new((row.address - page) as u16, row.rule as u16)),
            );
            let len = (image.rows.len() - first) as u16;
            image.pages.push(PageRows { segment: 0, len, start: first as u32 });
        }
        image
    }

    pub fn mappings(&self) -> ProcessMappings {
        ProcessMappings { first: 0, len: 1 }
    }
}

impl<M: FnMut(u64) -> Option<u64>> Env for Image<'_, M> {
    type Segment = ();

    fn mapping(&self, index: u32) -> Option<&Mapping> {
        (index == 0).then_some(&self.mapping)
    }

    fn page(&self, index: u32) -> Option<PageRows> {
        self.pages.get(index as usize).copied()
    }

    fn segment(&self, number: u16) -> Option<()> {
        (number == 0).then_some(())
    }

    fn row(&self, (): (), index: u32) -> Row {
        self.rows[index as usize]
    }

    fn rule(&self, number: u32) -> Option<&Rule> {
        self.rules.get(number as usize)
    }

    fn word(&mut self, address: u64) -> Option<u64> {
        (self.memory)(address)
    }
}

//! Compiled rows as the walker's tables.

use profiler_ebpf::{
    walk::Env,
    wire::{Mapping, PageRows, ProcessMappings, Row, Rule, TEXT_PAGE, mapping_kind},
};

use crate::unwind::{TextRange, UnwindRows};

/// Mappings with their rows, and memory.
pub struct Image<M> {
    mappings: Vec<Mapping>,
    pages: Vec<PageRows>,
    rows: Vec<Row>,
    rules: Vec<Rule>,
    memory: M,
}

impl<M: FnMut(u64) -> Option<u64>> Image<M> {
    pub fn new(memory: M) -> Self {
        let (mappings, pages, rows, rules) = Default::default();
        Self { mappings, pages, rows, rules, memory }
    }

    /// Adds a text range that lies `bias` above the addresses that the file gives it. Ranges are
    /// added by rising address.
    pub fn map(&mut self, compiled: &UnwindRows, text: &TextRange, bias: u64) {
        let start = text.address & !(TEXT_PAGE - 1);
        let end = (text.address + text.size).next_multiple_of(TEXT_PAGE);
        self.mappings.push(Mapping {
            start: start.wrapping_add(bias),
            end: end.wrapping_add(bias),
            first_page: self.pages.len() as u32,
            kind: mapping_kind::ROWS,
        });
        let first_rule = self.rules.len() as u16;
        self.rules.extend(&compiled.rules);
        let number = |rule: u16| if rule == 0 { 0 } else { first_rule + rule };
        for page in (start..end).step_by(TEXT_PAGE as usize) {
            let from = compiled.rows.partition_point(|row| row.address() <= page);
            let to = compiled.rows.partition_point(|row| row.address() < page + TEXT_PAGE);
            let first = self.rows.len();
            let carried = from.checked_sub(1).map_or(0, |at| compiled.rows[at].rule());
            self.rows.push(Row::new(0, number(carried)));
            self.rows.extend(
                compiled.rows[from..to]
                    .iter()
                    .map(|row| Row::new((row.address() - page) as u16, number(row.rule()))),
            );
            let len = (self.rows.len() - first) as u16;
            self.pages.push(PageRows { segment: 0, len, start: first as u32 });
        }
    }

    pub fn mappings(&self) -> ProcessMappings {
        ProcessMappings { first: 0, len: self.mappings.len() as u32 }
    }
}

impl<M: FnMut(u64) -> Option<u64>> Env for Image<M> {
    type Segment = ();

    fn mapping(&self, index: u32) -> Option<&Mapping> {
        self.mappings.get(index as usize)
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

    fn code(&mut self, address: u64) -> Option<u64> {
        (self.memory)(address)
    }
}

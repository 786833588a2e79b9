//! The walker's tables as user space fills them: rules, row segments, the page index and the
//! mappings of processes, with the bookkeeping of what is free.
//!
//! The memory behind them is a [`Storage`]: BPF maps that the kernel side reads at the same time,
//! or plain vectors. Nothing that a reader may still look at is overwritten: an extent that was
//! given back is used again only after [`Tables::settle`] was called twice, which callers do once
//! per round of draining (a walk takes microseconds, a round milliseconds).

use std::sync::atomic::{Ordering, fence};

use profiler_ebpf::wire::{
    MAX_PROCESS_MAPPINGS, MAX_SEGMENTS, Mapping, PageRows, ProcessMappings, Row, Rule,
    SEGMENT_ROWS, TEXT_PAGE, Way,
};
use rustc_hash::FxHashMap;

use super::{
    extents::{Extent, FreeList},
    host_env::HostEnv,
    installed::FileTables,
    limits::{Bound, Limits},
};
use crate::{model::loss::Loss, unwind::UnwindRows};

/// Memory for the tables.
pub trait Storage {
    /// The page index.
    fn pages(&mut self) -> &mut [PageRows];
    /// The rules.
    fn rules(&mut self) -> &mut [Rule];
    /// The mapping table.
    fn mappings(&mut self) -> &mut [Mapping];
    /// One row segment that exists already, [`SEGMENT_ROWS`] rows.
    fn segment(&mut self, number: usize) -> Option<&mut [Row]>;
    /// Makes the next row segment, of this number.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the memory.
    fn add_segment(&mut self, number: usize) -> anyhow::Result<()>;
    /// Whether there is a kernel side, which has to know of processes.
    fn publishes(&self) -> bool {
        true
    }
    /// Tells the kernel side where a process's mappings are now; None: it is gone. False: the
    /// table of processes is full.
    fn publish(&mut self, pid: u32, mappings: Option<ProcessMappings>) -> bool;

    /// Tells the kernel side, if there is one, how to go on from a place in a process's code that was
    /// made at run time. What it knew may be forgotten for that.
    fn learn(&mut self, _pid: u32, _address: u64, _way: Way) {}

    /// The page index, to read.
    fn pages_ref(&self) -> &[PageRows];
    /// The rules, to read.
    fn rules_ref(&self) -> &[Rule];
    /// A row segment, to read.
    fn segment_ref(&self, number: usize) -> Option<&[Row]>;
}

/// Why rows could not be installed, or mappings published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableFull {
    /// No row segment has room.
    #[error("the unwind row table is full")]
    Rows,
    /// No more rules.
    #[error("the unwind rule table is full")]
    Rules,
    /// No room in the page index.
    #[error("the page index is full")]
    Pages,
    /// No room in the mapping table, or too many mappings in one process.
    #[error("the mapping table is full")]
    Mappings,
    /// No room in the table of processes.
    #[error("the process table is full")]
    Processes,
}

impl TableFull {
    /// What this is counted as.
    #[must_use]
    pub fn loss(self) -> Loss {
        match self {
            Self::Rows => Loss::RowsFull,
            Self::Rules => Loss::RulesFull,
            Self::Pages => Loss::PagesFull,
            Self::Mappings => Loss::MappingsFull,
            Self::Processes => Loss::ProcessesFull,
        }
    }
}

/// The tables.
pub struct Tables<S> {
    storage: S,
    rule_numbers: FxHashMap<Rule, u16>,
    /// How many files use a rule, by its number.
    rule_users: Vec<u32>,
    rules: FreeList,
    segments: Vec<FreeList>,
    pages: FreeList,
    mappings: FreeList,
    rows: usize,
    max_rows: usize,
    rows_ever: u64,
}

impl<S: Storage> Tables<S> {
    /// Empty tables.
    pub fn new(mut storage: S, limits: &Limits) -> Self {
        storage.rules()[0] = Rule::NONE;
        let size = |bound, len: usize| limits.entries(bound).min(len32(len));
        let mut rules = FreeList::new(size(Bound::Rules, storage.rules().len()));
        let rule_users = vec![0; storage.rules().len()];
        // The first is the rule of addresses without one, for ever.
        rules.take(1);
        let pages = FreeList::new(size(Bound::Pages, storage.pages().len()));
        let mappings = FreeList::new(size(Bound::Mappings, storage.mappings().len()));
        Self {
            storage,
            rule_numbers: FxHashMap::from_iter([(Rule::NONE, 0)]),
            rule_users,
            rules,
            segments: Vec::new(),
            pages,
            mappings,
            rows: 0,
            max_rows: limits.get(Bound::Rows),
            rows_ever: 0,
        }
    }

    /// Rows that were ever installed.
    pub fn rows_ever(&self) -> u64 {
        self.rows_ever
    }

    /// The memory behind the tables.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Installs the rows of a file.
    ///
    /// # Errors
    ///
    /// Which table is full; nothing is installed then.
    pub fn install(&mut self, compiled: &UnwindRows) -> Result<FileTables, TableFull> {
        let mut file = FileTables::default();
        match self.fill(compiled, &mut file) {
            Ok(()) => {
                fence(Ordering::Release);
                self.rows_ever += file.rows();
                Ok(file)
            }
            Err(full) => {
                self.remove(&file);
                Err(full)
            }
        }
    }

    /// Gives the room of a file back.
    pub fn remove(&mut self, file: &FileTables) {
        for (_, extent) in &file.text {
            self.pages.rest(*extent);
        }
        for (segment, extent) in &file.rows {
            self.segments[usize::from(*segment)].rest(*extent);
            self.rows -= extent.len as usize;
        }
        for number in &file.rules {
            self.release_rule(*number);
        }
    }

    fn release_rule(&mut self, number: u16) {
        let users = &mut self.rule_users[usize::from(number)];
        *users -= 1;
        if *users == 0 {
            self.rule_numbers.remove(&self.storage.rules_ref()[usize::from(number)]);
            self.rules.rest(Extent { start: u32::from(number), len: 1 });
        }
    }

    fn fill(&mut self, compiled: &UnwindRows, file: &mut FileTables) -> Result<(), TableFull> {
        let rules = self.number_rules(&compiled.rules, file)?;
        for range in &compiled.text {
            let first = range.address & !(TEXT_PAGE - 1);
            let pages = (range.address + range.size).saturating_sub(first).div_ceil(TEXT_PAGE);
            let pages = u32::try_from(pages).map_err(|_| TableFull::Pages)?;
            let extent = self.pages.take(pages).ok_or(TableFull::Pages)?;
            file.text.push((range.clone(), extent));
            let mut at = compiled.rows.partition_point(|row| row.address() < first);
            let mut packed = Packed::default();
            for page in 0..pages {
                let start = first + u64::from(page) * TEXT_PAGE;
                let end = start + TEXT_PAGE;
                let stop = at + compiled.rows[at..].partition_point(|row| row.address() < end);
                let carried = at.checked_sub(1).map_or(0, |before| compiled.rows[before].rule());
                packed.page(start, carried, &compiled.rows[at..stop], &rules);
                at = stop;
            }
            self.place(&packed, extent, file)?;
        }
        Ok(())
    }

    /// Copies packed pages into segments, as many to a segment as fit.
    fn place(
        &mut self,
        packed: &Packed,
        extent: Extent,
        file: &mut FileTables,
    ) -> Result<(), TableFull> {
        let mut page = 0;
        let mut row = 0usize;
        while page < packed.lens.len() {
            let mut batch = 0usize;
            let mut last = page;
            while last < packed.lens.len() {
                let len = usize::from(packed.lens[last]);
                if batch + len > SEGMENT_ROWS / 4 {
                    break;
                }
                batch += len;
                last += 1;
            }
            let (segment, rows) = self.take_rows(len32(batch))?;
            file.rows.push((segment, rows));
            if let Some(target) = self.storage.segment(usize::from(segment)) {
                let start = rows.start as usize;
                target[start..start + batch].copy_from_slice(&packed.rows[row..row + batch]);
            }
            let mut start = rows.start;
            for number in page..last {
                let len = packed.lens[number];
                let entry = PageRows { segment, len, start };
                self.storage.pages()[extent.start as usize + number] = entry;
                start += u32::from(len);
            }
            row += batch;
            page = last;
        }
        Ok(())
    }

    fn take_rows(&mut self, len: u32) -> Result<(u16, Extent), TableFull> {
        if self.rows + len as usize > self.max_rows {
            return Err(TableFull::Rows);
        }
        let mut taken = None;
        for (number, free) in self.segments.iter_mut().enumerate() {
            taken = free.take(len).map(|extent| (number as u16, extent));
            if taken.is_some() {
                break;
            }
        }
        let taken = taken.or_else(|| self.grow(len)).ok_or(TableFull::Rows)?;
        self.rows += len as usize;
        Ok(taken)
    }

    /// Takes rows out of one more segment.
    fn grow(&mut self, len: u32) -> Option<(u16, Extent)> {
        let number = self.segments.len();
        let most = MAX_SEGMENTS.min(self.max_rows.div_ceil(SEGMENT_ROWS));
        if number >= most || self.storage.add_segment(number).is_err() {
            return None;
        }
        let mut free = FreeList::new(len32(SEGMENT_ROWS));
        let extent = free.take(len);
        self.segments.push(free);
        Some((number as u16, extent?))
    }

    fn number_rules(
        &mut self,
        rules: &[Rule],
        file: &mut FileTables,
    ) -> Result<Vec<u16>, TableFull> {
        let mut numbers = Vec::with_capacity(rules.len());
        for rule in rules {
            if *rule == Rule::NONE {
                numbers.push(0);
                continue;
            }
            let number = match self.rule_numbers.get(rule) {
                Some(number) => *number,
                None => {
                    let number = self.rules.take(1).ok_or(TableFull::Rules)?.start;
                    self.storage.rules()[number as usize] = *rule;
                    self.rule_numbers.insert(*rule, number as u16);
                    number as u16
                }
            };
            self.rule_users[usize::from(number)] += 1;
            file.rules.push(number);
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// Puts a process's mappings (sorted by start) into the mapping table and tells the kernel
    /// side. Gives what to hand to [`Self::unpublish`] later.
    ///
    /// # Errors
    ///
    /// [`TableFull::Mappings`] or [`TableFull::Processes`]; what was published before stays.
    pub fn publish(
        &mut self,
        pid: u32,
        before: Option<ProcessMappings>,
        mappings: &[Mapping],
    ) -> Result<ProcessMappings, TableFull> {
        if mappings.len() > MAX_PROCESS_MAPPINGS as usize {
            return Err(TableFull::Mappings);
        }
        let len = len32(mappings.len());
        let extent = self.mappings.take(len.max(1)).ok_or(TableFull::Mappings)?;
        let start = extent.start as usize;
        self.storage.mappings()[start..start + mappings.len()].copy_from_slice(mappings);
        fence(Ordering::Release);
        let entry = ProcessMappings { first: extent.start, len };
        if !self.storage.publish(pid, Some(entry)) {
            self.mappings.rest(extent);
            return Err(TableFull::Processes);
        }
        if let Some(before) = before {
            self.rest_mappings(before);
        }
        Ok(entry)
    }

    /// Tells the kernel side how to go on from a place in code that was made at run time.
    pub fn learn(&mut self, pid: u32, address: u64, way: Way) {
        self.storage.learn(pid, address, way);
    }

    /// Takes a process's mappings out again.
    pub fn unpublish(&mut self, pid: u32, before: ProcessMappings) {
        self.storage.publish(pid, None);
        self.rest_mappings(before);
    }

    fn rest_mappings(&mut self, entry: ProcessMappings) {
        self.mappings.rest(Extent { start: entry.first, len: entry.len.max(1) });
    }

    /// One round has passed: what was given back two rounds ago is free.
    pub fn settle(&mut self) {
        self.pages.settle();
        self.mappings.settle();
        self.rules.settle();
        for segment in &mut self.segments {
            segment.settle();
        }
    }

    /// The walker's view, for a walk on the host over mappings of its own, with a reader of the
    /// stack and one of code.
    pub fn env<'a, M, C>(
        &'a self,
        mappings: &'a [Mapping],
        memory: M,
        code: C,
    ) -> HostEnv<'a, S, M, C> {
        HostEnv::new(&self.storage, mappings, memory, code)
    }
}

/// Rows of a text range, page by page.
#[derive(Default)]
struct Packed {
    rows: Vec<Row>,
    lens: Vec<u16>,
}

impl Packed {
    /// Packs a page: `carried` is the rule that holds at its start.
    fn page(&mut self, start: u64, carried: u16, rows: &[crate::unwind::RowAt], numbers: &[u16]) {
        let before = self.rows.len();
        if rows.first().is_none_or(|row| row.address() > start) {
            self.rows.push(Row::new(0, numbers[carried as usize]));
        }
        for row in rows {
            self.rows.push(Row::new((row.address() - start) as u16, numbers[row.rule() as usize]));
        }
        let packed = &self.rows[before..];
        if packed.iter().all(|row| row.rule() == 0) {
            self.rows.truncate(before);
        }
        self.lens.push((self.rows.len() - before) as u16);
    }
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

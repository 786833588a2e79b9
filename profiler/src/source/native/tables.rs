//! The walker's tables as user space fills them: rules, row segments, the page index and the
//! mappings of processes, with the bookkeeping of what is free.
//!
//! The memory behind them is a [`Storage`]: BPF maps that the kernel side reads at the same time,
//! or plain vectors. Nothing that a reader may still look at is overwritten: an extent that was
//! given back is used again only after [`Tables::settle`] was called twice, which callers do once
//! per round of draining (a walk takes microseconds, a round milliseconds).

use std::sync::atomic::{Ordering, fence};

use profiler_ebpf::wire::{
    MAX_RULES, MAX_SEGMENTS, Mapping, PageRows, ProcessMappings, Row, Rule, SEGMENT_ROWS,
    TEXT_PAGE, TEXT_PAGE_SHIFT,
};
use rustc_hash::FxHashMap;

use super::{
    extents::{Extent, FreeList},
    host_env::HostEnv,
};
use crate::unwind::{TextRange, UnwindRows};

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

    /// The page index, to read.
    fn pages_ref(&self) -> &[PageRows];
    /// The rules, to read.
    fn rules_ref(&self) -> &[Rule];
    /// A row segment, to read.
    fn segment_ref(&self, number: usize) -> Option<&[Row]>;
}

/// Why rows could not be installed.
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
}

/// A part of a mapping, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// The page index entry of its first page; None: it has no rows.
    pub first_page: Option<u32>,
}

/// Where the rows of one file are installed.
#[derive(Clone, Debug, Default)]
pub struct FileTables {
    text: Vec<(TextRange, Extent)>,
    rows: Vec<(u16, Extent)>,
}

impl FileTables {
    /// Splits a mapping of `len` bytes from a file offset on into what has pages in the index and
    /// what has not. Where two text ranges share a page of the file, the mapping belongs to the
    /// one that it overlaps most.
    pub fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = Piece> + use<> {
        let end = offset.saturating_add(len);
        let mut overlaps: Vec<(u64, u64, u64, u32)> = Vec::new();
        for (range, extent) in &self.text {
            let first = range.offset & !(TEXT_PAGE - 1);
            let last = first + u64::from(extent.len) * TEXT_PAGE;
            if first.max(offset) < last.min(end) {
                overlaps.push((first.max(offset), last.min(end), first, extent.start));
            }
        }
        overlaps.sort_by_key(|(from, to, ..)| std::cmp::Reverse(to - from));
        let mut pieces: Vec<Piece> = Vec::new();
        for (from, to, first, page) in overlaps {
            // What a larger overlap has taken is at one end of it.
            let from = pieces
                .iter()
                .map(|p| p.end)
                .filter(|end| *end > from && *end <= to)
                .max()
                .unwrap_or(from);
            let to = pieces
                .iter()
                .map(|p| p.start)
                .filter(|s| *s < to && *s >= from)
                .min()
                .unwrap_or(to);
            if from < to && !pieces.iter().any(|p| p.start <= from && to <= p.end) {
                let page = page + ((from - first) >> TEXT_PAGE_SHIFT) as u32;
                pieces.push(Piece { start: from, end: to, first_page: Some(page) });
            }
        }
        pieces.sort_by_key(|piece| piece.start);
        let mut all = Vec::with_capacity(pieces.len() * 2 + 1);
        let mut at = offset;
        for piece in pieces {
            if at < piece.start {
                all.push(Piece { start: at, end: piece.start, first_page: None });
            }
            at = piece.end;
            all.push(piece);
        }
        if at < end {
            all.push(Piece { start: at, end, first_page: None });
        }
        all.into_iter().map(move |piece| Piece {
            start: piece.start - offset,
            end: piece.end - offset,
            ..piece
        })
    }

    /// How many rows are installed.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.iter().map(|(_, extent)| u64::from(extent.len)).sum()
    }
}

/// The tables.
pub struct Tables<S> {
    storage: S,
    rule_numbers: FxHashMap<Rule, u16>,
    segments: Vec<FreeList>,
    pages: FreeList,
    mappings: FreeList,
    rows_ever: u64,
}

impl<S: Storage> Tables<S> {
    /// Empty tables.
    pub fn new(mut storage: S) -> Self {
        storage.rules()[0] = Rule::NONE;
        let pages = FreeList::new(len32(storage.pages().len()));
        let mappings = FreeList::new(len32(storage.mappings().len()));
        Self {
            storage,
            rule_numbers: FxHashMap::from_iter([(Rule::NONE, 0)]),
            segments: Vec::new(),
            pages,
            mappings,
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
        }
    }

    fn fill(&mut self, compiled: &UnwindRows, file: &mut FileTables) -> Result<(), TableFull> {
        let rules = self.number_rules(&compiled.rules)?;
        for range in &compiled.text {
            let first = range.address & !(TEXT_PAGE - 1);
            let pages = (range.address + range.size).saturating_sub(first).div_ceil(TEXT_PAGE);
            let pages = u32::try_from(pages).map_err(|_| TableFull::Pages)?;
            let extent = self.pages.take(pages).ok_or(TableFull::Pages)?;
            file.text.push((range.clone(), extent));
            let mut at = compiled.rows.partition_point(|row| row.address < first);
            let mut packed = Packed::default();
            for page in 0..pages {
                let start = first + u64::from(page) * TEXT_PAGE;
                let end = start + TEXT_PAGE;
                let stop = at + compiled.rows[at..].partition_point(|row| row.address < end);
                let carried = at.checked_sub(1).map_or(0, |before| compiled.rows[before].rule);
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
        for (number, free) in self.segments.iter_mut().enumerate() {
            if let Some(extent) = free.take(len) {
                return Ok((number as u16, extent));
            }
        }
        let number = self.segments.len();
        if number == MAX_SEGMENTS || self.storage.add_segment(number).is_err() {
            return Err(TableFull::Rows);
        }
        let mut free = FreeList::new(len32(SEGMENT_ROWS));
        let extent = free.take(len).ok_or(TableFull::Rows)?;
        self.segments.push(free);
        Ok((number as u16, extent))
    }

    fn number_rules(&mut self, rules: &[Rule]) -> Result<Vec<u16>, TableFull> {
        // Nothing is taken when not all of them fit: rules are never given back.
        let new = rules.iter().filter(|rule| !self.rule_numbers.contains_key(rule)).count();
        if self.rule_numbers.len() + new > MAX_RULES.min(self.storage.rules().len()) {
            return Err(TableFull::Rules);
        }
        let mut numbers = Vec::with_capacity(rules.len());
        for rule in rules {
            if let Some(number) = self.rule_numbers.get(rule) {
                numbers.push(*number);
                continue;
            }
            let number = self.rule_numbers.len();
            self.storage.rules()[number] = *rule;
            self.rule_numbers.insert(*rule, number as u16);
            numbers.push(number as u16);
        }
        Ok(numbers)
    }

    /// Puts a process's mappings (sorted by start) into the mapping table and tells the kernel
    /// side. Gives what to hand to [`Self::unpublish`] later.
    ///
    /// # Errors
    ///
    /// [`TableFull::Mappings`].
    pub fn publish(
        &mut self,
        pid: u32,
        before: Option<ProcessMappings>,
        mappings: &[Mapping],
    ) -> Result<ProcessMappings, TableFull> {
        if mappings.len() > profiler_ebpf::wire::MAX_PROCESS_MAPPINGS as usize {
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
            return Err(TableFull::Mappings);
        }
        if let Some(before) = before {
            self.rest_mappings(before);
        }
        Ok(entry)
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
    fn page(&mut self, start: u64, carried: u32, rows: &[crate::unwind::RowAt], numbers: &[u16]) {
        let before = self.rows.len();
        if rows.first().is_none_or(|row| row.address > start) {
            self.rows.push(Row::new(0, numbers[carried as usize]));
        }
        for row in rows {
            self.rows.push(Row::new((row.address - start) as u16, numbers[row.rule as usize]));
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

//! What a file's blocks add up to, while they are read: stacks by address with their values, and
//! the names of methods.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::{
    NettraceError, Show,
    payload::{self, Kind, Method},
    wire::{self, Event, Events},
};
use crate::{
    format::folded::MAX_FRAMES,
    model::stacks::{StackId, Stacks},
};

/// Runtimes collect no more frames of a stack.
const RUNTIME_DEPTH: usize = 100;
/// What is kept has bounds, for a file may be as long as it likes. Frames of distinct stacks.
const MAX_NODES: usize = 4 << 20;
/// Distinct values: a stack, a thread, and what it does there.
const MAX_ROWS: usize = 2 << 20;
/// Methods, threads, types, and kinds of events.
const MAX_NAMED: usize = 1 << 20;
/// Bytes of the names of methods and types.
const MAX_NAMES: usize = 256 << 20;

/// What a value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row<S> {
    /// The stack.
    pub stack: S,
    /// The thread, where threads are told apart; else 0.
    pub thread: u64,
    /// What the thread does there.
    pub what: What,
}

/// What a thread does at the top of its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// It runs managed code.
    Managed,
    /// It waits, or runs native code.
    External,
    /// It allocates an object of this type, by its number.
    Allocates(u32),
}

/// Samples, and what they weigh.
#[derive(Clone, Copy, Debug, Default)]
pub struct Value {
    /// How many.
    pub samples: u64,
    /// Samples again, or bytes.
    pub weight: u64,
}

impl Value {
    fn add(&mut self, other: Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.weight = self.weight.saturating_add(other.weight);
    }
}

/// A stack that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Known {
    /// Its addresses, of callers one less than where they go on.
    pub id: StackId,
    /// It has as many frames as the runtime collects: its root is missing.
    pub cut: bool,
}

/// All that was read.
#[derive(Debug)]
pub struct Content {
    /// What is shown.
    pub show: Show,
    kinds: FxHashMap<u32, Option<Kind>>,
    /// The stacks of this stretch between two sequence points, by their numbers.
    numbered: FxHashMap<u32, Known>,
    /// Values of this stretch, whose stacks may follow.
    pending: FxHashMap<Row<u32>, Value>,
    sequences: FxHashMap<u64, u32>,
    types: FxHashMap<String, u32>,
    names: usize,
    /// Addresses of the stacks.
    pub stacks: Stacks<u64>,
    /// Values.
    pub rows: FxHashMap<Row<Known>, Value>,
    /// Methods by where their code begins.
    pub methods: FxHashMap<u64, Method>,
    /// Samples that show a thread in managed code, and others.
    pub managed: u64,
    /// Samples of threads that wait or run native code.
    pub external: u64,
    /// Allocations.
    pub allocations: u64,
    /// Events that the runtime could not keep.
    pub lost: u64,
    /// Events whose content is damaged.
    pub malformed: u64,
    /// The first and the last time of what is counted.
    pub times: Option<(u64, u64)>,
}

impl Content {
    /// Nothing yet.
    pub fn new(show: Show) -> Self {
        Self {
            show,
            kinds: FxHashMap::default(),
            numbered: FxHashMap::default(),
            pending: FxHashMap::default(),
            sequences: FxHashMap::default(),
            types: FxHashMap::default(),
            names: 0,
            stacks: Stacks::new(1),
            rows: FxHashMap::default(),
            methods: FxHashMap::default(),
            managed: 0,
            external: 0,
            allocations: 0,
            lost: 0,
            malformed: 0,
            times: None,
        }
    }

    /// The names of types, in the order of their numbers.
    pub fn types(&self) -> Vec<&str> {
        let mut types: Vec<_> =
            self.types.iter().map(|(name, number)| (*number, &**name)).collect();
        types.sort_unstable();
        types.into_iter().map(|(_, name)| name).collect()
    }

    /// Reads a block that begins at `offset` of the file.
    pub fn block(&mut self, name: &[u8], body: &[u8], offset: u64) -> Result<(), NettraceError> {
        let damaged = || NettraceError::Damaged(offset);
        match name {
            b"MetadataBlock" => {
                let mut events = Events::of(body).ok_or_else(damaged)?;
                while let Some(event) = events.next() {
                    self.kind(&event.ok_or_else(damaged)?)?;
                }
            }
            b"EventBlock" => {
                let mut events = Events::of(body).ok_or_else(damaged)?;
                while let Some(event) = events.next() {
                    self.event(&event.ok_or_else(damaged)?)?;
                }
            }
            b"StackBlock" => self.stacks(body, damaged)?,
            b"SPBlock" => {
                self.settle()?;
                let threads = wire::sequence_point(body).ok_or_else(damaged)?;
                self.sequence_point(threads)?;
            }
            // Later versions may have more.
            _ => {}
        }
        Ok(())
    }

    fn kind(&mut self, event: &Event<'_>) -> Result<(), NettraceError> {
        let Some((id, kind)) = payload::kind(event.payload) else {
            self.malformed += 1;
            return Ok(());
        };
        self.kinds.insert(id, kind);
        bounded(self.kinds.len(), MAX_NAMED)
    }

    fn event(&mut self, event: &Event<'_>) -> Result<(), NettraceError> {
        let last = self.sequences.insert(event.writer, event.sequence).unwrap_or_default();
        self.lose(event.sequence.wrapping_sub(last).wrapping_sub(1));
        bounded(self.sequences.len(), MAX_NAMED)?;
        let Some(kind) = self.kinds.get(&event.metadata).copied().flatten() else {
            return Ok(());
        };
        let read = match kind {
            Kind::Method => payload::method(event.payload).map(|method| self.method(method)),
            Kind::Sample => payload::is_managed(event.payload).map(|managed| {
                let what = if managed { What::Managed } else { What::External };
                self.count(event, what, Value { samples: 1, weight: 1 })
            }),
            Kind::Allocation => payload::allocation(event.payload).map(|(bytes, name)| {
                let what = What::Allocates(self.type_number(name)?);
                self.count(event, what, Value { samples: 1, weight: bytes })
            }),
        };
        read.unwrap_or_else(|| {
            self.malformed += 1;
            Ok(())
        })
    }

    /// Counts events that are missing before one. A step back is no loss, but a file put together
    /// wrongly.
    fn lose(&mut self, missing: u32) {
        if missing < 1 << 31 {
            self.lost += u64::from(missing);
        }
    }

    fn method(&mut self, method: Method) -> Result<(), NettraceError> {
        self.names = self.names.saturating_add(method.name.len());
        if let Some(old) = self.methods.insert(method.start, method) {
            self.names -= old.name.len();
        }
        bounded(self.names, MAX_NAMES)?;
        bounded(self.methods.len(), MAX_NAMED)
    }

    fn type_number(&mut self, name: String) -> Result<u32, NettraceError> {
        let next = self.types.len() as u32;
        match self.types.entry(name) {
            Entry::Occupied(known) => Ok(*known.get()),
            Entry::Vacant(new) => {
                self.names += new.key().len();
                new.insert(next);
                bounded(self.names, MAX_NAMES)?;
                bounded(self.types.len(), MAX_NAMED)?;
                Ok(next)
            }
        }
    }

    fn count(&mut self, event: &Event<'_>, what: What, value: Value) -> Result<(), NettraceError> {
        *match what {
            What::Managed => &mut self.managed,
            What::External => &mut self.external,
            What::Allocates(_) => &mut self.allocations,
        } += 1;
        if what == What::External && !self.show.idle {
            return Ok(());
        }
        let time = event.time;
        let (first, last) = self.times.unwrap_or((time, time));
        self.times = Some((first.min(time), last.max(time)));
        let thread = if self.show.threads { event.thread } else { 0 };
        let row = Row { stack: event.stack, thread, what };
        self.pending.entry(row).or_default().add(value);
        bounded(self.pending.len(), MAX_ROWS)
    }

    fn stacks(
        &mut self,
        body: &[u8],
        damaged: impl Fn() -> NettraceError,
    ) -> Result<(), NettraceError> {
        let (first, count, mut rest) = wire::stacks(body).ok_or_else(&damaged)?;
        for number in 0..count {
            let addresses = wire::stack(&mut rest).ok_or_else(&damaged)?;
            let addresses: Vec<u64> = addresses.take(MAX_FRAMES).collect();
            let mut id = StackId::ROOT;
            for (depth, address) in addresses.iter().enumerate().rev() {
                // A caller's is where it goes on after the call, which may be another method's.
                id = self.stacks.push(id, &address.saturating_sub(u64::from(depth > 0)));
            }
            let cut = addresses.len() >= RUNTIME_DEPTH;
            self.numbered.insert(first.wrapping_add(number), Known { id, cut });
            bounded(self.numbered.len(), MAX_ROWS)?;
            bounded(self.stacks.nodes(), MAX_NODES)?;
        }
        Ok(())
    }

    /// Numbers of stacks are used again after a sequence point.
    fn sequence_point(
        &mut self,
        threads: impl Iterator<Item = (u64, u32)>,
    ) -> Result<(), NettraceError> {
        let mut now = FxHashMap::default();
        for (thread, sequence) in threads {
            if let Some(last) = self.sequences.get(&thread) {
                self.lose(sequence.wrapping_sub(*last));
            }
            now.insert(thread, sequence);
            bounded(now.len(), MAX_NAMED)?;
        }
        self.sequences = now;
        Ok(())
    }

    /// Gives the values of this stretch their stacks.
    pub fn settle(&mut self) -> Result<(), NettraceError> {
        let none = Known { id: StackId::ROOT, cut: false };
        for (Row { stack, thread, what }, value) in self.pending.drain() {
            let stack = self.numbered.get(&stack).copied().unwrap_or(none);
            self.rows.entry(Row { stack, thread, what }).or_default().add(value);
        }
        self.numbered.clear();
        bounded(self.rows.len(), MAX_ROWS)
    }
}

fn bounded(len: usize, most: usize) -> Result<(), NettraceError> {
    if len <= most { Ok(()) } else { Err(NettraceError::TooMuch) }
}

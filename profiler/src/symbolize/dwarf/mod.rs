//! Inlined calls and source lines from DWARF, for a sorted batch of addresses of one file.
//!
//! One pass over the unit headers finds the units that cover an address; only those are read, one
//! after the other, and nothing of them is kept but the answers. A file with gigabytes of debug
//! information thus costs the pages of its headers and of the units that were sampled. No entry
//! is visited recursively, so nesting cannot exhaust the stack; a bound on all ranges that are
//! read keeps hostile files from taking long.
//!
//! blazesym ([`super::blaze`]) reads the files that only root can change; this reader is for the
//! others, and for what blazesym does not read.

mod functions;
mod lines;
mod sections;
mod split;
mod units;

use std::time::{Duration, Instant};

pub use sections::Sections;
pub use split::{Elsewhere, is_split};

/// What gimli reads from.
pub type Reader<'data> = gimli::EndianSlice<'data, gimli::LittleEndian>;

/// All address ranges that are looked at in one file; more than any real file has in the units
/// that cover its samples.
const MAX_RANGES: u64 = 50_000_000;

/// Reading one file stops after this time; the largest real ones take a tenth of it.
const MAX_TIME: Duration = Duration::from_secs(10);

/// A position in the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Source file, with its directory.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<u32>,
}

/// One function that an address lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name as DWARF has it: usually the linkage name.
    pub name: Option<Vec<u8>>,
    /// Where in this function the address is, or the call of the next inlined one.
    pub position: Position,
}

/// The functions an address lies in: the one that was compiled, then those inlined into it,
/// outermost first.
pub type Chain = Vec<Call>;

/// Addresses to look up, ascending and distinct.
#[derive(Clone, Copy)]
struct Queries<'a>(&'a [u64]);

impl Queries<'_> {
    /// The queries in an address range. Ranges from 0 are left-overs of functions that the linker
    /// dropped.
    fn within(&self, begin: u64, end: u64) -> std::ops::Range<usize> {
        if begin == 0 || begin >= end {
            return 0..0;
        }
        let first = self.0.partition_point(|address| *address < begin);
        // Most ranges hold no query: no second search for them.
        if self.0.get(first).is_none_or(|address| *address >= end) {
            return first..first;
        }
        first..first + self.0[first..].partition_point(|address| *address < end)
    }
}

/// Counts work down; what a hostile file asks for beyond it is an error.
struct Budget {
    ranges: u64,
    deadline: Instant,
}

impl Budget {
    fn new() -> Self {
        Self { ranges: MAX_RANGES, deadline: Instant::now() + MAX_TIME }
    }

    /// Takes one range.
    fn take(&mut self) -> gimli::Result<()> {
        self.ranges = self.ranges.checked_sub(1).ok_or(gimli::Error::TooManyIterations)?;
        if self.ranges.is_multiple_of(4096) { self.check() } else { Ok(()) }
    }

    /// Looks at the clock.
    fn check(&self) -> gimli::Result<()> {
        if Instant::now() < self.deadline { Ok(()) } else { Err(gimli::Error::TooManyIterations) }
    }
}

/// The chain of functions at each address (ascending, distinct); empty where DWARF tells none.
/// A chain of one function without a name has a source line only.
///
/// A unit that cannot be read costs only its own functions.
#[must_use]
pub fn resolve(
    dwarf: &gimli::Dwarf<Reader<'_>>,
    elsewhere: &Elsewhere<'_>,
    addresses: &[u64],
) -> Vec<Chain> {
    let mut chains = vec![Chain::new(); addresses.len()];
    let mut lines_only = chains.clone();
    let queries = Queries(addresses);
    let mut budget = Budget::new();
    let mut directory = units::Directory::new(dwarf);
    for offset in directory.covering(queries, &mut budget) {
        if budget.check().is_err() {
            break;
        }
        let Ok(unit) = directory.unit(offset) else { continue };
        let lines = lines::Lines::new(dwarf, &unit);
        let positions = lines.positions(queries, &mut budget).unwrap_or_default();
        let mut keep = |found: Vec<(usize, Vec<functions::Found<'_>>)>| {
            for (query, calls) in found {
                if chains[query].is_empty() {
                    chains[query] = lines.chain(calls, positions.get(&query).copied());
                }
            }
        };
        let whole = unit.dwo_id.map(|id| {
            elsewhere.visit(dwarf, &unit, id, |dwo, unit| {
                let mut directory = units::Directory::new(dwo);
                functions::walk(&mut directory, unit, queries, &mut budget).map(&mut keep)
            })
        });
        if !matches!(whole, Some(Ok(Some(())))) {
            let found = functions::walk(&mut directory, &unit, queries, &mut budget);
            keep(found.unwrap_or_default());
        }
        for (query, position) in &positions {
            lines_only[*query] = lines.chain(vec![functions::Found::default()], Some(*position));
        }
    }
    for (chain, line) in chains.iter_mut().zip(lines_only) {
        if chain.is_empty() {
            *chain = line;
        }
    }
    chains
}

//! Lists of rows: building one in address order, and joining two.

use std::{collections::VecDeque, iter::Peekable, slice};

use super::{MAX_ROWS, RowAt, TextRange, UnwindError};

/// Appends rows in address order and keeps the list minimal.
#[derive(Default)]
pub struct Builder {
    rows: Vec<RowAt>,
}

impl Builder {
    /// From this address on, this rule holds. Addresses never decrease; the last word at an
    /// address counts.
    pub fn push(&mut self, address: u64, rule: u16) -> Result<(), UnwindError> {
        if self.rows.last().is_some_and(|last| last.address() >= address) {
            self.rows.pop();
        }
        if self.current() != rule {
            if self.rows.len() >= MAX_ROWS {
                return Err(UnwindError::TooLarge { what: "unwind rows", limit: MAX_ROWS as u64 });
            }
            self.rows.push(RowAt::new(address, rule));
        }
        Ok(())
    }

    /// The rule that holds at the end of the list; 0 before the first row.
    pub fn current(&self) -> u16 {
        self.rows.last().map_or(0, |row| row.rule())
    }

    /// Where the list stands, to go back to.
    pub fn mark(&self) -> (usize, Option<RowAt>) {
        (self.rows.len(), self.rows.last().copied())
    }

    /// Takes back what was pushed since the mark.
    pub fn rewind(&mut self, (len, last): (usize, Option<RowAt>)) {
        // The first push may have replaced the row that was last then.
        self.rows.truncate(len.saturating_sub(1));
        self.rows.extend(last);
    }

    /// The list.
    pub fn finish(self) -> Vec<RowAt> {
        self.rows
    }
}

/// Shorter holes between rows are padding between functions: looking at each would read all text in.
const MIN_HOLE: u64 = 16;

/// From where to where text has no rows, but might have.
pub fn holes(text: &[TextRange], rows: &[RowAt]) -> Vec<(u64, u64)> {
    let mut holes = Vec::new();
    for text in text {
        let end = text.address + text.size;
        let mut at = rows.partition_point(|row| row.address() <= text.address);
        let mut address = text.address;
        let mut rule = at.checked_sub(1).map_or(0, |before| rows[before].rule());
        while address < end {
            let next = rows.get(at).map_or(end, |row| row.address().min(end));
            if rule == 0 && next - address >= MIN_HOLE {
                holes.push((address, next));
            }
            address = next;
            rule = rows.get(at).map_or(0, |row| row.rule());
            at += 1;
        }
    }
    holes
}

/// The rows of `first`, and those of `second` where `first` has no rule.
pub fn fill_gaps(first: &[RowAt], second: &[RowAt]) -> Result<Vec<RowAt>, UnwindError> {
    // Exactly what is needed at the most: of large files both lists take tens of megabytes.
    let mut joined = Builder { rows: Vec::with_capacity(first.len() + second.len()) };
    let mut both = Both::default();
    let (mut a, mut b) = (first.iter().peekable(), second.iter().peekable());
    while let Some((address, rule)) = both.next(&mut a, &mut b) {
        joined.push(address, rule)?;
    }
    Ok(joined.finish())
}

/// The same in the memory of `first`, for a `second` that is much shorter.
pub fn fill_few_gaps(mut first: Vec<RowAt>, second: &[RowAt]) -> Result<Vec<RowAt>, UnwindError> {
    if second.is_empty() {
        return Ok(first);
    }
    // What was joined waits here until its place in `first` has been read.
    let mut joined = VecDeque::new();
    let (mut read, mut written) = (0, 0);
    let (mut both, mut b) = (Both::default(), second.iter().peekable());
    let mut before = 0;
    loop {
        let rest = first.get(read..).unwrap_or_default();
        let mut a = rest.iter().peekable();
        let Some((address, rule)) = both.next(&mut a, &mut b) else { break };
        read = first.len() - a.len();
        if rule != before {
            joined.push_back(RowAt::new(address, rule));
            before = rule;
        }
        while written < read
            && let Some(row) = joined.pop_front()
        {
            first[written] = row;
            written += 1;
        }
    }
    first.truncate(written);
    if first.len() + joined.len() > MAX_ROWS {
        return Err(UnwindError::TooLarge { what: "unwind rows", limit: MAX_ROWS as u64 });
    }
    first.reserve_exact(joined.len());
    first.extend(joined);
    Ok(first)
}

/// Goes through two lists at a time.
#[derive(Default)]
struct Both {
    first: u16,
    second: u16,
}

/// A list that is gone through.
type Rows<'a> = Peekable<slice::Iter<'a, RowAt>>;

impl Both {
    /// The next address at which one of them has a row, and the rule that holds from there on.
    fn next(&mut self, a: &mut Rows<'_>, b: &mut Rows<'_>) -> Option<(u64, u16)> {
        let address = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => x.address().min(y.address()),
            (Some(row), None) | (None, Some(row)) => row.address(),
            (None, None) => return None,
        };
        if let Some(row) = a.next_if(|row| row.address() == address) {
            self.first = row.rule();
        }
        if let Some(row) = b.next_if(|row| row.address() == address) {
            self.second = row.rule();
        }
        Some((address, if self.first != 0 { self.first } else { self.second }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lists as compiling makes them.
    fn list() -> impl Strategy<Value = Vec<RowAt>> {
        proptest::collection::vec((1u64..4, 0u16..4), 0..40).prop_map(|steps| {
            let mut list = Builder::default();
            let mut at = 0;
            for (step, rule) in steps {
                at += step;
                list.push(at, rule).unwrap();
            }
            list.finish()
        })
    }

    proptest! {
        #[test]
        fn few_gaps_are_filled_like_many(first in list(), second in list()) {
            let joined = fill_gaps(&first, &second).unwrap();
            prop_assert_eq!(fill_few_gaps(first, &second).unwrap(), joined);
        }
    }

    #[test]
    fn a_row_holds_its_address_and_rule() {
        let row = RowAt::new(0x7fff_1234_5678, 4095);
        assert_eq!((row.address(), row.rule()), (0x7fff_1234_5678, 4095));
        assert_eq!(size_of::<RowAt>(), 8);
    }
}

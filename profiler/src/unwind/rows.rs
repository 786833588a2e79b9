//! Lists of rows: building one in address order, and joining two.

use super::{MAX_ROWS, RowAt, UnwindError};

/// Appends rows in address order and keeps the list minimal.
#[derive(Default)]
pub struct Builder {
    rows: Vec<RowAt>,
}

impl Builder {
    /// From this address on, this rule holds. Addresses never decrease; the last word at an
    /// address counts.
    pub fn push(&mut self, address: u64, rule: u32) -> Result<(), UnwindError> {
        if self.rows.last().is_some_and(|last| last.address >= address) {
            self.rows.pop();
        }
        if self.current() != rule {
            if self.rows.len() >= MAX_ROWS {
                return Err(UnwindError::TooLarge { what: "unwind rows", limit: MAX_ROWS as u64 });
            }
            self.rows.push(RowAt { address, rule });
        }
        Ok(())
    }

    /// The rule that holds at the end of the list; 0 before the first row.
    pub fn current(&self) -> u32 {
        self.rows.last().map_or(0, |row| row.rule)
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

/// The rows of `first`, and those of `second` where `first` has no rule.
pub fn fill_gaps(first: &[RowAt], second: &[RowAt]) -> Result<Vec<RowAt>, UnwindError> {
    // Exactly what is needed at the most: of large files both lists take tens of megabytes.
    let mut joined = Builder { rows: Vec::with_capacity(first.len() + second.len()) };
    let (mut a, mut b) = (first.iter().peekable(), second.iter().peekable());
    let (mut rule_a, mut rule_b) = (0, 0);
    loop {
        let address = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => x.address.min(y.address),
            (Some(row), None) | (None, Some(row)) => row.address,
            (None, None) => return Ok(joined.finish()),
        };
        if let Some(row) = a.next_if(|row| row.address == address) {
            rule_a = row.rule;
        }
        if let Some(row) = b.next_if(|row| row.address == address) {
            rule_b = row.rule;
        }
        joined.push(address, if rule_a != 0 { rule_a } else { rule_b })?;
    }
}

//! Which entries of a table are free, in runs.

use std::collections::BTreeMap;

/// A run of entries in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of the first.
    pub start: u32,
    /// How many.
    pub len: u32,
}

/// Free runs by start: first fit, neighbours merge.
#[derive(Clone, Debug, Default)]
pub struct FreeList {
    runs: BTreeMap<u32, u32>,
    resting: [Vec<Extent>; 2],
}

impl FreeList {
    /// All of `len` entries are free.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self { runs: BTreeMap::from([(0, len)]), resting: Default::default() }
    }

    /// Takes a run; None: there is none so long.
    pub fn take(&mut self, len: u32) -> Option<Extent> {
        let (start, run) = self.runs.iter().find(|(_, run)| **run >= len).map(|(s, r)| (*s, *r))?;
        self.runs.remove(&start);
        if run > len {
            self.runs.insert(start + len, run - len);
        }
        Some(Extent { start, len })
    }

    /// Gives an extent back, to be free after two more calls of `settle`.
    pub fn rest(&mut self, extent: Extent) {
        if extent.len > 0 {
            self.resting[0].push(extent);
        }
    }

    /// A round has passed.
    pub fn settle(&mut self) {
        for extent in std::mem::take(&mut self.resting[1]) {
            self.free(extent);
        }
        self.resting.swap(0, 1);
    }

    fn free(&mut self, Extent { mut start, mut len }: Extent) {
        if let Some((before, run)) = self.runs.range(..start).next_back().map(|(s, r)| (*s, *r))
            && before + run == start
        {
            self.runs.remove(&before);
            start = before;
            len += run;
        }
        if let Some(run) = self.runs.remove(&(start + len)) {
            len += run;
        }
        self.runs.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_rests_for_two_rounds() {
        let mut free = FreeList::new(10);
        let all = free.take(10).unwrap();
        free.rest(all);
        free.settle();
        assert_eq!(free.take(1), None);
        free.settle();
        assert_eq!(free.take(10), Some(all));
    }

    #[test]
    fn neighbours_merge() {
        let mut free = FreeList::new(30);
        let parts = [(); 3].map(|()| free.take(10).unwrap());
        for part in [parts[0], parts[2], parts[1]] {
            free.rest(part);
        }
        free.settle();
        free.settle();
        assert_eq!(free.take(30), Some(Extent { start: 0, len: 30 }));
    }
}

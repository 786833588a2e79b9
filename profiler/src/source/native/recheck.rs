//! Looking at the processes again where records about them were lost: what they have mapped, how they
//! are called and whether they are there still is not known from records any more.

use std::time::{Duration, Instant};

use rustc_hash::FxHashSet;

/// How long it is from one look to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// Looks after a loss: the first may come while more is being lost.
const LOOKS: u32 = 2;

/// When to look, and what was seen.
#[derive(Debug, Default)]
pub struct Recheck {
    /// Records that were lost when this was last asked.
    lost: u64,
    /// Looks that are to come.
    left: u32,
    /// When the last one was.
    last: Option<Instant>,
    /// Who was followed then, and not there.
    gone: FxHashSet<u32>,
}

impl Recheck {
    /// Whether to look now, when so many records have been lost.
    pub fn is_due(&mut self, lost: u64) -> bool {
        if lost > self.lost {
            self.left = LOOKS;
        }
        self.lost = lost;
        if self.left == 0 || self.last.is_some_and(|last| last.elapsed() < PAUSE) {
            return false;
        }
        self.left -= 1;
        true
    }

    /// It has been looked.
    pub fn looked(&mut self) {
        self.last = Some(Instant::now());
    }

    /// Of those who are followed and are not there, those who were not there at the look before either:
    /// of the others there may be samples that nobody has worked off.
    pub fn long_gone(&mut self, gone: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let gone = FxHashSet::from_iter(gone);
        let before = std::mem::replace(&mut self.gone, gone);
        self.gone.intersection(&before).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_followed_by_looks() {
        let mut recheck = Recheck::default();
        assert!(!recheck.is_due(0));
        assert!(recheck.is_due(3));
        recheck.looked();
        assert!(!recheck.is_due(3), "not at once again");
        recheck.last = None;
        assert!(recheck.is_due(3));
        recheck.last = None;
        assert!(!recheck.is_due(3), "nothing more was lost");
        assert!(recheck.is_due(4));
    }

    #[test]
    fn who_is_missing_twice_is_gone() {
        let mut recheck = Recheck::default();
        assert!(recheck.long_gone([1, 2]).is_empty());
        assert_eq!(recheck.long_gone([2, 3]), [2]);
        assert!(recheck.long_gone([]).is_empty());
    }
}

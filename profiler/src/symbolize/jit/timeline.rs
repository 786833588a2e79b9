//! What lay at an address when: the code of a jitdump, put down in the order of time.

use std::collections::BTreeMap;

use super::{LATEST, Moment};
use crate::format::jitdump::{Code, Dump};

/// Which piece of the dump's code lay at each address at its time. Runtimes may tell of code a
/// moment after it began to run, so an address at which nothing lay yet has what lay there next.
#[must_use]
pub fn resolve(dump: &Dump, moments: &[Moment]) -> Vec<Option<usize>> {
    let code = &dump.code;
    // Times of another clock say nothing but their order.
    let time = |moment: &Moment| if dump.monotonic { moment.time } else { LATEST };
    let mut order: Vec<usize> = (0..moments.len()).collect();
    order.sort_unstable_by_key(|at| time(&moments[*at]));
    let mut found = vec![None; moments.len()];

    let (mut lying, mut next) = (Lying::default(), 0);
    for at in &order {
        while let Some(piece) = code.get(next).filter(|code| code.time <= time(&moments[*at])) {
            lying.put(piece, next);
            next += 1;
        }
        found[*at] = lying.at(moments[*at].address);
    }
    let (mut lying, mut next) = (Lying::default(), code.len());
    for at in order.iter().rev().filter(|at| time(&moments[**at]) != LATEST) {
        while let Some(piece) = next.checked_sub(1).map(|last| &code[last]) {
            if piece.time <= time(&moments[*at]) {
                break;
            }
            next -= 1;
            lying.put(piece, next);
        }
        if found[*at].is_none() {
            found[*at] = lying.at(moments[*at].address);
        }
    }
    found
}

/// Pieces of code by where they start: end and number. None overlap.
#[derive(Default)]
struct Lying(BTreeMap<u64, (u64, usize)>);

impl Lying {
    /// Puts a piece over what lies there.
    fn put(&mut self, code: &Code, number: usize) {
        let (start, end) = (code.start, code.start.saturating_add(code.size));
        if let Some((&before, &(before_end, old))) = self.0.range(..start).next_back()
            && before_end > start
        {
            self.0.insert(before, (start, old));
            if before_end > end {
                self.0.insert(end, (before_end, old));
            }
        }
        while let Some((&inside, &(inside_end, old))) = self.0.range(start..end).next() {
            self.0.remove(&inside);
            if inside_end > end {
                self.0.insert(end, (inside_end, old));
            }
        }
        self.0.insert(start, (end, number));
    }

    fn at(&self, address: u64) -> Option<usize> {
        let (_, (end, number)) = self.0.range(..=address).next_back()?;
        (address < *end).then_some(*number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dump(pieces: &[(u64, u64, u64)]) -> Dump {
        let code = |(time, start, size): &(u64, u64, u64)| Code {
            time: *time,
            start: *start,
            size: *size,
            name: Vec::new(),
        };
        Dump { code: pieces.iter().map(code).collect(), monotonic: true }
    }

    fn moments(at: &[(u64, u64)]) -> Vec<Moment> {
        at.iter().map(|(address, time)| Moment { address: *address, time: *time }).collect()
    }

    #[test]
    fn what_lay_there_at_the_time_is_found() {
        let mut dump = dump(&[(10, 100, 50), (20, 120, 10), (30, 100, 50)]);
        let at = moments(&[(110, 9), (110, 10), (125, 19), (125, 20), (131, 25), (125, LATEST)]);
        let expected = [Some(0), Some(0), Some(0), Some(1), Some(0), Some(2)];
        assert_eq!(resolve(&dump, &at), expected);
        // Before anything lay there: what came next, not what came last.
        assert_eq!(
            resolve(&dump, &moments(&[(125, 5), (150, 40), (99, 40)])),
            [Some(0), None, None]
        );
        // Another clock.
        dump.monotonic = false;
        assert_eq!(resolve(&dump, &moments(&[(125, 15)])), [Some(2)]);
    }

    proptest! {
        #[test]
        fn it_is_what_a_plain_search_finds(
            pieces in prop::collection::vec((0_u64..50, 0_u64..40, 1_u64..20), 0..30),
            at in prop::collection::vec((0_u64..60, 0_u64..50), 0..60),
        ) {
            let mut pieces = pieces;
            pieces.sort_by_key(|(time, ..)| *time);
            let covers = |(_, start, size): &(u64, u64, u64), address| {
                (*start..start + size).contains(&address)
            };
            let plain = |(address, time): &(u64, u64)| {
                let before = pieces.iter().rposition(|p| p.0 <= *time && covers(p, *address));
                before.or_else(|| pieces.iter().position(|p| p.0 > *time && covers(p, *address)))
            };
            let expected: Vec<_> = at.iter().map(plain).collect();
            prop_assert_eq!(resolve(&dump(&pieces), &moments(&at)), expected);
        }
    }
}

//! Counting what the kernel did not sample because it throttled an event: with
//! `kernel.perf_event_max_sample_rate`, or when sampling took too much of a CPU's time, an event
//! rests until the next tick of the clock. It writes down when (`PERF_RECORD_THROTTLE`).

use perf_event_open_sys::bindings::{PERF_RECORD_THROTTLE, PERF_RECORD_UNTHROTTLE};
use rustc_hash::FxHashMap;

use super::sideband::{Malformed, Reader};

/// How long events rested.
#[derive(Debug, Default)]
pub struct Throttled {
    /// Since when one does, by the kernel's number of it.
    since: FxHashMap<u64, u64>,
    /// How often they did.
    times: u64,
    /// For how long in all.
    nanoseconds: u64,
}

impl Throttled {
    /// Takes a record of either kind; false: it is of another kind, or too short.
    pub fn record(&mut self, kind: u32, body: &[u8]) -> bool {
        let Ok((time, stream)) = decode(body) else { return false };
        match kind {
            PERF_RECORD_THROTTLE => {
                self.times += u64::from(self.since.insert(stream, time).is_none());
            }
            PERF_RECORD_UNTHROTTLE => {
                let since = self.since.remove(&stream);
                self.nanoseconds += since.map_or(0, |since| time.saturating_sub(since));
            }
            _ => return false,
        }
        true
    }

    /// An event that still rests does so until now at the most.
    pub fn finish(&mut self, now: u64) {
        for (_, since) in self.since.drain() {
            self.nanoseconds += now.saturating_sub(since);
        }
    }

    /// Samples that were missed at this frequency, at least one each time.
    #[must_use]
    pub fn samples(&self, frequency: u64) -> u64 {
        let missed = u128::from(self.nanoseconds) * u128::from(frequency) / 1_000_000_000;
        u64::try_from(missed).unwrap_or(u64::MAX).max(self.times)
    }
}

/// When, and which event.
fn decode(body: &[u8]) -> Result<(u64, u64), Malformed> {
    let mut reader = Reader::new(body);
    let (time, _id, stream) = (reader.u64()?, reader.u64()?, reader.u64()?);
    Ok((time, stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(time: u64, stream: u64) -> Vec<u8> {
        [time, 7, stream].into_iter().flat_map(u64::to_le_bytes).collect()
    }

    #[test]
    fn what_an_event_missed_is_told_by_how_long_it_rested() {
        let mut throttled = Throttled::default();
        assert_eq!(throttled.samples(1000), 0);
        // Two events at a time: 3 ms, 5 ms, and 2 ms until the end.
        assert!(throttled.record(PERF_RECORD_THROTTLE, &body(1_000_000, 1)));
        assert!(throttled.record(PERF_RECORD_THROTTLE, &body(2_000_000, 2)));
        assert!(throttled.record(PERF_RECORD_UNTHROTTLE, &body(4_000_000, 1)));
        assert!(throttled.record(PERF_RECORD_UNTHROTTLE, &body(7_000_000, 2)));
        assert!(throttled.record(PERF_RECORD_THROTTLE, &body(8_000_000, 1)));
        throttled.finish(10_000_000);
        assert_eq!(throttled.samples(1000), 10);
        assert_eq!(throttled.samples(99), 3, "at least one each time");
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let mut throttled = Throttled::default();
        assert!(!throttled.record(PERF_RECORD_THROTTLE, &[0; 23]));
        assert!(!throttled.record(1, &body(1, 1)));
        assert!(throttled.record(PERF_RECORD_UNTHROTTLE, &body(5, 1)));
        assert!(throttled.record(PERF_RECORD_THROTTLE, &body(9, 1)));
        assert!(throttled.record(PERF_RECORD_UNTHROTTLE, &body(5, 1)));
        assert_eq!(throttled.samples(99), 1);
    }
}

//! What a decoder makes of a profile that another profiler took.

use std::time::{Duration, SystemTime};

use crate::model::{
    frame::RawFrame,
    loss::Losses,
    metric::Metric,
    profile::{Metadata, Recording},
    stacks::Stacks,
};

/// A profile of another profiler: named frames, one metric, and what else it tells.
#[derive(Debug)]
pub struct Decoded {
    /// The stacks; the first frame of each is [`RawFrame::Process`].
    pub stacks: Stacks<RawFrame>,
    /// What the values count.
    pub metric: Metric,
    /// Samples in the stacks, or what comes closest to them.
    pub samples: u64,
    /// When it was begun; none: it does not tell.
    pub start: Option<SystemTime>,
    /// How long it was taken.
    pub duration: Option<Duration>,
    /// Samples a second, where that applies.
    pub frequency: Option<u64>,
    /// What is to be said about it, a clause each.
    pub remarks: Vec<String>,
}

impl Decoded {
    /// A profile that tells nothing beside its stacks.
    #[must_use]
    pub fn new(stacks: Stacks<RawFrame>, metric: Metric, samples: u64) -> Self {
        Self {
            stacks,
            metric,
            samples,
            start: None,
            duration: None,
            frequency: None,
            remarks: Vec::new(),
        }
    }

    /// The same with a thread as the second frame of each stack.
    #[must_use]
    pub fn on_thread(mut self, name: &str) -> Self {
        let thread = RawFrame::Thread(name.into());
        self.stacks = self.stacks.map(|frame| match frame {
            RawFrame::Process(_) => vec![frame.clone(), thread.clone()],
            _ => vec![frame.clone()],
        });
        self
    }

    /// Adds a profile of another thread, taken at the same time and with the same metric.
    pub fn add(&mut self, other: Self) {
        for (stack, values) in other.stacks.iter() {
            let id = self.stacks.intern(other.stacks.root_first(stack));
            values.iter().enumerate().for_each(|(n, value)| self.stacks.add(id, n, *value));
        }
        self.samples = self.samples.saturating_add(other.samples);
        self.duration = self.duration.max(other.duration);
        self.remarks.extend(other.remarks);
    }

    /// The same as a recording. What the profile tells about its time wins over `metadata`.
    #[must_use]
    pub fn recording(self, metadata: Metadata) -> Recording {
        let losses = self.losses();
        let lost = losses.lost.values().fold(0, |sum: u64, n| sum.saturating_add(*n));
        let cut = losses.truncated.values().sum::<u64>().saturating_add(lost);
        Recording {
            metadata: Metadata {
                start: self.start.unwrap_or(metadata.start),
                duration: self.duration.unwrap_or(metadata.duration),
                frequency: self.frequency.or(metadata.frequency),
                ..metadata
            },
            metrics: vec![self.metric],
            stacks: self.stacks,
            modules: Vec::new(),
            losses,
            samples: self.samples,
            complete: self.samples.saturating_sub(cut),
        }
    }

    /// What the stacks say about why they are short or missing, where values are samples.
    fn losses(&self) -> Losses {
        let mut losses = Losses::default();
        if self.metric != Metric::samples() {
            return losses;
        }
        for (id, values) in self.stacks.iter() {
            for frame in self.stacks.leaf_first(id) {
                match frame {
                    RawFrame::Truncated(cause) => {
                        *losses.truncated.entry(*cause).or_default() += values[0];
                    }
                    RawFrame::Lost(cause) => losses.lose(*cause, values[0]),
                    _ => {}
                }
            }
        }
        losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(stack: &[RawFrame], value: u64) -> Decoded {
        let mut stacks = Stacks::new(1);
        let id = stacks.intern(stack);
        stacks.add(id, 0, value);
        Decoded {
            stacks,
            metric: Metric::samples(),
            samples: value,
            start: None,
            duration: Some(Duration::from_secs(value)),
            frequency: None,
            remarks: vec![value.to_string()],
        }
    }

    #[test]
    fn threads_are_put_together() {
        let process = RawFrame::Process("node".into());
        let mut one = decoded(std::slice::from_ref(&process), 3);
        one.add(decoded(std::slice::from_ref(&process), 4));
        assert_eq!((one.stacks.total(0), one.stacks.len(), one.samples), (7, 1, 7));
        assert_eq!(one.duration, Some(Duration::from_secs(4)));
        assert_eq!(one.remarks, ["3", "4"]);
        let mut one = decoded(std::slice::from_ref(&process), 3).on_thread("main");
        one.add(decoded(std::slice::from_ref(&process), 4).on_thread("worker"));
        let all: Vec<_> = one.stacks.iter().map(|(id, _)| one.stacks.root_first(id)).collect();
        let thread = |name: &str| RawFrame::Thread(name.into());
        assert_eq!(all, [[&process, &thread("main")], [&process, &thread("worker")]]);
    }
}

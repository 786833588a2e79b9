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
    /// The same as a recording. What the profile tells about its time wins over `metadata`.
    #[must_use]
    pub fn recording(self, metadata: Metadata) -> Recording {
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
            losses: Losses::default(),
            samples: self.samples,
            complete: self.samples,
        }
    }
}

//! Loss as data: why a stack is short and why a sample is missing. Each cause has one wording,
//! used in the picture, the summary and the statistics.

use std::collections::BTreeMap;

/// Why a stack does not reach its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Truncation {
    /// No mapping is known at the address.
    UnknownMapping,
    /// The unwind tables of the file were not ready in time.
    RowsPending,
    /// Stack memory could not be read.
    UnreadableStack,
    /// The stack pointer did not move towards the root.
    StackNotAdvancing,
    /// Code without unwind tables and without a usable frame pointer.
    NoFramePointer,
    /// Unwind information that cannot be expressed.
    UnsupportedRule,
    /// More frames than the walk collects.
    TooDeep,
    /// The walk's tables were inconsistent.
    BadTables,
    /// A 32-bit process.
    Compat,
    /// The copy of the stack was too short.
    CopyEnded,
    /// The walker's tables had no room for the unwind rows of the file.
    TablesFull,
    /// The unwind tables of the file were not ready, and too many samples waited for such already.
    WaitingFull,
    /// Too many stacks of waits had been copied to be finished in user space just before.
    NotCopied,
}

impl Truncation {
    /// Every cause.
    pub const ALL: [Self; 13] = [
        Self::UnknownMapping,
        Self::RowsPending,
        Self::UnreadableStack,
        Self::StackNotAdvancing,
        Self::NoFramePointer,
        Self::UnsupportedRule,
        Self::TooDeep,
        Self::BadTables,
        Self::Compat,
        Self::CopyEnded,
        Self::TablesFull,
        Self::WaitingFull,
        Self::NotCopied,
    ];

    /// The stable name: in `[truncated: …]` frames and, as a key, in the statistics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownMapping => "unknown mapping",
            Self::RowsPending => "unwind tables not ready",
            Self::UnreadableStack => "unreadable stack",
            Self::StackNotAdvancing => "stack not advancing",
            Self::NoFramePointer => "no frame pointer",
            Self::UnsupportedRule => "unsupported unwind rule",
            Self::TooDeep => "too deep",
            Self::BadTables => "inconsistent tables",
            Self::Compat => "32-bit process",
            Self::CopyEnded => "stack copy ended",
            Self::TablesFull => "no room for unwind tables",
            Self::WaitingFull => "no room to wait for unwind tables",
            Self::NotCopied => "too many stack copies",
        }
    }
}

/// Why something is missing: samples, or what would have served them. Each bound has a cause of its
/// own. What it counts is in its description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loss {
    /// Samples for which the ring buffer had no room.
    RingFull,
    /// Samples on a CPU without scratch space.
    NoScratch,
    /// Samples that the kernel did not take, as it throttled the event: that many at the most, as
    /// nobody knows who ran on its CPU meanwhile.
    Throttled,
    /// Samples whose records could not be decoded.
    Malformed,
    /// Samples with stacks that were new when there were too many distinct ones.
    StacksFull,
    /// Processes that were to be sampled and did not fit into the table of targets.
    TargetsFull,
    /// Records about processes and mappings that the kernel lost or that could not be decoded.
    SidebandLost,
    /// Processes that the kernel side could not be told of: their stacks were finished in user
    /// space.
    ProcessesFull,
    /// Processes with more mappings than the mapping table had room for, likewise.
    MappingsFull,
    /// Files whose unwind rows had no room.
    RowsFull,
    /// Files whose unwind rules had no room.
    RulesFull,
    /// Files whose text had no room in the page index.
    PagesFull,
    /// Mapped files that were not told apart from others.
    ModulesFull,
    /// Mapped files that were not opened, as too many were open.
    FilesFull,
    /// Mapped files that samples needed and that could not be opened.
    FileRefused,
    /// The interpreter of a process could not be read at that moment.
    Interpreter,
    /// Events, samples among them, for which the recorded runtime's own buffer had no room.
    RuntimeBuffer,
    /// Waits whose stacks did not fit into the ring buffer; their time is counted.
    StackLost,
    /// Microseconds of sums of waits that did not fit into their ring buffer.
    TimeLost,
    /// Times that a thread was met and there was no memory to time it.
    ThreadUntimed,
}

impl Loss {
    /// Every cause.
    pub const ALL: [Self; 17] = [
        Self::RingFull,
        Self::NoScratch,
        Self::Throttled,
        Self::Malformed,
        Self::StacksFull,
        Self::TargetsFull,
        Self::SidebandLost,
        Self::ProcessesFull,
        Self::MappingsFull,
        Self::RowsFull,
        Self::RulesFull,
        Self::PagesFull,
        Self::ModulesFull,
        Self::FilesFull,
        Self::FileRefused,
        Self::Interpreter,
        Self::RuntimeBuffer,
    ];

    /// The stable name: in the summary, in `[lost: …]` frames and, as a key, in the statistics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring buffer full",
            Self::NoScratch => "no scratch space",
            Self::Throttled => "throttled",
            Self::Malformed => "malformed record",
            Self::StacksFull => "too many distinct stacks",
            Self::TargetsFull => "target table full",
            Self::SidebandLost => "process records lost",
            Self::ProcessesFull => "process table full",
            Self::MappingsFull => "mapping table full",
            Self::RowsFull => "unwind row table full",
            Self::RulesFull => "unwind rule table full",
            Self::PagesFull => "page index full",
            Self::ModulesFull => "too many mapped files",
            Self::FilesFull => "too many open files",
            Self::FileRefused => "mapped file refused",
            Self::Interpreter => "interpreter unreadable",
            Self::RuntimeBuffer => "runtime's buffer full",
            Self::StackLost => "stacks of waits",
            Self::TimeLost => "microseconds of waits",
            Self::ThreadUntimed => "no memory to time a thread",
        }
    }

    /// Whether what it counts are samples: the picture shows these with their weight.
    #[must_use]
    pub fn is_of_samples(self) -> bool {
        matches!(
            self,
            Self::RingFull
                | Self::NoScratch
                | Self::Throttled
                | Self::Malformed
                | Self::StacksFull
                | Self::Interpreter
        )
    }
}

/// What a recording lost and cut short, by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Stacks that do not reach their root.
    pub truncated: BTreeMap<Truncation, u64>,
    /// What is missing.
    pub lost: BTreeMap<Loss, u64>,
}

impl Losses {
    /// Counts `n` losses of one cause; nothing when `n` is 0.
    pub fn lose(&mut self, cause: Loss, n: u64) {
        if n > 0 {
            *self.lost.entry(cause).or_default() += n;
        }
    }

    /// Counts one stack cut short.
    pub fn truncate(&mut self, cause: Truncation) {
        *self.truncated.entry(cause).or_default() += 1;
    }

    /// All samples that are missing.
    #[must_use]
    pub fn lost_samples(&self) -> u64 {
        self.lost.iter().filter(|(cause, _)| cause.is_of_samples()).map(|(_, n)| *n).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn causes_have_names_of_their_own() {
        let names: BTreeSet<_> = Loss::ALL.iter().map(|cause| cause.name()).collect();
        assert_eq!(names.len(), Loss::ALL.len());
        let names: BTreeSet<_> = Truncation::ALL.iter().map(|cause| cause.name()).collect();
        assert_eq!(names.len(), Truncation::ALL.len());
    }

    #[test]
    fn what_is_no_sample_is_not_counted_as_one() {
        let mut losses = Losses::default();
        for cause in Loss::ALL {
            losses.lose(cause, 10);
        }
        losses.lose(Loss::RingFull, 0);
        assert_eq!(losses.lost_samples(), 60);
    }
}

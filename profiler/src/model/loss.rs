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
}

impl Truncation {
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
        }
    }
}

/// Why a sample (or a record about processes) is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loss {
    /// The sample ring buffer was full.
    RingFull,
    /// No scratch space on the CPU.
    NoScratch,
    /// The table of target processes was full: samples of a new process were not taken.
    TargetsFull,
    /// Records about processes and mappings were lost by the kernel.
    SidebandLost,
    /// The kernel throttled the sampling event.
    Throttled,
    /// Unwind rows or mappings did not fit into the walker's tables.
    TablesFull,
    /// A record that could not be decoded.
    Malformed,
}

impl Loss {
    /// The stable name: in the summary, in `[lost: …]` frames and, as a key, in the statistics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring buffer full",
            Self::NoScratch => "no scratch space",
            Self::TargetsFull => "target table full",
            Self::SidebandLost => "process records lost",
            Self::Throttled => "throttled",
            Self::TablesFull => "walker tables full",
            Self::Malformed => "malformed record",
        }
    }
}

/// What a recording lost and cut short, by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Stacks that do not reach their root.
    pub truncated: BTreeMap<Truncation, u64>,
    /// Samples and records that are missing.
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

    /// All that is missing.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }
}

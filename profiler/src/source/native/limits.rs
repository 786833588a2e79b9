//! The bounds of the native engines: how much memory each table, buffer and list may take, in the
//! kernel and here, whatever the host does. What does not fit is counted, each bound by its own
//! cause ([`crate::model::loss`]).

use profiler_ebpf::wire::{MAX_RULES, MAX_SEGMENTS, SEGMENT_ROWS, TEXT_PAGE};

use super::Scope;

/// Something that has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Bytes of the buffer of samples: a power of two, from one page on.
    Ring,
    /// Bytes of each CPU's buffer of samples with copies of their stacks, in the engine of perf
    /// events: likewise.
    Copies,
    /// Bytes of each CPU's buffer of records about processes: a power of two, from one page on.
    Sideband,
    /// Target processes or threads that the kernel side knows.
    Targets,
    /// Processes whose mappings the kernel side knows.
    Processes,
    /// Mappings that it knows, of all processes.
    Mappings,
    /// Unwind rows of all files.
    Rows,
    /// Distinct unwind rules.
    Rules,
    /// Pages of text that can have rows.
    Pages,
    /// Bytes of samples that wait for unwind rows.
    Waiting,
    /// Nodes of the tree of distinct stacks.
    Stacks,
    /// Mapped files, and processes' anonymous memory, that are told apart.
    Modules,
    /// Mapped files that are kept open.
    Files,
}

impl Bound {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::Ring,
        Self::Copies,
        Self::Sideband,
        Self::Targets,
        Self::Processes,
        Self::Mappings,
        Self::Rows,
        Self::Rules,
        Self::Pages,
        Self::Waiting,
        Self::Stacks,
        Self::Modules,
        Self::Files,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring-bytes",
            Self::Copies => "copy-ring-bytes",
            Self::Sideband => "sideband-bytes",
            Self::Targets => "targets",
            Self::Processes => "processes",
            Self::Mappings => "mappings",
            Self::Rows => "rows",
            Self::Rules => "rules",
            Self::Pages => "text-pages",
            Self::Waiting => "waiting-bytes",
            Self::Stacks => "stacks",
            Self::Modules => "files",
            Self::Files => "open-files",
        }
    }

    /// The bound of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bound| bound.name() == name)
    }

    /// The least that its table can be made with.
    const fn least(self) -> usize {
        match self {
            Self::Ring | Self::Copies | Self::Sideband => PAGE,
            // A map has one entry at least, and the first rule and module are always there.
            Self::Targets | Self::Processes | Self::Mappings | Self::Rules | Self::Pages => 1,
            Self::Modules => 1,
            Self::Rows | Self::Waiting | Self::Stacks | Self::Files => 0,
        }
    }
}

/// Bytes of a page of memory.
pub const PAGE: usize = 4096;
/// From this frequency on, the buffer of samples is four times as large.
const HIGH_FREQUENCY: u64 = 400;

/// The least buffer of samples where waits are recorded.
const WAITS_RING: usize = 8 << 20;

/// The bounds of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits([usize; Bound::ALL.len()]);

impl Limits {
    /// The bounds of a recording of this scope. With those of the whole host, all maps together
    /// stay below 40 MB and our own memory below 150 MB.
    #[must_use]
    pub fn of(scope: &Scope, frequency: u64) -> Self {
        let host = *scope == Scope::Host;
        let either = |host_wide, of_processes| if host { host_wide } else { of_processes };
        let ring = either(4 << 20, 2 << 20);
        let of = |bound| match bound {
            // At 99 Hz it holds seconds of samples, or some dozens with copies of their stacks.
            Bound::Ring if frequency < HIGH_FREQUENCY => ring,
            Bound::Ring => 4 * ring,
            Bound::Copies => 2048 * PAGE,
            Bound::Sideband => 64 * PAGE,
            Bound::Targets => 1 << 14,
            Bound::Processes => 1 << 13,
            Bound::Mappings => either(1 << 16, 1 << 14),
            Bound::Rows => either(20, MAX_SEGMENTS) * SEGMENT_ROWS,
            Bound::Rules => MAX_RULES,
            Bound::Pages => either(2 << 30, 1 << 30) / TEXT_PAGE as usize,
            Bound::Waiting => 48 << 20,
            Bound::Stacks => 1 << 19,
            Bound::Modules => 1 << 15,
            Bound::Files => 1 << 14,
        };
        Self(Bound::ALL.map(of))
    }

    /// These bounds, lowered: a value above one changes nothing.
    #[must_use]
    pub fn lowered(mut self, by: &[(Bound, usize)]) -> Self {
        for (bound, value) in by {
            let value = match bound {
                Bound::Ring | Bound::Copies | Bound::Sideband => 1 << value.max(&1).ilog2(),
                _ => *value,
            };
            let limit = &mut self.0[*bound as usize];
            *limit = value.max(bound.least()).min(*limit);
        }
        self
    }

    /// These for a recording of waits: before the rows of what has just begun are there, each of its
    /// waits has a copy of its stack.
    #[must_use]
    pub fn for_waits(mut self) -> Self {
        let ring = &mut self.0[Bound::Ring as usize];
        *ring = (*ring).max(WAITS_RING);
        self
    }

    /// A bound.
    #[must_use]
    pub fn get(&self, bound: Bound) -> usize {
        self.0[bound as usize]
    }

    /// The same as a number of a map's entries.
    #[must_use]
    pub fn entries(&self, bound: Bound) -> u32 {
        u32::try_from(self.get(bound)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_lowered_and_never_raised() {
        let limits = Limits::of(&Scope::Host, 99);
        for (number, bound) in Bound::ALL.into_iter().enumerate() {
            assert_eq!(bound as usize, number);
            assert_eq!(Bound::named(bound.name()), Some(bound));
            let of = |value| limits.clone().lowered(&[(bound, value)]).get(bound);
            assert_eq!(of(usize::MAX), limits.get(bound), "{bound:?}");
            assert_eq!(of(0), bound.least(), "{bound:?}");
            assert_eq!(of(8192), limits.get(bound).min(8192), "{bound:?}");
        }
        assert_eq!(Bound::named("Rows"), None);
    }

    #[test]
    fn buffers_stay_powers_of_two() {
        let limits = Limits::of(&Scope::Host, 999);
        assert_eq!(limits.get(Bound::Ring), 16 << 20);
        let lowered = limits.lowered(&[(Bound::Ring, 3 << 20), (Bound::Sideband, 5000)]);
        assert_eq!(lowered.get(Bound::Ring), 2 << 20);
        assert_eq!(lowered.get(Bound::Sideband), 4096);
    }
}

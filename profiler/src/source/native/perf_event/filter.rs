//! Which samples are kept. The kernel has taken them already: what it cannot be asked to leave out
//! is dropped here.

use profiler_ebpf::glob::Globs;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    source::native::{Scope, Settings, samples::Sample},
    target::cgroup::Cgroup,
};

/// Cgroups that are remembered.
const MAX_KNOWN: usize = 1 << 16;

/// What decides on samples.
pub struct Filter {
    /// The processes whose samples are kept; None: all.
    pids: Option<FxHashSet<u32>>,
    cgroup: Option<Inside>,
    names: Option<Box<Globs>>,
}

impl Filter {
    /// The filter of a recording. Events are bound to what is recorded; but where a kernel lets
    /// children inherit them, they may go beyond it.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let pids = match &settings.scope {
            Scope::Processes { pids, children: false } => Some(pids.iter().copied().collect()),
            _ => None,
        };
        let cgroup = settings.filter.cgroup.clone().map(Inside::new);
        Self { pids, cgroup, names: settings.filter.names.clone() }
    }

    /// The names of which a thread, or the first thread of its process, must have one.
    #[must_use]
    pub fn names(&self) -> Option<&Globs> {
        self.names.as_deref()
    }

    /// Says that the samples that come now were taken before now.
    pub fn begin(&mut self) {
        if let Some(inside) = &mut self.cgroup {
            inside.fresh = false;
        }
    }

    /// Whether a sample is kept, but for its name. The idle task is no process, whatever the event
    /// excludes.
    #[must_use]
    pub fn wants(&mut self, sample: &Sample, cgroup: Option<u64>) -> bool {
        let pid = sample.header.pid;
        pid != 0
            && self.pids.as_ref().is_none_or(|pids| pids.contains(&pid))
            && match (&mut self.cgroup, cgroup) {
                (Some(inside), Some(id)) => inside.contains(id),
                _ => true,
            }
    }
}

/// Which cgroups lie in the wanted one. The folders below it are looked through when an id is seen
/// for the first time; a cgroup that was there for a moment only, between two looks, is missed.
struct Inside {
    cgroup: Cgroup,
    known: FxHashMap<u64, bool>,
    /// The folders were looked through since the samples were taken.
    fresh: bool,
}

impl Inside {
    fn new(cgroup: Cgroup) -> Self {
        Self { cgroup, known: FxHashMap::default(), fresh: false }
    }

    fn contains(&mut self, id: u64) -> bool {
        if let Some(known) = self.known.get(&id) {
            return *known;
        }
        if self.known.len() >= MAX_KNOWN {
            (self.known, self.fresh) = (FxHashMap::default(), false);
        }
        if !self.fresh {
            self.known.extend(self.cgroup.ids().into_iter().map(|id| (id, true)));
            self.fresh = true;
        }
        *self.known.entry(id).or_insert(false)
    }
}

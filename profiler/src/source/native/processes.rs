//! The processes of a recording and what they have mapped, kept up to date by side-band records.

use std::sync::Arc;

use profiler_ebpf::wire::{Mapping, ProcessMappings, mapping_kind};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    modules::{Modules, Rows},
    open::Place,
    sideband::{Event, Identity, Record},
    tables::{Storage, Tables},
};
use crate::model::frame::ModuleId;

/// An executable mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// File offset of `start`.
    pub offset: u64,
    /// What is mapped.
    pub module: ModuleId,
}

/// Regions sorted by address, none overlapping.
pub type Regions = Arc<Vec<Region>>;

/// A process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Name of its main thread.
    pub comm: Arc<str>,
    /// What it has mapped.
    pub regions: Regions,
    threads: FxHashSet<u32>,
    /// It was sampled, so the kernel side is to know its mappings.
    wanted: bool,
    /// Where the kernel side finds them.
    published: Option<ProcessMappings>,
}

impl Process {
    fn new(comm: Arc<str>) -> Self {
        Self {
            comm,
            regions: Arc::default(),
            threads: FxHashSet::default(),
            wanted: false,
            published: None,
        }
    }
}

/// Which processes a recording follows.
#[derive(Clone, Debug)]
pub enum Interest {
    /// All.
    Everything,
    /// These; with `children` also those that they create.
    Only {
        /// Their ids.
        pids: FxHashSet<u32>,
        /// Follow forks.
        children: bool,
    },
    /// Some threads of these processes.
    Threads {
        /// The threads' ids.
        tids: FxHashSet<u32>,
        /// The processes' ids.
        pids: FxHashSet<u32>,
    },
}

impl Interest {
    fn includes(&self, pid: u32) -> bool {
        match self {
            Self::Everything => true,
            Self::Only { pids, .. } | Self::Threads { pids, .. } => pids.contains(&pid),
        }
    }
}

/// A mapping as it is learned, from `/proc` or a record.
#[derive(Clone, Debug)]
pub struct NewMapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// File offset of `start`.
    pub offset: u64,
    /// Which file.
    pub identity: Identity,
    /// Its path as the process sees it.
    pub path: Vec<u8>,
}

/// The processes by id.
pub struct Processes {
    interest: Interest,
    processes: FxHashMap<u32, Process>,
    /// Processes of which the kernel side is to know, and does not or not all.
    dirty: FxHashSet<u32>,
    /// Processes ever seen.
    seen: u64,
    /// Mappings ever seen.
    mappings_seen: u64,
}

impl Processes {
    /// None yet.
    #[must_use]
    pub fn new(interest: Interest) -> Self {
        Self {
            interest,
            processes: FxHashMap::default(),
            dirty: FxHashSet::default(),
            seen: 0,
            mappings_seen: 0,
        }
    }

    /// A process, if it is followed.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// Whether every process or thread that was to be followed has ended.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        match &self.interest {
            Interest::Everything => false,
            Interest::Only { .. } => self.processes.is_empty(),
            Interest::Threads { tids, .. } => {
                self.processes.values().all(|process| process.threads.is_disjoint(tids))
            }
        }
    }

    /// How many processes were ever seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// How many executable mappings were ever seen.
    #[must_use]
    pub fn mappings_seen(&self) -> u64 {
        self.mappings_seen
    }

    /// Takes up a process that ran before the recording.
    pub fn add(
        &mut self,
        pid: u32,
        comm: &str,
        threads: impl IntoIterator<Item = u32>,
        mappings: impl IntoIterator<Item = NewMapping>,
        modules: &mut Modules,
    ) {
        if !self.interest.includes(pid) {
            return;
        }
        let mut process = Process::new(comm.into());
        process.threads.extend(threads);
        self.seen += 1;
        self.processes.insert(pid, process);
        for mapping in mappings {
            self.map(pid, &mapping, modules);
        }
    }

    /// Brings the processes up to date with a record.
    pub fn apply<S: Storage>(
        &mut self,
        record: Record,
        modules: &mut Modules,
        tables: &mut Tables<S>,
    ) {
        let Record { pid, tid, event, .. } = record;
        match event {
            Event::Fork { parent_pid, .. } => self.fork(pid, tid, parent_pid, modules),
            Event::Mmap { start, len, offset, identity, path } => {
                let end = start.saturating_add(len);
                let mapping = NewMapping { start, end, offset, identity, path };
                self.map(pid, &mapping, modules);
            }
            Event::Comm { name, exec } => self.name(pid, tid, &name, exec, modules),
            Event::Exit => self.exit(pid, tid, modules, tables),
            Event::Lost(_) => {}
        }
    }

    fn fork(&mut self, pid: u32, tid: u32, parent: u32, modules: &mut Modules) {
        if pid != parent
            && let Interest::Only { pids, children: true } = &mut self.interest
            && pids.contains(&parent)
        {
            pids.insert(pid);
        }
        if !self.interest.includes(pid) {
            return;
        }
        if pid != parent && !self.processes.contains_key(&pid) {
            let mut child = self.processes.get(&parent).map_or_else(
                || Process::new("?".into()),
                |parent| Process { comm: parent.comm.clone(), ..parent.clone() },
            );
            child.threads.clear();
            child.wanted = false;
            child.published = None;
            for region in child.regions.iter() {
                modules.hold(region.module);
            }
            self.seen += 1;
            self.processes.insert(pid, child);
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.threads.insert(tid);
        }
    }

    fn name(&mut self, pid: u32, tid: u32, name: &[u8], exec: bool, modules: &mut Modules) {
        if !self.interest.includes(pid) {
            return;
        }
        let name: Arc<str> = String::from_utf8_lossy(name).into();
        if !self.processes.contains_key(&pid) {
            self.seen += 1;
        }
        let process = self.processes.entry(pid).or_insert_with(|| Process::new(name.clone()));
        if pid == tid || exec {
            process.comm = name;
        }
        process.threads.insert(tid);
        if exec {
            for region in process.regions.iter() {
                modules.release(region.module);
            }
            // All other threads are gone, and this one is the main thread now.
            process.threads = FxHashSet::from_iter([pid]);
            process.regions = Arc::default();
            self.dirty.insert(pid);
        }
    }

    fn exit<S: Storage>(
        &mut self,
        pid: u32,
        tid: u32,
        modules: &mut Modules,
        tables: &mut Tables<S>,
    ) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.threads.remove(&tid);
        if !process.threads.is_empty() {
            return;
        }
        for region in process.regions.iter() {
            modules.release(region.module);
        }
        if let Some(published) = process.published {
            tables.unpublish(pid, published);
        }
        self.processes.remove(&pid);
        self.dirty.remove(&pid);
    }

    fn map(&mut self, pid: u32, new: &NewMapping, modules: &mut Modules) {
        let NewMapping { start, end, offset, identity, path } = new;
        let (start, end, offset) = (*start, *end, *offset);
        if start >= end || !self.interest.includes(pid) {
            return;
        }
        self.mappings_seen += 1;
        let module = modules.find(&Place { pid, start, end, identity, path });
        let process = self.processes.entry(pid).or_insert_with(|| Process::new("?".into()));
        let region = Region { start, end, offset, module };
        if process
            .regions
            .binary_search_by_key(&start, |r| r.start)
            .is_ok_and(|at| process.regions[at] == region)
        {
            return;
        }
        modules.hold(module);
        insert(Arc::make_mut(&mut process.regions), region, modules);
        self.dirty.insert(pid);
    }

    /// Has the kernel side know a process from the next [`Self::publish`] on: it was sampled.
    pub fn want(&mut self, pid: u32) {
        if let Some(process) = self.processes.get_mut(&pid)
            && !process.wanted
        {
            process.wanted = true;
            self.dirty.insert(pid);
        }
    }

    /// Marks the processes that map one of these modules for [`Self::publish`].
    pub fn touch(&mut self, changed: &[ModuleId]) {
        for (pid, process) in &self.processes {
            let maps = |region: &Region| changed.contains(&region.module);
            if process.wanted && process.regions.iter().any(maps) {
                self.dirty.insert(*pid);
            }
        }
    }

    /// Tells the kernel side of every change. Gives how many processes did not fit.
    pub fn publish<S: Storage>(&mut self, modules: &Modules, tables: &mut Tables<S>) -> u64 {
        let mut refused = 0;
        if !tables.storage().publishes() {
            self.dirty.clear();
        }
        for pid in std::mem::take(&mut self.dirty) {
            let Some(process) = self.processes.get_mut(&pid) else {
                continue;
            };
            if !process.wanted {
                continue;
            }
            let mappings = wire_mappings(&process.regions, modules);
            match tables.publish(pid, process.published, &mappings) {
                Ok(published) => process.published = Some(published),
                Err(_) => refused += 1,
            }
        }
        refused
    }
}

/// Puts a region in, over whatever lay there before.
fn insert(regions: &mut Vec<Region>, region: Region, modules: &mut Modules) {
    let Region { start, end, .. } = region;
    let first = regions.partition_point(|other| other.end <= start);
    let last = regions.partition_point(|other| other.start < end);
    let mut kept = Vec::with_capacity(3);
    for old in regions.get(first..last.max(first)).unwrap_or_default() {
        if old.start < start {
            modules.hold(old.module);
            kept.push(Region { end: start, ..*old });
        }
        if old.end > end {
            modules.hold(old.module);
            kept.push(Region { start: end, offset: old.offset + (end - old.start), ..*old });
        }
        modules.release(old.module);
    }
    kept.push(region);
    kept.sort_by_key(|region| region.start);
    regions.splice(first..last.max(first), kept);
}

/// The region at an address.
#[must_use]
pub fn region_at(regions: &[Region], address: u64) -> Option<&Region> {
    let at = regions.partition_point(|region| region.end <= address);
    regions.get(at).filter(|region| region.start <= address)
}

/// Regions as the walker searches them.
#[must_use]
pub fn wire_mappings(regions: &[Region], modules: &Modules) -> Vec<Mapping> {
    let mut mappings = Vec::with_capacity(regions.len());
    for region in regions {
        let Region { start, end, offset, module } = *region;
        let plain = |kind| Mapping { start, end, first_page: 0, kind };
        match modules.rows(module) {
            Rows::Idle | Rows::Compiling => mappings.push(plain(mapping_kind::PENDING)),
            Rows::None => mappings.push(plain(mapping_kind::NO_ROWS)),
            Rows::Installed(file) => {
                let pieces = file.pieces(offset, end - start);
                mappings.extend(pieces.map(|piece| Mapping {
                    start: start + piece.start,
                    end: start + piece.end,
                    first_page: piece.first_page.unwrap_or_default(),
                    kind: match piece.first_page {
                        Some(_) => mapping_kind::ROWS,
                        None => mapping_kind::NO_ROWS,
                    },
                }));
            }
        }
    }
    mappings
}

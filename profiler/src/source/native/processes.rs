//! The processes of a recording and what they have mapped, kept up to date by side-band records.

use std::sync::Arc;

use profiler_ebpf::wire::ProcessMappings;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    modules::Modules,
    open::Place,
    regions::{Region, Regions, insert, wire_mappings},
    sideband::{Event, Identity, Record},
    tables::{Storage, TableFull, Tables},
};
use crate::model::{frame::ModuleId, loss::Losses};

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
    /// Which table had no room for it.
    refused: Option<TableFull>,
}

impl Process {
    fn new(comm: Arc<str>) -> Self {
        Self {
            comm,
            regions: Arc::default(),
            threads: FxHashSet::default(),
            wanted: false,
            published: None,
            refused: None,
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
    /// The others are followed, too.
    others: bool,
    processes: FxHashMap<u32, Process>,
    /// Processes of which the kernel side is to know, and does not or not all.
    dirty: FxHashSet<u32>,
    /// Processes that did not fit into the tables.
    refused: FxHashSet<u32>,
    /// Tables have more room than when these did not fit.
    freed: bool,
    /// Processes that have ended since somebody asked.
    ended: Vec<u32>,
    /// Processes ever seen.
    seen: u64,
    /// Mappings ever seen.
    mappings_seen: u64,
}

impl Processes {
    /// None yet. With `others`, what else runs is followed, too: its stacks may come up beside.
    #[must_use]
    pub fn new(interest: Interest, others: bool) -> Self {
        Self {
            interest,
            others,
            processes: FxHashMap::default(),
            dirty: FxHashSet::default(),
            refused: FxHashSet::default(),
            freed: false,
            ended: Vec::new(),
            seen: 0,
            mappings_seen: 0,
        }
    }

    fn follows(&self, pid: u32) -> bool {
        self.others || self.interest.includes(pid)
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
            Interest::Only { pids, .. } => !self.processes.keys().any(|pid| pids.contains(pid)),
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

    /// Takes up a process that runs; what was known of it before is out of date.
    pub fn add(
        &mut self,
        pid: u32,
        comm: &str,
        threads: impl IntoIterator<Item = u32>,
        mappings: impl IntoIterator<Item = NewMapping>,
        modules: &mut Modules,
    ) {
        if !self.follows(pid) {
            return;
        }
        let mut process = Process::new(comm.into());
        process.threads.extend(threads);
        let before = self.processes.remove(&pid);
        if let Some(before) = &before {
            let Process { wanted, published, refused, .. } = *before;
            process = Process { wanted, published, refused, ..process };
            self.dirty.insert(pid);
        } else {
            self.seen += 1;
        }
        self.processes.insert(pid, process);
        for mapping in mappings {
            self.map(pid, &mapping, modules);
        }
        for region in before.iter().flat_map(|before| before.regions.iter()) {
            modules.release(region.module);
        }
    }

    /// Follows what the processes have created that are followed, where that is asked for; gives those
    /// that are new.
    pub fn adopt(&mut self, descendants: impl FnOnce(&[u32]) -> Vec<u32>) -> Vec<u32> {
        let Interest::Only { pids, children: true } = &mut self.interest else { return Vec::new() };
        let known: Vec<u32> = pids.iter().copied().collect();
        let new = descendants(&known).into_iter();
        new.filter(|pid| pids.insert(*pid)).collect()
    }

    /// The processes that are followed and there, as far as is known.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.keys().copied()
    }

    /// A process has ended, whatever records say.
    pub fn forget<S: Storage>(&mut self, pid: u32, modules: &mut Modules, tables: &mut Tables<S>) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.threads.clear();
            self.exit(pid, pid, modules, tables);
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
        if !self.follows(pid) {
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
            child.refused = None;
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
        if !self.follows(pid) {
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
            self.freed = true;
        }
        self.processes.remove(&pid);
        self.dirty.remove(&pid);
        self.refused.remove(&pid);
        if let Interest::Only { pids, children: true } = &mut self.interest
            && pids.remove(&pid)
        {
            self.ended.push(pid);
        }
    }

    /// The processes, followed as what others created, that have ended since the last call.
    pub fn take_ended(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ended)
    }

    fn map(&mut self, pid: u32, new: &NewMapping, modules: &mut Modules) {
        let NewMapping { start, end, offset, identity, path } = new;
        let (start, end, offset) = (*start, *end, *offset);
        if start >= end || !self.follows(pid) {
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

    /// Tells the kernel side of every change, and counts each process that does not fit, once.
    pub fn publish<S: Storage>(
        &mut self,
        modules: &Modules,
        tables: &mut Tables<S>,
        losses: &mut Losses,
    ) {
        if !tables.storage().publishes() {
            self.dirty.clear();
        }
        if std::mem::take(&mut self.freed) {
            self.dirty.extend(self.refused.drain());
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
                Ok(published) => {
                    process.published = Some(published);
                    self.refused.remove(&pid);
                }
                Err(full) => {
                    // Of what is out of date the kernel side must know nothing.
                    if let Some(published) = process.published.take() {
                        tables.unpublish(pid, published);
                    }
                    if process.refused.replace(full).is_none() {
                        losses.lose(full.loss(), 1);
                    }
                    self.refused.insert(pid);
                }
            }
        }
    }
}

//! Putting a recording together: samples and side-band records in the order of time, walks that
//! the kernel handed up finished, stacks interned.

use std::sync::Arc;

use super::{
    Labels,
    code::Code,
    frames::{Timer, is_in_exec, true_frames, truncation, user_frame},
    kept::{Keeping, Kept, Timed},
    limits::{Bound, Limits},
    modules::Modules,
    onward::Onward,
    order::follow_threads,
    processes::{NewMapping, Processes},
    regions::{Regions, wire_mappings},
    samples::{Beyond, Sample},
    sideband::{Event, Record, SETTLE_NANOSECONDS},
    tables::{Storage, Tables},
};
use crate::{
    model::{
        address::CodeAddress,
        frame::{ModuleId, RawFrame},
        loss::{Loss, Losses, Truncation},
        profile::Module,
        stacks::Stacks,
    },
    target::heap,
};
use profiler_ebpf::{
    walk::Walk,
    wire::{FRAME_BY_POINTER, MAX_USER_FRAMES, Outcome, ProcessMappings},
};

/// What a recorder found, beside the stacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Samples that were recorded.
    pub samples: u64,
    /// Stacks that reach their root.
    pub complete: u64,
    /// Frames, user and kernel.
    pub frames: u64,
    /// Frames that were found by frame pointer for want of unwind rows.
    pub by_frame_pointer: u64,
    /// Stacks that were finished on the host.
    pub finished_here: u64,
    /// Time of the first sample, `CLOCK_MONOTONIC`, nanoseconds; 0: none.
    pub first_sample: u64,
}

/// A sample whose walk waits for rows.
struct Waiting {
    sample: Sample,
    comm: Arc<str>,
    regions: Regions,
    module: ModuleId,
}

/// Puts a recording together.
pub struct Recorder<S> {
    tables: Tables<S>,
    modules: Modules,
    processes: Processes,
    kept: Kept,
    losses: Losses,
    figures: Figures,
    records: Vec<Record>,
    samples: Vec<Sample>,
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    max_waiting: usize,
    timer: Timer,
    onward: Onward,
}

impl<S: Storage> Recorder<S> {
    /// Nothing recorded yet; `timed`: stacks belong to waits that are timed.
    #[must_use]
    pub fn new(
        tables: Tables<S>,
        modules: Modules,
        processes: Processes,
        labels: Labels,
        timed: bool,
        limits: &Limits,
    ) -> Self {
        Self {
            tables,
            modules,
            processes,
            kept: Kept::new(labels, timed, limits.get(Bound::Stacks)),
            losses: Losses::default(),
            figures: Figures::default(),
            records: Vec::new(),
            samples: Vec::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            max_waiting: limits.get(Bound::Waiting),
            timer: Timer::default(),
            onward: Onward::new(timed),
        }
    }

    /// Takes up a process that runs.
    pub fn add_process(
        &mut self,
        pid: u32,
        comm: &str,
        threads: impl IntoIterator<Item = u32>,
        mappings: impl IntoIterator<Item = NewMapping>,
    ) {
        self.processes.add(pid, comm, threads, mappings, &mut self.modules);
    }

    /// The tables.
    pub fn tables(&self) -> &Tables<S> {
        &self.tables
    }

    /// The processes.
    pub fn processes(&mut self) -> &mut Processes {
        &mut self.processes
    }

    /// These processes have ended.
    pub fn forget(&mut self, pids: &[u32]) {
        pids.iter()
            .for_each(|pid| self.processes.forget(*pid, &mut self.modules, &mut self.tables));
    }

    /// What was found so far.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Counts losses that the recorder does not see itself.
    pub fn lose(&mut self, cause: Loss, n: u64) {
        self.losses.lose(cause, n);
    }

    /// Counts lost samples, which the picture shows with their weight.
    pub fn lose_samples(&mut self, cause: Loss, n: u64) {
        self.losses.lose(cause, n);
        if n > 0 {
            let stack = self.kept.stacks.intern([&RawFrame::Lost(cause)]);
            self.kept.stacks.add(stack, 0, n);
        }
    }

    /// What was lost so far.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Whether samples wait for rows that are being compiled.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() && self.modules.is_compiling()
    }

    /// Has everything that a process has mapped compiled, and the kernel side know of it, before
    /// its first sample.
    pub fn prepare(&mut self, pid: u32) {
        let regions = self.processes.get(pid).map(|process| process.regions.clone());
        for region in regions.iter().flat_map(|regions| regions.iter()) {
            self.modules.request(region.module);
        }
        self.processes.want(pid);
    }

    /// Whether rows are being compiled.
    #[must_use]
    pub fn is_compiling(&self) -> bool {
        self.modules.is_compiling()
    }

    /// One round: works off what was drained, as far as its order is settled at `now`
    /// (`CLOCK_MONOTONIC`, nanoseconds; `u64::MAX`: nothing more will come), and brings the
    /// kernel side's view up to date.
    pub fn round(&mut self, samples: Vec<Sample>, records: Vec<Record>, now: u64) {
        let changed = self.modules.install(&mut self.tables);
        if !changed.is_empty() {
            self.processes.touch(&changed);
        }
        self.take_in(samples, records, now);
        for ((pid, address), way) in self.onward.take_found() {
            self.tables.learn(pid, address, way);
        }
        let hopeless = self.onward.round();
        if !hopeless.is_empty() {
            self.modules.leave_alone(&hopeless);
            self.processes.touch(&hopeless);
        }
        if !changed.is_empty() {
            self.resume();
            if !self.modules.is_compiling() {
                heap::trim();
            }
        }
        let waiting = &self.waiting;
        self.modules.forget_unused(&mut self.tables, || {
            let regions = waiting.iter().flat_map(|waiting| waiting.regions.iter());
            regions.map(|region| region.module).collect()
        });
        self.processes.publish(&self.modules, &mut self.tables, &mut self.losses);
        self.tables.settle();
    }

    /// Merges samples and records by time and works off the settled ones.
    fn take_in(&mut self, samples: Vec<Sample>, records: Vec<Record>, now: u64) {
        self.records.extend(records);
        self.records.sort_by_key(|record| record.time);
        self.samples.extend(samples);
        self.samples.sort_by_key(|sample| sample.header.time);
        follow_threads(&mut self.records, &self.samples);
        let until = match now {
            u64::MAX => now,
            now => now.saturating_sub(SETTLE_NANOSECONDS),
        };
        let late_records = self.records.partition_point(|record| record.time <= until);
        let late_samples = self.samples.partition_point(|sample| sample.header.time <= until);
        let records: Vec<Record> = self.records.drain(..late_records).collect();
        let samples: Vec<Sample> = self.samples.drain(..late_samples).collect();
        let mut records = records.into_iter().peekable();
        for sample in samples {
            while let Some(record) = records.next_if(|record| record.time <= sample.header.time) {
                self.record(record);
            }
            self.sample(sample);
        }
        for record in records {
            self.record(record);
        }
    }

    fn record(&mut self, record: Record) {
        if let Event::Lost(n) = record.event {
            self.losses.lose(Loss::SidebandLost, n);
        }
        self.processes.apply(record, &mut self.modules, &mut self.tables);
    }

    fn sample(&mut self, sample: Sample) {
        if self.figures.first_sample == 0 {
            self.figures.first_sample = sample.header.time;
        }
        self.figures.samples += 1;
        let pid = sample.header.pid;
        let (comm, regions) = match self.processes.get(pid) {
            Some(process) => (process.comm.clone(), process.regions.clone()),
            None => (sample.comm().into(), Regions::default()),
        };
        match Outcome::from_number(sample.header.outcome) {
            Some(Outcome::RowsPending) if is_in_exec(&sample, &regions) => {
                let sample = Sample { user: Vec::new(), ..sample };
                self.intern(&sample, &comm, &regions, None);
            }
            Some(Outcome::UnknownMapping | Outcome::RowsPending) => {
                self.processes.want(pid);
                self.walk_on(sample, comm, regions);
            }
            outcome => {
                let cause = outcome.map_or(Some(Truncation::BadTables), truncation);
                if cause.is_none() {
                    let code = Code { pid, regions: &regions, modules: &self.modules };
                    self.onward.note_whole(&sample.user, &code);
                }
                self.intern(&sample, &comm, &regions, cause);
            }
        }
    }

    /// Goes on with a walk where the kernel left it.
    fn walk_on(&mut self, mut sample: Sample, comm: Arc<str>, regions: Regions) {
        let mappings = wire_mappings(&regions, &self.modules);
        let registers = sample.header.registers;
        let mut walk =
            Walk::new(registers, ProcessMappings { first: 0, len: mappings.len() as u32 });
        let mut beyond = None;
        let mut frames = std::mem::take(&mut sample.user);
        let known = frames.len();
        let memory = |address| sample.word(address).map_err(|error| beyond = Some(error)).ok();
        let code = Code { pid: sample.header.pid, regions: &regions, modules: &self.modules };
        let mut env = self.tables.env(&mappings, memory, |address| code.word(address));
        let outcome = loop {
            let step = match walk.step(&mut env) {
                Outcome::RowsPending if code.is_followed(walk.frame()) => {
                    self.onward.step(&mut walk, &mut env, &code)
                }
                step => step,
            };
            match step {
                Outcome::Walking if frames.len() >= MAX_USER_FRAMES => break Outcome::TooDeep,
                Outcome::Walking => frames.push(walk.frame()),
                outcome => break outcome,
            }
        };
        sample.user = frames;
        let outcome = match outcome {
            Outcome::UnreadableStack if beyond == Some(Beyond::Above) => Outcome::CopyEnded,
            outcome => outcome,
        };
        if outcome == Outcome::RowsPending
            && let Some(module) = code.pending(walk.frame())
        {
            self.modules.request(module);
            // It goes on from here.
            sample.header.registers = walk.registers;
            self.wait(Waiting { sample, comm, regions, module });
            return;
        }
        let cause = truncation(outcome);
        if self.follow_lost(&sample, &regions, cause) {
            // Once more, by what its code does.
            sample.user.truncate(known);
            return self.walk_on(sample, comm, regions);
        }
        self.figures.finished_here += 1;
        self.intern(&sample, &comm, &regions, cause);
    }

    /// Where frame pointers led a walk astray in code that was made at run time, has that code
    /// followed; whether it was not before.
    fn follow_lost(
        &mut self,
        sample: &Sample,
        regions: &Regions,
        cause: Option<Truncation>,
    ) -> bool {
        let code = Code { pid: sample.header.pid, regions, modules: &self.modules };
        let Some(module) = code.lost_in(&sample.user, cause) else { return false };
        let is_new = self.modules.follow(module);
        if is_new {
            self.processes.touch(&[module]);
        }
        is_new
    }

    fn wait(&mut self, waiting: Waiting) {
        let size = waiting.sample.size();
        if self.waiting_bytes + size > self.max_waiting {
            let Waiting { sample, comm, regions, .. } = waiting;
            self.intern(&sample, &comm, &regions, Some(Truncation::WaitingFull));
            return;
        }
        self.waiting_bytes += size;
        self.waiting.push(waiting);
    }

    /// Goes on with the samples whose rows are there now.
    fn resume(&mut self) {
        self.waiting_bytes = 0;
        for waiting in std::mem::take(&mut self.waiting) {
            if self.modules.rows(waiting.module).are_pending() {
                self.wait(waiting);
            } else {
                self.walk_on(waiting.sample, waiting.comm, waiting.regions);
            }
        }
    }

    /// Interns a finished stack; None: it is complete.
    fn intern(
        &mut self,
        sample: &Sample,
        comm: &Arc<str>,
        regions: &Regions,
        cause: Option<Truncation>,
    ) {
        self.follow_lost(sample, regions, cause);
        let user = true_frames(&sample.user, cause, regions);
        let frames = self.frames(sample, regions, user);
        match self.kept.keep(sample, comm, cause, &frames) {
            Keeping::New => {}
            Keeping::Known => return,
            Keeping::Refused => {
                self.lose_samples(Loss::StacksFull, 1);
                return;
            }
        }
        match cause {
            Some(cause) => self.losses.truncate(cause),
            None => self.figures.complete += 1,
        }
        let by_pointer = user.iter().filter(|word| **word & FRAME_BY_POINTER != 0).count();
        self.figures.by_frame_pointer += by_pointer as u64;
        self.figures.frames += (user.len() + sample.kernel.len()) as u64;
    }

    /// The frames of a sample in terms of the recording, root first.
    fn frames(&mut self, sample: &Sample, regions: &Regions, user: &[u64]) -> Vec<RawFrame> {
        let mut frames = Vec::with_capacity(user.len() + sample.kernel.len());
        for word in user.iter().rev() {
            let frame = user_frame(*word, regions, &self.modules);
            let frame = self.timer.time(frame, sample.header.time, &self.modules);
            if let RawFrame::User { module, .. } | RawFrame::Made { module, .. } = frame {
                self.modules.record(module);
            }
            frames.push(frame);
        }
        frames.extend(sample.kernel.iter().enumerate().rev().map(|(depth, address)| {
            RawFrame::Kernel(match depth {
                0 => CodeAddress::Exact(*address),
                _ => CodeAddress::Return(*address),
            })
        }));
        frames
    }

    /// The end: samples that still wait are interned as far as they got.
    pub fn finish(mut self) -> Recorded {
        for Waiting { sample, comm, regions, .. } in std::mem::take(&mut self.waiting) {
            self.intern(&sample, &comm, &regions, Some(Truncation::RowsPending));
        }
        self.modules.losses().lost.into_iter().for_each(|(cause, n)| self.losses.lose(cause, n));
        let (stacks, timed) = self.kept.into_parts();
        Recorded {
            processes: self.processes.seen(),
            mappings: self.processes.mappings_seen(),
            rows: self.tables.rows_ever(),
            stacks,
            timed,
            modules: self.modules.into_modules(),
            losses: self.losses,
            figures: self.figures,
        }
    }
}

/// A finished recording of stacks.
#[derive(Debug)]
pub struct Recorded {
    /// The stacks.
    pub stacks: Stacks<RawFrame>,
    /// Where waits are timed: what the stacks are called.
    pub timed: Option<Timed>,
    /// Their modules.
    pub modules: Vec<Arc<Module>>,
    /// What was lost or cut short.
    pub losses: Losses,
    /// What was found.
    pub figures: Figures,
    /// Processes seen.
    pub processes: u64,
    /// Executable mappings seen.
    pub mappings: u64,
    /// Unwind rows that were installed, in all.
    pub rows: u64,
}

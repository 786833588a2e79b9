//! What is kept of stacks that are finished: each sample of them, or, where waits are timed, what
//! the sums of waits call them.

use std::sync::Arc;

use profiler_ebpf::{threads::stack::is_wakers, wire::SampleHeader};
use rustc_hash::FxHashMap;

use super::{Labels, samples::Sample};
use crate::model::{
    frame::RawFrame,
    loss::Truncation,
    stacks::{StackId, Stacks},
};

/// A thread whose stacks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ThreadId {
    /// Its process.
    pub pid: u32,
    /// Its own id.
    pub tid: u32,
}

/// A stack without process and thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Known {
    /// Its frames.
    pub stack: StackId,
    /// Why it does not reach its root.
    pub cause: Option<Truncation>,
}

/// Stacks that are timed.
#[derive(Clone, Debug, Default)]
pub struct Timed {
    /// Stacks of waits by what their sums call them.
    pub known: FxHashMap<u64, Known>,
    /// Samples of threads that ran, by stack.
    pub samples: FxHashMap<ThreadId, FxHashMap<Known, u64>>,
}

/// What became of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// It is kept.
    New,
    /// It was kept before, under the same name.
    Known,
    /// It is new, and there are too many already.
    Refused,
}

/// What is kept.
#[derive(Debug)]
pub struct Kept {
    /// The frames of all stacks; where samples are counted, with their process first and with the
    /// number of their samples.
    pub stacks: Stacks<RawFrame>,
    labels: Labels,
    timed: Option<Timed>,
    most: usize,
}

impl Kept {
    /// Nothing yet; `timed`: waits are timed, and stacks drawn later. There are `most` nodes of
    /// stacks.
    #[must_use]
    pub fn new(labels: Labels, timed: bool, most: usize) -> Self {
        Self { stacks: Stacks::new(1), labels, timed: timed.then(Timed::default), most }
    }

    /// Keeps a stack: `frames` from the root down, none of them the process.
    pub fn keep(
        &mut self,
        sample: &Sample,
        comm: &Arc<str>,
        cause: Option<Truncation>,
        frames: &[RawFrame],
    ) -> Keeping {
        let Some(stack) = self.place(sample, comm, cause, frames) else {
            return Keeping::Refused;
        };
        let Some(timed) = &mut self.timed else {
            self.stacks.add(stack, 0, 1);
            return Keeping::New;
        };
        let known = Known { stack, cause };
        let SampleHeader { pid, tid, stack: name, .. } = sample.header;
        if timed.known.len() >= self.most {
            return Keeping::Refused;
        }
        if name == 0 {
            let samples = timed.samples.entry(ThreadId { pid, tid }).or_default();
            *samples.entry(known).or_default() += 1;
        } else if timed.known.insert(name, known).is_some() {
            return Keeping::Known;
        }
        Keeping::New
    }

    /// The stack in the tree; None: there is no room for it.
    fn place(
        &mut self,
        sample: &Sample,
        comm: &Arc<str>,
        cause: Option<Truncation>,
        frames: &[RawFrame],
    ) -> Option<StackId> {
        let (stacks, most) = (&mut self.stacks, self.most);
        let mut push = |stack, frame: &RawFrame| stacks.push_within(stack, frame, most);
        let mut stack = StackId::ROOT;
        if is_wakers(sample.header.stack) {
            // It stands on top of a wait, whose process comes first.
            stack = push(stack, &RawFrame::Thread(Arc::clone(comm)))?;
            let thread = sample.comm();
            if self.labels.threads && thread != **comm {
                stack = push(stack, &RawFrame::Thread(thread.into()))?;
            }
        }
        if self.timed.is_none() {
            stack = push(stack, &RawFrame::Process(self.labels.process(comm, sample)))?;
            if self.labels.threads {
                stack = push(stack, &RawFrame::Thread(sample.comm().into()))?;
            }
        }
        if let Some(cause) = cause {
            stack = push(stack, &RawFrame::Truncated(cause))?;
        }
        frames.iter().try_fold(stack, push)
    }

    /// The stacks, and what is known of them where waits are timed.
    pub fn into_parts(self) -> (Stacks<RawFrame>, Option<Timed>) {
        (self.stacks, self.timed)
    }
}

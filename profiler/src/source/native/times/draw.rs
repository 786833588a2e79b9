//! Stacks of where time went: the process, the thread where it is told apart, the frames that it
//! waited in, and why it waited. Values are microseconds.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use profiler_ebpf::{threads::wait, wire::sum_kind};
use rustc_hash::FxHashMap;

use super::{Place, Sums, Total, Waits, Who, state_name};
use crate::{
    model::{
        frame::{Frame, FrameKind, RawFrame},
        loss::{Loss, Losses},
        stacks::{StackId, Stacks},
    },
    source::native::{
        Labels,
        kept::{Known, ThreadId, Timed},
    },
};

/// A stack that nobody saw: the thread woke before it was looked at, or never ran.
const NO_STACK: u64 = 1;

/// What is drawn.
#[derive(Debug)]
pub struct Drawn {
    /// The stacks, process first; values are microseconds.
    pub stacks: Stacks<RawFrame>,
    /// Waits, and samples of what ran.
    pub counted: u64,
    /// Those of them whose stacks reach their roots.
    pub complete: u64,
}

/// Where sums are drawn.
pub struct Canvas<'a> {
    frames: &'a Stacks<RawFrame>,
    timed: &'a Timed,
    waits: Waits,
    labels: Labels,
    losses: Losses,
    drawn: Drawn,
    /// By stack, so that nothing is rounded before it is summed.
    nanoseconds: FxHashMap<StackId, u64>,
}

impl<'a> Canvas<'a> {
    /// Nothing drawn yet. `frames` holds the stacks that `timed` speaks of.
    #[must_use]
    pub fn new(
        frames: &'a Stacks<RawFrame>,
        timed: &'a Timed,
        waits: Waits,
        labels: Labels,
    ) -> Self {
        let drawn = Drawn { stacks: Stacks::new(1), counted: 0, complete: 0 };
        let (losses, nanoseconds) = (Losses::default(), FxHashMap::default());
        Self { frames, timed, waits, labels, losses, drawn, nanoseconds }
    }

    /// Draws sums. Each truncated stack is counted in `losses` once for each of its waits and
    /// samples.
    #[must_use]
    pub fn draw(mut self, sums: &Sums, losses: &mut Losses) -> Drawn {
        let on_cpu = on_cpu_by_id(sums);
        for (who, thread) in &sums.threads {
            let root = self.root(who);
            for (place, total) in &thread.waits {
                self.wait(root, *place, *total);
            }
            if self.waits.on_cpu {
                let id = ThreadId { pid: who.pid, tid: who.tid };
                let whole = on_cpu.get(&id).copied().unwrap_or_default();
                self.ran(root, thread.on_cpu, id, whole);
            }
        }
        if sums.lost > 0 {
            let lost = self.drawn.stacks.intern([&RawFrame::Lost(Loss::TimeLost)]);
            self.add(lost, sums.lost);
        }
        losses.truncated = std::mem::take(&mut self.losses.truncated);
        for (cause, n) in &self.losses.lost {
            losses.lose(*cause, *n);
        }
        for (stack, nanoseconds) in &self.nanoseconds {
            self.drawn.stacks.add(*stack, 0, (nanoseconds + 500) / 1000);
        }
        self.drawn
    }

    /// Process and thread.
    fn root(&mut self, who: &Who) -> StackId {
        let mut name = who.process.to_string();
        if self.labels.pids {
            let _ = write!(name, " (pid {})", who.pid);
        }
        let stacks = &mut self.drawn.stacks;
        let root = stacks.intern([&RawFrame::Process(name.into())]);
        match self.labels.threads {
            true => stacks.push(root, &RawFrame::Thread(Arc::clone(&who.comm))),
            false => root,
        }
    }

    fn wait(&mut self, root: StackId, place: Place, total: Total) {
        let Total { blocked, runnable, waits, .. } = total;
        let at = match place.kind {
            sum_kind::SHORT => self.mark(root, &self.bounded("below", self.waits.min)),
            sum_kind::LONG => self.mark(root, &self.bounded("above", self.waits.max)),
            _ => self.place(root, place.stack, waits),
        };
        if place.kind != sum_kind::STACK {
            self.count(None, waits);
            self.add(at, blocked.saturating_add(runnable));
            return;
        }
        if blocked > 0 {
            let asleep = self.mark(at, state_name(place.state));
            self.add(asleep, blocked);
        }
        if runnable > 0 {
            let queued = self.mark(at, state_name(wait::PREEMPTED));
            self.add(queued, runnable);
        }
    }

    /// `[waits below 1 ms]`.
    fn bounded(&self, side: &str, bound: Option<Duration>) -> String {
        let bound = bound.unwrap_or_default();
        format!("[waits {side} {}]", span(bound))
    }

    /// The stack of a wait on top of a root.
    fn place(&mut self, root: StackId, stack: u64, waits: u64) -> StackId {
        if stack == NO_STACK {
            self.count(None, waits);
            return root;
        }
        match self.timed.known.get(&stack) {
            Some(known) => {
                self.count(Some(*known), waits);
                self.graft(root, *known)
            }
            None => {
                self.drawn.counted += waits;
                self.losses.lose(Loss::StackLost, waits);
                self.drawn.stacks.push(root, &RawFrame::Lost(Loss::StackLost))
            }
        }
    }

    /// What a thread ran, in nanoseconds: the samples share the time. `whole` is the time on CPU of
    /// all that had this id, under whatever name.
    fn ran(&mut self, root: StackId, on_cpu: u64, id: ThreadId, whole: u64) {
        let samples = self.timed.samples.get(&id);
        let all: u64 = samples.iter().flat_map(|samples| samples.values()).sum();
        let Some(samples) = samples.filter(|_| all > 0) else {
            let unsampled = self.mark(root, "[not sampled]");
            self.add(unsampled, on_cpu);
            return;
        };
        let mut left = on_cpu;
        for (index, (known, count)) in samples.iter().enumerate() {
            let last = index + 1 == samples.len();
            let share = if last { left } else { part(on_cpu, *count, all).min(left) };
            left -= share;
            self.count(Some(*known), part(*count, on_cpu, whole));
            let at = self.graft(root, *known);
            self.add(at, share);
        }
    }

    fn count(&mut self, known: Option<Known>, n: u64) {
        self.drawn.counted += n;
        match known.and_then(|known| known.cause) {
            Some(cause) => *self.losses.truncated.entry(cause).or_default() += n,
            None => self.drawn.complete += n,
        }
    }

    fn graft(&mut self, root: StackId, known: Known) -> StackId {
        let frames = self.frames.root_first(known.stack);
        frames.into_iter().fold(root, |stack, frame| self.drawn.stacks.push(stack, frame))
    }

    fn mark(&mut self, stack: StackId, name: &str) -> StackId {
        let frame = Frame::placeholder(name, FrameKind::Marker);
        self.drawn.stacks.push(stack, &RawFrame::Named(frame))
    }

    fn add(&mut self, stack: StackId, nanoseconds: u64) {
        let sum = self.nanoseconds.entry(stack).or_default();
        *sum = sum.saturating_add(nanoseconds);
    }
}

/// Time on CPU by thread id.
fn on_cpu_by_id(sums: &Sums) -> FxHashMap<ThreadId, u64> {
    let mut by_id: FxHashMap<ThreadId, u64> = FxHashMap::default();
    for (who, thread) in &sums.threads {
        let sum = by_id.entry(ThreadId { pid: who.pid, tid: who.tid }).or_default();
        *sum = sum.saturating_add(thread.on_cpu);
    }
    by_id
}

/// `of` times `share` out of `all`.
fn part(of: u64, share: u64, all: u64) -> u64 {
    let part = u128::from(of) * u128::from(share) / u128::from(all.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// A time as people write it: `50 us`, `1.5 ms`, `2 s`.
fn span(time: Duration) -> String {
    let nanoseconds = time.as_nanos() as f64;
    let (number, unit) = match time {
        _ if time < Duration::from_millis(1) => (nanoseconds / 1e3, "us"),
        _ if time < Duration::from_secs(1) => (nanoseconds / 1e6, "ms"),
        _ => (nanoseconds / 1e9, "s"),
    };
    format!("{number} {unit}")
}

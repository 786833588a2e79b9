//! Stacks of where time went: the process, the thread where it is told apart, the frames that it
//! waited in, and why it waited. Values are microseconds.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use profiler_ebpf::{
    threads::{stack, wait},
    wire::sum_kind,
};
use rustc_hash::FxHashMap;

use super::{Place, Sums, Thread, Total, WOKEN, Waited, Waits, Who, state_name};
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

/// Percent of a recording that a thread waits in one stack for to do nothing.
const IDLE_SHARE: u64 = 95;

/// What is drawn.
#[derive(Debug)]
pub struct Drawn {
    /// The stacks, process first; values are microseconds.
    pub stacks: Stacks<RawFrame>,
    /// Waits, and samples of what ran.
    pub counted: u64,
    /// Those of them whose stacks reach their roots.
    pub complete: u64,
    /// What each process waited, the most first.
    pub waited: Vec<Waited>,
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
    /// By process. Times are nanoseconds here.
    waited: FxHashMap<StackId, Waited>,
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
        let drawn = Drawn { stacks: Stacks::new(1), counted: 0, complete: 0, waited: Vec::new() };
        let (losses, nanoseconds) = (Losses::default(), FxHashMap::default());
        let waited = FxHashMap::default();
        Self { frames, timed, waits, labels, losses, drawn, nanoseconds, waited }
    }

    /// Draws sums. Each truncated stack is counted in `losses` once for each of its waits and
    /// samples.
    #[must_use]
    pub fn draw(mut self, sums: &Sums, losses: &mut Losses) -> Drawn {
        let on_cpu = on_cpu_by_id(sums);
        for (who, thread) in &sums.threads {
            let (process, root) = self.root(who);
            let idle = self.waits.fold_idle.then(|| idle_place(thread, sums.window)).flatten();
            for (place, total) in &thread.waits {
                if place.kind == sum_kind::STACK && idle == Some((place.stack, place.state)) {
                    self.idle(process, *place, *total);
                } else {
                    self.wait(process, root, *place, *total);
                }
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
            self.drawn.stacks.add(*stack, 0, microseconds(*nanoseconds));
        }
        let mut waited: Vec<_> = self.waited.into_values().collect();
        for of in &mut waited {
            for time in [&mut of.blocked, &mut of.runnable, &mut of.longest] {
                *time = microseconds(*time);
            }
        }
        waited.sort_by(|a, b| {
            let all = |of: &Waited| of.blocked.saturating_add(of.runnable);
            all(b).cmp(&all(a)).then_with(|| a.process.cmp(&b.process))
        });
        self.drawn.waited = waited;
        self.drawn
    }

    /// The process, and what its thread's stacks begin with.
    fn root(&mut self, who: &Who) -> (StackId, StackId) {
        let process = self.process(who);
        match self.labels.threads {
            true => {
                let thread = RawFrame::Thread(Arc::clone(&who.comm));
                (process, self.drawn.stacks.push(process, &thread))
            }
            false => (process, process),
        }
    }

    fn process(&mut self, who: &Who) -> StackId {
        let mut name = who.process.to_string();
        if self.labels.pids {
            let _ = write!(name, " (pid {})", who.pid);
        }
        let name: Arc<str> = name.into();
        let process = self.drawn.stacks.intern([&RawFrame::Process(Arc::clone(&name))]);
        self.waited.entry(process).or_insert_with(|| Waited {
            process: name,
            blocked: 0,
            runnable: 0,
            longest: 0,
            place: process,
        });
        process
    }

    /// A thread that did next to nothing but wait there.
    fn idle(&mut self, process: StackId, place: Place, total: Total) {
        let (blocked, runnable) = self.chosen(place, total);
        let idle = self.mark(process, "[idle threads]");
        self.count(None, total.waits);
        self.add(idle, blocked.saturating_add(runnable));
    }

    /// What of a wait is shown: blocked, runnable.
    fn chosen(&self, place: Place, total: Total) -> (u64, u64) {
        let states = self.waits.states;
        let blocked = match place.kind {
            sum_kind::STACK => states.has(place.state),
            // In which states they were is not told.
            _ => states.has_blocked(),
        };
        let of = |is_chosen: bool, time: u64| if is_chosen { time } else { 0 };
        (of(blocked, total.blocked), of(states.has_runnable(), total.runnable))
    }

    fn wait(&mut self, process: StackId, root: StackId, place: Place, total: Total) {
        let (blocked, runnable) = self.chosen(place, total);
        let waits = total.waits;
        if blocked == 0 && runnable == 0 {
            return;
        }
        let at = match place.kind {
            sum_kind::SHORT => self.mark(root, &self.bounded("below", self.waits.min)),
            sum_kind::LONG => self.mark(root, &self.bounded("above", self.waits.max)),
            _ => self.place(root, place.stack, waits),
        };
        if let Some(waited) = self.waited.get_mut(&process) {
            waited.blocked = waited.blocked.saturating_add(blocked);
            waited.runnable = waited.runnable.saturating_add(runnable);
            if total.longest > waited.longest {
                (waited.longest, waited.place) = (total.longest, at);
            }
        }
        if place.kind != sum_kind::STACK {
            self.count(None, waits);
            self.add(at, blocked.saturating_add(runnable));
            return;
        }
        if blocked > 0 {
            let asleep = self.mark(at, state_name(place.state));
            let at = self.waker(asleep, place.waker, waits);
            self.add(at, blocked);
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
        if stack == stack::NONE {
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

    /// On top of a wait, who ended it.
    fn waker(&mut self, asleep: StackId, waker: u64, waits: u64) -> StackId {
        if waker == 0 {
            return asleep;
        }
        let at = self.mark(asleep, WOKEN);
        match self.timed.known.get(&waker) {
            Some(known) => self.graft(at, *known),
            None => {
                self.losses.lose(Loss::StackLost, waits);
                self.drawn.stacks.push(at, &RawFrame::Lost(Loss::StackLost))
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

/// Where a thread waited for at least [`IDLE_SHARE`] percent of the recording, if anywhere: a stack
/// and a state, whoever ended the waits.
fn idle_place(thread: &Thread, window: u64) -> Option<(u64, u32)> {
    let least = window / 100 * IDLE_SHARE;
    let mut blocked: FxHashMap<(u64, u32), u64> = FxHashMap::default();
    for (place, total) in &thread.waits {
        if place.kind == sum_kind::STACK {
            let sum = blocked.entry((place.stack, place.state)).or_default();
            *sum = sum.saturating_add(total.blocked);
        }
    }
    blocked.into_iter().find(|(_, blocked)| *blocked > least).map(|(at, _)| at)
}

/// Rounded.
fn microseconds(nanoseconds: u64) -> u64 {
    nanoseconds.saturating_add(500) / 1000
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

#[cfg(test)]
mod tests {
    use profiler_ebpf::wire::WaitSum;

    use super::{super::States, *};

    const MS: u64 = 1_000_000;

    fn sum(tid: u32, stack: u64, state: u32, [blocked, runnable]: [u64; 2]) -> WaitSum {
        WaitSum {
            stack,
            state,
            blocked,
            runnable,
            longest: blocked + runnable,
            waits: 1,
            pid: 1,
            tid,
            comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
            process: *b"app\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ..WaitSum::default()
        }
    }

    fn ran(tid: u32, on_cpu: u64) -> WaitSum {
        WaitSum { kind: sum_kind::THREAD, waits: 0, on_cpu, ..sum(tid, 0, 0, [0, 0]) }
    }

    fn function(name: &str) -> RawFrame {
        RawFrame::Named(Frame::symbol(name, FrameKind::Native))
    }

    /// Draws; each stack as its frames' names from the root on, with its value.
    fn drawn(records: &[WaitSum], waits: Waits, labels: Labels) -> Vec<(String, u64)> {
        let drawn = draw(records, waits, labels);
        let mut stacks: Vec<_> =
            drawn.stacks.iter().map(|(id, values)| (names(&drawn.stacks, id), values[0])).collect();
        stacks.sort();
        stacks
    }

    fn names(stacks: &Stacks<RawFrame>, id: StackId) -> String {
        let names = stacks.root_first(id).into_iter().map(|frame| match frame {
            RawFrame::Process(name) | RawFrame::Thread(name) => name.to_string(),
            RawFrame::Named(frame) => frame.name.to_string(),
            other => format!("{other:?}"),
        });
        names.collect::<Vec<_>>().join(";")
    }

    fn draw(records: &[WaitSum], waits: Waits, labels: Labels) -> Drawn {
        let mut frames = Stacks::new(1);
        let mut timed = Timed::default();
        for (name, function) in [(10, function("read")), (11, function("lock"))] {
            let stack = frames.intern([&function]);
            timed.known.insert(name, Known { stack, cause: None });
        }
        let run = Known { stack: frames.intern([&function("run")]), cause: None };
        let halt = Known { stack: frames.intern([&function("halt")]), cause: None };
        let counts = FxHashMap::from_iter([(run, 3), (halt, 1)]);
        timed.samples.insert(ThreadId { pid: 1, tid: 7 }, counts);
        let mut sums = Sums { window: 100 * MS, ..Sums::default() };
        records.iter().for_each(|record| sums.add(record));
        Canvas::new(&frames, &timed, waits, labels).draw(&sums, &mut Losses::default())
    }

    fn owned(stacks: &[(&str, u64)]) -> Vec<(String, u64)> {
        stacks.iter().map(|(stack, value)| ((*stack).to_owned(), *value)).collect()
    }

    #[test]
    fn a_wait_is_split_by_what_it_is_for() {
        let records = [
            sum(7, 10, wait::SLEEPING, [20 * MS, 3 * MS]),
            sum(7, 11, wait::PREEMPTED, [0, MS]),
            sum(7, 12, wait::UNINTERRUPTIBLE, [MS, 0]),
            WaitSum { kind: sum_kind::SHORT, ..sum(7, 0, 0, [MS, MS]) },
        ];
        let waits = Waits { min: Some(Duration::from_micros(1500)), ..Waits::default() };
        let expected = [
            ("app;Lost(StackLost);[uninterruptible]", 1_000),
            ("app;[waits below 1.5 ms]", 2_000),
            ("app;lock;[waiting for CPU]", 1_000),
            ("app;read;[sleeping]", 20_000),
            ("app;read;[waiting for CPU]", 3_000),
        ];
        assert_eq!(drawn(&records, waits, Labels::default()), owned(&expected));
        let mut states = States::default();
        states.add("runnable").unwrap();
        let shown = drawn(&records, Waits { states, ..waits }, Labels::default());
        let expected = [
            ("app;[waits below 1.5 ms]", 1_000),
            ("app;lock;[waiting for CPU]", 1_000),
            ("app;read;[waiting for CPU]", 3_000),
        ];
        assert_eq!(shown, owned(&expected));
    }

    #[test]
    fn samples_share_the_time_on_cpu() {
        let records = [ran(7, 40 * MS), ran(8, 5 * MS), sum(8, 10, wait::SLEEPING, [MS, 0])];
        let waits = Waits { on_cpu: true, ..Waits::default() };
        let labels = Labels { threads: true, ..Labels::default() };
        let expected = [
            ("app;worker;[not sampled]", 5_000),
            ("app;worker;halt", 10_000),
            ("app;worker;read;[sleeping]", 1_000),
            ("app;worker;run", 30_000),
        ];
        assert_eq!(drawn(&records, waits, labels), owned(&expected));
    }

    #[test]
    fn threads_that_do_nothing_are_one_frame() {
        let records = [
            sum(7, 10, wait::SLEEPING, [96 * MS, 0]),
            sum(8, 10, wait::SLEEPING, [99 * MS, 0]),
            sum(9, 10, wait::SLEEPING, [94 * MS, 0]),
        ];
        let waits = Waits { fold_idle: true, ..Waits::default() };
        let expected = [("app;[idle threads]", 195_000), ("app;read;[sleeping]", 94_000)];
        assert_eq!(drawn(&records, waits, Labels::default()), owned(&expected));
    }

    #[test]
    fn each_process_has_its_sums_and_its_longest_wait() {
        let other = *b"other\0\0\0\0\0\0\0\0\0\0\0";
        let records = [
            sum(7, 10, wait::SLEEPING, [20 * MS, 3 * MS]),
            sum(8, 11, wait::SLEEPING, [30 * MS, 0]),
            sum(9, 10, wait::SLEEPING, [99 * MS, 0]),
            WaitSum { process: other, pid: 2, ..sum(10, 10, wait::SLEEPING, [60 * MS, 0]) },
        ];
        let waits = Waits { fold_idle: true, ..Waits::default() };
        let drawn = draw(&records, waits, Labels::default());
        let rows = drawn.waited.iter().map(|of| {
            let place = names(&drawn.stacks, of.place);
            (&*of.process, of.blocked, of.runnable, of.longest, place)
        });
        let expected = [
            ("other", 60_000, 0, 60_000, "other;read".to_owned()),
            ("app", 50_000, 3_000, 30_000, "app;lock".to_owned()),
        ];
        assert_eq!(rows.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn who_ended_a_wait_stands_on_it() {
        let by = |waker, time| WaitSum { waker, ..sum(7, 10, wait::SLEEPING, [time, MS]) };
        let records = [by(0, 5 * MS), by(11, 20 * MS), by(99, 8 * MS)];
        let expected = [
            ("app;read;[sleeping]", 5_000),
            ("app;read;[sleeping];[woken by];Lost(StackLost)", 8_000),
            ("app;read;[sleeping];[woken by];lock", 20_000),
            ("app;read;[waiting for CPU]", 3_000),
        ];
        assert_eq!(drawn(&records, Waits::default(), Labels::default()), owned(&expected));
        // Whoever woke it: it does nothing else.
        let records = [by(11, 50 * MS), by(99, 46 * MS)];
        let waits = Waits { fold_idle: true, ..Waits::default() };
        let expected = [("app;[idle threads]", 98_000)];
        assert_eq!(drawn(&records, waits, Labels::default()), owned(&expected));
    }
}

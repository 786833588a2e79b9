//! Walks through code that was made at run time and does not keep to frame pointers. The kernel hands
//! them up where they come to such code; here it is followed to where it returns, and the kernel told
//! of the way, which it goes by itself from then on.
//!
//! The code belongs to others, so there is a bound to how much is followed in a round, and each process
//! has its own share. One where following leads nowhere is left alone again.

use std::{cell::Cell, fs::File, os::unix::fs::FileExt as _};

use profiler_ebpf::{
    walk::{Env, Walk, ends_in_call},
    wire::{Outcome, Rule, Way},
};
use rustc_hash::FxHashMap;

use super::{
    code::Code,
    regions::{Region, region_at},
    rows::Rows,
};
use crate::{
    model::{frame::ModuleId, loss::Truncation, profile::ModuleKind},
    target::process::Proc,
    unwind::{PAGE, Page, frame_at, ways_out},
};

/// The most processes that are followed at a time; each has a file open.
const MAX_PROCESSES: usize = 64;
/// The most places of a process whose ways out are remembered.
const MAX_PLACES: usize = 1 << 14;
/// The most work of a round, in instructions that are followed: some ten milliseconds.
const MAX_STEPS: usize = 1 << 17;
/// The part of it that a process has in its first round.
const FIRST_SHARE: usize = 2;
/// What reading a page, and a word, of a process's memory takes, in instructions.
const PAGE_STEPS: usize = 32;
const WORD_STEPS: usize = 4;
/// After how many steps out of a process's code it is asked whether they led anywhere.
const TRIALS: u32 = 64;
/// One of so many must have.
const WORTHWHILE: u32 = 4;
/// The library of HotSpot.
const JVM: &str = "/libjvm.so";

/// The processes whose code is followed.
#[derive(Debug)]
pub struct Onward {
    /// Processes are given up where it leads nowhere. Not where each stack comes up but once: those
    /// that lead nowhere come up more often.
    gives_up: bool,
    processes: FxHashMap<u32, Process>,
    /// The ways that were found in this round.
    found: FxHashMap<Place, Way>,
}

/// A place in code: the process and the address.
pub type Place = (u32, u64);

/// A process, and what is known of its code.
#[derive(Debug)]
struct Process {
    /// Its memory. Opened once: behind an exec there is nothing to read any more.
    memory: File,
    /// What its code is, as a module.
    module: ModuleId,
    is_java: bool,
    /// The ways out of places, with the code that was there.
    places: FxHashMap<u64, (u64, Box<[Rule]>)>,
    /// How much may still be done in this round.
    left: Cell<usize>,
    /// Steps out of its code, and those of them that led to code.
    tried: u32,
    led: u32,
}

impl Onward {
    /// None is followed yet; `timed`: stacks belong to waits, and come up once.
    #[must_use]
    pub fn new(timed: bool) -> Self {
        let (processes, found) = (FxHashMap::default(), FxHashMap::default());
        Self { gives_up: !timed, processes, found }
    }

    /// Makes one step out of code that was made at run time: by the first of its ways that leads to
    /// behind a call, in Java also to code that jumps to what it calls; else by frame pointer.
    pub fn step<E: Env>(&mut self, walk: &mut Walk, env: &mut E, code: &Code<'_>) -> Outcome {
        if !self.processes.contains_key(&code.pid)
            && let Some(process) = Process::open(walk, code)
        {
            if self.processes.len() >= MAX_PROCESSES {
                self.processes.clear();
            }
            self.processes.insert(code.pid, process);
        }
        let registers = walk.registers;
        if let Some(process) = self.processes.get_mut(&code.pid) {
            if let Some((outcome, way)) = process.step(walk, env, code) {
                self.found.extend(way.map(|way| ((code.pid, registers.ip), way)));
                return outcome;
            }
            // Too much was done for it in this round; if not, it is another program now.
            if process.left.get() > 0 {
                self.processes.remove(&code.pid);
            }
            walk.registers = registers;
        }
        by_pointer(walk, env)
    }

    /// Notes a stack that the kernel walked to its root, by the ways that it knows if it leads
    /// through code that is followed.
    pub fn note_whole(&mut self, frames: &[u64], code: &Code<'_>) {
        if self.gives_up
            && let Some(process) = self.processes.get_mut(&code.pid)
            && frames.iter().any(|frame| code.is_followed(*frame))
        {
            process.tried += 1;
            process.led += 1;
        }
    }

    /// The ways that were found since the last call.
    pub fn take_found(&mut self) -> impl Iterator<Item = (Place, Way)> {
        std::mem::take(&mut self.found).into_iter()
    }

    /// A new round, with as much to do as the last one. The modules whose code it leads nowhere to
    /// follow are given.
    pub fn round(&mut self) -> Vec<ModuleId> {
        let share = MAX_STEPS / self.processes.len().max(1);
        let mut hopeless = Vec::new();
        self.processes.retain(|_, process| {
            process.left.set(share);
            let is_due = self.gives_up && process.tried >= TRIALS;
            let is_hopeless = is_due && process.led.saturating_mul(WORTHWHILE) < process.tried;
            if is_due {
                (process.tried, process.led) = (0, 0);
            }
            if is_hopeless {
                hopeless.push(process.module);
            }
            !is_hopeless
        });
        hopeless
    }
}

/// A step by frame pointer out of code that is known to use it for other things, too: that it is
/// zero says nothing.
fn by_pointer<E: Env>(walk: &mut Walk, env: &mut E) -> Outcome {
    match walk.step_by(env, &Rule::NONE) {
        Outcome::Complete => Outcome::NoFramePointer,
        outcome => outcome,
    }
}

impl Process {
    fn open(walk: &Walk, code: &Code<'_>) -> Option<Self> {
        let memory = Proc::new().memory(code.pid).ok()?;
        let is_jvm = |region: &Region| code.modules.module(region.module).path.ends_with(JVM);
        Some(Self {
            memory,
            module: code.region(walk.frame())?.module,
            is_java: code.regions.iter().any(is_jvm),
            places: FxHashMap::default(),
            left: Cell::new(MAX_STEPS / FIRST_SHARE),
            tried: 0,
            led: 0,
        })
    }

    /// Makes a step, by the way that is given if it led anywhere; none: its memory cannot be read, or
    /// nothing is left to do it with.
    fn step<E: Env>(
        &mut self,
        walk: &mut Walk,
        env: &mut E,
        code: &Code<'_>,
    ) -> Option<(Outcome, Option<Way>)> {
        let ip = walk.registers.ip;
        let here = self.word(ip)?;
        if self.places.get(&ip).is_none_or(|(there, _)| *there != here) {
            let ways = self.ways(ip, code)?;
            if self.places.len() >= MAX_PLACES {
                self.places.clear();
            }
            self.places.insert(ip, (here, ways.into()));
        }
        let (_, ways) = self.places.get(&ip)?;
        let way = |rule, jumps| Way { code: here, rule, jumps: u64::from(jumps) };
        let (outcome, way) = match self.try_ways(ways, walk, env, code)? {
            Some((rule, jumps)) => (Outcome::Walking, Some(way(rule, jumps))),
            None => match by_pointer(walk, env) {
                Outcome::Walking => {
                    let jumps = !self.is_behind_call(walk)?;
                    let led = !jumps || code.is_followed(walk.frame());
                    (Outcome::Walking, led.then(|| way(Rule::NONE, jumps)))
                }
                outcome => (outcome, None),
            },
        };
        self.tried += 1;
        self.led += u32::from(way.is_some());
        Some((outcome, way))
    }

    /// Goes the first of these ways that may be the true one, if there is one, and whether it is by a
    /// jump that it leads there.
    fn try_ways<E: Env>(
        &self,
        ways: &[Rule],
        walk: &mut Walk,
        env: &mut E,
        code: &Code<'_>,
    ) -> Option<Option<(Rule, bool)>> {
        let registers = walk.registers;
        // HotSpot's interpreter jumps to what it calls, with a return address that it has put there.
        for to_followed in [false, true] {
            for way in ways.iter().filter(|_| !to_followed || self.is_java) {
                let arrives = walk.step_by(env, way) == Outcome::Walking
                    && match to_followed {
                        true => code.is_followed(walk.frame()),
                        false => self.is_behind_call(walk)?,
                    };
                if arrives {
                    return Some(Some((*way, to_followed)));
                }
                walk.registers = registers;
            }
        }
        Some(None)
    }

    /// The ways out from an address; the last one is by where the code begins.
    fn ways(&self, address: u64, code: &Code<'_>) -> Option<Vec<Rule>> {
        let mut read = |at| self.page(at, code);
        let most = self.left.get();
        let mut left = most;
        let mut ways = ways_out(address, &mut left, &mut read);
        self.spend(most - left)?;
        ways.extend(frame_at(address, &mut read));
        (self.left.get() > 0).then_some(ways)
    }

    /// Notes work; none: there was more than may be done.
    fn spend(&self, steps: usize) -> Option<()> {
        let left = self.left.get().checked_sub(steps);
        self.left.set(left.unwrap_or_default());
        left.map(|_| ())
    }

    /// A page of its code that was made at run time.
    fn page(&self, address: u64, code: &Code<'_>) -> Option<Page> {
        let region = region_at(code.regions, address)?;
        let module = code.modules.module(region.module);
        matches!(module.kind, ModuleKind::Anonymous { .. }).then_some(())?;
        self.spend(PAGE_STEPS)?;
        let mut page = Box::new([0; PAGE]);
        self.memory.read_exact_at(&mut page[..], address).ok()?;
        Some(page)
    }

    fn word(&self, address: u64) -> Option<u64> {
        self.spend(WORD_STEPS)?;
        let mut word = [0; 8];
        self.memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_le_bytes(word))
    }

    /// Whether a walk stands behind a call; none: nothing is left to look with.
    fn is_behind_call(&self, walk: &Walk) -> Option<bool> {
        let before = walk.registers.ip.checked_sub(8).and_then(|before| self.word(before));
        let is_call = before.is_some_and(ends_in_call);
        (self.left.get() > 0).then_some(is_call)
    }
}

impl Code<'_> {
    /// Whether the code at a frame was made at run time, and is followed.
    pub fn is_followed(&self, frame: u64) -> bool {
        let region = self.region(frame);
        region.is_some_and(|region| matches!(self.modules.rows(region.module), Rows::Followed))
    }

    /// The code that was made at run time and that a walk went astray in, if it did: that of the last
    /// frame, or of the one before.
    pub fn lost_in(&self, frames: &[u64], cause: Option<Truncation>) -> Option<ModuleId> {
        let astray = matches!(
            cause?,
            Truncation::NoFramePointer
                | Truncation::UnknownMapping
                | Truncation::UnreadableStack
                | Truncation::StackNotAdvancing
        );
        let last = frames.iter().rev().take(2).filter(|_| astray);
        let mut modules = last.filter_map(|frame| Some(self.region(*frame)?.module));
        modules.find(|module| {
            matches!(self.modules.module(*module).kind, ModuleKind::Anonymous { .. })
        })
    }
}

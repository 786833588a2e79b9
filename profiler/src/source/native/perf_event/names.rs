//! The names of threads, which perf samples do not carry: read at first, and kept up to date by
//! records.

use profiler_ebpf::glob::{Globs, NAME_BYTES};
use rustc_hash::FxHashMap;

use crate::{
    source::native::{
        Scope,
        samples::Sample,
        sideband::{Event, Record},
    },
    target::process::Proc,
};

/// A thread.
#[derive(Clone, Copy, Debug)]
struct Thread {
    pid: u32,
    name: [u8; NAME_BYTES],
    /// A first thread that has ended before the others: its name is still the process's.
    ended: bool,
}

/// Names by thread.
#[derive(Default)]
pub struct Names(FxHashMap<u32, Thread>);

impl Names {
    /// The threads that run already.
    #[must_use]
    pub fn read(scope: &Scope) -> Self {
        let proc = Proc::new();
        let mut names = Self::default();
        for pid in scope.pids(&proc) {
            for tid in proc.threads(pid).unwrap_or_default() {
                if let Ok(name) = proc.thread_comm(pid, tid) {
                    names.insert(pid, tid, padded(&name));
                }
            }
        }
        names
    }

    /// Gives samples their threads' names, as records change them, and keeps those of which the
    /// thread, or the first thread of its process, has one of these names. Both are in the order of
    /// time.
    pub fn apply(&mut self, samples: &mut Vec<Sample>, records: &[Record], only: Option<&Globs>) {
        let mut records = records.iter().peekable();
        samples.retain_mut(|sample| {
            while let Some(record) = records.next_if(|record| record.time <= sample.header.time) {
                self.record(record);
            }
            let name = |id| self.0.get(&id).map(|thread| thread.name);
            let own = name(sample.header.tid).unwrap_or(padded(b"?"));
            sample.header.comm = own;
            only.is_none_or(|globs| {
                globs.matches(&own)
                    || name(sample.header.pid).is_some_and(|name| globs.matches(&name))
            })
        });
        records.for_each(|record| self.record(record));
    }

    fn record(&mut self, record: &Record) {
        let Record { pid, tid, .. } = *record;
        match &record.event {
            Event::Comm { name, .. } => self.insert(pid, tid, padded(name)),
            Event::Fork { parent_tid, .. } => {
                if let Some(parent) = self.0.get(parent_tid).copied() {
                    self.insert(pid, tid, parent.name);
                }
            }
            Event::Exit => self.exit(pid, tid),
            _ => {}
        }
    }

    fn insert(&mut self, pid: u32, tid: u32, name: [u8; NAME_BYTES]) {
        self.0.insert(tid, Thread { pid, name, ended: false });
    }

    fn exit(&mut self, pid: u32, tid: u32) {
        let first_has_ended = self.0.get(&pid).is_some_and(|first| first.ended);
        if tid != pid {
            self.0.remove(&tid);
        }
        if tid != pid && !first_has_ended {
            return;
        }
        let others = self.0.iter().any(|(id, thread)| *id != pid && thread.pid == pid);
        match self.0.get_mut(&pid) {
            Some(first) if others => first.ended = true,
            _ => drop(self.0.remove(&pid)),
        }
    }
}

/// A name as sample headers carry it.
fn padded(name: &[u8]) -> [u8; NAME_BYTES] {
    let mut padded = [0; NAME_BYTES];
    let len = name.len().min(NAME_BYTES - 1);
    padded[..len].copy_from_slice(&name[..len]);
    padded
}

#[cfg(test)]
mod tests {
    use profiler_ebpf::wire::SampleHeader;

    use super::*;

    fn sample(time: u64, pid: u32, tid: u32) -> Sample {
        Sample {
            header: SampleHeader { time, pid, tid, ..SampleHeader::default() },
            kernel: Box::default(),
            user: Vec::new(),
            stack: Box::default(),
            stack_start: 0,
        }
    }

    fn record(time: u64, pid: u32, tid: u32, event: Event) -> Record {
        Record { time, pid, tid, event }
    }

    fn named(name: &str) -> Event {
        Event::Comm { name: name.into(), exec: false }
    }

    fn kept(names: &mut Names, samples: &[(u64, u32, u32)], records: &[Record]) -> Vec<u64> {
        let mut globs = Globs::new();
        globs.add(b"work*").unwrap();
        let mut samples =
            samples.iter().map(|(time, pid, tid)| sample(*time, *pid, *tid)).collect();
        names.apply(&mut samples, records, Some(&globs));
        samples.iter().map(|sample| sample.header.time).collect()
    }

    #[test]
    fn a_thread_is_judged_by_the_name_that_it_has() {
        let records = [
            record(1, 5, 5, named("main")),
            record(2, 5, 6, Event::Fork { parent_pid: 5, parent_tid: 5 }),
            record(4, 5, 6, named("worker")),
            record(6, 5, 6, named("idle")),
        ];
        let samples = [(3, 5, 6), (5, 5, 6), (5, 5, 5), (7, 5, 6)];
        assert_eq!(kept(&mut Names::default(), &samples, &records), [5]);
    }

    #[test]
    fn the_processs_name_stands_for_its_threads() {
        let mut names = Names::default();
        let records = [
            record(1, 5, 5, named("worker")),
            record(2, 5, 6, Event::Fork { parent_pid: 5, parent_tid: 5 }),
            record(3, 5, 6, named("other")),
            record(5, 5, 5, Event::Exit),
        ];
        assert_eq!(kept(&mut names, &[(4, 5, 6), (6, 5, 6)], &records), [4, 6]);
        let end = [record(7, 5, 6, Event::Exit)];
        assert_eq!(kept(&mut names, &[(8, 5, 6)], &end), [0_u64; 0]);
        assert!(names.0.is_empty());
    }
}

//! Which threads of a process run, as against those that wait: also those that py-spy has just
//! woken, because a thread that is stopped for a sample runs for a moment before it waits again.
//!
//! CPython before 3.11 knows its threads by their pthread handles
//! alone: the address of a structure that holds the kernel's number of the thread.

use std::collections::HashMap;

use crate::target::process::Proc;

/// Where that number lies: glibc's `struct pthread` (nptl/descr.h) and musl's
/// (src/internal/pthread_impl.h), both on x86-64.
const NUMBERS_AT: [u64; 2] = [0x2d0, 0x30];

/// A thread that was on a CPU for less since the last sample was only woken by that, in nanoseconds.
const WORKS: u64 = 100_000;

/// The threads of one process.
pub struct Threads {
    proc: Proc,
    pid: u32,
    /// Whether each thread runs, by the number that the process itself knows.
    runs: HashMap<u32, bool>,
    /// The time that each was on a CPU, in nanoseconds, by our own numbers.
    times: HashMap<u32, u64>,
    /// Those numbers by our own; they differ in a PID namespace.
    inner: HashMap<u32, u32>,
    /// Numbers by pthread handle.
    handles: HashMap<u64, u32>,
}

impl Threads {
    pub fn new(pid: u32) -> Self {
        Self {
            proc: Proc::new(),
            pid,
            runs: HashMap::new(),
            times: HashMap::new(),
            inner: HashMap::new(),
            handles: HashMap::new(),
        }
    }

    /// Notes who runs now: before a sample, which stops all.
    pub fn look(&mut self) {
        self.runs.clear();
        for tid in self.proc.threads(self.pid).unwrap_or_default() {
            let Ok(mut runs) = self.proc.thread_runs(self.pid, tid) else { continue };
            if let Ok(time) = self.proc.thread_cpu_time(self.pid, tid) {
                let before = self.times.insert(tid, time);
                runs &= before.is_none_or(|before| time.saturating_sub(before) >= WORKS);
            }
            let inner =
                *self.inner.entry(tid).or_insert_with(|| self.proc.ns_pid(tid).unwrap_or(tid));
            self.runs.insert(inner, runs);
        }
    }

    /// Whether a thread waits, by the number that the process itself knows.
    pub fn number_waits(&self, number: u64) -> bool {
        u32::try_from(number).is_ok_and(|number| self.runs.get(&number) == Some(&false))
    }

    /// Whether the thread of a pthread handle waits; not, where that cannot be found out.
    pub fn waits(&mut self, handle: u64) -> bool {
        let known = self.handles.get(&handle).copied();
        let number = known.filter(|number| self.runs.contains_key(number)).or_else(|| {
            let number = self.number(handle)?;
            self.handles.insert(handle, number);
            Some(number)
        });
        number.is_some_and(|number| self.runs.get(&number) == Some(&false))
    }

    fn number(&self, handle: u64) -> Option<u32> {
        NUMBERS_AT.into_iter().find_map(|at| {
            let mut bytes = [0; 4];
            let address = handle.checked_add(at)?;
            self.proc.read_memory(self.pid, address, &mut bytes).ok()?;
            let number = u32::from_ne_bytes(bytes);
            self.runs.contains_key(&number).then_some(number)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn handles_lead_to_threads() {
        let (own, is_own) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let sleeper = thread::spawn(move || {
            own.send(rustix::thread::gettid()).unwrap();
            let _ = ends.recv();
        });
        let tid = is_own.recv().unwrap().as_raw_nonzero().get().unsigned_abs();
        use std::os::unix::thread::JoinHandleExt as _;
        let handle = sleeper.as_pthread_t();
        let mut threads = Threads::new(std::process::id());
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            threads.look();
            if threads.waits(handle) {
                break;
            }
            assert!(std::time::Instant::now() < until, "the thread never waits");
            thread::yield_now();
        }
        assert_eq!(threads.number(handle), Some(tid));
        assert!(!threads.waits(16), "no memory is there");
        drop(end);
        sleeper.join().unwrap();
    }
}

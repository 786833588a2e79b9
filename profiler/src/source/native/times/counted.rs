//! Whose time counts, where records tell of others, too: of the other threads of a process, and where
//! a kernel lets children inherit events, of these.

use profiler_ebpf::threads::wait;
use rustc_hash::FxHashSet;

use super::ledger::Ledger;
use crate::{source::native::Scope, target::process::Proc};

/// Whose time counts.
pub enum Counted {
    /// All that is told of.
    All,
    /// That of these processes.
    Processes(FxHashSet<u32>),
    /// That of these threads.
    Threads(FxHashSet<u32>),
}

impl Counted {
    /// Of what is recorded.
    #[must_use]
    pub fn of(scope: &Scope) -> Self {
        match scope {
            Scope::Processes { pids, children: false } => {
                Self::Processes(pids.iter().copied().collect())
            }
            Scope::Threads { tids, .. } => Self::Threads(tids.iter().copied().collect()),
            Scope::Host | Scope::Processes { .. } => Self::All,
        }
    }

    /// Whether a thread's does.
    #[must_use]
    pub fn has(&self, pid: u32, tid: u32) -> bool {
        match self {
            Self::All => true,
            Self::Processes(pids) => pids.contains(&pid),
            Self::Threads(tids) => tids.contains(&tid),
        }
    }

    /// Tells a ledger of the threads that are there.
    pub fn take_up(&self, scope: &Scope, ledger: &mut Ledger) {
        let proc = Proc::new();
        for pid in scope.pids(&proc) {
            let Ok(process) = procfs::process::Process::new(pid as i32) else { continue };
            if let Ok(comm) = proc.comm(pid) {
                ledger.name(pid, &String::from_utf8_lossy(&comm));
            }
            for task in process.tasks().into_iter().flatten().flatten() {
                let Ok(stat) = task.stat() else { continue };
                let tid = stat.pid as u32;
                if self.has(pid, tid) {
                    ledger.find(pid, tid, &stat.comm, state(stat.state));
                }
            }
        }
    }
}

/// What a letter of proc_pid_stat(5) stands for; None: it runs, or could.
fn state(letter: char) -> Option<u32> {
    Some(match letter {
        'R' => return None,
        'D' => wait::UNINTERRUPTIBLE,
        'T' => wait::STOPPED,
        't' => wait::TRACED,
        'I' | 'P' => wait::IDLE,
        _ => wait::SLEEPING,
    })
}

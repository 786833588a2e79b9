//! An inspector that opens when nobody waits for it any more. A first thread that is busy outside of
//! JavaScript, in `execSync` or in an addon, opens it when it comes back; whoever asked for it has to
//! see that it is closed again.

use std::{
    net::SocketAddr,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::runtime;

use super::{
    CLOSE, Open,
    open::{Place, Target},
    workers::Workers,
};
use crate::source::{inspector::Inspector, websocket::SocketUrl};

/// How often the inspector is looked for.
const STEP: Duration = Duration::from_millis(100);
/// How long it is looked for at the least.
const MIN_WATCH: Duration = Duration::from_secs(5);

/// A Node that was asked for its inspector and did not open it: another way of recording is needed.
#[derive(Debug, thiserror::Error)]
#[error(
    "process {} did not open its inspector on SIGUSR1 within {:?}: its first thread does not come \
     back to JavaScript, or the program handles that signal itself, or forbids inspectors",
    target.0.process.pid,
    super::open::MAX_OPEN
)]
pub struct Late {
    pub(super) target: Target,
    /// Where it listened before.
    pub(super) before: Vec<SocketAddr>,
    /// Where its inspector would listen; 0: anywhere.
    pub(super) port: u16,
}

/// A Node whose inspector is closed when it opens after all.
#[derive(Debug)]
pub struct Watch {
    thread: JoinHandle<Option<String>>,
    stop: Sender<()>,
}

impl Late {
    /// Closes the inspector when it opens, in a thread of its own.
    #[must_use]
    pub fn watch(self) -> Watch {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let began = Instant::now();
            let mut over = false;
            while !over || began.elapsed() < MIN_WATCH {
                if over {
                    thread::sleep(STEP);
                } else {
                    over = stopped.recv_timeout(STEP) != Err(RecvTimeoutError::Timeout);
                }
                match self.target.opened_beside(&self.before) {
                    Ok(Some(url)) => return Some(self.close(url)),
                    Ok(None) => {}
                    // It has ended.
                    Err(_) => return None,
                }
            }
            Some(self.hint())
        });
        Watch { thread, stop }
    }

    fn close(self, url: SocketUrl) -> String {
        let (pid, hint) = (self.target.0.process.pid, self.hint());
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return hint };
        runtime.block_on(async {
            let inspector = Inspector::open(&url, self.target.0.network()).await;
            let Ok(inspector) = inspector else { return hint };
            let place = Place { url, opened: true };
            let workers = Workers::new(Duration::ZERO);
            let mut open = Open { target: self.target, place, inspector, workers, timer: None };
            if open.check().await.is_err() {
                open.inspector.close().await;
                return hint;
            }
            let left = open.close().await;
            if left.is_empty() {
                return format!(
                    "process {pid} opened its inspector too late for the recording; it is closed \
                     again"
                );
            }
            left.join("; ")
        })
    }

    /// What is left to do by hand.
    fn hint(&self) -> String {
        let pid = self.target.0.process.pid;
        let port = if self.port == 0 { String::new() } else { format!(" on port {}", self.port) };
        format!(
            "process {pid} may open its inspector{port} later still: `node inspect -p {pid}`, and \
             there `exec(\"{CLOSE}\")`, closes it"
        )
    }
}

impl Watch {
    /// Ends watching, some seconds after the beginning at the earliest; what became of the inspector.
    #[must_use]
    pub fn end(self) -> Option<String> {
        drop(self.stop);
        self.thread.join().ok().flatten()
    }
}

//! A Node's inspector: found where it is open, opened by SIGUSR1 where it is not, and closed again
//! by whoever opened it.
//!
//! Node opens its inspector on SIGUSR1, from a thread that waits for nothing else; who does not
//! catch that signal dies of it. Which sockets belong to a process its descriptors tell, so that
//! no other process is asked on a guess.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Signal, pidfd_send_signal};

use super::late::Late;
use crate::{
    format::inspector::{is_whole, target_path},
    source::{
        inspector::{Inspected, NoInspector},
        websocket::{SocketUrl, connect, reachable},
    },
    target::runtime::Runtime,
};

/// Where Node's inspector listens unless it is told otherwise.
const USUAL_PORT: u16 = 9229;
/// How long an inspector may take to open.
pub const MAX_OPEN: Duration = Duration::from_secs(5);
/// How often it is looked for meanwhile.
const STEP: Duration = Duration::from_millis(10);
/// How long a listener may take to answer.
const MAX_ANSWER: Duration = Duration::from_secs(2);
/// Longer answers are of no inspector, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A Node process.
#[derive(Debug)]
pub struct Target(pub Inspected);

/// Where its inspector is.
#[derive(Debug)]
pub struct Place {
    /// The websocket.
    pub url: SocketUrl,
    /// Whether we opened it.
    pub opened: bool,
}

impl Target {
    /// Looks at a process.
    ///
    /// # Errors
    /// When there is none, it is no Node, or it cannot be looked into.
    pub fn new(pid: u32) -> anyhow::Result<Self> {
        Ok(Self(Inspected::new(pid, Runtime::Node, "node")?))
    }

    /// Finds the inspector, or opens it.
    ///
    /// # Errors
    /// [`NoInspector`] when there is none and none can be opened, [`Late`] when it was asked for and
    /// does not open, or what else went wrong.
    pub fn inspector(self) -> anyhow::Result<(Self, Place)> {
        let hints = self.hints();
        let before = self.0.listeners()?;
        let likely = |listener: &&SocketAddr| {
            listener.port() == USUAL_PORT || hints.contains(&listener.port())
        };
        // A random port that it was told to take may be any of its own.
        let any = hints.contains(&0);
        let first = before.iter().filter(|listener| any || likely(listener));
        if let Some(url) = first.copied().find_map(|listener| self.probe(listener)) {
            return Ok((self, Place { url, opened: false }));
        }
        let port = hints.last().copied().unwrap_or(USUAL_PORT);
        let may = self.may_open(port);
        if may.is_ok() {
            self.signal()?;
            if let Some(url) = self.wait_for_other_than(&before)? {
                return Ok((self, Place { url, opened: true }));
            }
        }
        // A program may have opened its own where nobody looks for it; Node opens no second one.
        if let Some(url) = before.iter().find_map(|listener| self.probe(*listener)) {
            return Ok((self, Place { url, opened: false }));
        }
        may?;
        bail!(Late { target: self, before, port })
    }

    /// Whether SIGUSR1 would open an inspector, and nothing else.
    fn may_open(&self, port: u16) -> anyhow::Result<()> {
        let pid = self.0.process.pid;
        if !self.0.proc.catches(pid, Signal::USR1.as_raw())? {
            bail!(NoInspector(format!(
                "process {pid} has no inspector open, and does not open one on SIGUSR1 (it does \
                 not catch that signal)"
            )));
        }
        let sockets = self.0.proc.listening_sockets(pid)?;
        let taken = sockets.iter().find(|socket| port != 0 && socket.address.port() == port);
        if taken.is_some() {
            bail!(NoInspector(format!(
                "process {pid} has no inspector open, and its port {port} is taken by another \
                 process: try again when that has ended, or start the program with \
                 --inspect-port=0"
            )));
        }
        Ok(())
    }

    fn signal(&self) -> anyhow::Result<()> {
        pidfd_send_signal(self.0.handle(), Signal::USR1).with_context(|| {
            format!("cannot send SIGUSR1 to {}: run as root, or as its owner", self.0)
        })
    }

    fn wait_for_other_than(&self, before: &[SocketAddr]) -> anyhow::Result<Option<SocketUrl>> {
        let began = Instant::now();
        while began.elapsed() < MAX_OPEN {
            let opened = self.opened_beside(before)?;
            if opened.is_some() {
                return Ok(opened);
            }
            thread::sleep(STEP);
        }
        Ok(None)
    }

    /// The inspector where nothing of it listened before, if it is open.
    ///
    /// # Errors
    /// When the process has ended, or may not be looked into.
    pub fn opened_beside(&self, before: &[SocketAddr]) -> anyhow::Result<Option<SocketUrl>> {
        let new = self.0.listeners()?.into_iter().filter(|listener| !before.contains(listener));
        Ok(new.into_iter().find_map(|listener| self.probe(listener)))
    }

    /// The ports that its inspector was told to take.
    fn hints(&self) -> Vec<u16> {
        let pid = self.0.process.pid;
        let options = self.0.proc.variable(pid, "NODE_OPTIONS").ok().flatten().unwrap_or_default();
        let options = options.split(|byte| *byte == b' ').map(<[u8]>::to_vec);
        let words = self.0.proc.command_line(pid).unwrap_or_default().into_iter();
        options.chain(words).filter_map(|word| port(&word)).collect()
    }

    /// The websocket behind a listener; none: it is no inspector.
    fn probe(&self, listener: SocketAddr) -> Option<SocketUrl> {
        let address = reachable(listener);
        let ip = address.ip().to_string();
        let mut stream = connect((&ip, address.port()), self.0.network()).ok()?;
        stream.set_read_timeout(Some(MAX_ANSWER)).ok()?;
        stream.set_write_timeout(Some(MAX_ANSWER)).ok()?;
        let request =
            format!("GET /json/list HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let (mut answer, mut chunk, began) = (Vec::new(), [0; 4096], Instant::now());
        while !is_whole(&answer) && answer.len() < MAX_ANSWER_BYTES && began.elapsed() < MAX_ANSWER
        {
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend_from_slice(&chunk[..read]),
            }
        }
        Some(SocketUrl::at(listener, &target_path(&answer)?))
    }

    /// Waits until nothing listens on a port of it any more; whether that came true.
    #[must_use]
    pub fn closes(&self, port: u16) -> bool {
        let began = Instant::now();
        loop {
            // What has ended has closed everything.
            let listeners = self.0.listeners().unwrap_or_default();
            if listeners.iter().all(|listener| listener.port() != port) {
                return true;
            }
            if began.elapsed() > MAX_ANSWER {
                return false;
            }
            thread::sleep(STEP);
        }
    }
}

/// The port in an option for Node's inspector; 9229 where it names none.
fn port(word: &[u8]) -> Option<u16> {
    const OPTIONS: [&str; 6] = [
        "--inspect",
        "--inspect-brk",
        "--inspect-wait",
        "--inspect-port",
        "--inspect-brk-node",
        "--debug-port",
    ];
    let text = str::from_utf8(word).ok()?;
    let (option, value) = text.split_once('=').unwrap_or((text, ""));
    if !OPTIONS.contains(&option) {
        return None;
    }
    // `9230`, `127.0.0.1:9230`, `[::1]:9230`, or a host alone.
    Some(value.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(USUAL_PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_name_ports() {
        for (word, expected) in [
            ("--inspect", Some(9229)),
            ("--inspect=9230", Some(9230)),
            ("--inspect=0.0.0.0:9231", Some(9231)),
            ("--inspect-brk=[::1]:9232", Some(9232)),
            ("--inspect-port=0", Some(0)),
            ("--inspect=localhost", Some(9229)),
            ("--inspect=99999", Some(9229)),
            ("--inspector", None),
            ("inspect", None),
            ("--max-old-space-size=9230", None),
        ] {
            assert_eq!(port(word.as_bytes()), expected, "{word}");
        }
        assert_eq!(port(b"\xff"), None);
    }
}

//! A Node's inspector: found where it is open, opened by SIGUSR1 where it is not, and closed again
//! by whoever opened it.
//!
//! Node opens its inspector on SIGUSR1, from a thread that waits for nothing else; who does not
//! catch that signal dies of it. Which sockets belong to a process its descriptors tell, so that
//! no other process is asked on a guess.

use std::{
    fmt,
    fs::File,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::NoInspector;
use crate::{
    format::inspector::{is_whole, target_path},
    source::websocket::{SocketUrl, connect, reachable},
    target::{
        process::{Proc, ProcessInfo},
        runtime::{self, Runtime},
    },
};

/// Where Node's inspector listens unless it is told otherwise.
const USUAL_PORT: u16 = 9229;
/// How long an inspector may take to open.
const MAX_OPEN: Duration = Duration::from_secs(5);
/// How often it is looked for meanwhile.
const STEP: Duration = Duration::from_millis(10);
/// How long a listener may take to answer.
const MAX_ANSWER: Duration = Duration::from_secs(2);
/// Longer answers are of no inspector, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A Node process.
#[derive(Debug)]
pub struct Target {
    /// The process.
    pub process: ProcessInfo,
    proc: Proc,
    /// Names the very process, whatever becomes of its number.
    handle: OwnedFd,
    network: Option<File>,
}

/// Where its inspector is.
#[derive(Debug)]
pub struct Place {
    /// The websocket.
    pub url: SocketUrl,
    /// Whether we opened it.
    pub opened: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.process.pid)
    }
}

impl Target {
    /// Looks at a process.
    ///
    /// # Errors
    /// When there is none, it is no Node, or it cannot be looked into.
    pub fn new(pid: u32) -> anyhow::Result<Self> {
        let proc = Proc::new();
        proc.target(pid)?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.with_context(|| format!("{pid} is no process id"))?;
        let handle = pidfd_open(raw, PidfdFlags::empty())
            .with_context(|| format!("cannot open process {pid}"))?;
        // From here on the number stands for the process that the handle does, or for none.
        let process = proc.target(pid)?;
        // Who may not look at its descriptors may not speak to it either.
        proc.sockets(pid)?;
        if !runtime::has(&proc, pid, Runtime::Node) {
            bail!(wrong_kind(&proc, pid, "Node", "node"));
        }
        let network = proc.other_network(pid)?;
        Ok(Self { process, proc, handle, network })
    }

    /// The network that it is in; none: ours.
    #[must_use]
    pub fn network(&self) -> Option<&File> {
        self.network.as_ref()
    }

    /// Its number as it knows it itself.
    ///
    /// # Errors
    /// When it has ended.
    pub fn own_pid(&self) -> anyhow::Result<u32> {
        Ok(self.proc.ns_pid(self.process.pid)?)
    }

    /// Whether it has ended, or is about to: its connections end before it does.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        const ABOUT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
        // Readable when all threads have ended (pidfd_open(2)).
        let mut handles = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut handles, Some(&ABOUT)).is_ok_and(|ready| ready > 0)
    }

    /// Finds the inspector, or opens it.
    ///
    /// # Errors
    /// [`NoInspector`] when there is none and none can be opened, or what else went wrong.
    pub fn inspector(&self) -> anyhow::Result<Place> {
        let pid = self.process.pid;
        let hints = self.hints();
        let before = self.listeners()?;
        let likely = |listener: &&SocketAddr| {
            listener.port() == USUAL_PORT || hints.contains(&listener.port())
        };
        let open = |url| Ok(Place { url, opened: false });
        // A random port that it was told to take may be any of its own.
        let any = hints.contains(&0);
        let first = before.iter().filter(|listener| any || likely(listener));
        if let Some(url) = first.copied().find_map(|listener| self.probe(listener)) {
            return open(url);
        }
        let may = self.may_open(hints.last().copied().unwrap_or(USUAL_PORT));
        if may.is_ok() {
            self.signal()?;
            if let Some(url) = self.wait_for_other_than(&before)? {
                return Ok(Place { url, opened: true });
            }
        }
        // A program may have opened its own where nobody looks for it; Node opens no second one.
        if let Some(url) = before.into_iter().find_map(|listener| self.probe(listener)) {
            return open(url);
        }
        may?;
        bail!(NoInspector(format!(
            "process {pid} did not open its inspector on SIGUSR1 within {MAX_OPEN:?}: the program \
             handles that signal itself, or forbids inspectors"
        )))
    }

    /// Whether SIGUSR1 would open an inspector, and nothing else.
    fn may_open(&self, port: u16) -> anyhow::Result<()> {
        let pid = self.process.pid;
        if !self.proc.catches(pid, Signal::USR1.as_raw())? {
            bail!(NoInspector(format!(
                "process {pid} has no inspector open, and does not open one on SIGUSR1 (it does \
                 not catch that signal)"
            )));
        }
        let sockets = self.proc.listening_sockets(pid)?;
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
        pidfd_send_signal(&self.handle, Signal::USR1)
            .with_context(|| format!("cannot send SIGUSR1 to {self}: run as root, or as its owner"))
    }

    fn wait_for_other_than(&self, before: &[SocketAddr]) -> anyhow::Result<Option<SocketUrl>> {
        let began = Instant::now();
        while began.elapsed() < MAX_OPEN {
            let now = self.listeners()?;
            let new = now.into_iter().filter(|listener| !before.contains(listener));
            if let Some(url) = new.into_iter().find_map(|listener| self.probe(listener)) {
                return Ok(Some(url));
            }
            thread::sleep(STEP);
        }
        Ok(None)
    }

    /// The ports that its inspector was told to take.
    fn hints(&self) -> Vec<u16> {
        let pid = self.process.pid;
        let options = self.proc.variable(pid, "NODE_OPTIONS").ok().flatten().unwrap_or_default();
        let options = options.split(|byte| *byte == b' ').map(<[u8]>::to_vec);
        let words = self.proc.command_line(pid).unwrap_or_default().into_iter();
        options.chain(words).filter_map(|word| port(&word)).collect()
    }

    /// Where it listens itself.
    fn listeners(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let own = self.proc.sockets(self.process.pid)?;
        let sockets = self.proc.listening_sockets(self.process.pid)?.into_iter();
        Ok(sockets.filter(|socket| own.contains(&socket.inode)).map(|s| s.address).collect())
    }

    /// The websocket behind a listener; none: it is no inspector.
    fn probe(&self, listener: SocketAddr) -> Option<SocketUrl> {
        let address = reachable(listener);
        let ip = address.ip().to_string();
        let mut stream = connect((&ip, address.port()), self.network()).ok()?;
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

    /// Whether somebody beside us speaks to its inspector.
    #[must_use]
    pub fn has_other_guests(&self, port: u16) -> bool {
        self.proc.connections(self.process.pid, port).is_ok_and(|count| count > 1)
    }

    /// Waits until nothing listens on a port of it any more; whether that came true.
    #[must_use]
    pub fn closes(&self, port: u16) -> bool {
        let began = Instant::now();
        loop {
            // What has ended has closed everything.
            let listeners = self.listeners().unwrap_or_default();
            if listeners.iter().all(|listener| listener.port() != port) {
                return true;
            }
            if began.elapsed() > MAX_ANSWER {
                return false;
            }
            thread::sleep(STEP);
        }
    }

    /// What a process is called in a picture. Newer Nodes name their first thread by what it does.
    #[must_use]
    pub fn name(&self) -> String {
        let name = String::from_utf8_lossy(&self.process.comm).into_owned();
        if name.ends_with("MainThread") { "node".to_owned() } else { name }
    }
}

/// The sentence that a process is something else than it was taken for.
fn wrong_kind(proc: &Proc, pid: u32, wanted: &str, command: &str) -> String {
    let is = match runtime::of(proc, pid) {
        Some(other) => format!("it runs {other}"),
        None => format!("{wanted} is not what it runs"),
    };
    format!("process {pid} cannot be recorded by `{command}`: {is}; `cpu --pid {pid}` records it")
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

    #[test]
    fn processes_of_another_kind_are_refused() {
        let refused = Target::new(std::process::id());
        assert!(refused.unwrap_err().to_string().contains("flame-graph itself"));
        let mut sleep = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let refused = Target::new(sleep.id()).unwrap_err().to_string();
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert!(refused.contains("cannot be recorded by `node`"), "{refused}");
        let gone = Target::new(sleep.id()).unwrap_err().to_string();
        assert!(gone.contains("there is no process"), "{gone}");
    }
}

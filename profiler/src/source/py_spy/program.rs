//! py-spy as a program, where there is one on PATH: it reads interpreters that the library does not
//! know (yet), and walks native stacks.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{LOOK, Settings, stopped};
use crate::{
    format::{decoded::Decoded, py_spy},
    source::session::Session,
    target::command::ends_with_us,
};

/// In the folder of a recording.
const RAW: &str = "raw";
const SAID: &str = "said";
/// More of what it wrote is not read, in bytes.
const MAX_RAW: u64 = 256 << 20;
/// It says at once when it cannot attach.
const ATTACHES: Duration = Duration::from_millis(1500);
/// How long it may take to write down what it has.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `py-spy record`, ended when this is dropped.
pub struct Program {
    child: Child,
    folder: TempDir,
}

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// When there is none, or what it says.
    pub fn start(settings: &Settings, pid: u32) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("flame-graph-py-spy-").tempdir()?;
        let mut command = Command::new("py-spy");
        command.args(["record", "--format", "raw", "--function", "--duration", "unlimited"]);
        command.args(["--pid", &pid.to_string(), "--rate", &settings.frequency.to_string()]);
        for (option, given) in [
            ("--idle", settings.idle),
            ("--native", settings.native),
            ("--subprocesses", settings.subprocesses),
            ("--gil", settings.gil),
            ("--threads", settings.threads),
            ("--nonblocking", settings.nonblocking),
        ] {
            if given {
                command.arg(option);
            }
        }
        command.arg("--output").arg(folder.path().join(RAW));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(folder.path().join(SAID))?);
        // A Ctrl-C of the terminal is ours.
        command.process_group(0);
        let child = ends_with_us(&mut command).spawn().map_err(missing)?;
        let mut program = Self { child, folder };
        let until = Instant::now() + ATTACHES;
        while Instant::now() < until {
            if program.child.try_wait()?.is_some_and(|status| !status.success()) {
                bail!("`py-spy` failed: {}", program.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(program)
    }

    /// Waits for the end, and reads what it wrote; none: no sample.
    ///
    /// # Errors
    /// What it says, or what is wrong with its output.
    pub fn record(
        mut self,
        session: &Session,
        threads: bool,
        process: &str,
    ) -> anyhow::Result<Option<Decoded>> {
        while !stopped(session) && self.child.try_wait()?.is_none() {}
        // When it has ended there is nothing to end.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                bail!("`py-spy` did not write down its samples within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(LOOK / 10);
        }
        let path = self.folder.path().join(RAW);
        let Ok(file) = File::open(path) else { bail!("`py-spy` failed: {}", self.said()) };
        let mut bytes = Vec::new();
        file.take(MAX_RAW).read_to_end(&mut bytes).context("cannot read what py-spy wrote")?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let decoded = py_spy::decode(&bytes, &py_spy::Options { threads, process });
        decoded.map(Some).context("cannot read what py-spy wrote")
    }

    /// The last line that it said.
    fn said(&self) -> String {
        let text = fs::read(self.folder.path().join(SAID)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let line: String =
            lines.next_back().unwrap_or("it said nothing").chars().take(300).collect();
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn missing(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::NotFound {
        return anyhow!(
            "this needs the program py-spy, and there is none on PATH: `pip install py-spy` \
             installs it"
        );
    }
    anyhow::Error::from(error).context("cannot run `py-spy`")
}

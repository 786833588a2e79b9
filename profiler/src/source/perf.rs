//! `perf record` and `perf script` as a source, for what our own engines do not have: other events,
//! last-branch records, a second opinion.

mod record;

use std::{
    fs::File,
    io::{self, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tempfile::TempDir;

use super::{Collected, Source, session::Session};
use crate::{
    format::perf_script::{self, PerfScriptError},
    model::profile::{Metadata, Recording},
    target::command::ends_with_us,
};
use record::Record;

/// Deeper stacks are cut by perf: as deep as any that a copy of the stack of 8 KiB holds.
const MAX_STACK: &str = "4096";
/// So much is read of what perf says on standard error.
const MAX_SAID: u64 = 64 << 10;
/// Characters of it that a message repeats.
const MAX_SENTENCE: usize = 300;

/// Who is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The whole host.
    Host,
    /// A process and what it forks.
    Process(u32),
}

/// How stacks are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallGraph {
    /// By unwind tables, from copies of the stack.
    Dwarf,
    /// By frame pointers.
    FramePointers,
    /// By the branch records of the CPU.
    LastBranches,
}

impl CallGraph {
    fn name(self) -> &'static str {
        match self {
            Self::Dwarf => "dwarf",
            Self::FramePointers => "fp",
            Self::LastBranches => "lbr",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What perf samples.
    pub event: String,
    /// Samples a second.
    pub frequency: u64,
    /// How stacks are walked.
    pub call_graph: CallGraph,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Heading of the picture.
    pub title: Option<String>,
}

/// What perf tells beside its samples.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Bytes that `perf record` wrote.
    pub perf_data_bytes: u64,
}

/// `perf record`, sampling.
#[derive(Debug)]
pub struct Perf {
    settings: Settings,
    target: String,
    folder: TempDir,
    record: Record,
    start: SystemTime,
}

impl Settings {
    /// Starts `perf record`; it samples when this returns. `name` is what captions call the target.
    ///
    /// # Errors
    /// When perf is missing, or what it says.
    pub fn start(self, target: &Target, name: String) -> anyhow::Result<Perf> {
        let folder = tempfile::Builder::new()
            .prefix("flame-graph-perf-")
            .tempdir()
            .context("cannot make a folder for perf's data")?;
        let mut record = Record::start(&self, target, folder.path())?;
        if let Err(error) = record.enable(folder.path()) {
            record.end();
            bail!(failed("perf record", &said(folder.path(), record::SAID)).unwrap_or(error));
        }
        Ok(Perf { settings: self, target: name, folder, record, start: SystemTime::now() })
    }
}

impl Source for Perf {
    type Report = Collected<Figures>;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Self::Report)> {
        let Self { settings, target, folder, mut record, start } = self;
        let duration = record.wait(session)?;
        let ended = record.finish().context("cannot end `perf record`")?;
        let data = folder.path().join(record::DATA);
        let perf_data_bytes = data.metadata().map_or(0, |data| data.len());
        if perf_data_bytes == 0 || !ended {
            let why = failed("perf record", &said(folder.path(), record::SAID));
            bail!(why.unwrap_or_else(|| anyhow::anyhow!("`perf record` ended without its data")));
        }
        let metadata = Metadata {
            title: settings.title.clone().unwrap_or_else(|| format!("{} by perf", settings.event)),
            target,
            engine: "perf".to_owned(),
            start,
            duration,
            frequency: Some(settings.frequency),
        };
        let mut collected = Collected { figures: Figures { perf_data_bytes }, remarks: Vec::new() };
        let recording = match script(&settings, folder.path())? {
            Some(mut decoded) => {
                collected.remarks = std::mem::take(&mut decoded.remarks);
                // It is the time between two samples; ours is that of the recording.
                decoded.duration = None;
                decoded.recording(metadata)
            }
            None => Recording::empty(metadata),
        };
        Ok((recording, collected))
    }
}

/// Has `perf script` write the samples as text, and reads it while it comes. None: there are none.
fn script(
    settings: &Settings,
    folder: &Path,
) -> anyhow::Result<Option<crate::format::decoded::Decoded>> {
    const SCRIPT_SAID: &str = "script.err";
    let mut command = Command::new("perf");
    // For inlined calls perf 6.1 asks addr2line, frame by frame: minutes for a large program.
    command.args(["script", "--force", "--no-inline", "--show-lost-events", "--show-task-events"]);
    command.args(["--max-stack", MAX_STACK]);
    command.args(["--fields", "comm,pid,tid,time,event,ip,sym,dso", "--input"]);
    command.arg(folder.join(record::DATA)).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(File::create(folder.join(SCRIPT_SAID))?);
    let mut child = ends_with_us(&mut command).spawn().map_err(missing)?;
    let options = perf_script::Options { event: None, threads: settings.threads, idle: false };
    let output = child.stdout.take().context("`perf script` has no output")?;
    let read = perf_script::read(BufReader::with_capacity(1 << 16, output), &options);
    if read.is_err() {
        // What it would still write nobody reads.
        let _ = child.kill();
    }
    let status = child.wait().context("cannot wait for `perf script`")?;
    match read {
        Ok(decoded) if status.success() => Ok(Some(decoded)),
        Err(PerfScriptError::Empty | PerfScriptError::Idle) if status.success() => Ok(None),
        Err(error @ PerfScriptError::TooManyNames) => Err(error).context("cannot read perf's text"),
        _ => {
            let why = failed("perf script", &said(folder, SCRIPT_SAID));
            bail!(why.unwrap_or_else(|| anyhow::anyhow!("`perf script` ended with {status}")));
        }
    }
}

/// Why perf cannot be run.
fn missing(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::NotFound {
        return anyhow::anyhow!(
            "there is no `perf` on this host's PATH: on Debian the package linux-perf has it; \
             `flame-graph cpu` records CPU time without it"
        );
    }
    anyhow::Error::from(error).context("cannot run `perf`")
}

/// What a child wrote on its standard error.
fn said(folder: &Path, name: &str) -> String {
    let mut bytes = Vec::new();
    let file = File::open(folder.join(name));
    // What cannot be read is not said.
    let _ = file.and_then(|file| file.take(MAX_SAID).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The first sentence of what perf said, as an error of ours; none: it said nothing.
fn failed(program: &str, said: &str) -> Option<anyhow::Error> {
    let lines = said.lines().map(str::trim);
    let mut lines = lines.filter(|line| {
        let heading = matches!(line.trim_end_matches('!'), "Error:" | "Warning:" | "");
        let usage = ["Usage:", "or: perf", "Run 'perf", "WARNING:"]
            .iter()
            .any(|start| line.starts_with(start));
        !heading && !usage && !line.starts_with("[ perf record")
    });
    let mut text = String::new();
    for line in &mut lines {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(line);
        if line.ends_with(['.', '!']) || text.len() > MAX_SENTENCE {
            break;
        }
    }
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let text: String = clean.take(MAX_SENTENCE).collect();
    let text = text.trim_end_matches(['.', '!']);
    (!text.is_empty()).then(|| anyhow::anyhow!("`{program}` failed: {text}"))
}

/// How long `perf record` may take to begin, and to write down what it has.
const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_says_why_in_a_sentence() {
        let why = |said| failed("perf record", said).map(|error| error.to_string());
        assert_eq!(why(""), None);
        assert_eq!(why("Error:\n\n[ perf record: Woken up 1 times ]\n"), None);
        let refused = "Error:\nAccess to performance monitoring and observability operations is \
                       limited.\nConsider adjusting /proc/sys/kernel/perf_event_paranoid\n";
        assert_eq!(
            why(refused).unwrap(),
            "`perf record` failed: Access to performance monitoring and observability operations \
             is limited"
        );
        let event = "event syntax error: 'nonsense'\n                     \\___ parser error\n\
                     Run 'perf list' for a list of valid events\n\n Usage: perf record\n";
        assert!(why(event).unwrap().contains("'nonsense' \\___ parser error"), "{event}");
        assert!(why(&"\x1b[2Jx".repeat(500)).unwrap().len() < 400);
    }
}

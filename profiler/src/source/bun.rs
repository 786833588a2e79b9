//! A running Bun, profiled by JavaScriptCore's sampler through its inspector, where that is open: it
//! cannot be opened later. Its address has a path in place of a password, which the process's own
//! command line or environment tells.
//!
//! The samples are fetched in parts, so that no message grows with the recording, and what was
//! fetched is there when the process ends. All who are connected see all replies and events.

use std::{
    fs::File,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;
use serde_json::json;
use tokio::{
    runtime::{self, Runtime as Executor},
    time::interval,
};

use super::{
    Collected, Source,
    inspector::{Event, Inspected, Inspector, InspectorError, NoInspector},
    session::Session,
    websocket::SocketUrl,
};
use crate::{
    format::{
        inspector::{Evaluated, MessageError, result},
        script_profiler::Tracked,
    },
    model::profile::{Metadata, Recording},
    target::runtime::Runtime,
};

/// How long the target may take to answer: it does between two turns of its event loop.
const MAX_ANSWER: Duration = Duration::from_secs(10);
/// Samples are fetched after this time: some megabytes of JSON, of very deep stacks a hundred.
const PART: Duration = Duration::from_secs(2);
/// Starts the profiler.
const START: &str = "ScriptProfiler.startTracking";
/// Stops it, and has the samples sent.
const STOP: &str = "ScriptProfiler.stopTracking";
/// The event that brings samples.
const COMPLETE: &str = "ScriptProfiler.trackingComplete";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The process; none: `url` says who is asked.
    pub pid: Option<u32>,
    /// Where the inspector is; none: where the process says.
    pub url: Option<SocketUrl>,
    /// How long it records.
    pub duration: Duration,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Heading of the picture.
    pub title: Option<String>,
}

/// What a Bun tells beside its samples.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Bytes of all that was fetched.
    pub profile_bytes: u64,
}

/// A Bun that is being profiled.
#[derive(Debug)]
pub struct Profiling {
    executor: Executor,
    inspector: Inspector,
    target: Option<Inspected>,
    /// What it is, in words.
    name: String,
    settings: Settings,
    start: SystemTime,
    began: Instant,
}

impl Settings {
    /// Connects, and starts the profiler.
    ///
    /// # Errors
    /// [`NoInspector`], or what else kept it.
    pub fn start(self) -> anyhow::Result<Profiling> {
        let executor = runtime::Builder::new_current_thread().enable_all().build()?;
        let target = self.pid.map(|pid| Inspected::new(pid, Runtime::Bun, "bun")).transpose()?;
        let inspector = executor.block_on(self.connect(target.as_ref()))?;
        let name = match (&target, &self.url) {
            (Some(target), _) => target.name(),
            (None, Some(url)) => url.authority(),
            (None, None) => String::new(),
        };
        let (start, began) = (SystemTime::now(), Instant::now());
        Ok(Profiling { executor, inspector, target, name, settings: self, start, began })
    }

    async fn connect(&self, target: Option<&Inspected>) -> anyhow::Result<Inspector> {
        if let Some(url) = &self.url {
            let network = target.and_then(Inspected::network);
            let place = || format!("cannot profile by the inspector {url}");
            let mut inspector = Inspector::open(url, network).await.with_context(place)?;
            begin(&mut inspector, target).await.with_context(place)?;
            return Ok(inspector);
        }
        let target = target.context("there is neither a process nor an address")?;
        let pid = target.process.pid;
        for url in places(target)? {
            let Some(mut inspector) = open(&url, target.network()).await else { continue };
            match begin(&mut inspector, Some(target)).await {
                Ok(()) => return Ok(inspector),
                Err(InspectorError::Silent { .. }) => bail!(NoInspector(format!(
                    "process {pid} has an inspector, but does not come back to its event loop to \
                     answer it"
                ))),
                Err(error) => {
                    let failed = format!("cannot profile process {pid} by its inspector {url}");
                    return Err(anyhow!(error).context(failed));
                }
            }
        }
        bail!(NoInspector(format!(
            "process {pid} has no inspector open, or does not tell its address: start it with \
             BUN_INSPECT=ws://127.0.0.1:6499/NAME in its environment for JavaScript names, or give \
             the address that it printed as --url"
        )))
    }
}

/// Another listener of the process is no websocket, or at another path.
async fn open(url: &SocketUrl, network: Option<&File>) -> Option<Inspector> {
    Inspector::open(url, network).await.ok()
}

async fn begin(
    inspector: &mut Inspector,
    target: Option<&Inspected>,
) -> Result<(), InspectorError> {
    let asked = json!({ "expression": "process.pid", "returnByValue": true });
    let answer = inspector.ask("Runtime.evaluate", asked, MAX_ANSWER).await?;
    let says = result::<Evaluated>(&answer)?.result.value;
    let own = target.and_then(|target| target.own_pid().ok());
    if own.is_some_and(|own| says != Some(own.into())) {
        return Err(InspectorError::Refused {
            method: "Runtime.evaluate".to_owned(),
            why: "another process answers there".to_owned(),
        });
    }
    inspector.ask(START, json!({ "includeSamples": true }), MAX_ANSWER).await.map(|_| ())
}

/// Where the inspector of a process may be: at its own listeners, by what it was told.
fn places(target: &Inspected) -> anyhow::Result<Vec<SocketUrl>> {
    let pid = target.process.pid;
    let variable = target.proc.variable(pid, "BUN_INSPECT")?.unwrap_or_default();
    let words = target.proc.command_line(pid)?;
    let told = words.iter().filter_map(|word| option(word));
    let told: Vec<Told> = told.chain(address(&variable)).collect();
    let mut places = Vec::new();
    if told.is_empty() {
        return Ok(places);
    }
    for listener in target.listeners()? {
        places.extend(told.iter().filter_map(|told| told.at(listener)));
    }
    Ok(places)
}

/// What a Bun was told about its inspector.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    /// None: any.
    port: Option<u16>,
    path: String,
}

impl Told {
    fn at(&self, listener: SocketAddr) -> Option<SocketUrl> {
        let fits = self.port.is_none_or(|port| port == listener.port());
        fits.then(|| SocketUrl::at(listener, &self.path))
    }
}

/// An option of the command line: `--inspect=127.0.0.1:6499/path`.
fn option(word: &[u8]) -> Option<Told> {
    let options = [&b"--inspect="[..], b"--inspect-wait=", b"--inspect-brk="];
    address(options.iter().find_map(|option| word.strip_prefix(*option))?)
}

/// `ws://HOST:PORT/PATH?…`, `HOST:PORT/PATH`, `PORT/PATH`; none: another kind of address, or one
/// without a path, for which Bun makes up one that it only prints.
fn address(text: &[u8]) -> Option<Told> {
    let text = str::from_utf8(text).ok()?;
    let text = text
        .split_once("://")
        .map_or(Some(text), |(scheme, rest)| (scheme == "ws").then_some(rest))?;
    let (authority, path) = text.split_once('/')?;
    let path = path.split(['?', '#']).next().filter(|path| !path.is_empty())?;
    let plain = |byte: u8| byte.is_ascii_graphic();
    if path.len() > 1000 || !path.bytes().all(plain) {
        return None;
    }
    // 0 is any that is free.
    let port = authority.rsplit(':').next().and_then(|port| port.parse().ok());
    Some(Told { port: port.filter(|port| *port != 0), path: path.to_owned() })
}

impl Source for Profiling {
    type Report = Collected<Figures>;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Self::Report)> {
        let Self { executor, mut inspector, target, name, settings, start, began } = self;
        let mut parts = Parts {
            tracked: Tracked::new(&name, settings.threads.then_some("main")),
            figures: Figures::default(),
        };
        let ended = executor.block_on(async {
            let ended = parts.fetch(&mut inspector, session).await;
            inspector.close().await;
            ended
        });
        let duration = began.elapsed();
        let Parts { tracked, figures } = parts;
        let decoded = tracked.finish(duration);
        let who = match &target {
            Some(target) => format!("pid {} ({name})", target.process.pid),
            None => name,
        };
        let mut remarks = Vec::new();
        if let Err(error) = ended {
            let gone = target.as_ref().is_some_and(Inspected::has_ended);
            let what = match (error.is_closed(), gone) {
                (true, true) => format!("{who} has ended"),
                (true, false) => format!("{who} has closed the connection"),
                _ => format!("{who}: {error}"),
            };
            if decoded.is_none() {
                return Err(anyhow!("{what} before any samples could be fetched"));
            }
            remarks.push(format!("{what}: what was fetched until then is drawn"));
        }
        let metadata = Metadata {
            title: settings.title.unwrap_or_else(|| format!("cpu of {who}")),
            target: who,
            engine: "bun".to_owned(),
            start,
            duration,
            frequency: None,
        };
        let recording = match decoded {
            Some(decoded) => decoded.recording(metadata),
            None => Recording::empty(metadata),
        };
        Ok((recording, Collected { figures, remarks }))
    }
}

/// What was fetched so far.
struct Parts {
    tracked: Tracked,
    figures: Figures,
}

impl Parts {
    /// Fetches samples until the session ends, and stops the profiler.
    async fn fetch(
        &mut self,
        inspector: &mut Inspector,
        session: &Session,
    ) -> Result<(), InspectorError> {
        let mut parts = interval(PART);
        // The first is at once.
        parts.tick().await;
        let mut is_asked = false;
        loop {
            tokio::select! {
                biased;
                () = session.stopped() => break,
                event = inspector.event() => is_asked &= !self.note(&event?, session)?,
                // A program that computes for long answers when it is done.
                _ = parts.tick(), if !is_asked => {
                    inspector.send(STOP, json!({})).await?;
                    inspector.send(START, json!({ "includeSamples": true })).await?;
                    is_asked = true;
                }
            }
        }
        inspector.ask(STOP, json!({}), MAX_ANSWER).await?;
        // Samples come before the reply.
        for event in inspector.take_events() {
            self.note(&event, session)?;
        }
        Ok(())
    }

    /// Notes what an event tells; whether it brought a part.
    fn note(&mut self, event: &Event, session: &Session) -> Result<bool, InspectorError> {
        if event.method != COMPLETE {
            return Ok(false);
        }
        self.figures.profile_bytes += event.text.len() as u64;
        let samples = self.tracked.add(&event.text).map_err(MessageError::from)?;
        session.report(samples, 0);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_path_tell_nothing() {
        let told = |port: Option<u16>, path: &str| Some(Told { port, path: path.to_owned() });
        for (text, expected) in [
            ("ws://127.0.0.1:6499/abc", told(Some(6499), "abc")),
            ("ws://localhost:0/abc?wait=1", told(None, "abc")),
            ("ws://[::1]:6499/a/b", told(Some(6499), "a/b")),
            ("6499/abc", told(Some(6499), "abc")),
            ("localhost/abc", told(None, "abc")),
            ("ws://127.0.0.1:6499", None),
            ("ws://127.0.0.1:6499/", None),
            ("ws://127.0.0.1:6499/?wait=1", None),
            ("ws+unix:///tmp/x.sock", None),
            ("unix:///tmp/x.sock", None),
            ("localhost:6499/a b", None),
            ("", None),
        ] {
            assert_eq!(address(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(option(b"--inspect=0/abc"), told(None, "abc"));
        assert_eq!(option(b"--inspect-brk=h:1/abc"), told(Some(1), "abc"));
        assert_eq!(option(b"--inspect"), None);
        assert_eq!(option(b"--cwd=h:1/abc"), None);
        assert_eq!(address(b"\xff/abc"), None);
    }

    #[test]
    fn only_the_port_that_was_told_is_asked() {
        let told = address(b"ws://localhost:6499/abc").unwrap();
        let url = told.at("127.0.0.1:6499".parse().unwrap()).unwrap();
        assert_eq!(url, SocketUrl::parse("ws://127.0.0.1:6499/abc").unwrap());
        assert_eq!(told.at("127.0.0.1:3000".parse().unwrap()), None);
        let any = address(b"ws://localhost:0/abc").unwrap();
        assert!(any.at("127.0.0.1:3000".parse().unwrap()).is_some());
    }
}

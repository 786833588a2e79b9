//! A running Node, profiled through its inspector by V8's own sampler. Nothing needs to be prepared
//! in the target, and nothing stays switched on in it: an inspector that we opened is closed again,
//! by the target itself after a while should we be killed, and V8 ends a profile with the
//! connection that asked for it.
//!
//! * [`late`] closes an inspector that opens too late.
//! * [`open`] finds or opens the inspector.
//! * [`workers`] profiles the worker threads.

mod late;
mod open;
mod workers;

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;
use serde_json::json;
use tokio::{
    runtime::{self, Runtime},
    time::timeout,
};

pub use self::late::{Late, Watch};
use self::{
    open::{Place, Target},
    workers::{Worker, Workers},
};
use super::{
    Collected, Source,
    inspector::{Inspector, InspectorError},
    session::Session,
};
use crate::{
    format::{
        cpuprofile::{self, CpuProfileError},
        decoded::Decoded,
        inspector::{Evaluated, result},
    },
    model::profile::{Metadata, Recording},
};

/// How long the target may take to answer a small question.
const MAX_ANSWER: Duration = Duration::from_secs(10);
/// How long it may take to hand over a profile.
const MAX_PROFILE: Duration = Duration::from_secs(60);
/// How long workers may take longer than the first thread.
const MAX_WORKERS: Duration = Duration::from_secs(10);
/// How long after the end of a recording the target closes an inspector itself, should we be gone.
const MARGIN: Duration = Duration::from_secs(10);
/// How long it may take to close an inspector.
const MAX_CLOSE: Duration = Duration::from_secs(2);
/// Closes the inspector, from within. It ends the connection, so that no reply comes.
const CLOSE: &str = "process._debugEnd()";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The process.
    pub pid: u32,
    /// How long it records.
    pub duration: Duration,
    /// Time between two samples.
    pub interval: Duration,
    /// Whether the time in which nothing ran is shown.
    pub idle: bool,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Heading of the picture.
    pub title: Option<String>,
}

/// What a Node tells beside its profile.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Bytes of all profiles.
    pub profile_bytes: u64,
    /// Worker threads seen.
    pub worker_threads: u64,
    /// Whether the inspector was opened for the recording.
    pub opened_inspector: bool,
}

/// A Node that is being profiled.
#[derive(Debug)]
pub struct Profiling {
    runtime: Runtime,
    open: Open,
    settings: Settings,
    start: SystemTime,
}

/// An open inspector, which must be closed as it was found.
#[derive(Debug)]
struct Open {
    target: Target,
    place: Place,
    inspector: Inspector,
    workers: Workers,
    /// The target's own timer that closes what we opened, should we be gone.
    timer: Option<String>,
}

/// Why a recording ended.
enum End {
    /// It was to.
    Stopped,
    /// The program has come to its end and waits for us.
    Exiting,
}

impl Settings {
    /// Attaches, and starts the profiler.
    ///
    /// # Errors
    /// [`NoInspector`](super::inspector::NoInspector), [`Late`], or what else kept it.
    pub fn start(self) -> anyhow::Result<Profiling> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (target, place) = Target::new(self.pid)?.inspector()?;
        let open = runtime.block_on(attach(target, place, &self))?;
        Ok(Profiling { runtime, open, settings: self, start: SystemTime::now() })
    }
}

async fn attach(target: Target, place: Place, settings: &Settings) -> anyhow::Result<Open> {
    let (pid, url) = (target.0.process.pid, place.url.to_string());
    let inspector = Inspector::open(&place.url, target.0.network()).await;
    let inspector =
        inspector.with_context(|| format!("cannot speak to the inspector of process {pid}"))?;
    let workers = Workers::new(settings.interval);
    let mut open = Open { target, place, inspector, workers, timer: None };
    match open.begin(settings).await {
        Ok(()) => Ok(open),
        Err(error) => {
            if error.downcast_ref().is_some_and(InspectorError::is_closed) {
                bail!(lost(&open.target));
            }
            let silent = matches!(error.downcast_ref(), Some(InspectorError::Silent { .. }));
            open.close().await;
            let error =
                error.context(format!("cannot profile process {pid} by its inspector {url}"));
            if silent {
                bail!("{error:#}: its first thread does not come back to JavaScript");
            }
            Err(error)
        }
    }
}

impl Open {
    /// Whether it is the inspector of the process that is meant.
    async fn check(&mut self) -> anyhow::Result<()> {
        let asked = json!({ "expression": "process.pid", "returnByValue": true });
        let answer = self.inspector.ask("Runtime.evaluate", asked, MAX_ANSWER).await?;
        let own = self.target.0.own_pid()?;
        let says = result::<Evaluated>(&answer)?.result.value;
        if says != Some(own.into()) {
            bail!("another process answers there");
        }
        Ok(())
    }

    async fn begin(&mut self, settings: &Settings) -> anyhow::Result<()> {
        self.check().await?;
        if self.place.opened {
            let after = settings.duration + MARGIN + settings.duration / 10;
            let (close, after) = (close_behind_poll(), after.as_millis());
            let expression = format!("setTimeout(() => {close}, {after}).unref()");
            let asked = json!({ "expression": expression });
            let answer = self.inspector.ask("Runtime.evaluate", asked, MAX_ANSWER).await?;
            self.timer = result::<Evaluated>(&answer)?.result.object_id;
        }
        let interval = json!({ "interval": microseconds(settings.interval) });
        for (method, params) in [
            ("Profiler.enable", json!({})),
            ("Profiler.setSamplingInterval", interval),
            ("Profiler.start", json!({})),
        ] {
            self.inspector.ask(method, params, MAX_ANSWER).await?;
        }
        // What older ones do not know: a word before the end, and workers.
        for (method, params) in [
            ("NodeRuntime.notifyWhenWaitingForDisconnect", json!({ "enabled": true })),
            ("NodeWorker.enable", json!({ "waitForDebuggerOnStart": false })),
        ] {
            match self.inspector.ask(method, params, MAX_ANSWER).await {
                Ok(_) | Err(InspectorError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for the end.
    async fn wait(&mut self, session: &Session) -> Result<End, InspectorError> {
        loop {
            let event = tokio::select! {
                biased;
                () = session.stopped() => return Ok(End::Stopped),
                event = self.inspector.event() => event?,
            };
            if event.method == "NodeRuntime.waitingForDisconnect" {
                return Ok(End::Exiting);
            }
            self.workers.note(&event, &mut self.inspector).await?;
        }
    }

    /// Stops all profilers; the first thread's profile. Those of workers are with the workers.
    async fn profile(&mut self, end: &End) -> Result<String, InspectorError> {
        self.workers.stop(&mut self.inspector).await?;
        let profile = self.inspector.ask("Profiler.stop", json!({}), MAX_PROFILE).await?;
        let workers = async {
            while !self.workers.have_answered() {
                let event = self.inspector.event().await?;
                self.workers.note(&event, &mut self.inspector).await?;
            }
            Ok::<_, InspectorError>(())
        };
        // When the first thread ends, the others have ended.
        let wait = if matches!(end, End::Exiting) { Duration::from_secs(1) } else { MAX_WORKERS };
        // What is missing then is said.
        let _ = timeout(wait, workers).await;
        Ok(profile)
    }

    /// Leaves everything as it was; what could not be done, a clause each.
    async fn close(self) -> Vec<String> {
        let Self { target, place, mut inspector, timer, .. } = self;
        let port = place.url.port();
        if let Some(timer) = timer {
            let asked = json!({
                "objectId": timer,
                "functionDeclaration": "function () { clearTimeout(this); }",
            });
            // When it does not answer the timer does its work.
            let _ = inspector.ask("Runtime.callFunctionOn", asked, MAX_ANSWER).await;
        }
        if !place.opened {
            // The profiler ends with the connection, too.
            let _ = inspector.ask("Profiler.disable", json!({}), MAX_ANSWER).await;
            inspector.close().await;
            return Vec::new();
        }
        if target.0.has_other_guests(port) {
            inspector.close().await;
            return vec![format!(
                "the inspector of {} stays open on port {port}: a debugger has connected \
                 to it",
                target.0
            )];
        }
        // Requests are carried out in their order, also after we have gone: a thread that is busy
        // elsewhere closes the inspector when it comes back.
        for expression in [close_behind_poll(), CLOSE.to_owned()] {
            let asked = json!({ "expression": expression });
            if inspector.send("Runtime.evaluate", asked).await.is_err() {
                break;
            }
            let ends = async { while inspector.event().await.is_ok() {} };
            // The first is in vain in a thread that does not return to its loop.
            if timeout(MAX_CLOSE, ends).await.is_ok() {
                break;
            }
        }
        inspector.close().await;
        if target.closes(port) {
            return Vec::new();
        }
        vec![format!(
            "{} has not yet closed its inspector on port {port}: it will when its first \
             thread comes back to JavaScript",
            target.0
        )]
    }
}

impl Source for Profiling {
    type Report = Collected<Figures>;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Self::Report)> {
        let Self { runtime, open, settings, start } = self;
        runtime.block_on(record(open, settings, start, session))
    }
}

async fn record(
    mut open: Open,
    settings: Settings,
    start: SystemTime,
    session: &Session,
) -> anyhow::Result<(Recording, Collected<Figures>)> {
    let pid = settings.pid;
    let profile = match open.wait(session).await {
        Ok(end) => open.profile(&end).await.map(|profile| (profile, end)),
        Err(error) => Err(error),
    };
    let (profile, end) = match profile {
        Ok(profile) => profile,
        Err(error) if error.is_closed() => bail!(lost(&open.target)),
        Err(error) => {
            let error = anyhow!(error).context(format!("cannot get the profile of process {pid}"));
            open.close().await;
            return Err(error);
        }
    };
    let (name, opened) = (open.target.0.name(), open.place.opened);
    let workers = std::mem::replace(&mut open.workers, Workers::new(settings.interval));
    let mut remarks = match end {
        End::Stopped => open.close().await,
        End::Exiting => {
            open.inspector.close().await;
            vec![format!("process {pid} has come to its end: what it did until then is drawn")]
        }
    };
    let (workers, missing) = workers.finish();
    if missing > 0 {
        remarks.push(format!(
            "{missing} of {} worker threads ended or gave no profile: they are not drawn",
            workers.len()
        ));
    }
    let mut figures = Figures {
        profile_bytes: profile.len() as u64,
        worker_threads: workers.len() as u64,
        opened_inspector: opened,
    };
    let mut profiles = vec![("main".to_owned(), profile)];
    for Worker { name, profile, .. } in workers {
        figures.profile_bytes += profile.as_ref().map_or(0, |profile| profile.len() as u64);
        profiles.extend(profile.map(|profile| (name, profile)));
    }
    let decoded = decode(&profiles, &name, &settings);
    let decoded = decoded.with_context(|| format!("cannot draw the profile of process {pid}"))?;
    let metadata = Metadata {
        title: settings.title.unwrap_or_else(|| format!("cpu of {name} (pid {pid})")),
        target: format!("pid {pid} ({name})"),
        engine: "node".to_owned(),
        start,
        duration: settings.duration,
        frequency: None,
    };
    let Some(mut decoded) = decoded else {
        return Ok((Recording::empty(metadata), Collected { figures, remarks }));
    };
    remarks.append(&mut decoded.remarks);
    Ok((decoded.recording(metadata), Collected { figures, remarks }))
}

/// The profiles of all threads, by their names, as one; none: they did nothing.
fn decode(
    profiles: &[(String, String)],
    process: &str,
    settings: &Settings,
) -> Result<Option<Decoded>, CpuProfileError> {
    let options = cpuprofile::Options { idle: settings.idle, process };
    let mut all: Option<Decoded> = None;
    for (thread, profile) in profiles {
        let decoded = match cpuprofile::decode(profile.as_bytes(), &options) {
            Err(CpuProfileError::Empty) => continue,
            decoded => decoded?,
        };
        let decoded = if settings.threads { decoded.on_thread(thread) } else { decoded };
        match &mut all {
            Some(all) => all.add(decoded),
            None => all = Some(decoded),
        }
    }
    Ok(all)
}

/// Why there is no profile although there was a profiler.
fn lost(target: &Target) -> String {
    let why = if target.0.has_ended() {
        "was killed before its profile could be fetched, which V8 keeps until the end; `cpu --pid` \
         draws what it has seen of a process that is killed"
    } else {
        "has closed its inspector, or somebody else has, and with it the profile is gone"
    };
    format!("{} {why}", target.0)
}

/// Closes the inspector behind the next poll for events. Node opens its inspector twice for one
/// SIGUSR1, where it is not open: as soon as JavaScript runs, and when it polls.
fn close_behind_poll() -> String {
    format!("setImmediate(() => {CLOSE})")
}

/// A time as V8 wants it.
fn microseconds(time: Duration) -> u64 {
    (time.as_secs_f64() * 1e6).round() as u64
}

//! The worker threads of a Node, each with a V8 and a profiler of its own. They are reached through
//! the inspector of the first thread, by messages within messages.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    format::inspector::{self, AttachedWorker, FromWorker, Message},
    source::inspector::{Event, Inspector, InspectorError},
};

/// The number of a worker's last request, whose reply is its profile.
const STOP: u64 = 4;

/// A worker thread.
#[derive(Debug)]
pub struct Worker {
    session: String,
    /// As Node calls it: `worker 1 NAME`.
    pub name: String,
    /// The reply that holds its profile; none: not yet.
    pub profile: Option<String>,
    /// It has ended, or refuses to be profiled.
    gone: bool,
}

/// All that were seen.
#[derive(Debug)]
pub struct Workers {
    interval: Duration,
    all: Vec<Worker>,
}

impl Workers {
    /// None yet.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, all: Vec::new() }
    }

    /// Notes what an event tells about workers; a new one begins to profile.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn note(
        &mut self,
        event: &Event,
        inspector: &mut Inspector,
    ) -> Result<(), InspectorError> {
        match event.method.as_str() {
            "NodeWorker.attachedToWorker" => {
                let attached: AttachedWorker = inspector::parameters(&event.text)?;
                let AttachedWorker { session_id: session, worker_info } = attached;
                let name = if worker_info.title.is_empty() {
                    format!("worker {session}")
                } else {
                    // Brackets are for what is no name.
                    worker_info.title.replace(['[', ']'], "")
                };
                let interval = json!({ "interval": super::microseconds(self.interval) });
                for (id, method, params) in [
                    (1, "Profiler.enable", json!({})),
                    (2, "Profiler.setSamplingInterval", interval),
                    (3, "Profiler.start", json!({})),
                ] {
                    send(inspector, &session, id, method, params).await?;
                }
                self.all.push(Worker { session, name, profile: None, gone: false });
            }
            "NodeWorker.receivedMessageFromWorker" => {
                let FromWorker { session_id, message } = inspector::parameters(&event.text)?;
                let worker = self.all.iter_mut().find(|worker| worker.session == session_id);
                match (worker, Message::read(&message)?) {
                    (Some(worker), Message::Reply(STOP)) => worker.profile = Some(message),
                    (Some(worker), Message::Refused { .. }) => worker.gone = true,
                    _ => {}
                }
            }
            "NodeWorker.detachedFromWorker" => {
                let FromWorker { session_id, .. } = inspector::parameters(&event.text)?;
                let ended = self.all.iter_mut().filter(|worker| worker.session == session_id);
                ended.for_each(|worker| worker.gone = true);
            }
            _ => {}
        }
        Ok(())
    }

    /// Asks all for their profiles.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn stop(&self, inspector: &mut Inspector) -> Result<(), InspectorError> {
        for worker in self.all.iter().filter(|worker| !worker.gone) {
            send(inspector, &worker.session, STOP, "Profiler.stop", json!({})).await?;
        }
        Ok(())
    }

    /// Whether none is waited for.
    #[must_use]
    pub fn have_answered(&self) -> bool {
        self.all.iter().all(|worker| worker.gone || worker.profile.is_some())
    }

    /// All that were seen, and how many of them gave no profile.
    #[must_use]
    pub fn finish(self) -> (Vec<Worker>, usize) {
        let missing = self.all.iter().filter(|worker| worker.profile.is_none()).count();
        (self.all, missing)
    }
}

async fn send(
    inspector: &mut Inspector,
    session: &str,
    id: u64,
    method: &str,
    params: Value,
) -> Result<(), InspectorError> {
    let message = json!({ "id": id, "method": method, "params": params }).to_string();
    let params = json!({ "sessionId": session, "message": message });
    inspector.send("NodeWorker.sendMessageToWorker", params).await.map(|_| ())
}

//! ResQ's coordination service, a Node or Bun that profiles itself: `POST /admin/cpu-profile`
//! answers with a V8 profile when the window is over.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::{
    Collected, Source,
    http::{self, Client, Figures, Request},
    session::Session,
};
use crate::{format::cpuprofile, model::profile::Recording};

/// Where the endpoint is, below the service's URL.
const ENDPOINT: &str = "admin/cpu-profile";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The service, and how it is asked.
    pub service: http::Settings,
    /// How long it records.
    pub duration: Duration,
    /// Time between two samples.
    pub interval: Duration,
    /// Whether the time in which nothing ran is shown.
    pub idle: bool,
    /// Heading of the picture.
    pub title: Option<String>,
}

/// The service, ready to be asked.
#[derive(Debug)]
pub struct Service {
    request: Request,
    idle: bool,
}

impl Settings {
    /// Prepares to ask.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn start(self) -> anyhow::Result<Service> {
        let milliseconds = (self.duration.as_secs_f64() * 1e3).ceil() as u64;
        let microseconds = (self.interval.as_secs_f64() * 1e6).round() as u64;
        let request = Request {
            client: Client::new(&self.service)?,
            method: Method::POST,
            address: self.service.address.below(ENDPOINT),
            body: Some(json!({ "durationMs": milliseconds, "intervalUs": microseconds })),
            window: Some(self.duration),
            engine: "hce",
            title: self.title,
        };
        Ok(Service { request, idle: self.idle })
    }
}

impl Source for Service {
    type Report = Collected<Figures>;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Self::Report)> {
        let Self { request, idle } = self;
        request.record(session, |answer| {
            let process = answer.address.authority();
            cpuprofile::decode(&answer.body, &cpuprofile::Options { idle, process })
        })
    }
}

//! ResQ's Rust service, which profiles itself by pprof-rs: `GET /admin/profile`. How it answers is
//! written nowhere, so that every format that pprof-rs has is taken, known by its content.

use std::time::Duration;

use reqwest::Method;

use super::{
    Collected, Source,
    http::{self, Client, Figures, Request},
    session::Session,
};
use crate::{format::foreign, model::profile::Recording};

/// Where the endpoint is, below the service's URL.
const ENDPOINT: &str = "admin/profile";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The service, and how it is asked.
    pub service: http::Settings,
    /// How long it records.
    pub duration: Duration,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Heading of the picture.
    pub title: Option<String>,
}

/// The service, ready to be asked.
#[derive(Debug)]
pub struct Service {
    request: Request,
    threads: bool,
}

impl Settings {
    /// How long the service is asked to record: whole seconds.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.duration.as_secs_f64().ceil() as u64)
    }

    /// Prepares to ask.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn start(self) -> anyhow::Result<Service> {
        let window = self.window();
        let address = self.service.address.below(ENDPOINT);
        let request = Request {
            client: Client::new(&self.service)?,
            method: Method::GET,
            address: address.with_parameter("seconds", &window.as_secs().to_string()),
            body: None,
            window: Some(window),
            engine: "api",
            title: self.title,
        };
        Ok(Service { request, threads: self.threads })
    }
}

impl Source for Service {
    type Report = Collected<Figures>;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Self::Report)> {
        let Self { request, threads } = self;
        request.record(session, |answer| {
            let process = answer.address.authority();
            let options = foreign::Options { sample_type: None, threads, idle: false, process };
            foreign::decode(&answer.body, &options)
        })
    }
}

//! One request for a profile, from the question to the recording: what all collectors that ask
//! services have in common.

use std::{
    fmt::Display,
    time::{Duration, SystemTime},
};

use reqwest::Method;
use serde::Serialize;

use super::{Address, Answer, Client, GRACE, until_stopped};
use crate::{
    format::decoded::Decoded,
    model::profile::{Metadata, Recording},
    source::{Collected, session::Session},
};

/// A request for a profile.
#[derive(Debug)]
pub struct Request {
    /// The service.
    pub client: Client,
    /// GET or POST.
    pub method: Method,
    /// The endpoint.
    pub address: Address,
    /// What is posted.
    pub body: Option<serde_json::Value>,
    /// How long it records; none: it answers at once.
    pub window: Option<Duration>,
    /// What the collector is called.
    pub engine: &'static str,
    /// Heading of the picture; none: made from what is counted.
    pub title: Option<String>,
}

/// What an answer tells beside its profile.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Bytes of the answer, unpacked.
    pub profile_bytes: u64,
}

impl Request {
    /// Asks, and decodes the answer. A session that is ended first gives an empty recording.
    ///
    /// # Errors
    /// What went wrong with the service or its answer.
    pub fn record<E: Display>(
        self,
        session: &Session,
        decode: impl FnOnce(&Answer) -> Result<Decoded, E>,
    ) -> anyhow::Result<(Recording, Collected<Figures>)> {
        let Self { client, method, address, body, window, engine, title } = self;
        let start = SystemTime::now();
        let duration = window.unwrap_or_default();
        let asked = client.ask(method, &address, body.as_ref(), duration + GRACE);
        let answer = until_stopped(session, asked)?;
        let target = address.authority().to_owned();
        let metadata = |title| Metadata {
            title,
            target: target.clone(),
            engine: engine.to_owned(),
            start,
            duration,
            frequency: None,
        };
        let Some(answer) = answer else {
            return Ok((Recording::empty(metadata(String::new())), Collected::default()));
        };
        let mut decoded = decode(&answer).map_err(|error| answer.wrong(error))?;
        let title = title.unwrap_or_else(|| format!("{} of {target}", decoded.metric.name));
        let remarks = std::mem::take(&mut decoded.remarks);
        let figures = Figures { profile_bytes: answer.body.len() as u64 };
        Ok((decoded.recording(metadata(title)), Collected { figures, remarks }))
    }
}

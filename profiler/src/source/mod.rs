//! Where samples come from: the trait of all sources, and how a session with one is steered.

pub mod api;
pub mod bun;
pub mod dotnet;
pub mod file;
pub mod hce;
pub mod http;
pub mod inspector;
pub mod native;
pub mod node;
pub mod perf;
pub mod perf_record;
pub mod pprof;
pub mod py_spy;
pub mod session;
pub mod websocket;

use serde::Serialize;

use crate::model::profile::Recording;
use session::Session;

/// Something that records stacks.
pub trait Source {
    /// What it tells beside the recording.
    type Report;

    /// Records until the session ends.
    ///
    /// # Errors
    ///
    /// When recording could not begin. What was recorded is never thrown away: trouble on the way
    /// ends the recording early or is counted as loss.
    fn record(self, session: &Session) -> anyhow::Result<(Recording, Self::Report)>;
}

/// What a collector tells beside its recording.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Collected<R> {
    /// Figures of its own.
    #[serde(flatten)]
    pub figures: R,
    /// What is to be said to people, a clause each.
    #[serde(skip)]
    pub remarks: Vec<String>,
}

//! Figures about a recording itself, for `--stats`. Field names are stable.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::model::profile::Profile;

/// What `--stats` writes, as JSON, with what the source reports (`R`). Causes are the names that the
/// summary and the picture use.
#[derive(Debug, Serialize)]
pub struct Stats<R> {
    /// What was recorded.
    target: String,
    /// The engine.
    engine: String,
    /// Samples a second on each CPU.
    frequency: Option<u64>,
    /// Seconds of recording.
    duration_s: f64,
    /// Samples taken: those drawn and those lost.
    samples: u64,
    /// Stacks that reach their root.
    complete: u64,
    /// Stacks that do not, by cause.
    truncated: BTreeMap<&'static str, u64>,
    /// Samples and records that are missing, by cause.
    lost: BTreeMap<&'static str, u64>,
    /// Distinct stacks, by name.
    distinct_stacks: u64,
    /// What the source tells.
    #[serde(flatten)]
    source: R,
    /// Milliseconds from the end of the recording to the last output written.
    stop_to_picture_ms: f64,
    /// CPU time of flame-graph itself, user and kernel.
    own_cpu_ms: f64,
    /// Its largest resident size in bytes; 0: not known.
    peak_rss_bytes: u64,
}

impl<R: Serialize> Stats<R> {
    /// The figures of a profile and its source; those about ourselves come with [`Self::finish`].
    #[must_use]
    pub fn of(profile: &Profile, source: R) -> Self {
        let metadata = &profile.metadata;
        let losses = &profile.losses;
        Self {
            target: metadata.target.clone(),
            engine: metadata.engine.clone(),
            frequency: metadata.frequency,
            duration_s: metadata.duration.as_secs_f64(),
            samples: profile.samples,
            complete: profile.complete,
            truncated: losses.truncated.iter().map(|(cause, n)| (cause.name(), *n)).collect(),
            lost: losses.lost.iter().map(|(cause, n)| (cause.name(), *n)).collect(),
            distinct_stacks: profile.stacks.len() as u64,
            source,
            stop_to_picture_ms: 0.0,
            own_cpu_ms: 0.0,
            peak_rss_bytes: 0,
        }
    }

    /// Adds what it took: everything is written now, `since_stop` after the recording ended.
    pub fn finish(&mut self, since_stop: Duration) {
        self.stop_to_picture_ms = since_stop.as_secs_f64() * 1e3;
        let time = clock_gettime(ClockId::ProcessCPUTime);
        self.own_cpu_ms = time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6;
        let status = procfs::process::Process::myself().and_then(|myself| myself.status());
        let peak = status.ok().and_then(|status| status.vmhwm);
        self.peak_rss_bytes = peak.unwrap_or_default() * 1024;
    }

    /// As JSON text.
    ///
    /// # Errors
    /// Never for these types.
    pub fn to_json(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).context("cannot write the figures")?;
        text.push(b'\n');
        Ok(text)
    }
}

//! Profiles of other profilers, in whatever format they come.

use super::{
    Kind, cpuprofile,
    cpuprofile::CpuProfileError,
    decoded::Decoded,
    detect,
    folded::{self, FoldedError},
    nettrace::{self, NettraceError},
    perf_script::{self, PerfScriptError},
    pprof::{self, PprofError},
    py_spy,
    speedscope::{self, SpeedscopeError},
    svg::{self, SvgError},
};
use crate::model::{
    frame::{FrameKind, RawFrame},
    metric::Metric,
};

/// Why a profile cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// As a V8 profile.
    #[error(transparent)]
    CpuProfile(#[from] CpuProfileError),
    /// As a trace of .NET.
    #[error(transparent)]
    Nettrace(#[from] NettraceError),
    /// As the text of `perf script`.
    #[error(transparent)]
    PerfScript(#[from] PerfScriptError),
    /// As a pprof profile.
    #[error(transparent)]
    Pprof(#[from] PprofError),
    /// As folded text.
    #[error("as folded stacks, {0}")]
    Folded(#[from] FoldedError),
    /// As a profile of speedscope.
    #[error(transparent)]
    Speedscope(#[from] SpeedscopeError),
    /// As a picture.
    #[error(transparent)]
    Svg(#[from] SvgError),
}

/// What to make of a profile; what a format does not know does not matter there.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The sample type of a pprof profile, the event of `perf script`.
    pub sample_type: Option<&'a str>,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Whether the time in which nothing ran is shown.
    pub idle: bool,
    /// The name of the process, where the profile does not tell.
    pub process: &'a str,
}

/// Decodes a profile that is not packed.
///
/// # Errors
/// Those of the format that it seems to have.
pub fn decode(bytes: &[u8], options: &Options<'_>) -> Result<Decoded, ForeignError> {
    let Options { sample_type, threads, idle, process } = *options;
    Ok(match detect(bytes) {
        Kind::CpuProfile => cpuprofile::decode(bytes, &cpuprofile::Options { idle, process })?,
        Kind::Nettrace => {
            nettrace::decode(bytes, nettrace::Show { threads, idle }, process)?.decoded
        }
        Kind::PerfScript => {
            perf_script::read(bytes, &perf_script::Options { event: sample_type, threads, idle })?
        }
        Kind::Pprof => pprof::decode(bytes, &pprof::Options { sample_type, threads, process })?,
        Kind::PySpy => py_spy::decode(bytes, &py_spy::Options { threads, process })?,
        Kind::Speedscope => speedscope::decode(bytes, &speedscope::Options { threads, process })?,
        Kind::Svg => svg::decode(&String::from_utf8_lossy(bytes))?,
        Kind::Folded => from_folded(bytes)?,
    })
}

fn from_folded(bytes: &[u8]) -> Result<Decoded, FoldedError> {
    let read = folded::read(bytes)?;
    let stacks = read.stacks.map(|frame| {
        vec![match frame.kind {
            FrameKind::Process => RawFrame::Process(frame.name.clone()),
            _ => RawFrame::Named(frame.clone()),
        }]
    });
    let samples = stacks.total(0);
    Ok(Decoded::new(stacks, Metric::samples(), samples))
}

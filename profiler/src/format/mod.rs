//! Codecs of stack and profile formats: bytes in, model out, no I/O of their own. [`detect`] tells
//! by its content which format a profile has, [`foreign`] decodes it.

pub mod cpuprofile;
pub mod decoded;
pub mod folded;
pub mod foreign;
pub mod go_pclntab;
pub mod gzip;
pub mod inspector;
pub mod jitdump;
pub mod nettrace;
pub mod perf_map;
pub mod perf_script;
pub mod pprof;
pub mod py_spy;
pub mod script_profiler;
pub mod speedscope;
pub mod svg;
pub mod xz;

/// The formats of profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`cpuprofile`].
    CpuProfile,
    /// [`nettrace`].
    Nettrace,
    /// [`perf_script`].
    PerfScript,
    /// [`pprof`], unpacked.
    Pprof,
    /// [`py_spy`], raw.
    PySpy,
    /// [`speedscope`].
    Speedscope,
    /// [`svg`].
    Svg,
    /// [`folded`], and whatever is none of the others: it says best what it is not.
    Folded,
}

/// The format that bytes, of which these are the first, have. What is packed has none.
#[must_use]
pub fn detect(start: &[u8]) -> Kind {
    if speedscope::is_profile(start) {
        Kind::Speedscope
    } else if cpuprofile::is_profile(start) {
        Kind::CpuProfile
    } else if nettrace::is_trace(start) {
        Kind::Nettrace
    } else if svg::is_svg(start) {
        Kind::Svg
    } else if pprof::is_profile(start) {
        Kind::Pprof
    } else if perf_script::is_script(start) {
        Kind::PerfScript
    } else if py_spy::is_raw(start) {
        Kind::PySpy
    } else {
        Kind::Folded
    }
}

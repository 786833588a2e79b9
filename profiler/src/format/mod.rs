//! Codecs of stack and profile formats: bytes in, model out, no I/O of their own.

pub mod decoded;
pub mod folded;
pub mod go_pclntab;
pub mod gzip;
pub mod jitdump;
pub mod perf_map;
pub mod pprof;

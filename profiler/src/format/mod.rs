//! Codecs of stack and profile formats: bytes in, model out, no I/O.

pub mod jitdump;
pub mod perf_map;

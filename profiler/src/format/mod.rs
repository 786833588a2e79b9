//! Codecs of stack and profile formats: bytes in, model out, no I/O of their own.

pub mod folded;
pub mod go_pclntab;
pub mod jitdump;
pub mod perf_map;

//! Where samples come from.

pub mod ebpf;

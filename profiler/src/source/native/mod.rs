//! The native engines: on-CPU stacks of native programs, walked by unwind rows.
//!
//! * [`ebpf`] samples and walks in the kernel.
//! * [`sideband`] and [`processes`] follow processes and their mappings by perf side-band records.
//! * [`modules`] keeps the mapped files and has their unwind rows compiled.
//! * [`tables`] holds the walker's tables, in memory that the kernel side shares.
//! * [`recorder`] brings samples and process records into the order of time, finishes the walks
//!   that the kernel handed up, and interns stacks.

pub mod ebpf;
pub mod modules;
pub mod processes;
pub mod recorder;
pub mod ring;
pub mod sideband;
pub mod tables;

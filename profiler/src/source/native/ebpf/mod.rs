//! The eBPF engine: samples are taken and stacks walked in the kernel.
//!
//! [`source`] runs it, [`load`] brings the programs and maps in and attaches them, [`mapped`] is the
//! memory of the tables, [`ticks`] are the events that are sampled,
//! [`waits`] times waits,
//! [`btf`] finds the kernel's field offsets, [`offsets`] those that the programs need.

pub mod btf;
pub mod load;
pub mod mapped;
pub mod offsets;
pub mod source;
pub mod ticks;
pub mod waits;

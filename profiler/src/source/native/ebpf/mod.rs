//! The eBPF engine: samples are taken and stacks walked in the kernel.
//!
//! [`source`] runs it, [`load`] brings the programs and maps in and attaches them, [`mapped`] is the
//! memory of the tables,
//! [`waits`] times waits,
//! [`btf`] finds the kernel's field offsets, [`offsets`] those that the programs need.

pub mod btf;
pub mod load;
pub mod mapped;
pub mod offsets;
pub mod source;
pub mod waits;

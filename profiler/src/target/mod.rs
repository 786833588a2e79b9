//! What is profiled and what the host allows: `/proc`, processes, capabilities.
//!
//! * [`process`] reads `/proc`, below a root that tests can choose.

pub mod command;
pub mod process;
pub mod vdso;

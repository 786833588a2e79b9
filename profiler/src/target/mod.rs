//! What is profiled and what the host allows: `/proc`, processes, capabilities.
//!
//! * [`process`] reads `/proc`, below a root that tests can choose.
//! * [`probe`] finds out by trying what the kernel takes; [`capabilities`] is that and the host's
//!   settings and privileges.

pub mod capabilities;
pub mod probe;
pub mod process;

//! What is profiled and what the host allows: `/proc`, processes, capabilities.
//!
//! * [`cgroup`] knows cgroups by their folders.
//! * [`listener`] finds the process that listens on a port, [`runtime`] says which language runtime
//!   a process is, [`pick`] takes the only process that can be meant or lists them.
//! * [`diagnostics`] asks runtimes over sockets of their own.
//! * [`heap`] gives memory back.
//! * [`image`] opens and maps files of others so that they cannot hurt us.
//! * [`made_code`] opens the files in which runtimes tell what code they made.
//! * [`process`] reads `/proc`, below a root that tests can choose.
//! * [`probe`] finds out by trying what the kernel takes; [`capabilities`] is that and the host's
//!   settings and privileges.
//! * [`engine`] decides from these what takes the samples, and says what is missing.

pub mod capabilities;
pub mod cgroup;
pub mod command;
pub mod diagnostics;
pub mod engine;
pub mod heap;
pub mod image;
pub mod listener;
pub mod made_code;
pub mod pick;
pub mod probe;
pub mod process;
pub mod runtime;
pub mod vdso;

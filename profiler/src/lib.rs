//! flame-graph: where a Linux host's time goes.
//!
//! One data flow, visible in the folders:
//!
//! ```text
//! source → samples → Recording → symbolize → Profile → fold → export
//! ```
//!
//! * [`model`]: the shapes that flow. It does no I/O.
//! * [`target`]: processes and what the host allows.
//! * [`source`]: where samples come from; [`unwind`]: the tables that stack walks use.
//! * [`symbolize`]: from addresses to names.
//! * [`fold`], [`format`], [`export`]: from a profile to pictures and files.
//! * [`cli`] is what was typed, [`plan`] what it means, [`pipeline`] runs it.

pub mod cli;
pub mod doctor;
pub mod export;
pub mod fold;
pub mod format;
pub mod model;
pub mod pipeline;
pub mod plan;
pub mod source;
pub mod symbolize;
pub mod target;
pub mod unwind;

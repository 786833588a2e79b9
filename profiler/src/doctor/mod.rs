//! `flame-graph doctor`: what this host allows, which engine each subcommand would use, and what
//! each thing costs that is missing.
//!
//! [`report`] is the answer as data, with the field names of `--json`; `text` is the same for
//! people.

pub mod report;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, Write};

use crate::target::capabilities::Host;
use crate::target::probe::Feature;
pub use report::Report;

/// Examines this host and writes the report: as text, or as JSON (one object, see [`Report`]).
/// When `verbose`, with the verifier's words on each refused BPF program.
///
/// # Errors
///
/// What writing gave. Whatever the host lacks is part of the report.
pub fn run(json: bool, verbose: bool, out: &mut dyn Write) -> io::Result<()> {
    let report = Report::new(&Host::detect_with(&Feature::ALL, verbose));
    if json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        text::write(&report, out)?;
    }
    out.flush()
}

//! The compiled BPF object: built from `profiler-ebpf`, committed beside its source, and the same
//! bytes wherever it is built.
//!
//! Next to the object lies a record of what it was built with and from. A machine with another
//! compiler can check by it that the source was not changed without a rebuild.

mod build;
mod chain;
mod record;

use std::fs;

use anyhow::{Context, Result, bail};

pub use build::bpf_cargo;
pub use chain::Compiler;

use record::Record;

use crate::shell::root;

const OBJECT: &str = "profiler-ebpf/flame-graph.bpf.o";
const RECORD: &str = "profiler-ebpf/flame-graph.bpf.toml";

/// What [`verify`] found, apart from failures.
#[derive(Debug)]
pub enum Verified {
    /// The committed bytes are those of the source.
    Same,
    /// The record fits the source; the bytes were not rebuilt, for this reason.
    RecordOnly(String),
}

/// Builds the object and writes it and its record.
pub fn rebuild() -> Result<()> {
    let bytes = build::object(&Compiler::require()?)?;
    let record = Record::of(&bytes)?;
    let path = root().join(OBJECT);
    fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    record.write(&root().join(RECORD))?;
    println!("{OBJECT}: {} bytes, sha256 {}", bytes.len(), record.object);
    Ok(())
}

/// Fails unless the committed object is what its source builds here.
pub fn check() -> Result<()> {
    match verify()? {
        Verified::Same => {
            println!("{OBJECT} is what its source builds");
            Ok(())
        }
        Verified::RecordOnly(reason) => bail!("{OBJECT} cannot be checked: {reason}"),
    }
}

/// Compares the committed object with its record, the record with the source, and where the
/// recorded compiler is at hand the bytes with a rebuild.
pub fn verify() -> Result<Verified> {
    let path = root().join(OBJECT);
    let committed = fs::read(&path)
        .with_context(|| format!("cannot read {}: run `cargo xtask build-ebpf`", path.display()))?;
    let recorded = Record::read(&root().join(RECORD))?;
    let expected = Record::of(&committed)?;
    if let Some(difference) = recorded.difference(&expected) {
        bail!("{RECORD} does not fit: {difference}; run `cargo xtask build-ebpf` and commit both");
    }
    let compiler = match Compiler::require() {
        Ok(compiler) => compiler,
        Err(reason) => return Ok(Verified::RecordOnly(format!("{reason:#}"))),
    };
    if build::object(&compiler)? != committed {
        bail!("{OBJECT} is not what its source builds: run `cargo xtask build-ebpf` and commit it");
    }
    Ok(Verified::Same)
}

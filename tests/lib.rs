//! Shared helpers of the golden, CLI and live tests.

use std::{env, path::PathBuf};

/// The flame-graph binary: `FLAME_GRAPH`, or else what was built, release first.
///
/// # Panics
/// When there is none: a test of the binary must not pass without one.
#[must_use]
pub fn binary() -> PathBuf {
    let target = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target"));
    let built = ["release", "debug"].map(|profile| target.join(profile).join("flame-graph"));
    let named = env::var_os("FLAME_GRAPH").map(PathBuf::from);
    let found = named.into_iter().chain(built).find(|path| path.is_file());
    assert!(found.is_some(), "there is no flame-graph binary: run `cargo build` first");
    found.unwrap_or_default()
}

/// Whether a test can run here; where it cannot, that is a named skip, and in CI a failure.
///
/// # Panics
/// In continuous integration, when `ok` is false.
#[must_use]
pub fn require(what: &str, ok: bool) -> bool {
    assert!(ok || env::var_os("CI").is_none(), "this test needs {what}");
    if !ok {
        eprintln!("skipped: {what} is missing");
    }
    ok
}

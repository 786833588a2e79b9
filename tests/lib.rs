//! Shared helpers of the golden, CLI and live tests.

use std::{
    env,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    thread,
};

/// The workspace's root folder.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target folder.
#[must_use]
pub fn target_folder() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

/// The `flame-graph` binary under test: the one that `FLAME_GRAPH` names, as `cargo xtask test`
/// does, else a release build, else a debug build.
///
/// # Panics
/// When there is none: a test of the binary must not pass without one.
#[must_use]
pub fn binary() -> PathBuf {
    let built =
        ["release", "debug"].map(|profile| target_folder().join(profile).join("flame-graph"));
    let named = env::var_os("FLAME_GRAPH").map(PathBuf::from);
    let found = named.into_iter().chain(built).find(|path| path.is_file());
    assert!(found.is_some(), "there is no flame-graph binary: run `cargo build --release` first");
    found.unwrap_or_default()
}

/// Whether this is continuous integration, where nothing may be skipped.
#[must_use]
pub fn in_ci() -> bool {
    env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// Whether a test can run here. `what` says what it needs, `ok` whether that is there. Elsewhere
/// than in continuous integration a test returns when this is false; the skip is named on stderr.
///
/// # Panics
/// In continuous integration, when `ok` is false.
#[must_use]
pub fn require(what: &str, ok: bool) -> bool {
    if !ok {
        skip(what, in_ci(), env::var_os("SKIPPED_TESTS").map(PathBuf::from).as_deref());
    }
    ok
}

fn skip(what: &str, in_ci: bool, list: Option<&Path>) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(!in_ci, "{test} cannot run: this machine lacks {what}");
    let line = format!("{test}: this machine lacks {what}\n");
    // Written past the test harness, which shows the output of failed tests only.
    let _ = std::io::stderr().write_all(format!("skipped: {line}").as_bytes());
    // `cargo xtask test` repeats them at its end.
    if let Some(mut list) = list.and_then(|list| OpenOptions::new().append(true).open(list).ok()) {
        let _ = list.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_no_skip() {
        assert!(require("nothing", true));
    }

    #[test]
    fn what_is_missing_fails_in_ci() {
        assert!(
            std::panic::catch_unwind(|| skip("(not missing: a self-test)", true, None)).is_err()
        );
    }

    #[test]
    fn what_is_missing_is_named_elsewhere() {
        let list = tempfile::NamedTempFile::new().unwrap();
        skip("(nothing: this is a self-test)", false, Some(list.path()));
        let text = std::fs::read_to_string(list.path()).unwrap();
        assert!(text.starts_with("tests::what_is_missing_is_named_elsewhere: "), "{text}");
    }
}

//! What the live tests share: compiling programs, running and recording them, comparing stacks.

pub mod compile;
pub mod record;
pub mod stacks;
pub mod target;

pub use compile::{Build, tool};
pub use record::{Recorded, Stage};
pub use stacks::{Path, Stacks};
pub use target::Target;

use std::{fs, path::PathBuf};

/// Skips the test, by name, when something that it needs is missing; a failure in CI.
#[macro_export]
macro_rules! require {
    ($($needed:expr),+ $(,)?) => {
        $(match $needed {
            Ok(_) => {}
            Err(missing) => {
                let missing: String = missing;
                if !tests::require(&missing, false) {
                    return;
                }
            }
        })+
    };
}

/// The folder of the programs' sources.
pub fn programs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// A folder below the target folder for what tests build and write.
pub fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("live")
}

/// Whether this runs as root, which the eBPF engine needs.
pub fn root() -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    match uid.split_whitespace().nth(1) {
        Some("0") => Ok(()),
        _ => Err("root, to load BPF programs".to_owned()),
    }
}

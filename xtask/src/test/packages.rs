//! What the tests need on a Debian machine.

use anyhow::{Context, Result};

use super::Outcome;
use crate::shell::{cargo, command, output, run, succeeds};

/// Packages by name, and what each is for.
const PACKAGES: &[(&str, &str)] = &[
    ("binutils", "readelf, objcopy and strip for the test programs' debug files"),
    ("clang", "test programs as clang lays them out"),
    ("dwz", "test programs with supplementary debug files"),
    ("g++", "test programs in C++"),
    ("gcc", "test programs in C, and the linker that Rust uses"),
    ("libc6-dev", "headers and static libraries for the test programs"),
    ("libgmp-dev", "a library with hand-written functions"),
    ("linux-perf", "the peer that results are compared with"),
    ("lld", "test programs as lld lays them out"),
    ("llvm", "llvm-dwp, for test programs with packages of debug files"),
    ("mold", "test programs as mold lays them out"),
    ("musl-tools", "static test programs with musl"),
    ("openssl", "certificates for the services of the tests"),
    ("procps", "pgrep, to see that nothing is left running"),
    ("xz-utils", "xz, for test programs with packed symbols"),
];

/// Runtimes that are as often installed otherwise: the command that shows it, the package, and
/// what it is for.
const RUNTIMES: &[(&str, &str, &str)] = &[
    ("go", "golang-go", "test programs in Go"),
    ("javac", "default-jdk-headless", "a test program in Java"),
    ("mcs", "mono-mcs", "a test program in C#"),
    ("node", "nodejs", "test programs in JavaScript"),
    ("npm", "npm", "runtimes of JavaScript that Debian does not have"),
    ("pip3", "python3-pip", "runtimes that Debian does not have"),
];

/// Parts of the Rust toolchain, by rustup's name and what cargo calls them.
const COMPONENTS: &[(&str, &str)] = &[("rustfmt", "fmt"), ("clippy", "clippy")];

/// Installs what is missing: as root, on Debian; of the toolchain by rustup.
pub fn install() -> Result<Outcome> {
    for (component, subcommand) in COMPONENTS {
        if !succeeds(cargo().args([subcommand, "--version"])) {
            run(command("rustup").args(["component", "add", component]))
                .with_context(|| format!("{component} is missing, and rustup cannot add it"))?;
        }
    }
    if !succeeds(command("dpkg-query").arg("--version"))
        || !succeeds(command("apt-get").arg("--version"))
    {
        return Ok(Outcome::Skipped(format!(
            "this is no Debian machine; install what corresponds to: {}",
            names(PACKAGES).join(" ")
        )));
    }
    let mut missing: Vec<_> = PACKAGES.iter().filter(|row| !is_installed(row.0)).copied().collect();
    for (program, package, reason) in RUNTIMES {
        if !is_on_path(program) {
            missing.push((package, reason));
        }
    }
    if missing.is_empty() {
        println!("{} packages are installed", PACKAGES.len() + RUNTIMES.len());
        return Ok(Outcome::Passed);
    }
    for (name, reason) in &missing {
        println!("{name} is missing: {reason}");
    }
    if output(command("id").arg("-u"))? != "0" {
        return Ok(Outcome::Skipped(format!(
            "not root; run `apt-get install {}`",
            names(&missing).join(" ")
        )));
    }
    run(apt().args(["update", "--quiet"]))?;
    run(apt()
        .args(["install", "--quiet", "--yes", "--no-install-recommends"])
        .args(names(&missing)))
    .context("the packages that the tests need cannot be installed")?;
    Ok(Outcome::Passed)
}

fn names(rows: &[(&'static str, &str)]) -> Vec<&'static str> {
    rows.iter().map(|row| row.0).collect()
}

fn apt() -> std::process::Command {
    let mut apt = command("apt-get");
    // Another installation may be running on a machine that was just started.
    apt.args(["-o", "DPkg::Lock::Timeout=120"]).env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn is_installed(package: &str) -> bool {
    let status = output(command("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]));
    status.is_ok_and(|status| status == "installed")
}

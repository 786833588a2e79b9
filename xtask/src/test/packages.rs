//! What the tests need on a Debian machine.

use std::fs;

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
    ("libcap2-bin", "setcap, for a perf with capabilities of its own"),
    ("libc6-dev", "headers and static libraries for the test programs"),
    ("libgmp-dev", "a library with hand-written functions"),
    ("linux-perf", "the peer that results are compared with"),
    ("lld", "test programs as lld lays them out"),
    ("llvm", "llvm-dwp, for test programs with packages of debug files"),
    ("mold", "test programs as mold lays them out"),
    ("musl-tools", "static test programs with musl"),
    ("openssl", "certificates for the services of the tests"),
    ("procps", "pgrep, to see that nothing is left running"),
    ("python3", "test programs in Python"),
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

/// LLVM's BOLT in Debian 12; other releases have packages of other versions.
const BOLT: &str = "bolt-15";

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
    if !has_bolt() {
        missing.push((BOLT, "test programs as BOLT lays them out"));
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
    let wanted = names(&missing).into_iter().map(|name| match name {
        BOLT => newest_bolt(),
        name => Ok(name.to_owned()),
    });
    let wanted = wanted.collect::<Result<Vec<_>>>()?;
    run(apt().args(["install", "--quiet", "--yes", "--no-install-recommends"]).args(wanted))
        .context("the packages that the tests need cannot be installed")?;
    Ok(Outcome::Passed)
}

/// The newest of LLVM's BOLTs, each of which is a package of its own.
fn newest_bolt() -> Result<String> {
    let found = output(command("apt-cache").args(["search", "--names-only", "^bolt-[0-9]+$"]))?;
    let names = found.lines().filter_map(|line| line.split(' ').next());
    let version = |name: &&str| name.strip_prefix("bolt-")?.parse::<u32>().ok();
    let newest = names.max_by_key(version);
    newest.map(str::to_owned).context("apt knows no package of llvm-bolt")
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

/// Whether a BOLT is installed: by its version, as Debian names it, or without one.
fn has_bolt() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let files =
        std::env::split_paths(&path).filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    files.flatten().any(|file| {
        let name = file.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix("llvm-bolt"));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        version.is_some_and(|text| text.is_empty() || text.strip_prefix('-').is_some_and(is_number))
    })
}

fn is_installed(package: &str) -> bool {
    let status = output(command("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]));
    status.is_ok_and(|status| status == "installed")
}

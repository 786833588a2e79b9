//! Compiling and linking the object.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::chain::Compiler;
use crate::shell::{cargo, command, root, run};

const TARGET: &str = "bpfel-unknown-none";
/// The profile in the workspace's Cargo.toml.
const PROFILE: &str = "bpf";

/// Builds the object and returns its bytes.
pub fn object(compiler: &Compiler) -> Result<Vec<u8>> {
    run(bpf_cargo(compiler, "build")?.arg("--quiet"))?;
    let built = target_folder().join(TARGET).join(PROFILE).join("profiler-ebpf");
    let stripped = built.with_extension("o");
    // BTF stays: the kernel needs it for maps and for the callbacks of bpf_loop.
    run(command(compiler.objcopy())
        .arg("--strip-debug")
        .args([&built, &stripped])
        .env("LD_LIBRARY_PATH", compiler.libraries()))?;
    fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
}

/// A cargo command on the BPF programs, for the BPF target.
pub fn bpf_cargo(compiler: &Compiler, subcommand: &str) -> Result<Command> {
    compiler.require_sources()?;
    let linker = compiler.require_linker()?;
    // Flags name the folders of downloaded crates, so these must be there.
    run(cargo().args(["fetch", "--locked", "--quiet"]))?;
    let mut command = cargo();
    command
        .arg(subcommand)
        .args(["--locked", "--package", "profiler-ebpf", "--bin", "profiler-ebpf"])
        .args(["--features", "bpf", "--target", TARGET, "--profile", PROFILE])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(target_folder())
        // build-std is unstable; the compiler is the recorded one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(compiler)?.join("\u{1f}"));
    Ok(command)
}

/// Not the target folder in use: another build's flags would have everything built anew.
fn target_folder() -> PathBuf {
    root().join("target/bpf")
}

/// Flags for rustc. Where this machine keeps its files does not reach the object.
fn flags(compiler: &Compiler) -> Result<Vec<String>> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    // Where several prefixes match, the last one counts.
    let home = cargo_home()?;
    let mut flags = vec![
        "-Clink-arg=--btf".to_owned(),
        remap(&home, "/cargo"),
        remap(&compiler.sysroot, "/rust"),
        remap(&root(), "/flame-graph"),
    ];
    // The folder's name is that of the registry or of its mirror.
    let registries = fs::read_dir(home.join("registry/src")).into_iter().flatten();
    let mut registries = registries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    // Flags in another order would have everything built anew.
    registries.sort();
    flags.extend(registries.iter().map(|folder| remap(folder, "/crates")));
    Ok(flags)
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}

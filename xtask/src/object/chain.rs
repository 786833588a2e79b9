//! What the BPF build needs beside stable Rust: the recorded compiler, the source of `core`, and
//! bpf-linker. What is missing is installed.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, command, output, root, run, succeeds};

/// Version and commit of the compiler that built the committed object. Another compiler, or
/// another LLVM, makes other bytes.
pub const RUSTC: &str = "1.95.0 (59807616e)";
/// The linker's version.
pub const BPF_LINKER: &str = "0.13.0";
/// The linker's feature for the LLVM of this rustc.
const LLVM_FEATURE: &str = "llvm-22";
/// The LLVM library that comes with this rustc.
const LLVM_LIBRARY: &str = "libLLVM.so.22.1-rust-1.95.0-stable";
/// Debian's package of the same library sources, and the folder inside it.
const DEBIAN_SOURCES: &str = "rust-src=1.95.0+dfsg1-2~bpo13+1";
const DEBIAN_FOLDER: &str = "usr/src/rustc-1.95.0/library";

/// The recorded compiler, found on this machine.
pub struct Compiler {
    /// Its sysroot.
    pub sysroot: PathBuf,
}

impl Compiler {
    /// The compiler in use, if it is the recorded one.
    pub fn require() -> Result<Self> {
        let version = output(command("rustc").arg("-vV"))?;
        let field = |key: &str| {
            version.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_owned()
        };
        let commit = field("commit-hash: ");
        let short = commit.get(..9).unwrap_or(&commit);
        let found = format!("{} ({short})", field("release: "));
        if found != RUSTC {
            bail!("rustc is {found}, and the BPF object is built with {RUSTC}");
        }
        if field("host: ") != "x86_64-unknown-linux-gnu" {
            bail!(
                "the BPF object is built on x86_64-unknown-linux-gnu, not on {}",
                field("host: ")
            );
        }
        Ok(Self { sysroot: output(command("rustc").args(["--print", "sysroot"]))?.into() })
    }

    /// The folder of the compiler's own libraries, LLVM among them.
    pub fn libraries(&self) -> PathBuf {
        self.sysroot.join("lib")
    }

    /// The compiler's own objcopy.
    pub fn objcopy(&self) -> PathBuf {
        self.libraries().join("rustlib/x86_64-unknown-linux-gnu/bin/rust-objcopy")
    }

    /// Installs the source of `core` where it is missing.
    pub fn require_sources(&self) -> Result<()> {
        let library = self.libraries().join("rustlib/src/rust/library");
        if library.join("core/src/lib.rs").is_file() {
            return Ok(());
        }
        println!("installing rust-src");
        if run(command("rustup").args(["component", "add", "rust-src"])).is_ok() {
            return Ok(());
        }
        sources_from_debian(&library).with_context(|| {
            format!(
                "neither rustup nor Debian's {DEBIAN_SOURCES} (trixie-backports) gives the \
                 library sources of rustc {RUSTC}: put them into {}",
                library.display()
            )
        })
    }

    /// The linker's path; it is installed where it is missing.
    pub fn require_linker(&self) -> Result<PathBuf> {
        let folder = tools_folder().join(format!("bpf-linker-{BPF_LINKER}-{LLVM_FEATURE}"));
        let linker = folder.join("bin/bpf-linker");
        // A linker whose LLVM has moved away does not start; it is built again.
        let reply = output(command(&linker).arg("--version"));
        if reply.is_ok_and(|version| version == format!("bpf-linker {BPF_LINKER}")) {
            return Ok(linker);
        }
        println!("installing bpf-linker {BPF_LINKER} into {}", folder.display());
        let llvm = self.libraries().join(LLVM_LIBRARY);
        if !llvm.is_file() {
            bail!("{} is missing: bpf-linker needs the LLVM of the compiler", llvm.display());
        }
        let prefix = folder.join("llvm");
        fs::create_dir_all(prefix.join("lib"))?;
        let link = prefix.join("lib/libLLVM.so");
        // Absent at the first installation.
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&llvm, &link)
            .with_context(|| format!("cannot link {}", link.display()))?;
        run(cargo()
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"])
            .args(["--no-default-features", "--features", LLVM_FEATURE, "--quiet", "--root"])
            .arg(&folder)
            .env("LLVM_PREFIX", &prefix)
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", rpath(&self.libraries())))?;
        Ok(linker)
    }
}

fn rpath(libraries: &Path) -> String {
    format!("-Clink-arg=-Wl,-rpath,{}", libraries.display())
}

/// Where tools are kept that only this workspace uses.
fn tools_folder() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    cache.map_or_else(|| root().join("target/tools"), |cache| cache.join("flame-graph/tools"))
}

/// Takes the library sources out of Debian's package of the same version.
fn sources_from_debian(library: &Path) -> Result<()> {
    println!("installing the library sources from Debian's {DEBIAN_SOURCES}");
    let scratch = root().join("target/rust-src");
    // Of an attempt that failed.
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch)?;
    run(command("apt-get").args(["download", DEBIAN_SOURCES]).current_dir(&scratch))?;
    let package = fs::read_dir(&scratch)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .context("apt-get downloaded no package")?;
    let unpacked = scratch.join("unpacked");
    run(command("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
    if let Some(parent) = library.parent() {
        fs::create_dir_all(parent)?;
    }
    run(command("cp").arg("-rT").arg(unpacked.join(DEBIAN_FOLDER)).arg(library))?;
    if !succeeds(command("test").arg("-f").arg(library.join("core/src/lib.rs"))) {
        bail!("{} holds no core", library.display());
    }
    Ok(())
}

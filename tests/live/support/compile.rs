//! Compiling the test programs. What was built stays in the target folder under a hash of the
//! sources, the flags and the compiler's version, so that a repeated run builds nothing.

use std::{
    collections::hash_map::DefaultHasher,
    ffi::{OsStr, OsString},
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{self, Command, Output},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{programs, scratch};

/// Whether a tool can be run.
pub fn tool(name: &str) -> Result<(), String> {
    which(name).map(|_| ())
}

/// Where a program is.
pub fn which(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/go/bin".into(), "/usr/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("the program `{name}`"))
}

/// A program to build: one compiler, its flags and its sources.
#[derive(Clone, Debug)]
pub struct Build {
    compiler: &'static str,
    name: String,
    args: Vec<OsString>,
    sources: Vec<PathBuf>,
    env: Vec<(&'static str, String)>,
}

impl Build {
    /// `name`, built by this compiler from one source of `tests/programs`.
    pub fn new(compiler: &'static str, name: &str, source: &str) -> Self {
        let build = Self {
            compiler,
            name: name.to_owned(),
            args: Vec::new(),
            sources: Vec::new(),
            env: Vec::new(),
        };
        build.source(source)
    }

    /// A Go program; flags come before sources there.
    pub fn go(name: &str, source: &str, flags: &[&str]) -> Self {
        let mut build = Self::new("go", name, source);
        build.args.splice(0..0, flags.iter().map(OsString::from));
        build
    }

    /// Adds a source of `tests/programs`.
    pub fn source(mut self, source: &str) -> Self {
        let source = programs().join(source);
        self.args.push(source.clone().into());
        self.sources.push(source);
        self
    }

    /// Adds flags, parted by spaces.
    pub fn flags(mut self, flags: &str) -> Self {
        self.args.extend(flags.split_whitespace().map(OsString::from));
        self
    }

    /// Sets a variable of the compiler's environment.
    pub fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    /// Builds it, unless that was done before.
    ///
    /// # Panics
    /// When the compiler fails.
    pub fn build(&self) -> PathBuf {
        let folder = scratch().join("programs").join(format!("{:016x}", self.hash()));
        let done = folder.join(&self.name);
        // One at a time: two tests may want the same program.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        if done.exists() {
            return done;
        }
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let work = folder.with_extension(format!("{}-{number}", process::id()));
        fs::create_dir_all(&work).unwrap();
        let mut command = Command::new(which(self.compiler).unwrap());
        if self.compiler == "go" {
            command.arg("build");
        }
        command.arg("-o").arg(work.join(&self.name)).args(&self.args).current_dir(&work);
        command.envs(self.env.iter().map(|(name, value)| (*name, value.as_str())));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        // Whoever was first, in whichever process: the contents are the same.
        if fs::rename(&work, &folder).is_err() {
            fs::remove_dir_all(&work).unwrap();
        }
        done
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.compiler, &self.name, &self.args, &self.env).hash(&mut hasher);
        version(self.compiler).hash(&mut hasher);
        let header = programs().join("work.h");
        for source in self.sources.iter().chain([&header]) {
            fs::read(source).unwrap().hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn version(compiler: &str) -> Vec<u8> {
    let flag = if compiler == "go" { "version" } else { "--version" };
    Command::new(which(compiler).unwrap()).arg(flag).output().unwrap().stdout
}

/// Builds the Rust program of this name, a folder of `tests/programs` with crates of its own.
///
/// # Panics
/// When it cannot be built.
pub fn package(name: &str) -> PathBuf {
    let manifest = programs().join(name).join("Cargo.toml");
    let target = scratch().join(name);
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(manifest);
    let output = cargo.arg("--target-dir").arg(&target).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("release").join(name)
}

/// Runs a tool on files, such as `objcopy`.
///
/// # Panics
/// When it fails.
pub fn run(name: &str, args: &[&OsStr], folder: &Path) {
    let output = command(name, args, folder);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {said}");
}

/// Runs a tool that may fail.
pub fn try_run(name: &str, args: &[&OsStr], folder: &Path) -> bool {
    command(name, args, folder).status.success()
}

fn command(name: &str, args: &[&OsStr], folder: &Path) -> Output {
    Command::new(which(name).unwrap()).args(args).current_dir(folder).output().unwrap()
}

//! Whole stacks of the live tests' programs: kinds of calls, of stacks and of code, beside perf.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    numbers::Row,
    parts::{Context, Runs, completeness},
    perf_script::Frame,
    programs::folder,
    tools::Subject,
};
use crate::shell::{self, command, root};

/// A program, built from sources of `tests/programs`.
struct Kind {
    /// The compiler, its flags and the sources.
    build: &'static [&'static str],
    /// What the program is started with, each in turn.
    arguments: &'static [&'static str],
    /// Functions in which its stacks begin, beside [`ROOTS`].
    roots: &'static [&'static str],
}

/// Where the stacks of first threads, and of others, begin (glibc).
const ROOTS: [&str; 5] = ["_start", "__clone3", "clone3", "__clone", "clone"];

const KINDS: &[Kind] = &[
    Kind {
        build: &["gcc", "-O2", "-g", "-fomit-frame-pointer", "calls.c"],
        arguments: &[
            "tail", "noreturn", "qsort", "alloca", "realign", "both", "shrink", "push", "cold",
            "ifunc", "vdso", "copy", "deep 118",
        ],
        roots: &[],
    },
    Kind {
        build: &["gcc", "-O2", "-g", "-fomit-frame-pointer", "signals.c"],
        arguments: &["user", "syscall", "alternate", "nested"],
        roots: &[],
    },
    Kind {
        build: &["gcc", "-O2", "-g", "handmade.c", "handmade.S"],
        arguments: &["", "registers"],
        roots: &[],
    },
    Kind { build: &["gcc", "-O2", "-g", "context.c"], arguments: &[""], roots: &["body"] },
    Kind {
        build: &["gcc", "-O2", "-g", "-DBY_HAND", "context.c", "fcontext.S"],
        arguments: &[""],
        roots: &["body"],
    },
    Kind { build: &["gcc", "-O2", "-g", "haskell.c", "haskell.S"], arguments: &[""], roots: &[] },
    Kind { build: &["gcc", "-O2", "-g", "numbers.c", "-lgmp"], arguments: &[""], roots: &[] },
    Kind { build: &["gcc", "-O2", "-g", "jit.c"], arguments: &[""], roots: &[] },
    Kind { build: &["g++", "-O2", "-g", "virtual.cpp"], arguments: &[""], roots: &[] },
    Kind {
        build: &["rustc", "--edition=2024", "-O", "-g", "shapes.rs"],
        arguments: &[""],
        roots: &[],
    },
    Kind {
        build: &["go", "build", "-ldflags=-s -w", "work.go"],
        arguments: &[""],
        roots: &["runtime.goexit.abi0", "runtime.goexit", "runtime.mstart.abi0", "runtime.mstart"],
    },
];

/// Stacks that reach their root, kind by kind.
///
/// # Errors
/// When a program cannot be built or started.
pub fn kinds(context: &Context) -> Result<Vec<Row>> {
    let settings = context.settings(499, 1.0, 0.5);
    let mut rows = Vec::new();
    for kind in KINDS {
        let program = folder().join(kind.source());
        kind.compile(&program)?;
        for arguments in kind.arguments {
            let started = Started::start(&program, arguments, kind.roots)?;
            let mut runs: Runs = Default::default();
            for &tool in &context.tools {
                runs[tool as usize].extend(context.record(tool, &started, settings));
            }
            let subject = format!("{} {arguments}", kind.source());
            rows.push(completeness("kinds", subject.trim_end().to_owned(), &runs));
        }
    }
    Ok(rows)
}

impl Kind {
    /// The last of its sources.
    fn source(&self) -> &'static str {
        let is_source = |word: &&&str| !word.starts_with('-') && word.contains('.');
        self.build.iter().rfind(is_source).copied().unwrap_or_default()
    }

    fn compile(&self, to: &Path) -> Result<()> {
        let Some((compiler, words)) = self.build.split_first() else { return Ok(()) };
        let mut compile = command(compiler);
        compile.current_dir(root().join("tests/programs"));
        // `go build` wants its options first.
        let (first, rest) = words.split_at(usize::from(*compiler == "go"));
        shell::run(compile.args(first).arg("-o").arg(to).args(rest))
    }
}

/// A program in its steady state; it ends with this value.
struct Started {
    child: Child,
    roots: &'static [&'static str],
}

impl Started {
    fn start(program: &Path, arguments: &str, roots: &'static [&'static str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let mut started = Self { child, roots };
        let mut line = String::new();
        if let Some(stdout) = started.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.is_empty() {
            bail!("{} {arguments} ended before it was ready", program.display());
        }
        Ok(started)
    }
}

impl Subject for Started {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn rate(&self, window: Duration) -> Result<Option<f64>> {
        sleep(window);
        Ok(None)
    }

    fn is_root(&self, frame: &Frame) -> bool {
        // samply leaves an underscore away.
        let is = |root: &str| [Some(root), root.strip_prefix('_')].contains(&Some(&frame.symbol));
        ROOTS.iter().chain(self.roots).any(|root| is(root))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It has ended already when this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its perf map, if it wrote one.
        let _ = fs::remove_file(format!("/tmp/perf-{}.map", self.child.id()));
    }
}

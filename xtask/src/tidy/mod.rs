//! What of the house style a program can check.
//!
//! [`rules`] holds the tables; [`rust`], [`direction`] and [`text`] check files against them. The
//! rules are pure functions of a path and its content, so that each is tested on fixtures.

mod direction;
mod rules;
mod rust;
mod source;
#[cfg(test)]
mod tests;
mod text;

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail};
use source::Source;

use crate::shell::{command, output, root};

/// A breach of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Index of the line.
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

/// Checks every file of the repository; fails when there is a finding.
pub fn run() -> Result<()> {
    let paths = files()?;
    let mut findings = Vec::new();
    let sources = source_names(&paths);
    let mut lengths = Vec::new();
    for path in &paths {
        let bytes = fs::read(root().join(path)).with_context(|| format!("cannot read {path}"))?;
        findings.extend(text::check(path, &bytes));
        findings.extend(text::check_place(path));
        if !path.ends_with(".rs") {
            continue;
        }
        let Ok(content) = std::str::from_utf8(&bytes) else {
            findings.push(Finding::new(path, 0, "is not UTF-8"));
            continue;
        };
        let source = Source::new(content);
        findings.extend(rust::check(path, content, &source));
        findings.extend(direction::check(path, &source, &sources));
        if !rust::is_test_file(path) {
            let counted = source.functions().into_iter().filter(|f| !source.tests[f.line]);
            lengths.extend(counted.map(|function| function.len));
        }
    }
    findings.extend(stale_table_rows(&paths));
    findings.extend(long_functions(lengths));
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_default();
    findings.extend(text::check_commands(&read("README.md"), &read(".ci/run")));
    if !paths.iter().any(|path| path == "Cargo.lock") {
        findings.push(Finding::new("Cargo.lock", 0, "is not in the repository"));
    }
    for Finding { path, line, message } in &findings {
        eprintln!("{path}:{}: {message}", line + 1);
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    println!("{} files are tidy", paths.len());
    Ok(())
}

/// The repository's files: those git knows, and those it would add.
fn files() -> Result<Vec<String>> {
    // The folder may belong to another user than the one who tests.
    let listed = output(command("git").args([
        "-c",
        "safe.directory=*",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
    ]))?;
    let exists = |path: &&str| root().join(path).is_file();
    Ok(listed.lines().filter(exists).map(str::to_owned).collect())
}

/// Names of the modules directly below the module of sources.
fn source_names(paths: &[String]) -> BTreeSet<String> {
    paths
        .iter()
        .filter_map(|path| direction::module_of(path))
        .filter(|module| module[0] == rules::SOURCES)
        .filter_map(|module| module.get(1).cloned())
        .collect()
}

/// A row of the table for a file that is gone would let a new file of that name hold `unsafe`.
fn stale_table_rows(paths: &[String]) -> Vec<Finding> {
    let gone = rules::UNSAFE_FILES.iter().filter(|(file, _)| !paths.iter().any(|p| p == file));
    gone.map(|(file, _)| {
        let message = format!("UNSAFE_FILES names {file}, which does not exist");
        Finding::new("xtask/src/tidy/rules.rs", 0, message)
    })
    .collect()
}

/// Checks the length that nearly all functions keep.
fn long_functions(mut lengths: Vec<usize>) -> Option<Finding> {
    lengths.sort_unstable();
    let typical = *lengths.get(lengths.len() * 95 / 100)?;
    (typical > rules::FUNCTION_LINES_95TH).then(|| {
        let message = format!(
            "one function in twenty has {typical} lines or more; {} is the limit",
            rules::FUNCTION_LINES_95TH
        );
        Finding::new("(all)", 0, message)
    })
}

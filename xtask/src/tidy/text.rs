//! Rules on any text file, and on the files of the root.

use super::{
    Finding,
    rules::{README_COMMANDS, TOP, registry_hosts},
};

/// Test data whose bytes are what is tested.
const VERBATIM: &[&str] = &["tests/golden/", "tests/fuzz/seeds/"];
/// Written by cargo, which names the registry.
const LOCK: &str = "Cargo.lock";

/// Checks the bytes of one file.
pub fn check(path: &str, bytes: &[u8]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !path.ends_with(LOCK) {
        for host in registry_hosts() {
            if let Some(at) = bytes.windows(host.len()).position(|part| part == host.as_bytes()) {
                let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count();
                findings.push(Finding::new(path, line, "names the host of a package registry"));
            }
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return findings };
    if text.contains('\0') || VERBATIM.iter().any(|folder| path.starts_with(folder)) {
        return findings;
    }
    for (line, content) in text.split('\n').enumerate() {
        // In Rust, rustfmt sees to it, and knows what lies in a literal.
        if !path.ends_with(".rs") && content.ends_with([' ', '\t', '\r']) {
            findings.push(Finding::new(path, line, "blanks at the end of the line"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(Finding::new(path, 0, "the last line has no end"));
    }
    findings
}

/// Checks that a file lies where the top of the repository has room for it.
pub fn check_place(path: &str) -> Option<Finding> {
    let top = path.split('/').next().unwrap_or_default();
    let known = top.starts_with('.') || TOP.contains(&top);
    (!known).then(|| Finding::new(path, 0, format!("the repository's top has no `{top}`")))
}

/// Checks that the README's first two commands are the program's job and the tests, and that
/// continuous integration runs the latter.
pub fn check_commands(readme: &str, ci: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let commands: Vec<&str> = shell_lines(readme).take(README_COMMANDS.len()).collect();
    if commands != README_COMMANDS {
        let message = format!(
            "its first two commands must be `{}` and `{}`",
            README_COMMANDS[0], README_COMMANDS[1]
        );
        findings.push(Finding::new("README.md", 0, message));
    }
    if !ci.lines().any(|line| line.trim() == README_COMMANDS[1]) {
        let message = format!("does not call the README's `{}`", README_COMMANDS[1]);
        findings.push(Finding::new(".ci/run", 0, message));
    }
    findings
}

/// The lines inside ```` ```sh ```` blocks.
fn shell_lines(markdown: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    markdown.lines().filter(move |line| {
        if line.starts_with("```") {
            inside = line.trim_end() == "```sh";
            return false;
        }
        inside && !line.trim().is_empty()
    })
}

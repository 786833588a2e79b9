//! Rules on one Rust file.

use super::{
    Finding,
    rules::{FILE_LINES, FUNCTION_LINES, UNSAFE_FILES},
    source::{Source, lines_before, words},
};

/// Whether a whole file is test code.
pub fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Checks everything about one file.
pub fn check(path: &str, text: &str, source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(Finding::new(
            path,
            0,
            "begins without a `//!` header that says what it is for",
        ));
    }
    let lines = source.tests.iter().filter(|is_test| !**is_test).count();
    if !is_test_file(path) && lines > FILE_LINES {
        let message = format!("has {lines} lines without tests; {FILE_LINES} is the limit");
        findings.push(Finding::new(path, 0, message));
    }
    for function in source.functions() {
        if function.len > FUNCTION_LINES {
            let message = format!(
                "`{}` has {} lines; {FUNCTION_LINES} is the limit",
                function.name, function.len
            );
            findings.push(Finding::new(path, function.line, message));
        }
    }
    check_unsafe(path, source, &mut findings);
    check_panics(path, source, &mut findings);
    check_allow(path, source, &mut findings);
    findings
}

fn check_unsafe(path: &str, source: &Source, findings: &mut Vec<Finding>) {
    let listed = UNSAFE_FILES.iter().any(|(file, _)| *file == path);
    let mut said = listed;
    for (line, code) in source.code.iter().enumerate() {
        for at in words(code, "unsafe") {
            if !said {
                let message = "holds `unsafe` and is not in UNSAFE_FILES (xtask/src/tidy/rules.rs)";
                findings.push(Finding::new(path, line, message));
                said = true;
            }
            let is_attribute = code[..at].ends_with("#[") || code[..at].ends_with("#![");
            let explained = source.is_explained(line, &["SAFETY:", "# Safety"]);
            if !is_attribute && !explained {
                findings.push(Finding::new(path, line, "`unsafe` without a `// SAFETY:` comment"));
            }
        }
    }
}

fn check_panics(path: &str, source: &Source, findings: &mut Vec<Finding>) {
    if is_test_file(path) {
        return;
    }
    for (line, code) in source.code.iter().enumerate() {
        let panics = code.contains(".unwrap()") || code.contains(".expect(");
        if panics && !source.tests[line] && !source.is_explained(line, &["SANITY:"]) {
            let message = "`unwrap` or `expect` outside tests without a `// SANITY:` comment";
            findings.push(Finding::new(path, line, message));
        }
    }
}

/// `expect` says when a lint no longer applies, and carries a reason.
fn check_allow(path: &str, source: &Source, findings: &mut Vec<Finding>) {
    let text = source.text();
    for at in words(&text, "allow") {
        let before = text[..at].trim_end();
        let in_attribute = before.ends_with('[') || before.ends_with(',');
        if in_attribute && text[at + "allow".len()..].starts_with('(') {
            let message = "`allow` in an attribute: use `#[expect(lint, reason = \"…\")]`";
            findings.push(Finding::new(path, lines_before(&text, at), message));
        }
    }
}

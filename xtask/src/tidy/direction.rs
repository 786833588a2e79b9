//! Which module imports which: data flows one way.

use std::collections::BTreeSet;

use super::{
    Finding,
    rules::{IMPORTS, SHARED_BY_SOURCES, SOURCES},
    source::{Source, lines_before, words},
};

/// The folder whose modules the table is about.
const FOLDER: &str = "profiler/src/";

/// Checks the imports of one file of the profiler. `sources` are the names of the modules directly
/// below the module of sources.
pub fn check(path: &str, source: &Source, sources: &BTreeSet<String>) -> Vec<Finding> {
    let Some(module) = module_of(path) else { return Vec::new() };
    let Some(top) = module.first() else { return Vec::new() };
    let mut findings = Vec::new();
    for (line, imported) in imports(&module, source) {
        let Some(target) = imported.first() else { continue };
        // A name that is no module: an item of the crate's root.
        if !IMPORTS.iter().any(|(name, _)| name == target) {
            continue;
        }
        let allowed = IMPORTS.iter().find(|(name, _)| name == top).map_or(&[][..], |row| row.1);
        if target != top && !allowed.contains(&target.as_str()) {
            let message = format!(
                "`{top}` imports `{target}`, against the direction of data (IMPORTS in \
                 xtask/src/tidy/rules.rs)"
            );
            findings.push(Finding::new(path, line, message));
        }
        if let ([first, ours, ..], [second, theirs, ..]) = (&module[..], &imported[..])
            && first == SOURCES
            && second == SOURCES
            && sources.contains(theirs)
            && ours != theirs
            && !SHARED_BY_SOURCES.contains(&theirs.as_str())
        {
            let message = format!("source `{ours}` imports source `{theirs}`");
            findings.push(Finding::new(path, line, message));
        }
    }
    findings
}

/// The module path of a file; None for what is not below the table: other crates, the crate's
/// roots.
pub fn module_of(path: &str) -> Option<Vec<String>> {
    let inside = path.strip_prefix(FOLDER)?.strip_suffix(".rs")?;
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    if super::rust::is_test_file(path) || inside == "lib" || inside == "main" {
        return None;
    }
    Some(inside.split('/').map(str::to_owned).collect())
}

/// Every path into the crate that the code outside tests names, from the crate's root, with the
/// line it stands on.
fn imports(module: &[String], source: &Source) -> Vec<(usize, Vec<String>)> {
    let text = source.text();
    let mut found = Vec::new();
    for start in ["crate", "super", "self"] {
        for at in words(&text, start) {
            let line = lines_before(&text, at);
            // The rest of a path that began before, or a test.
            if text[..at].trim_end().ends_with("::") || source.tests[line] {
                continue;
            }
            let mut paths = Vec::new();
            path_tree(&text[at..], Vec::new(), &mut paths);
            let absolute = paths.into_iter().map(|path| from_root(module, path));
            found.extend(absolute.map(|path| (line, path)));
        }
    }
    found
}

/// Resolves `crate`, `self` and `super`.
fn from_root(module: &[String], path: Vec<String>) -> Vec<String> {
    let mut absolute = module.to_vec();
    for part in path {
        match part.as_str() {
            "crate" => absolute.clear(),
            "super" => {
                absolute.pop();
            }
            "self" => {}
            _ => absolute.push(part),
        }
    }
    absolute
}

/// Reads a path or a `use` tree; adds each of its paths, and returns how much it read.
fn path_tree(text: &str, mut prefix: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let mut at = 0;
    loop {
        at += blanks(&text[at..]);
        let rest = &text[at..];
        if rest.starts_with('{') {
            return at + group(rest, &prefix, found);
        }
        let name: String =
            rest.chars().take_while(|l| l.is_alphanumeric() || *l == '_' || *l == '*').collect();
        if name.is_empty() {
            break;
        }
        at += name.len();
        prefix.push(name);
        let gap = blanks(&text[at..]);
        if !text[at + gap..].starts_with("::") {
            break;
        }
        at += gap + 2;
    }
    found.push(prefix);
    at
}

/// Reads `{…, …}`.
fn group(text: &str, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut at = 1;
    loop {
        at += blanks(&text[at..]);
        if at >= text.len() {
            return at;
        }
        if text[at..].starts_with('}') {
            return at + 1;
        }
        let read = path_tree(&text[at..], prefix.to_vec(), found);
        // To the next comma or the end: over `as name`, and never standing still.
        let rest = &text[at + read..];
        let stop = rest.find([',', '}']).unwrap_or(rest.len());
        at += read + stop + usize::from(rest[stop..].starts_with(','));
    }
}

fn blanks(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

//! Golden tests: each folder here has an `input.folded`, and what `flame-graph file` must make of
//! it, byte for byte. `BLESS=1` writes the expected files anew; look at what changed before you
//! commit it.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up must fail")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const FORMATS: [&str; 2] = ["svg", "folded"];

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    cases.sort();
    cases
}

/// Draws a case's input in one format.
fn draw(case: &Path, format: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output").with_extension(format);
    let run = Command::new(tests::binary())
        .args(["file", "--input", "input.folded", "--output"])
        .arg(&output)
        .current_dir(case)
        .output()
        .unwrap();
    assert!(run.status.success(), "{case:?}: {}", String::from_utf8_lossy(&run.stderr));
    fs::read(output).unwrap()
}

/// The first line in which two texts differ.
fn difference(expected: &[u8], drawn: &[u8]) -> String {
    let lines = |text: &[u8]| -> Vec<String> {
        String::from_utf8_lossy(text).lines().map(str::to_owned).collect()
    };
    let (expected, drawn) = (lines(expected), lines(drawn));
    let length = expected.len().max(drawn.len());
    let at = (0..length).find(|at| expected.get(*at) != drawn.get(*at)).unwrap_or(length);
    format!("line {}:\n  expected {:?}\n  drawn    {:?}", at + 1, expected.get(at), drawn.get(at))
}

#[test]
fn every_golden_file_is_drawn_as_expected() {
    let bless = blessing();
    let cases = cases();
    assert!(!cases.is_empty());
    let mut failures = Vec::new();
    for case in &cases {
        for format in FORMATS {
            let golden = case.join("expected").with_extension(format);
            let drawn = draw(case, format);
            if bless {
                fs::write(&golden, drawn).unwrap();
                continue;
            }
            match fs::read(&golden) {
                Ok(expected) if expected == drawn => {}
                Ok(expected) => {
                    failures.push(format!("{golden:?} {}", difference(&expected, &drawn)));
                }
                Err(error) => failures.push(format!("{golden:?}: {error}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}\nBLESS=1 accepts these", failures.join("\n"));
}

fn blessing() -> bool {
    env::var("BLESS").is_ok_and(|value| value == "1")
}

#[test]
fn a_folded_golden_is_its_own_output() {
    // While blessing the expected files are not there yet, or not whole.
    for case in if blessing() { Vec::new() } else { cases() } {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(case.join("expected.folded"), folder.path().join("input.folded")).unwrap();
        let again = draw(folder.path(), "folded");
        assert_eq!(again, fs::read(case.join("expected.folded")).unwrap(), "{case:?}");
    }
}

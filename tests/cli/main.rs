//! CLI tests: the real binary's exit codes, sentences and files.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up must fail")]

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

mod hostile;
mod services;

const STACKS: &str = "app;main;work 3\napp;main;rest_[k] 1\n";

/// A run that has ended.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    /// It failed with this exit code and one sentence that says `said`.
    fn fails(&self, code: i32, said: &str) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert!(self.stderr.contains(said), "expected {said:?}: {}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }

    fn succeeds(&self) {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs flame-graph in a folder.
fn run<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>) -> Run {
    let mut command = Command::new(tests::binary());
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command.output().unwrap().into()
}

/// A folder with `stacks.txt` in it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("stacks.txt"), STACKS).unwrap();
    folder
}

/// Names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn stacks_become_pictures_and_text() {
    let folder = folder();
    let args = "file --input stacks.txt -o x.svg -o y.folded -o z.txt -o - --title Busy";
    let run = run(folder.path(), args.split(' '));
    run.succeeds();
    let sorted = "app;main;rest_[k] 1\napp;main;work 3\n";
    assert_eq!(run.stdout, sorted);
    assert_eq!(fs::read_to_string(folder.path().join("y.folded")).unwrap(), sorted);
    assert_eq!(fs::read_to_string(folder.path().join("z.txt")).unwrap(), sorted);
    let svg = fs::read_to_string(folder.path().join("x.svg")).unwrap();
    for text in [">Busy<", "stacks.txt, 4 samples, 100 % complete", "work (3 samples, 75.00%)"] {
        assert!(svg.contains(text), "{text}");
    }
    assert!(run.stderr.contains("4 samples, 100 % complete, lost 0"), "{}", run.stderr);
    assert!(run.stderr.contains("wrote x.svg"), "{}", run.stderr);
    assert_eq!(names(folder.path()), ["stacks.txt", "x.svg", "y.folded", "z.txt"]);
}

#[test]
fn standard_input_is_a_dash() {
    let mut child = Command::new(tests::binary())
        .args(["file", "--input", "-", "--output", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(STACKS.as_bytes()).unwrap();
    let run = Run::from(child.wait_with_output().unwrap());
    run.succeeds();
    assert_eq!(run.stdout, "app;main;rest_[k] 1\napp;main;work 3\n");
}

#[test]
fn help_and_version_are_no_errors() {
    let folder = folder();
    let help = run(folder.path(), ["cpu", "--help"]);
    help.succeeds();
    for option in ["--pid", "--children", "--all", "--user", "--duration", "--frequency", "--stats"]
    {
        assert!(help.stdout.contains(option), "{option}");
    }
    run(folder.path(), ["--version"]).succeeds();
}

#[test]
fn wrong_usage_is_2_and_one_sentence() {
    let folder = folder();
    for (args, said) in [
        ("cpu --all --pid 1", "name two targets"),
        ("cpu --pid 1 -- ls", "name two targets"),
        ("cpu --pid 1,x", "\"x\" is not a process id"),
        ("cpu -F 0", "above 0"),
        ("cpu -d 0", "not a time above 0"),
        ("cpu -d -1", "not a time above 0"),
        ("cpu --user-only --kernel-only", "nothing to show"),
        ("cpu -o picture.png", "use one of .svg, .folded, .txt"),
        ("file --input stacks.txt -o - -o -", "given twice"),
    ] {
        run(folder.path(), args.split(' ')).fails(2, said);
    }
    for args in ["", "fly", "cpu --fly", "file"] {
        let run = run(folder.path(), args.split_whitespace());
        assert_eq!(run.code, Some(2), "{args}: {}", run.stderr);
    }
    assert_eq!(names(folder.path()), ["stacks.txt"]);
}

#[test]
fn the_kernels_frequency_limit_is_named() {
    let limit = "/proc/sys/kernel/perf_event_max_sample_rate";
    if !tests::require(limit, Path::new(limit).exists()) {
        return;
    }
    let limit = fs::read_to_string(limit).unwrap();
    let run = run(folder().path(), ["cpu", "-F", "1000000000"]);
    run.fails(2, &format!("limit of {} samples a second", limit.trim()));
}

#[test]
fn input_that_cannot_be_drawn_is_1_and_leaves_nothing() {
    let folder = folder();
    for (input, said) in [
        ("", "nothing to draw"),
        ("\n\n", "nothing to draw"),
        ("a;b 0\n", "nothing to draw"),
        ("a;b 1\nno count here\n", "line 2 does not end in a count"),
        ("a;b 1\n\na;b -4\n", "line 3 does not end in a count"),
        ("a;b 99999999999999999999\n", "line 1 has a count above 18446744073709551615"),
        ("a 18446744073709551615\nb 1\n", "up to line 2 the counts add up to more than"),
        ("\x07\x1b[2J\n", "does not end in a count: \\x07\\x1b[2J"),
        (" 5\n", "no stack"),
    ] {
        fs::write(folder.path().join("bad.txt"), input).unwrap();
        run(folder.path(), ["file", "--input", "bad.txt"]).fails(1, said);
    }
    run(folder.path(), ["file", "--input", "absent"]).fails(1, "cannot read \"absent\"");
    run(folder.path(), ["file", "--input", "."]).fails(1, "Is a directory");
    assert_eq!(names(folder.path()), ["bad.txt", "stacks.txt"]);
}

#[test]
fn the_largest_count_is_drawn() {
    let folder = folder();
    fs::write(folder.path().join("huge.txt"), format!("a;b {}\na;c 0\n", u64::MAX)).unwrap();
    run(folder.path(), ["file", "--input", "huge.txt", "-o", "x.svg", "-o", "x.txt"]).succeeds();
    let text = fs::read_to_string(folder.path().join("x.txt")).unwrap();
    assert_eq!(text, format!("a;b {}\n", u64::MAX));
}

#[test]
fn an_output_that_cannot_be_written_is_said_before_the_work() {
    let folder = folder();
    fs::create_dir(folder.path().join("folder.svg")).unwrap();
    // The input does not exist either: only the order of the checks decides what is said.
    for (output, said) in [
        ("absent/x.svg", "the folder \"absent\" does not exist"),
        ("stacks.txt/x.svg", "stacks.txt"),
        ("folder.svg", "is not a regular file"),
        ("/sys/x.svg", "cannot write \"/sys/x.svg\""),
    ] {
        run(folder.path(), ["file", "--input", "absent.txt", "-o", output]).fails(1, said);
        run(folder.path(), ["cpu", "-d", "600", "-o", output]).fails(1, said);
    }
}

#[test]
fn a_link_in_the_place_of_the_output_is_replaced_not_followed() {
    let folder = folder();
    let link = folder.path().join("x.svg");
    symlink("stacks.txt", &link).unwrap();
    run(folder.path(), ["file", "--input", "stacks.txt", "-o", "x.svg"]).succeeds();
    assert_eq!(fs::read_to_string(folder.path().join("stacks.txt")).unwrap(), STACKS);
    assert!(fs::symlink_metadata(link).unwrap().is_file());
}

#[test]
fn the_umask_decides_who_reads_the_output() {
    let folder = folder();
    for (umask, mode) in [("022", 0o644), ("077", 0o600)] {
        let status = Command::new("sh")
            .args(["-c", "umask $0 && exec \"$1\" file --input stacks.txt -o x.svg", umask])
            .arg(tests::binary())
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let metadata = fs::metadata(folder.path().join("x.svg")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode);
    }
}

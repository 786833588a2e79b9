//! Surroundings that fail: closed pipes, full and read-only file systems, very large input.

use std::fmt::Write as _;

use super::*;

/// Folded text of about `bytes` bytes, of stacks that all differ.
fn many_stacks(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 200);
    let mut state: u64 = 1;
    while text.len() < bytes {
        write!(text, "app{}", state % 7).unwrap();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            write!(text, ";function_{}", (state >> 33) % 3000).unwrap();
        }
        text.push_str(" 2\n");
    }
    text
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let folder = folder();
    fs::write(folder.path().join("many.txt"), many_stacks(1 << 20)).unwrap();
    let mut child = Command::new(tests::binary())
        .args(["file", "--input", "many.txt", "-o", "-"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let run = Run::from(child.wait_with_output().unwrap());
    run.succeeds();
    assert!(!run.stderr.contains("Broken pipe"), "{}", run.stderr);
}

#[test]
fn nobody_on_standard_error_is_no_failure() {
    let folder = folder();
    let mut child = Command::new(tests::binary())
        .args(["file", "--input", "-", "-o", "x.svg"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    child.stdin.take().unwrap().write_all(STACKS.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(folder.path().join("x.svg").exists());
}

#[test]
fn a_full_standard_output_is_a_failure() {
    let folder = folder();
    let output = Command::new(tests::binary())
        .args(["file", "--input", "stacks.txt", "-o", "-"])
        .current_dir(folder.path())
        .stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    Run::from(output).fails(1, "cannot write standard output: No space left");
}

/// Runs a shell script in mount and user namespaces of its own, with `$0` the binary.
fn in_namespace(folder: &Path, script: &str) -> Option<Run> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--user", "--map-root-user", "sh", "-c"]).current_dir(folder);
        command
    };
    let probe = unshare().arg("mkdir -p m && mount -t tmpfs none m").output();
    let works = probe.is_ok_and(|output| output.status.success());
    if !tests::require("unshare with user namespaces that can mount a tmpfs", works) {
        return None;
    }
    Some(unshare().arg(script).arg(tests::binary()).output().unwrap().into())
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let folder = folder();
    fs::write(folder.path().join("many.txt"), many_stacks(1 << 20)).unwrap();
    let script = "mkdir -p m && mount -t tmpfs -o size=64k none m && \
                  { \"$0\" file --input many.txt -o whole.svg -o m/x.svg; code=$?; ls -A m; } && \
                  exit $code";
    let Some(run) = in_namespace(folder.path(), script) else { return };
    run.fails(1, "cannot write \"m/x.svg\": No space left");
    assert_eq!(run.stdout, "", "left behind in m");
    assert_eq!(names(folder.path()), ["m", "many.txt", "stacks.txt"], "all outputs or none");
}

#[test]
fn a_read_only_folder_is_said_before_the_work() {
    let folder = folder();
    let script = "mkdir -p m && mount -t tmpfs -o ro none m && \
                  exec \"$0\" file --input absent.txt -o m/x.svg";
    let Some(run) = in_namespace(folder.path(), script) else { return };
    run.fails(1, "cannot write \"m/x.svg\": Read-only file system");
}

#[test]
fn a_hundred_megabytes_are_drawn_in_time() {
    let folder = folder();
    fs::write(folder.path().join("large.txt"), many_stacks(100_000_000)).unwrap();
    let start = Instant::now();
    run(folder.path(), ["file", "--input", "large.txt", "-o", "x.svg"]).succeeds();
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    // What is too narrow to see is left out.
    assert!(fs::metadata(folder.path().join("x.svg")).unwrap().len() < 20_000_000);
}

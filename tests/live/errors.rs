//! Targets that cannot be recorded: one clear sentence, the right exit status, no file.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    require,
    support::{Stage, record::Ended, root, tool},
};

/// One sentence, no file, this exit status.
#[track_caller]
fn refused(ended: &Ended, code: i32, words: &[&str]) {
    let said = &ended.said;
    assert_eq!(ended.code, Some(code), "{said}");
    assert!(ended.folded.is_none(), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "one sentence: {said}");
    assert!(said.starts_with("flame-graph: "), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn no_such_process() {
    require!(root());
    let stage = Stage::take();
    let ended = stage.profiler(&["--pid", "4194303", "-d", "1"]);
    refused(&ended, 1, &["4194303"]);
}

#[test]
fn a_kernel_thread() {
    require!(root());
    let stage = Stage::take();
    let thread = fs::read_dir("/proc").unwrap().find_map(|entry| {
        let pid = entry.unwrap().file_name().into_string().unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The parent of every kernel thread is kthreadd.
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.to_owned();
        (parent == "2").then_some(pid)
    });
    let ended = stage.profiler(&["--pid", &thread.unwrap(), "-d", "0.3"]);
    // It may be recorded, with kernel frames only, when it happens to work.
    assert!(matches!(ended.code, Some(0 | 1 | 3)), "{}", ended.said);
    assert!(ended.said.contains("kernel thread"), "{}", ended.said);
    assert_eq!(ended.folded.is_some(), ended.code == Some(0), "{}", ended.said);
}

#[test]
fn a_zombie() {
    require!(root());
    let stage = Stage::take();
    let mut child = Command::new("/bin/true").spawn().unwrap();
    thread::sleep(Duration::from_millis(100));
    let ended = stage.profiler(&["--pid", &child.id().to_string(), "-d", "0.3"]);
    child.wait().unwrap();
    refused(&ended, 1, &["ended"]);
}

#[test]
fn a_process_that_ends_at_once() {
    require!(root());
    let stage = Stage::take();
    let mut child = Command::new("/bin/sleep").arg("0.5").spawn().unwrap();
    let began = std::time::Instant::now();
    let ended = stage.profiler(&["--pid", &child.id().to_string(), "-d", "20"]);
    child.wait().unwrap();
    // Its last steps may be worth a sample; mostly nothing is caught.
    match ended.code {
        Some(0) => assert!(ended.folded.unwrap().starts_with("sleep;"), "{}", ended.said),
        _ => refused(&ended, 3, &[]),
    }
    assert!(began.elapsed().as_secs_f64() < 5.0, "nothing is left to record: {}", ended.said);
}

#[test]
fn a_target_that_sleeps() {
    require!(root());
    let stage = Stage::take();
    let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    thread::sleep(Duration::from_millis(100));
    let ended = stage.profiler(&["--pid", &child.id().to_string(), "-d", "0.5"]);
    child.kill().unwrap();
    child.wait().unwrap();
    refused(&ended, 3, &["offcpu"]);
}

#[test]
fn an_output_folder_that_is_missing_or_read_only() {
    require!(root());
    let stage = Stage::take();
    let began = std::time::Instant::now();
    for output in ["/nonexistent/folder/x.svg", "/proc/x.svg"] {
        let ended = stage.profiler(&["--pid", "1", "-d", "20", "-o", output]);
        refused(&ended, 1, &[output.rsplit_once('/').unwrap().0]);
    }
    assert!(began.elapsed().as_secs_f64() < 5.0, "this is said before recording");
}

#[test]
fn an_unprivileged_user() {
    require!(root(), tool("setpriv"));
    let stage = Stage::take();
    // A copy that this user may run.
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let (binary, open) = (folder.path().join("flame-graph"), folder.path().to_owned());
    fs::copy(tests::binary(), &binary).unwrap();
    assert!(Command::new("chmod").arg("755").arg(&open).status().unwrap().success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
    command.arg(&binary).args(["cpu", "--all", "-d", "0.5", "-o", "-"]).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(said.trim().lines().count(), 1, "one sentence: {said}");
    assert!(said.contains("root") || said.contains("CAP_"), "{said}");
    drop(stage);
}

//! `flame-graph cpu -- COMMAND`.

use crate::{
    require,
    support::{Build, Path, Stage, record::Ended, root, tool},
};

fn changing() -> String {
    let program = Build::new("gcc", "command", "changing.c").flags("-O2 -fomit-frame-pointer");
    program.build().to_str().unwrap().to_owned()
}

#[test]
fn a_command_is_recorded_from_its_first_instruction() {
    require!(root(), tool("gcc"));
    let program = changing();
    let stage = Stage::take();
    let recorded = stage.cpu(&["-F", "999", "--", &program, "work", "50"]);
    let stacks = recorded.stacks.of("command");
    // Fifty milliseconds at 999 Hz, less what other programs take meanwhile.
    stacks.at_least(12).complete();
    let work = stacks.filter(|stack| stack.has("works_for"));
    assert!(work.total() >= 10, "{stacks}");
    work.rooted(&["_start"]).paths("main", &[Path::new("main works_for …")]);
    assert!(recorded.said.contains("exit status: 7"), "{}", recorded.said);
}

#[test]
fn the_loaders_work_is_seen() {
    require!(root(), tool("gcc"));
    let program = changing();
    let stage = Stage::take();
    // A thousand loadings, together long enough to be sampled.
    let script = format!("for i in $(seq 100); do {program} work 0; done");
    let recorded = stage.cpu(&["-F", "999", "--", "/bin/sh", "-c", &script]);
    let stacks = recorded.stacks.of("command");
    stacks.at_least(10).complete();
    let loading = stacks.filter(|stack| {
        stack.frames.iter().any(|frame| frame.kind == ' ' && frame.name.contains("dl_"))
    });
    assert!(loading.total() > 0, "{stacks}");
}

#[test]
fn children_of_a_command_are_recorded() {
    require!(root(), tool("gcc"));
    let program = changing();
    let stage = Stage::take();
    let script = format!("{program} work 400; {program} work 400; true");
    let recorded = stage.cpu(&["-F", "999", "--", "/bin/sh", "-c", &script]);
    let stacks = recorded.stacks.of("command");
    stacks.at_least(300).complete();
    assert!(stacks.share("works_for") > 0.9, "{stacks}");
    assert!(recorded.said.contains("exit status: 0"), "{}", recorded.said);
}

#[test]
fn a_command_runs_as_another_user() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; \
                  [ $(id -u) = 65534 ] && [ $(id -g) = 65534 ] && exit 5";
    let args = ["-F", "499", "--user", "nobody", "--", "/bin/sh", "-c", script];
    let recorded = stage.cpu(&args);
    assert!(recorded.said.contains("exit status: 5"), "{}", recorded.said);
    recorded.stacks.at_least(10).complete();
}

#[test]
fn a_duration_ends_the_recording_of_a_command() {
    require!(root(), tool("gcc"));
    let program = changing();
    let stage = Stage::take();
    let recorded = stage.cpu(&["-F", "999", "-d", "0.5", "--", &program, "work", "1500"]);
    let seconds = recorded.stats["duration_s"].as_f64().unwrap();
    assert!((0.45..1.0).contains(&seconds), "{seconds}");
    recorded.stacks.at_least(100).complete();
    assert!(recorded.said.contains("still runs"), "{}", recorded.said);
}

#[test]
fn commands_that_cannot_run() {
    require!(root());
    let stage = Stage::take();
    for args in [
        &["--", "/nonexistent/program"][..],
        &["--", "no-such-program-anywhere"],
        &["--", "/etc/passwd"],
        &["--", "/tmp"],
        &["--user", "no-such-user-here", "--", "/bin/true"],
    ] {
        let Ended { code, said, folded, .. } = stage.profiler(args);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(folded.is_none(), "{args:?}");
        assert_eq!(said.trim().lines().count(), 1, "one sentence: {said}");
        assert!(said.starts_with("flame-graph: "), "{said}");
    }
}

#[test]
fn how_a_command_ends_is_said() {
    require!(root());
    let stage = Stage::take();
    let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done;";
    for (end, said) in [("exit 3", "exit status: 3"), ("kill -9 $$", "signal: 9")] {
        let recorded = stage.cpu(&["-F", "999", "--", "/bin/sh", "-c", &format!("{busy} {end}")]);
        assert!(recorded.said.contains(said), "{}", recorded.said);
    }
}

//! How a recording ends before its time: it still writes.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    require,
    support::{Build, Stacks, Stage, root, stacks::Stack, tool},
};

#[test]
fn signals_end_early_and_still_write() {
    require!(root(), tool("gcc"), tool("kill"));
    let program = Build::new("gcc", "shares", "shares.c").flags("-O2").build();
    let stage = Stage::take();
    let target = stage.run(program);
    for signal in ["-INT", "-TERM"] {
        let pid = target.pid().to_string();
        let began = Instant::now();
        let profiler = Command::new(tests::binary())
            .args(["cpu", "--pid", &pid, "-F", "999", "-d", "60", "-o", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(1500));
        let pid = profiler.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let output = profiler.wait_with_output().unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{signal}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{signal}: {said}");
        let stacks = Stacks::parse(&String::from_utf8_lossy(&output.stdout));
        stacks.at_least(40).complete().rooted(&["_start"]);
    }
}

#[test]
fn the_recording_goes_on_when_one_of_two_targets_ends() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "shares", "shares.c").flags("-O2").build();
    let stage = Stage::take();
    let lasting = stage.run(&program);
    let ending = stage.run(&program);
    let pids = format!("{},{}", lasting.pid(), ending.pid());
    let recorded = thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(900));
            drop(ending);
        });
        stage.cpu(&["--pid", &pids, "-F", "999", "-d", "2"])
    });
    let seconds = recorded.stats["duration_s"].as_f64().unwrap();
    assert!(seconds > 1.9, "{seconds}");
    recorded.stacks.at_least(150).complete().rooted(&["_start"]);
}

#[test]
fn threads_that_begin_later_are_seen() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "later", "later.c").flags("-O2").build();
    let stage = Stage::take();
    let target = stage.run(program);
    let stacks = stage.record(&[&target], 1.5).stacks;
    // glibc ends the unwind table of clone3 before its system call, for the child's sake; the parent
    // has none inside.
    let in_clone = |stack: &Stack| {
        stack.truncated().is_some()
            && stack.in_kernel()
            && stack.user().last().is_some_and(|name| name.contains("clone"))
    };
    let cloning = stacks.filter(in_clone);
    assert!(cloning.total() as f64 <= 3.0 + 0.03 * stacks.total() as f64, "{cloning}");
    stacks.filter(|stack| !in_clone(stack)).at_least(60).complete();
    // Each lives for some 20 ms.
    assert!(stacks.share("start") > 0.9, "{stacks}");
}

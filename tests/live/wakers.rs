//! Who ends waits: what `offcpu --wakers` says of programs whose threads and processes wake each
//! other, and of what interrupts wake.

use std::process::{Command, Stdio};

use crate::{
    require,
    support::{Stacks, Stage, root, stacks::Stack, tool},
    waits::program,
};

/// The wait of a stack and who ended it, if that is told.
fn ends(stack: &Stack) -> (Vec<&str>, Option<Vec<&str>>) {
    let names: Vec<_> = stack.frames.iter().map(|frame| &*frame.name).collect();
    match names.iter().position(|name| *name == "[woken by]") {
        Some(at) => (names[..at].to_vec(), Some(names[at + 1..].to_vec())),
        None => (names, None),
    }
}

/// Microseconds that a function slept; and of them those that were ended by a stack of this kind.
fn slept(stacks: &Stacks, function: &str, by: impl Fn(&[&str]) -> bool) -> (u64, u64) {
    let all = stacks.filter(|stack| {
        let (wait, _) = ends(stack);
        wait.contains(&function) && wait.last() == Some(&"[sleeping]")
    });
    let woken = all.filter(|stack| ends(stack).1.is_some_and(|waker| by(&waker)));
    (all.total(), woken.total())
}

/// The kernel of a virtual machine may hide what happens while its agent has a CPU, from perf, too: a
/// wait that ends then has no waker.
#[track_caller]
fn nearly_all((all, woken): (u64, u64), stacks: &Stacks) {
    assert!(all > 100_000 && woken >= all - all / 8, "{woken} of {all} us:\n{stacks}");
}

#[test]
fn threads_and_interrupts() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let program = program();
    for view in [&[][..], &["--user-only"], &["--threads"]] {
        let command = ["--", program.to_str().unwrap(), "condition"];
        let found = stage.collect("offcpu", &[&["--wakers"], view, &command].concat());
        let stacks = &found.stacks;
        let produces = |waker: &[&str]| {
            // The other way round: what called comes behind.
            let at = |name| waker.iter().position(|frame| *frame == name);
            let last = waker.last() == Some(&"waits");
            last && at("produces") < at("main") && at("main") < at("_start")
        };
        nearly_all(slept(stacks, "awaits_change", produces), stacks);
        // A timer, whatever it interrupted.
        let timer = |waker: &[&str]| {
            let kernel = waker.first() == Some(&"try_to_wake_up");
            waker.last() == Some(&"[interrupt]") && kernel != view.contains(&"--user-only")
        };
        nearly_all(slept(stacks, "rests", timer), stacks);
    }
}

/// The waker is no target: its stack is whole nevertheless.
#[test]
fn another_process() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let mut shell = Command::new("bash");
    shell.args([
        "-c",
        // Without its writer the reader ends, too.
        "exec 3> >(exec cat >/dev/null); echo ready $!; while :; do echo tick >&3; sleep 0.01; done",
    ]);
    let target = stage.start(shell.stderr(Stdio::null()));
    let cat = target.greeting().split_whitespace().nth(1).unwrap().to_owned();
    let found = stage.collect("offcpu", &["--wakers", "--pid", &cat, "-d", "2"]);
    let stacks = &found.stacks;
    stacks.complete();
    let writes = |waker: &[&str]| {
        let wrote = waker.iter().any(|frame| frame.ends_with("write"));
        wrote && waker.contains(&"_start") && waker.last() == Some(&"bash")
    };
    nearly_all(slept(stacks, "read", writes), stacks);
}

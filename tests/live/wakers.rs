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

/// Of how many recordings one must tell who ended nearly all waits: the kernel of a virtual machine may
/// hide what happens while its agent has a CPU, from perf, too, and what it wakes then has no waker.
const TRIES: usize = 3;

/// Records until nearly all waits of each kind were ended as they should.
#[track_caller]
fn nearly_all<const N: usize>(
    record: impl Fn() -> Stacks,
    kinds: impl Fn(&Stacks) -> [(u64, u64); N],
) -> Stacks {
    let is_right = |(all, woken): (u64, u64)| all > 100_000 && woken >= all - all / 50;
    let mut stacks = record();
    for _ in 1..TRIES {
        if !kinds(&stacks).into_iter().all(is_right) {
            stacks = record();
        }
    }
    for (all, woken) in kinds(&stacks) {
        assert!(is_right((all, woken)), "{woken} of {all} us:\n{stacks}");
    }
    stacks
}

#[test]
fn threads_and_interrupts() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let program = program();
    for view in [&[][..], &["--user-only"], &["--threads"]] {
        let command = ["--", program.to_str().unwrap(), "condition"];
        let args = [&["--wakers"], view, &command].concat();
        let produces = |waker: &[&str]| {
            // The other way round: what called comes behind.
            let at = |name| waker.iter().position(|frame| *frame == name);
            let last = waker.last() == Some(&"waits");
            last && at("produces") < at("main") && at("main") < at("_start")
        };
        // A timer, whatever it interrupted.
        let timer = |waker: &[&str]| {
            let kernel = waker.first() == Some(&"try_to_wake_up");
            waker.last() == Some(&"[interrupt]") && kernel != view.contains(&"--user-only")
        };
        nearly_all(
            || stage.collect("offcpu", &args).stacks,
            |found| [slept(found, "awaits_change", produces), slept(found, "rests", timer)],
        );
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
    let args = ["--wakers", "--pid", &cat, "-d", "2"];
    let writes = |waker: &[&str]| {
        let wrote = waker.iter().any(|frame| frame.ends_with("write"));
        wrote && waker.contains(&"_start") && waker.last() == Some(&"bash")
    };
    let stacks = nearly_all(
        || stage.collect("offcpu", &args).stacks,
        |found| [slept(found, "read", writes)],
    );
    stacks.complete();
}

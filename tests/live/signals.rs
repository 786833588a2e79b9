//! Signal handlers: what they interrupted is below them, whole.

use std::process::Command;

use crate::{
    require,
    support::{Build, Path, Stacks, Stage, root, tool},
};

/// Where a process starts, as far as it can be unwound; the last is musl's.
const ROOTS: &[&str] = &["_start", "_start_c", "__libc_start_main", "libc_start_main_stage2"];

/// Runs `signals WHAT` as gcc (dynamic and static), clang and musl-gcc built it.
fn check(what: &str, compare: impl Fn(&Stacks)) {
    require!(root(), tool("gcc"), tool("clang"), tool("musl-gcc"));
    let ways = [
        ("gcc", "s-glibc", "-O2 -fomit-frame-pointer"),
        ("gcc", "s-static", "-O2 -static"),
        ("clang", "s-clang", "-O1"),
        ("musl-gcc", "s-musl", "-O2 -static"),
    ];
    // musl is built without tables and without frame pointers: in its own functions (`read`,
    // `raise`) there is nothing to unwind by.
    let ways = if matches!(what, "user" | "alternate") { &ways[..] } else { &ways[..3] };
    let build = |(compiler, name, flags): &(&'static str, &str, &str)| {
        Build::new(compiler, name, "signals.c").flags(flags).build()
    };
    let programs: Vec<_> = ways.iter().map(build).collect();
    let stage = Stage::take();
    let start = |program| stage.start(Command::new(program).arg(what));
    let targets: Vec<_> = programs.iter().map(start).collect();
    let recorded = stage.record(&targets.iter().collect::<Vec<_>>(), 2.0);
    for (_, name, _) in ways {
        eprintln!("{name}:");
        let stacks = recorded.stacks.of(name);
        stacks.at_least(20).complete().rooted(ROOTS);
        compare(&stacks);
    }
}

/// At least this share of the samples has a function on the stack.
#[track_caller]
fn often(stacks: &Stacks, name: &str, share: f64) {
    assert!(stacks.share(name) >= share, "{name} {}:\n{stacks}", stacks.share(name));
}

#[test]
fn on_top_of_user_code() {
    check("user", |stacks| {
        stacks.paths(
            "main",
            &[
                Path::new("main interrupted burn … handler handled burn"),
                Path::new("main interrupted … handler handled burn"),
                Path::new("main … handler handled burn"),
                Path::new("main interrupted burn"),
            ],
        );
        often(stacks, "handler", 0.05);
        // Below nearly every handler is what it interrupted.
        let handled = stacks.filter(|stack| stack.has("handler"));
        often(&handled, "interrupted", 0.97);
        // The C library's trampoline between them has its name, with symbols and without.
        for stack in &handled.0 {
            let user = stack.user();
            let at = user.iter().position(|name| *name == "handler").unwrap();
            assert_eq!(user[at - 1], "__restore_rt", "{user:?}");
        }
    });
}

#[test]
fn on_an_alternate_stack() {
    check("alternate", |stacks| {
        often(stacks, "handler", 0.05);
        often(&stacks.filter(|stack| stack.has("handler")), "interrupted", 0.97);
    });
}

#[test]
fn on_top_of_a_system_call() {
    check("syscall", |stacks| {
        let handled = stacks.filter(|stack| stack.has("handler"));
        often(stacks, "handler", 0.8);
        handled.paths("main", &[Path::new("main waits … handler handled burn")]);
        // The call that was interrupted has its own frame in libc.
        for stack in &handled.0 {
            let user = stack.user();
            let at = user.iter().position(|name| *name == "handler").unwrap();
            let waits = user.iter().position(|name| *name == "waits").unwrap();
            assert!(at - waits >= 2, "{user:?}");
        }
    });
}

#[test]
fn one_on_top_of_another() {
    check("nested", |stacks| {
        let inner = stacks.filter(|stack| stack.has("inner_handler"));
        often(stacks, "inner_handler", 0.05);
        inner.paths("main", &[Path::new("main … outer_handler … inner_handler handled burn")]);
        often(&inner, "interrupted", 0.97);
        often(&inner, "raise", 0.9);
    });
}

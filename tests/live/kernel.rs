//! Time in the kernel: the user stack stays whole below the kernel's frames.

use std::process::Command;

use crate::{
    require,
    support::{Build, Path, Stacks, Stage, root, tool},
};

fn check(what: &str, flags: &str, args: &[&str], compare: impl Fn(&Stacks)) {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "kernel", "kernel.c").flags(flags).build();
    let stage = Stage::take();
    let target = stage.start(Command::new(program).arg(what));
    let pid = target.pid().to_string();
    let all = [&["--pid", &pid, "-F", "999", "-d", "1"], args].concat();
    compare(&stage.cpu(&all).stacks);
}

const FLAGS: &str = "-O2 -fomit-frame-pointer";

/// The kernel's frames follow the user's, never the other way round.
#[track_caller]
fn in_order(stacks: &Stacks) {
    for stack in &stacks.0 {
        let first = stack.frames.iter().position(|frame| frame.kind == 'k');
        let first = first.unwrap_or(stack.frames.len());
        assert!(stack.frames[first..].iter().all(|frame| frame.kind == 'k'), "{stack:?}");
    }
}

#[test]
fn system_calls() {
    for flags in [FLAGS, "-O2 -static"] {
        check("read", flags, &[], |stacks| {
            stacks.at_least(200).complete().rooted(&["_start"]);
            stacks.paths("main", &[Path::new("main loops reads …")]);
            in_order(stacks);
            let kernel = stacks.filter(|stack| stack.in_kernel());
            assert!(kernel.total() as f64 > 0.9 * stacks.total() as f64, "{stacks}");
            assert!(stacks.share("ksys_read") + stacks.share("vfs_read") > 0.9, "{stacks}");
        });
    }
}

#[test]
fn page_faults() {
    check("fault", FLAGS, &[], |stacks| {
        stacks.at_least(200).complete().rooted(&["_start"]);
        stacks.paths("main", &[Path::new("main loops touches …"), Path::new("main loops …")]);
        in_order(stacks);
        let faults = stacks.filter(|stack| stack.has("asm_exc_page_fault"));
        assert!(faults.total() as f64 > 0.3 * stacks.total() as f64, "{stacks}");
        // A fault is not a call: the function that faulted is the last user frame.
        for stack in &faults.0 {
            assert_eq!(stack.user().last(), Some(&"touches"), "{stack:?}");
        }
    });
}

#[test]
fn calls_that_fail() {
    check("open", FLAGS, &[], |stacks| {
        stacks.at_least(200).complete().rooted(&["_start"]);
        stacks.paths("main", &[Path::new("main loops opens …")]);
        assert!(stacks.filter(|stack| stack.in_kernel()).total() * 2 > stacks.total(), "{stacks}");
    });
}

#[test]
fn one_side_only() {
    check("read", FLAGS, &["--user-only"], |stacks| {
        stacks.at_least(200).complete();
        assert!(stacks.0.iter().all(|stack| !stack.in_kernel()), "{stacks}");
        assert!(stacks.share("reads") > 0.95, "{stacks}");
    });
    check("read", FLAGS, &["--kernel-only"], |stacks| {
        stacks.at_least(200);
        let user = |stack: &crate::support::stacks::Stack| !stack.user().is_empty();
        assert!(stacks.filter(user).0.is_empty(), "{stacks}");
        assert!(stacks.share("do_syscall_64") > 0.9, "{stacks}");
    });
}

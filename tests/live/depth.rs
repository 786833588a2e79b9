//! Deep stacks: whole as far as the walk goes, and honest beyond.

use std::process::Command;

use crate::{
    require,
    support::{Build, Path, Recorded, Stage, root, tool},
};

fn deep(frames: u32, flags: &str) -> Recorded {
    let program = Build::new("gcc", "deep", "calls.c").flags(flags).build();
    let stage = Stage::take();
    let target = stage.start(Command::new(program).args(["deep", &frames.to_string()]));
    stage.record(&[&target], 1.0)
}

#[test]
fn a_thousand_frames_are_whole() {
    require!(root(), tool("gcc"));
    for (frames, flags) in
        [(600, "-O2 -fomit-frame-pointer"), (1000, "-O2 -fomit-frame-pointer"), (1000, "-O1")]
    {
        let recorded = deep(frames, flags);
        let stacks = &recorded.stacks;
        stacks.at_least(100).complete().rooted(&["_start"]);
        let path = Path::new(&format!("main deeper*{frames} burn")).share(1.0);
        stacks.paths("main", &[path]);
    }
}

#[test]
fn deeper_stacks_keep_the_leaf_side_and_say_so() {
    require!(root(), tool("gcc"));
    let recorded = deep(5000, "-O2 -fomit-frame-pointer");
    let stacks = &recorded.stacks;
    stacks.at_least(100);
    // The first samples may come before the tables, with a bounded copy of the stack.
    let deep = stacks.filter(|stack| stack.truncated() == Some("[truncated: too deep]"));
    assert!(deep.total() as f64 > 0.9 * stacks.total() as f64, "{}", recorded.said);
    // On its way down or up the recursion is less deep.
    let whole = stacks.filter(|stack| stack.truncated().is_none());
    assert!(whole.0.iter().all(|stack| stack.user().last() == Some(&"deeper")), "{whole}");
    assert!(whole.total() * 100 <= stacks.total(), "{}", recorded.said);
    for stack in &deep.0 {
        let user = stack.user();
        assert!(user.len() > 1024, "{} frames", user.len());
        assert!(user[0].starts_with("[truncated"), "the mark stands for the root");
        let (leaf, rest) = user[1..].split_last().unwrap();
        assert!(["burn", "deeper"].contains(leaf), "{leaf}");
        assert!(rest.iter().all(|name| *name == "deeper"));
    }
    assert_eq!(recorded.stats["complete"], whole.total());
    assert_eq!(recorded.stats["truncated"]["too deep"], deep.total());
    assert!(recorded.said.contains("too deep"), "{}", recorded.said);
}

//! Services that are asked for their profiles: real ones, under loads with known shares.

use std::{fs, process::Command};

use crate::{
    require,
    support::{Build, Stacks, Stage, Target, scratch, tool},
};

/// What a service says after `ready`: the port that it listens on.
fn port(target: &Target) -> &str {
    target.greeting().rsplit(' ').next().unwrap()
}

/// Value of the stacks whose leaf side has these functions in this order, root first.
fn through(stacks: &Stacks, names: &[&str]) -> u64 {
    let has = stacks.filter(|stack| {
        let mut frames = stack.frames.iter();
        names.iter().all(|name| frames.any(|frame| frame.name == *name))
    });
    has.total()
}

/// The Go server of `tests/programs`.
fn go_server(stage: &Stage) -> Target {
    let cache = scratch().join("go-cache");
    fs::create_dir_all(&cache).unwrap();
    let build = Build::go("serve", "serve.go", &["-trimpath"]);
    stage.run(build.env("GOCACHE", cache.to_str().unwrap()).env("CGO_ENABLED", "0").build())
}

/// The value of a function's own column in `go tool pprof -top`, in bytes or plain numbers.
fn go_top(url: &str, kind: &str, function: &str) -> u64 {
    let mut go = Command::new("go");
    go.args(["tool", "pprof", "-top", "-unit=B", "-nodecount=1000", "-nodefraction=0"]);
    let folder = scratch().join("go-pprof");
    go.arg(format!("-sample_index={kind}")).arg(url).env("PPROF_TMPDIR", folder);
    let path = std::env::var("PATH").unwrap_or_default();
    let output = go.env("PATH", format!("{path}:/usr/local/go/bin")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find(|line| line.ends_with(&format!("  {function}")));
    let own = line.unwrap_or_else(|| panic!("no {function} in:\n{text}"));
    own.split_whitespace().next().unwrap().trim_end_matches('B').parse().unwrap()
}

#[test]
fn go_cpu_profile() {
    require!(tool("go"));
    let stage = Stage::take();
    let server = go_server(&stage);
    let url = format!("http://localhost:{}/debug/pprof/profile", port(&server));
    let found = stage.collect("pprof", &["--url", &url, "--duration", "2"]);
    let stacks = &found.stacks;
    let whole = through(stacks, &["main.work"]);
    let alpha = through(stacks, &["main.work", "main.alpha", "main.burn"]) as f64 / whole as f64;
    let samples = found.stats["samples"].as_u64().unwrap();
    assert!(whole as f64 > 0.9 * stacks.total() as f64, "{stacks}");
    let tolerance = 4.0 * (0.75 * 0.25 / samples as f64).sqrt() + 0.02;
    assert!((alpha - 0.75).abs() <= tolerance, "{alpha} of {samples}:\n{stacks}");
    assert!(stacks.0.iter().all(|stack| stack.process == "serve"), "{stacks}");
    assert_eq!(found.stats["frequency"], 100);
    // 10 ms a sample.
    assert_eq!(stacks.total(), samples * 10_000_000);
}

#[test]
fn go_heap_is_what_go_itself_says() {
    require!(tool("go"));
    let stage = Stage::take();
    let server = go_server(&stage);
    let url = format!("http://127.0.0.1:{}/debug/pprof/heap", port(&server));
    for (kind, least) in [("inuse_space", 64 << 20), ("inuse_objects", 64)] {
        let found = stage.collect("pprof", &["--url", &url, "--sample-type", kind]);
        let kept = through(&found.stacks, &["main.main", "main.keep"]);
        assert_eq!(kept, go_top(&url, kind, "main.keep"), "{}", found.stacks);
        assert!(kept >= least, "{kept}");
    }
    let allocs = format!("http://127.0.0.1:{}/debug/pprof/allocs", port(&server));
    // Its own default type is the space ever allocated.
    let found = stage.collect("pprof", &["--url", &allocs]);
    assert!(through(&found.stacks, &["main.keep"]) >= 64 << 20, "{}", found.stacks);
}

#[test]
fn go_locks_and_goroutines() {
    require!(tool("go"));
    let stage = Stage::take();
    let server = go_server(&stage);
    let base = format!("http://localhost:{}/debug/pprof", port(&server));
    let found = stage.collect("pprof", &["--url", &format!("{base}/goroutine")]);
    assert_eq!(through(&found.stacks, &["main.park"]), 20, "{}", found.stacks);
    assert_eq!(found.stats["samples"], found.stacks.total());
    for kind in ["mutex", "block"] {
        let found = stage.collect("pprof", &["--url", &format!("{base}/{kind}")]);
        assert!(through(&found.stacks, &["main.fight"]) > 0, "{kind}: {}", found.stacks);
    }
}

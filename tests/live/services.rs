//! Services that are asked for their profiles: real ones, under loads with known shares.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    process::Command,
};

use crate::{
    require,
    support::{Build, Stacks, Stage, Target, compile, programs, scratch, tool},
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

/// The Node server of `tests/programs`, and its URL, which has a path.
fn node_server(stage: &Stage) -> (Target, String) {
    let server = stage.start(Command::new("node").arg(programs().join("hce.js")));
    let url = format!("http://localhost:{}/base/", port(&server));
    (server, url)
}

#[test]
fn node_profiles_itself() {
    require!(tool("node"));
    let stage = Stage::take();
    let (_server, url) = node_server(&stage);
    let mut command = Command::new(tests::binary());
    command.arg("hce").env("RESQ_TOKEN", "sesame").env("RESQ_API_KEY", "not this");
    let ended = stage.command(&mut command, &["--url", &url, "--duration", "2"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(!ended.said.contains("sesame"), "{}", ended.said);
    let stacks = Stacks::parse(&ended.folded.unwrap());
    let work = stacks.filter(|stack| stack.has("work"));
    let burning = |name: &str| {
        let with = work.filter(|stack| {
            let at = stack.frames.iter().position(|frame| frame.name == "work").unwrap();
            stack.frames.get(at + 1).is_some_and(|frame| frame.name.contains(name))
        });
        with.total() as f64
    };
    let source = programs().join("hce.js");
    let text = fs::read_to_string(&source).unwrap();
    let line = 1 + text.lines().position(|line| line.contains("return () =>")).unwrap();
    let nameless = format!("(anonymous) {}:{line}", source.display());
    let all = burning("alpha") + burning("beta") + burning(&nameless);
    for (name, share) in [("alpha", 0.5), ("beta", 0.25), (nameless.as_str(), 0.25)] {
        let found = burning(name) / all;
        assert!((found - share).abs() < 0.1, "{name}: {found}\n{stacks}");
    }
    assert!(!stacks.to_string().contains("(idle)"), "{stacks}");
    // Microseconds of one busy thread, for two seconds. What V8 had inlined before counts for the
    // caller until it compiles that again.
    assert!(work.total() > 1_000_000 && stacks.total() < 4_000_000, "{stacks}");
    assert!(all > 0.2 * work.total() as f64, "{stacks}");
    let mut command = Command::new(tests::binary());
    let wrong = stage.command(command.args(["hce", "--api-key", "x"]), &["--url", &url]);
    assert_eq!(wrong.code, Some(1), "{}", wrong.said);
    assert!(wrong.said.contains("answered 401 Unauthorized: Unauthorized"), "{}", wrong.said);
}

#[test]
fn https_is_verified() {
    require!(tool("node"), tool("openssl"));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).into_os_string();
    let (key, cert) = (path("key.pem"), path("cert.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=flame-graph test"]);
    openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    openssl.args(["-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    assert!(
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert).output().unwrap().status.success()
    );
    let stage = Stage::take();
    let server =
        stage.start(Command::new("node").arg(programs().join("hce.js")).args([&key, &cert]));
    let ask = |host: &str, more: &[&str]| {
        let url = format!("https://{host}:{}/base", port(&server));
        let mut command = Command::new(tests::binary());
        command.arg("hce").env("RESQ_TOKEN", "sesame");
        stage.command(&mut command, &[&["--url", &url, "--duration", "0.5"], more].concat())
    };
    let trusted = ["--ca-cert", cert.to_str().unwrap()];
    let ended = ask("localhost", &trusted);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    for refused in [ask("localhost", &[]), ask("127.0.0.1", &trusted)] {
        assert_eq!(refused.code, Some(1), "{}", refused.said);
        assert!(refused.said.contains("certificate"), "{}", refused.said);
        assert!(refused.folded.is_none());
    }
}

#[test]
fn ctrl_c_ends_the_wait_for_a_service() {
    require!(tool("node"));
    let stage = Stage::take();
    let (_server, url) = node_server(&stage);
    let mut command = Command::new("timeout");
    command
        .args(["--preserve-status", "-s", "INT", "1"])
        .arg(tests::binary())
        .arg("hce")
        .env("RESQ_API_KEY", "open");
    let ended = stage.command(&mut command, &["--url", &url]);
    assert_eq!(ended.code, Some(3), "{}", ended.said);
    assert!(ended.said.contains("ended before"), "{}", ended.said);
    assert!(ended.folded.is_none());
}

/// Value by leaf of what `go tool pprof -traces` prints.
fn go_leaves(file: &std::path::Path) -> BTreeMap<String, u64> {
    let mut go = Command::new("go");
    go.args(["tool", "pprof", "-raw"]).arg(file);
    let path = std::env::var("PATH").unwrap_or_default();
    let output = go.env("PATH", format!("{path}:/usr/local/go/bin")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (samples, rest) = text.split_once("Locations\n").unwrap();
    let mut names = HashMap::new();
    for line in rest.split("Mappings\n").next().unwrap().lines() {
        // `   1: 0x4a2b10 M=1 main.burn /path/serve.go:20:0 s=15`
        let Some((id, line)) = line.split_once(": 0x") else { continue };
        names.insert(id.trim().to_owned(), line.split_whitespace().nth(2).unwrap().to_owned());
    }
    let mut leaves = BTreeMap::new();
    for line in samples.lines() {
        // `         12  120000000: 1 2 3 `
        let Some((values, ids)) = line.split_once(": ") else { continue };
        let Some(Ok(value)) = values.split_whitespace().last().map(str::parse::<u64>) else {
            continue;
        };
        let Some(name) = ids.split_whitespace().next().and_then(|id| names.get(id)) else {
            continue;
        };
        *leaves.entry(name.clone()).or_default() += value;
    }
    leaves
}

#[test]
fn a_pprof_file_reads_as_go_reads_it() {
    require!(tool("go"));
    let stage = Stage::take();
    let server = go_server(&stage);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("profile.pb.gz");
    let url = format!("http://localhost:{}/debug/pprof/profile?seconds=2", port(&server));
    let mut go = Command::new("go");
    go.args(["tool", "pprof", "-proto", "-output"]).arg(&file).arg(&url);
    let path = std::env::var("PATH").unwrap_or_default();
    go.env("PATH", format!("{path}:/usr/local/go/bin")).env("PPROF_TMPDIR", folder.path());
    assert!(go.output().unwrap().status.success());
    let mut command = Command::new(tests::binary());
    command.args(["file", "--output", "-", "--input"]).arg(&file);
    let output = command.output().unwrap();
    let stacks = Stacks::parse(&String::from_utf8(output.stdout).unwrap());
    let mut ours = BTreeMap::new();
    for stack in &stacks.0 {
        *ours.entry(stack.frames.last().unwrap().name.clone()).or_default() += stack.count;
    }
    assert_eq!(ours, go_leaves(&file), "{stacks}");
    assert!(ours["main.burn"] > 0);
}

/// The Rust service of `tests/programs`, which answers in this form.
fn rust_server(stage: &Stage, form: &str) -> Target {
    stage.start(Command::new(compile::package("api")).arg(form))
}

#[test]
fn a_rust_service_profiles_itself() {
    require!(tool("cargo"));
    let stage = Stage::take();
    for form in ["pprof", "folded"] {
        let server = rust_server(&stage, form);
        let url = format!("http://localhost:{}", port(&server));
        let mut command = Command::new(tests::binary());
        command.arg("api").env("RESQ_API_KEY", "open").env("RESQ_TOKEN", "not this");
        let ended = stage.command(&mut command, &["--url", &url, "--duration", "2", "--threads"]);
        assert_eq!(ended.code, Some(0), "{form}: {}", ended.said);
        let stacks = Stacks::parse(&ended.folded.unwrap());
        let whole = through(&stacks, &["work"]) as f64;
        let alpha = through(&stacks, &["work", "alpha", "burn"]) as f64 / whole;
        let samples = ended.stats.unwrap()["samples"].as_u64().unwrap() as f64;
        let tolerance = 4.0 * (0.75 * 0.25 / samples).sqrt() + 0.03;
        assert!((alpha - 0.75).abs() <= tolerance, "{form}: {alpha} of {samples}\n{stacks}");
        let worker = stacks.filter(|stack| {
            stack.process == "worker" || stack.frames.iter().any(|frame| frame.name == "worker")
        });
        assert!(worker.total() as f64 >= 0.9 * whole, "{form}: {stacks}");
    }
}

#[test]
fn a_rust_service_without_the_endpoint() {
    require!(tool("cargo"));
    let stage = Stage::take();
    let server = rust_server(&stage, "pprof");
    let url = format!("http://localhost:{}/elsewhere", port(&server));
    let mut command = Command::new(tests::binary());
    let ended = stage.command(command.arg("api").env("RESQ_API_KEY", "open"), &["--url", &url]);
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("404"), "{}", ended.said);
    let instead = format!("`flame-graph cpu --pid {}` records its process", server.pid());
    assert!(ended.said.contains(&instead), "{}", ended.said);
}

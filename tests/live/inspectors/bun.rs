//! Bun, profiled through its inspector, or from outside where that is not open.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::{self, sleep},
    time::Duration,
};

use super::{get, has_known_shares, port, runtime};
use crate::{
    require,
    support::{Stacks, Stage, Target, programs, root, scratch, tool},
};

/// Where Bun is.
fn bun() -> Result<PathBuf, String> {
    runtime("@oven/bun-linux-x64/bin/bun")
}

/// Bun with these options and this environment, to run a program of `tests/programs`. Its optimizing
/// compiler, which inlines what is to be seen, is off.
fn command(options: &[&str], environment: &[(&str, &str)], program: &str) -> Command {
    let mut command = Command::new(bun().unwrap());
    command.args(options).arg(programs().join(program)).stderr(Stdio::null());
    command.envs(environment.iter().copied()).env("BUN_JSC_useDFGJIT", "0");
    command
}

const OPEN: (&str, &str) = ("BUN_INSPECT", "ws://127.0.0.1:0/not-to-be-shown");

fn server(stage: &Stage, environment: &[(&str, &str)]) -> Target {
    stage.start(&mut command(&[], environment, "hce.js"))
}

#[test]
fn bun_with_an_open_inspector() {
    require!(bun());
    let stage = Stage::take();
    let by_option = command(&["--inspect=127.0.0.1:0/not-to-be-shown"], &[], "hce.js");
    for mut command in [command(&[], &[OPEN], "hce.js"), by_option] {
        let server = stage.start(&mut command);
        let pid = server.pid().to_string();
        for threads in [true, false] {
            let more = if threads { &["--threads"][..] } else { &[] };
            let args = [&["--pid", &pid, "--duration", "3"], more].concat();
            let found = stage.collect("bun", &args);
            has_known_shares(&found.stacks);
            assert!(!found.said.contains("not-to-be-shown"), "{}", found.said);
            let first = found.stacks.0.iter().map(|stack| (&stack.process, &stack.frames[0].name));
            let expected = |(process, thread): (&String, &String)| {
                process == "bun" && (thread == "main") == threads
            };
            assert!(first.into_iter().all(expected), "{}", found.stacks);
            // Every millisecond or so, of one busy thread; not those of the recording before.
            let samples = found.stacks.total();
            assert!((300..3_600).contains(&samples), "{samples}");
            assert_eq!(found.stats["samples"], samples);
        }
        let before: u64 = get(&server, "/base/work").parse().unwrap();
        sleep(Duration::from_millis(200));
        assert!(get(&server, "/base/work").parse::<u64>().unwrap() > before, "it works on");
    }
}

/// A Bun that prints the address of its inspector.
struct Printing {
    child: Child,
    url: String,
}

impl Printing {
    fn start() -> Self {
        let mut command = command(&["--inspect=127.0.0.1:0"], &[], "hce.js");
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut urls = lines.map_while(Result::ok).filter_map(|line| {
            let at = line.find("ws://")?;
            Some(line[at..].trim().to_owned())
        });
        let url = urls.next().unwrap();
        // Somebody must read the rest.
        thread::spawn(move || urls.for_each(drop));
        Self { child, url }
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn bun_by_the_address_that_it_prints() {
    require!(bun());
    let stage = Stage::take();
    let bun = Printing::start();
    let found = stage.collect("bun", &["--url", &bun.url, "--duration", "3"]);
    has_known_shares(&found.stacks);
    // A wrong path is as a wrong password.
    let (start, _) = bun.url.rsplit_once('/').unwrap();
    let mut command = Command::new(tests::binary());
    let url = format!("{start}/wrong");
    let ended = stage.command(command.arg("bun"), &["--url", &url, "--duration", "1"]);
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("does not speak the websocket protocol"), "{}", ended.said);
    assert!(ended.folded.is_none() && !ended.said.contains("wrong"), "{}", ended.said);
}

#[test]
fn bun_without_an_inspector_is_sampled_from_outside() {
    require!(root(), bun());
    let stage = Stage::take();
    let plain = server(&stage, &[]);
    let pid = plain.pid().to_string();
    let found = stage.collect("bun", &["--pid", &pid, "--duration", "1"]);
    assert!(found.said.contains("BUN_INSPECT=ws://"), "{}", found.said);
    assert!(found.said.contains("BUN_JSC_useJITDump=1"), "{}", found.said);
    found.stacks.at_least(50).complete();
    assert!(get(&plain, "/base/work").parse::<u64>().is_ok(), "it works on");
    drop(plain);

    let dumps = scratch().join("bun");
    std::fs::create_dir_all(&dumps).unwrap();
    let folder = dumps.to_str().unwrap();
    let dump = [("BUN_JSC_useJITDump", "1"), ("BUN_JSC_jitDumpDirectory", folder)];
    // The optimizing compiler inlines all into one function, which then has a name.
    let server = stage.start(command(&[], &dump, "hce.js").env_remove("BUN_JSC_useDFGJIT"));
    let pid = server.pid().to_string();
    let found = stage.collect("bun", &["--pid", &pid, "--duration", "2"]);
    assert!(found.said.contains("the jitdump that it writes names"), "{}", found.said);
    let named = found.stacks.filter(|stack| {
        stack.frames.iter().any(|frame| frame.kind == 'j' && frame.name.contains(" work#"))
    });
    let share = named.total() as f64 / found.stacks.total() as f64;
    assert!(share > 0.8, "{share}\n{}", found.stacks);
    drop(server);
    std::fs::remove_dir_all(dumps).unwrap();
}

#[test]
fn a_bun_that_never_returns_to_its_loop() {
    require!(root(), bun());
    let stage = Stage::take();
    let target = stage.start(&mut command(&[], &[OPEN], "work.js"));
    let pid = target.pid().to_string();
    let found = stage.collect("bun", &["--pid", &pid, "--duration", "1"]);
    assert!(found.said.contains("does not come back to its event loop"), "{}", found.said);
    found.stacks.at_least(50).complete();
}

#[test]
fn a_bun_that_ends_in_mid_recording() {
    require!(bun());
    let stage = Stage::take();
    for how in ["exit", "kill"] {
        let server = server(&stage, &[OPEN]);
        let pid = server.pid().to_string();
        let mut command = Command::new(tests::binary());
        let ended = thread::scope(|scope| {
            scope.spawn(|| {
                sleep(Duration::from_millis(4500));
                match how {
                    "exit" => drop(get(&server, "/base/exit")),
                    _ => drop(Command::new("kill").args(["-9", &pid]).status().unwrap()),
                }
            });
            stage.command(command.arg("bun"), &["--pid", &pid, "-d", "60"])
        });
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        assert!(ended.said.contains("has ended: what was fetched until then"), "{}", ended.said);
        has_known_shares(&Stacks::parse(&ended.folded.unwrap()));
    }
}

#[test]
fn ctrl_c_draws_and_stops_the_profiler_of_bun() {
    require!(bun());
    let stage = Stage::take();
    let server = server(&stage, &[OPEN]);
    let pid = server.pid().to_string();
    let mut command = Command::new("timeout");
    command.args(["--preserve-status", "-s", "INT", "4"]).arg(tests::binary()).arg("bun");
    let ended = stage.command(&mut command, &["--pid", &pid, "-d", "60"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    has_known_shares(&Stacks::parse(&ended.folded.unwrap()));
    // Killed, it leaves nothing that a later recording would find.
    let mut ours = Command::new(tests::binary())
        .args(["bun", "--pid", &pid, "-d", "60", "-o", "-"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(1500));
    ours.kill().unwrap();
    ours.wait().unwrap();
    sleep(Duration::from_millis(1500));
    let found = stage.collect("bun", &["--pid", &pid, "-d", "1"]);
    assert!(found.stacks.total() < 1_300, "{}", found.stacks);
}

#[test]
fn hce_on_bun_by_its_endpoint_and_without() {
    require!(bun());
    let stage = Stage::take();
    let server = server(&stage, &[OPEN]);
    let ask = |path: &str| {
        let url = format!("http://localhost:{}{path}", port(&server));
        let mut command = Command::new(tests::binary());
        command.arg("hce").env("RESQ_TOKEN", "sesame");
        let ended = stage.command(&mut command, &["--url", &url, "--duration", "3"]);
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        (Stacks::parse(&ended.folded.unwrap()), ended.said)
    };
    let (stacks, said) = ask("/base");
    assert!(!said.contains("attaching"), "{said}");
    has_known_shares(&stacks);
    let (stacks, said) = ask("");
    assert!(said.contains("answered 404") && said.contains("attaching"), "{said}");
    has_known_shares(&stacks);
}

#[test]
fn the_only_bun_is_found() {
    require!(bun(), tool("node"));
    let stage = Stage::take();
    let server = server(&stage, &[OPEN]);
    let found = stage.collect("bun", &["--duration", "3"]);
    assert!(found.said.contains("the only Bun process is recorded"), "{}", found.said);
    has_known_shares(&found.stacks);
    let pid = server.pid().to_string();
    let mut command = Command::new(tests::binary());
    let ended = stage.command(command.arg("node"), &["--pid", &pid, "-d", "1"]);
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("cannot be recorded by `node`: it runs Bun"), "{}", ended.said);
}

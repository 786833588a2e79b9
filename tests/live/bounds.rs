//! Each bound made tiny: what does not fit is counted under its own name, and every sample that was
//! taken is drawn, as a stack or as the frame of its loss.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    require,
    support::{Build, Recorded, Stacks, Stage, Target, record::Ended, root, target::Killed, tool},
};

/// A loss as the figures have it.
fn lost(recorded: &Recorded, name: &str) -> u64 {
    recorded.stats["lost"][name].as_u64().unwrap_or_default()
}

/// The weight of a loss in the picture.
fn drawn(recorded: &Recorded, name: &str) -> u64 {
    let frame = format!("[lost: {name}]");
    recorded.stacks.0.iter().filter(|stack| stack.process == frame).map(|stack| stack.count).sum()
}

/// Records with a bound lowered, and checks that samples taken are samples drawn.
fn bounded(stage: &Stage, bound: &str, args: &[&str]) -> Recorded {
    let Ended { code, said, folded, stats, .. } =
        stage.profiler(&[&["--limit", bound], args].concat());
    assert_eq!(code, Some(0), "{bound}: {said}");
    let stacks = Stacks::parse(&folded.unwrap());
    let recorded = Recorded { stacks, stats: stats.unwrap(), said };
    let Recorded { stacks, stats, said } = &recorded;
    assert_eq!(stats["samples"], stacks.total(), "{bound}: not all is drawn: {said}");
    for (name, count) in stats["lost"].as_object().unwrap() {
        assert!(said.contains(&format!("  lost, {name}: ")), "{bound}: {name}: {said}");
        let drawn = drawn(&recorded, name);
        assert!(drawn == 0 || *count == drawn, "{bound}: {name} {count}, drawn {drawn}");
    }
    recorded
}

fn deep(stage: &Stage, frames: u32) -> Target {
    let program = Build::new("gcc", "b-calls", "calls.c").flags("-O2 -fomit-frame-pointer").build();
    stage.start(Command::new(program).args(["deep", &frames.to_string()]))
}

/// Records a busy process with a bound lowered.
fn of_busy(bound: &str) -> Recorded {
    of_deep(bound, 40)
}

fn of_deep(bound: &str, frames: u32) -> Recorded {
    let stage = Stage::take();
    let target = deep(&stage, frames);
    let pid = target.pid().to_string();
    bounded(&stage, bound, &["--pid", &pid, "-F", "999", "-d", "1"])
}

#[test]
fn samples_that_the_ring_buffer_has_no_room_for() {
    require!(root(), tool("gcc"));
    // A stack of 600 frames takes more than the whole buffer.
    let recorded = of_deep("ring-bytes=4096", 600);
    let count = lost(&recorded, "ring buffer full");
    assert!(count > 100, "{}", recorded.said);
    assert_eq!(drawn(&recorded, "ring buffer full"), count);
}

#[test]
fn samples_that_the_buffers_of_perf_events_have_no_room_for() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let target = deep(&stage, 40);
    let pid = target.pid().to_string();
    let args = ["--engine", "perf-event", "--pid", &pid, "-F", "999", "-d", "1"];
    let recorded = bounded(&stage, "copy-ring-bytes=32768", &args);
    let count = lost(&recorded, "ring buffer full");
    assert!(count > 100, "{}", recorded.said);
    assert_eq!(drawn(&recorded, "ring buffer full"), count);
}

#[test]
fn stacks_beyond_the_limit() {
    require!(root(), tool("gcc"));
    let recorded = of_busy("stacks=20");
    let count = lost(&recorded, "too many distinct stacks");
    assert!(count > 100, "{}", recorded.said);
    assert_eq!(drawn(&recorded, "too many distinct stacks"), count);
}

#[test]
fn rows_rules_and_pages_without_room() {
    require!(root(), tool("gcc"));
    for (bound, name) in [
        ("rows=10", "unwind row table full"),
        ("rules=3", "unwind rule table full"),
        ("text-pages=1", "page index full"),
    ] {
        let recorded = of_busy(bound);
        assert!(lost(&recorded, name) >= 1, "{bound}: {}", recorded.said);
        let cause = "no room for unwind tables";
        let cut = recorded
            .stacks
            .filter(|stack| stack.truncated() == Some(&format!("[truncated: {cause}]")));
        assert!(cut.total() > 100, "{bound}: {}", recorded.said);
        assert_eq!(recorded.stats["truncated"][cause], cut.total());
    }
}

#[test]
fn processes_and_mappings_that_the_kernel_side_has_no_room_for() {
    require!(root(), tool("gcc"));
    let recorded = of_busy("mappings=2");
    assert_eq!(lost(&recorded, "mapping table full"), 1, "{}", recorded.said);
    // Their walks are finished here.
    recorded.stacks.complete().rooted(&["_start"]);
    let stage = Stage::take();
    let targets = [deep(&stage, 40), deep(&stage, 40)];
    let pids = targets.each_ref().map(|target| target.pid().to_string()).join(",");
    let recorded = bounded(&stage, "processes=1", &["--pid", &pids, "-F", "999", "-d", "1"]);
    assert_eq!(lost(&recorded, "process table full"), 1, "{}", recorded.said);
    recorded.stacks.complete().rooted(&["_start"]);
}

#[test]
fn samples_that_cannot_wait() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "b-short", "changing.c").flags("-O2").build();
    let stage = Stage::take();
    // A command's first samples come before its rows.
    let command = program.to_str().unwrap();
    let args = ["-F", "4999", "--", command, "work", "300"];
    let recorded = bounded(&stage, "waiting-bytes=0", &args);
    let cause = "no room to wait for unwind tables";
    let cut =
        recorded.stacks.filter(|stack| stack.truncated() == Some(&format!("[truncated: {cause}]")));
    assert!(cut.total() > 0, "{}", recorded.said);
    assert_eq!(recorded.stats["truncated"][cause], cut.total());
}

#[test]
fn children_that_the_target_table_has_no_room_for() {
    require!(root(), tool("gcc"));
    let program = Build::new("gcc", "b-short", "changing.c").flags("-O2").build();
    let stage = Stage::take();
    let short = stage.start(Command::new(&program).args(["short".as_ref(), program.as_os_str()]));
    let pid = short.pid().to_string();
    let args = ["--pid", &pid, "--children", "-F", "999", "-d", "1.5"];
    let recorded = bounded(&stage, "targets=1", &args);
    assert!(lost(&recorded, "target table full") > 10, "{}", recorded.said);
    // One child at a time: what has ended makes room for the next.
    let recorded = bounded(&stage, "targets=40", &args);
    let started = recorded.stats["processes"].as_u64().unwrap();
    assert!(started > 80, "{}", recorded.said);
    assert_eq!(lost(&recorded, "target table full"), 0, "{}", recorded.said);
    // Of what was named itself, too.
    let targets = [deep(&stage, 40), deep(&stage, 40)];
    let both = targets.each_ref().map(|target| target.pid().to_string()).join(",");
    let recorded = bounded(&stage, "targets=1", &["--pid", &both, "-F", "999", "-d", "1"]);
    assert_eq!(lost(&recorded, "target table full"), 1, "{}", recorded.said);
}

#[test]
fn files_beyond_the_limits() {
    require!(root(), tool("gcc"));
    let recorded = of_busy("open-files=1");
    assert!(lost(&recorded, "too many open files") >= 1, "{}", recorded.said);
    let recorded = of_busy("files=1");
    assert!(lost(&recorded, "too many mapped files") >= 1, "{}", recorded.said);
}

/// What is lost is said at once, and what runs is looked at again, so that it is known from then on.
#[test]
fn records_about_processes_that_are_lost() {
    require!(root(), tool("gcc"), tool("kill"));
    let stage = Stage::take();
    let program = Build::new("gcc", "b-new", "calls.c").flags("-O2 -fomit-frame-pointer").build();
    let folder = tempfile::tempdir().unwrap();
    let own = std::process::id().to_string();
    for args in [
        &["cpu", "-F", "199"][..],
        &["cpu", "-F", "199", "--children", "--pid", &own],
        &["offcpu", "--wakers"],
    ] {
        let mut command = Command::new(tests::binary());
        command.current_dir(folder.path()).args(args);
        command.args(["--limit", "sideband-bytes=4096", "-d", "5", "-o", "out.folded"]);
        command.args(["--stats", "stats.json"]).stderr(Stdio::null());
        let mut profiler = command.spawn().unwrap();
        let killed = Killed(profiler.id().to_string());
        let signal = |name: &str| {
            let status = Command::new("kill").args([name, &killed.0]).status();
            assert!(status.unwrap().success());
        };
        thread::sleep(Duration::from_millis(1500));
        // Nobody reads the records meanwhile.
        signal("-STOP");
        for _ in 0..50 {
            Command::new("true").status().unwrap();
        }
        let targets: Vec<_> =
            (0..2).map(|_| stage.start(Command::new(&program).args(["deep", "40"]))).collect();
        signal("-CONT");
        assert!(profiler.wait().unwrap().success());
        drop(targets);
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        let stats: serde_json::Value = serde_json::from_str(&read("stats.json")).unwrap();
        assert!(stats["lost"]["process records lost"].as_u64() > Some(100), "{stats}");
        let stacks = Stacks::parse(&read("out.folded"));
        let stacks = stacks.of("b-new");
        let whole = stacks.filter(|stack| stack.has("_start") && stack.has("main"));
        assert!(
            stacks.total() > 0 && whole.total() * 2 > stacks.total(),
            "{args:?}: {stats}:\n{stacks}"
        );
    }
}

/// The kernel's limit of samples a second, put back when this is dropped.
struct MaxRate(String);

impl MaxRate {
    const FILE: &str = "/proc/sys/kernel/perf_event_max_sample_rate";

    fn take() -> Result<Self, String> {
        let rate = fs::read_to_string(Self::FILE).map_err(|error| error.to_string())?;
        // Not every container may set it.
        match fs::write(Self::FILE, &rate) {
            Ok(()) => Ok(Self(rate)),
            Err(error) => Err(format!("the right to set {}: {error}", Self::FILE)),
        }
    }
}

impl Drop for MaxRate {
    fn drop(&mut self) {
        fs::write(Self::FILE, &self.0).unwrap();
    }
}

#[test]
fn samples_that_the_kernel_throttles() {
    require!(root(), tool("gcc"), MaxRate::take());
    let stage = Stage::take();
    let target = deep(&stage, 40);
    let pid = target.pid().to_string();
    for engine in ["ebpf", "perf-event"] {
        let recorded = thread::scope(|scope| {
            scope.spawn(|| {
                let rate = MaxRate::take().unwrap();
                thread::sleep(Duration::from_millis(700));
                fs::write(MaxRate::FILE, "1000").unwrap();
                thread::sleep(Duration::from_millis(400));
                drop(rate);
            });
            let args = ["--engine", engine, "--pid", &pid, "-F", "4999", "-d", "1.5"];
            bounded(&stage, "stacks=100000", &args)
        });
        let count = lost(&recorded, "throttled");
        assert!(count > 100, "{engine}: {}", recorded.said);
        assert_eq!(drawn(&recorded, "throttled"), count);
    }
}

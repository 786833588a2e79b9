//! Waits of known lengths in known functions: what `offcpu` says of them is compared with what the
//! program measured itself, function by function.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    require,
    support::{
        Build, Stacks, Stage,
        record::Ended,
        root, scratch,
        stacks::{Frame, Stack},
        tool,
    },
};

/// Waiting for a CPU: the state of every function, beside its own.
const RUNNABLE: &str = "[waiting for CPU]";
const SLEEPING: &str = "[sleeping]";
const DISK: &str = "[uninterruptible]";
const STOPPED: &str = "[stopped]";

/// How long `naps` sleeps each time.
const NAP_MS: f64 = 20.0;

/// `USER_HZ`, microseconds.
const TICK: u64 = 10_000;

/// The roots of the program's stacks: of its first thread, before and after it is linked, and of the
/// others.
const ROOTS: &[&str] = &["_start", "_dl_start_user", "__clone3", "clone3", "__clone"];

/// The program whose functions wait.
pub fn program() -> PathBuf {
    Build::new("gcc", "waits", "waits.c").flags("-O2 -fomit-frame-pointer -pthread").build()
}

/// Microseconds below a function.
fn below(stacks: &Stacks, function: &str) -> u64 {
    stacks.filter(|stack| stack.has(function)).total()
}

/// Microseconds that a function spent in a state.
fn in_state(stacks: &Stacks, function: &str, state: &str) -> u64 {
    stacks.filter(|stack| stack.has(function) && leaf(stack) == state).total()
}

fn leaf(stack: &Stack) -> &str {
    stack.frames.last().map_or("", |frame| &frame.name)
}

/// What a recording found.
struct Found {
    stacks: Stacks,
    stats: serde_json::Value,
    /// What the recorded command told.
    printed: String,
    /// What the recording told.
    said: String,
}

/// Microseconds that the host of a virtual machine has taken from all CPUs so far, in whole ticks
/// (proc_stat(5)): the kernel does not count them as a thread's CPU time, though it was on a CPU.
fn stolen() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let steal = text.split_whitespace().nth(8).unwrap().parse::<u64>().unwrap();
    steal * TICK
}

/// Records, and tells what the host took meanwhile.
#[track_caller]
fn with_stolen(record: impl FnOnce() -> Found) -> (Found, u64) {
    let before = stolen();
    let found = record();
    (found, stolen() - before)
}

/// Records by `flame-graph NAME`. No time is lost; of a program that has just begun the stacks of a
/// few waits may be, as the copies of its stack that come up while there are no unwind rows yet can
/// fill the ring buffer.
#[track_caller]
fn record(stage: &Stage, name: &str, args: &[&str]) -> Found {
    let Ended { code, said, printed, folded, stats } =
        stage.command(Command::new(tests::binary()).arg(name), args);
    assert_eq!(code, Some(0), "flame-graph {name} {args:?}: {said}");
    let mut stats = stats.unwrap();
    let few = stats["waits"].as_u64().unwrap() / 50 + 1;
    let lost = stats["lost"].as_object_mut().unwrap();
    let stacks = lost.remove("stacks of waits").and_then(|n| n.as_u64()).unwrap_or_default();
    assert!(lost.is_empty() && stacks <= few, "{said}");
    Found { stacks: Stacks::parse(&folded.unwrap()), stats, printed, said }
}

/// What the program measured of one function, microseconds.
#[derive(Debug)]
struct Truth {
    /// Off the CPUs, as the kernel counts the CPU time of threads: between a thread's waking on an
    /// idle CPU and its running there it counts some microseconds as CPU time.
    off_cpu: u64,
    /// From before the call to behind it.
    wall: u64,
}

impl Truth {
    fn of(found: &Found, name: &str) -> Self {
        let mut lines = found.printed.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let line = lines.find(|words| words[0] == name);
        let line = line.unwrap_or_else(|| panic!("no {name} in {:?}", found.printed));
        Self { off_cpu: line[1].parse().unwrap(), wall: line[2].parse().unwrap() }
    }

    /// The truth where the host took that much CPU time meanwhile, some of which may have hit others.
    fn but_for(self, stolen: u64, found: u64) -> Self {
        let missing = self.off_cpu.saturating_sub(found);
        Self { off_cpu: self.off_cpu - missing.min(stolen), ..self }
    }

    /// Within 1 % of the truth, or 1 ms.
    #[track_caller]
    fn check(&self, what: &str, found: u64, context: &dyn std::fmt::Display) {
        let allowed = (self.wall / 100).max(1000);
        let right = self.off_cpu.saturating_sub(allowed)..=self.wall + allowed;
        assert!(right.contains(&found), "{what}: {found} us, not {self:?}:\n{context}");
    }

    /// The same of a function that uses the CPU as far as it gets it.
    #[track_caller]
    fn check_busy(&self, found: u64, context: &dyn std::fmt::Display) {
        let right = found.abs_diff(self.off_cpu) <= (self.off_cpu / 100).max(1000);
        assert!(right, "{found} us, not {self:?}:\n{context}");
    }
}

/// Runs the program in one mode under `offcpu`, and compares each function that it tells of; each
/// waits in one state, apart from its waiting for a CPU.
#[track_caller]
fn check(mode: &[&str], expected: &[(&str, &str)]) -> Found {
    let found = check_stacks(&Stage::take(), mode, expected);
    for (name, _) in expected {
        Truth::of(&found, name).check(name, below(&found.stacks, name), &found.stacks);
    }
    found
}

/// The same of a function that waits for a disk. A virtual machine's is its host's, which may take the
/// CPU for a moment at each access; what is less than a tick is not seen.
#[track_caller]
fn check_disk(mode: &[&str], name: &str) {
    // Not while other tests have the stage.
    let stage = Stage::take();
    let (found, stolen) = with_stolen(|| check_stacks(&stage, mode, &[(name, DISK)]));
    let mut truth = Truth::of(&found, name);
    truth.off_cpu = truth.off_cpu.saturating_sub(stolen + TICK);
    truth.check(name, below(&found.stacks, name), &found.stacks);
}

/// Without threads that have not been in user mode yet: there is no memory where their stacks begin.
fn begun(stacks: &Stacks) -> Stacks {
    stacks.filter(|stack| !stack.has("ret_from_fork"))
}

/// Runs the program in one mode under `offcpu`: its stacks reach their roots, and each function waits
/// in its state.
#[track_caller]
fn check_stacks(stage: &Stage, mode: &[&str], expected: &[(&str, &str)]) -> Found {
    let program = program();
    let command = [&["--", program.to_str().unwrap()], mode].concat();
    let found = record(stage, "offcpu", &command);
    let stacks = &found.stacks;
    // A thread that is new, in execve(2) or exiting has no user stack.
    let has_user = |frame: &Frame| frame.kind != 'k' && !frame.name.starts_with('[');
    begun(stacks).complete().filter(|stack| stack.frames.iter().any(has_user)).rooted(ROOTS);
    assert_eq!(found.printed.lines().count(), expected.len(), "{mode:?}: {}", found.printed);
    for (name, state) in expected {
        let own = |stack: &Stack| stack.has(name) && ![*state, RUNNABLE].contains(&leaf(stack));
        let other = stacks.filter(own);
        assert!(other.0.is_empty(), "{name} in other states than {state}:\n{other}");
    }
    found
}

#[test]
fn sleeps() {
    require!(root(), tool("gcc"));
    let found = check(&["sleep"], &[("naps", SLEEPING), ("dozes", SLEEPING)]);
    let kernel = found.stacks.filter(|stack| stack.has("naps") && stack.has("hrtimer_nanosleep"));
    assert!(kernel.total() >= 400_000, "{}", found.stacks);
    // The table: of this process, the sums of its stacks and the longest wait.
    let row = found.said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows: Vec<_> = row.filter(|words| words.first() == Some(&"waits")).collect();
    let [row] = &rows[..] else { panic!("{}", found.said) };
    let [_, blocked, "ms", _, _, longest, "ms", "do_nanosleep"] = row[..] else {
        panic!("{row:?} in {}", found.said)
    };
    let own = found.stacks.of("waits").filter(|stack| leaf(stack) != RUNNABLE).total();
    let blocked = (blocked.parse::<f64>().unwrap() * 1e3) as u64;
    assert!(blocked.abs_diff(own) <= own / 100, "{blocked} us, not {own}: {}", found.said);
    let longest = longest.parse::<f64>().unwrap();
    assert!((NAP_MS..1.5 * NAP_MS).contains(&longest), "{}", found.said);
}

/// Stacks that differ far above their stack pointers only, and are recognized without a walk.
#[test]
fn frames_beyond_a_page() {
    require!(root(), tool("gcc"));
    let names = ["goes_one_way", "goes_another_way"];
    let found = check(&["room"], &names.map(|name| (name, SLEEPING)));
    let [switches, walks] = ["switches", "walks"].map(|name| found.stats[name].as_u64().unwrap());
    assert!(walks * 2 < switches, "{walks} walks of {switches}");
}

#[test]
fn futexes() {
    require!(root(), tool("gcc"));
    check(&["mutex"], &[("takes_turn", SLEEPING), ("holds_lock", SLEEPING)]);
    check(&["condition"], &[("awaits_change", SLEEPING), ("rests", SLEEPING)]);
}

#[test]
fn descriptors() {
    require!(root(), tool("gcc"));
    check(&["pipe"], &[("reads_pipe", SLEEPING)]);
    check(&["socket"], &[("receives", SLEEPING)]);
    check(&["epoll"], &[("polls", SLEEPING)]);
}

/// The target folder lies on a real disk, as a rule.
#[test]
fn disks() {
    require!(root(), tool("gcc"));
    let folder = scratch().join("waits");
    fs::create_dir_all(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    check_disk(&["fsync", folder], "syncs");
    check_disk(&["fault", folder], "touches_page");
}

#[test]
fn processes_and_threads_that_are_born_and_die() {
    require!(root(), tool("gcc"));
    check(&["waitpid"], &[("awaits_child", SLEEPING), ("child_naps", SLEEPING)]);
    check(
        &["lives"],
        &[("awaits_child", SLEEPING), ("child_naps", SLEEPING), ("thread_naps", SLEEPING)],
    );
}

/// The same without BPF programs: perf events tell where a thread waits, and how long.
#[test]
fn by_perf_events() {
    require!(root(), tool("gcc"));
    by_switch_records("perf-event");
}

/// The same by the program perf.
#[test]
fn by_perf() {
    require!(root(), tool("gcc"), tool("perf"));
    by_switch_records("perf");
}

#[track_caller]
fn by_switch_records(engine: &str) {
    let stage = Stage::take();
    let program = program();
    for (mode, names) in [
        ("sleep", &["naps", "dozes"][..]),
        ("condition", &["awaits_change", "rests"]),
        ("pipe", &["reads_pipe"]),
        ("lives", &["awaits_child", "child_naps", "thread_naps"]),
    ] {
        let command = ["--engine", engine, "--", program.to_str().unwrap(), mode];
        let found = record(&stage, "offcpu", &command);
        let stacks = &found.stacks;
        stacks.complete();
        for name in names {
            Truth::of(&found, name).check(name, below(stacks, name), stacks);
            let blocked = in_state(stacks, name, "[blocked]");
            assert!(blocked + in_state(stacks, name, RUNNABLE) == below(stacks, name), "{stacks}");
        }
        assert_eq!(found.stats["event"], "context-switches");
    }
}

#[test]
fn stopped_by_a_signal() {
    require!(root(), tool("gcc"));
    check(&["stop"], &[("stops_itself", STOPPED)]);
}

#[test]
fn exec_in_the_midst_of_a_wait() {
    require!(root(), tool("gcc"));
    let found = check(&["exec"], &[("naps", SLEEPING), ("dozes", SLEEPING)]);
    // Three threads waited for the 200 ms before; the one that called exec slept through them.
    let stacks = &found.stacks;
    let own = below(stacks, "sleeps_before_exec");
    assert!((200_000..260_000).contains(&own), "{stacks}");
    // New threads wait for a CPU first, and exec waits until the others have ended.
    let new = stacks.filter(|stack| stack.frames.len() == 1 && leaf(stack) == RUNNABLE).total();
    let others = below(stacks, "waits_for_ever") + new;
    let each = own + below(stacks, "begin_new_exec");
    assert!(
        others.abs_diff(3 * each) <= 3 * own / 50,
        "{others} us, not 3 times {each}:\n{stacks}"
    );
}

/// Records a program that uses the CPU as far as it gets it, and checks what it waited. What a virtual
/// machine's host takes of the CPUs meanwhile is missing from what the kernel counts as theirs, though
/// they did not wait.
#[track_caller]
fn check_spinning(record: impl FnOnce() -> Found) -> (Found, Truth) {
    let (found, stolen) = with_stolen(record);
    let waited = in_state(&found.stacks, "spins", RUNNABLE);
    let truth = Truth::of(&found, "spins").but_for(stolen, waited);
    truth.check_busy(waited, &found.stacks);
    (found, truth)
}

/// More threads than CPUs.
fn many() -> String {
    (2 * std::thread::available_parallelism().unwrap().get() + 1).to_string()
}

/// More runners than CPUs, at three priorities.
#[test]
fn starved_of_cpus() {
    require!(root(), tool("gcc"));
    // Not while other tests have the stage.
    let stage = Stage::take();
    let mode = ["starve", &many()];
    let (found, _) = check_spinning(|| check_stacks(&stage, &mode, &[("spins", RUNNABLE)]));
    let figure = found.stats["runnable_us"].as_u64().unwrap();
    let drawn = found.stacks.filter(|stack| leaf(stack) == RUNNABLE).total();
    assert!(figure.abs_diff(drawn) <= drawn / 100 + 1000, "{figure} and {drawn}");
}

/// All of the time of threads that run and wait for a CPU in turns: what they ran is in the picture,
/// too, and both sum to what they measured.
#[test]
fn wall_clock_of_threads() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let (program, many) = (program(), many());
    let args = ["-F", "499", "--", program.to_str().unwrap(), "starve", &many];
    let (found, truth) = check_spinning(|| record(&stage, "wall", &args));
    let stacks = &found.stacks;
    let all = below(stacks, "spins");
    assert!(all.abs_diff(truth.wall) <= truth.wall / 100, "{all} us, not {truth:?}:\n{stacks}");
    begun(stacks).complete();
}

/// A quota of its cgroup keeps a program from running: it waits for a CPU.
#[test]
fn throttled_by_a_cgroup() {
    require!(root(), tool("gcc"));
    let quota = Quota::new();
    let Ok(quota) = quota else {
        let missing = format!("a cgroup with a CPU quota: {}", quota.err().unwrap());
        require!(Err::<(), _>(missing));
        return;
    };
    let stage = Stage::take();
    let program = program();
    // The shell enters the cgroup before it becomes the program.
    let script = format!("echo $$ > {}; exec {} starve 1", quota.procs(), program.display());
    let (_, truth) = check_spinning(|| record(&stage, "offcpu", &["--", "sh", "-c", &script]));
    assert!(truth.off_cpu > 500_000, "the quota was not kept: {truth:?}");
}

/// A cgroup that may use a fifth of one CPU, in whichever version of the hierarchy has the `cpu`
/// controller. It goes with this value.
struct Quota(PathBuf);

impl Quota {
    fn new() -> Result<Self, String> {
        let name = format!("flame-graph-test-{}", std::process::id());
        let first = PathBuf::from("/sys/fs/cgroup/cpu");
        let failed = |error: std::io::Error| error.to_string();
        if first.join("cgroup.procs").exists() {
            let quota = Self(first.join(name));
            fs::create_dir_all(&quota.0).map_err(failed)?;
            fs::write(quota.0.join("cpu.cfs_period_us"), "50000").map_err(failed)?;
            fs::write(quota.0.join("cpu.cfs_quota_us"), "10000").map_err(failed)?;
            return Ok(quota);
        }
        let root = PathBuf::from("/sys/fs/cgroup");
        fs::write(root.join("cgroup.subtree_control"), "+cpu").map_err(failed)?;
        let quota = Self(root.join(name));
        fs::create_dir_all(&quota.0).map_err(failed)?;
        fs::write(quota.0.join("cpu.max"), "10000 50000").map_err(failed)?;
        Ok(quota)
    }

    fn procs(&self) -> String {
        self.0.join("cgroup.procs").display().to_string()
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // A folder that stays holds nothing.
        let _ = fs::remove_dir(&self.0);
    }
}

/// How long a recording was, microseconds.
fn window(found: &Found) -> u64 {
    found.stats["window_us"].as_u64().unwrap()
}

/// Seconds of a recording of something that goes on.
const SECONDS: u64 = 2;

/// Every thread's time is all there, whatever it did: it waited from before the beginning to after
/// the end, it never waited, or it went back and forth.
#[test]
fn time_of_each_thread_is_whole() {
    require!(root(), tool("gcc"));
    let stage = Stage::take();
    let target = stage.start(Command::new(program()).arg("park"));
    let args = ["--pid", &target.pid().to_string(), "-d", &SECONDS.to_string(), "--threads"];
    let found = record(&stage, "offcpu", &args);
    let whole = window(&found);
    // The first thread and `parked` wait in `parks`, and are found although they never move.
    for thread in ["waits", "parked"] {
        let of = found.stacks.filter(|stack| stack.frames[0].name == thread);
        let waited = in_state(&of, "parks", SLEEPING);
        assert!(waited.abs_diff(whole) <= whole / 100, "{thread}: {waited} us:\n{}", found.stacks);
    }
    let figure = |name: &str| found.stats[name].as_u64().unwrap();
    let sum = figure("on_cpu_us") + figure("runnable_us") + figure("blocked_us");
    assert!(sum.abs_diff(4 * whole) <= 4 * whole / 100, "{sum}: {:?}", found.stats);
    let waits = figure("runnable_us") + figure("blocked_us");
    assert!(waits.abs_diff(found.stacks.total()) <= 1000, "{waits}:\n{}", found.stacks);
}

#[test]
fn a_crowd_of_threads() {
    require!(root(), tool("gcc"));
    const CROWD: u64 = 5000;
    let stage = Stage::take();
    let target = stage.start(Command::new(program()).args(["crowd", &CROWD.to_string()]));
    let args = ["--pid", &target.pid().to_string(), "-d", &SECONDS.to_string()];
    let found = record(&stage, "offcpu", &args);
    let (waited, all) = (found.stacks.total(), (CROWD + 1) * window(&found));
    assert!(waited.abs_diff(all) <= all / 100, "{waited} of {all} us:\n{}", found.stacks);
    // They wait since before the recording, all of them in the same place.
    let known = found.stacks.share("parks");
    assert!(known > 0.99, "{known}:\n{}", found.stacks);
    let maps = found.stats["map_bytes"].as_u64().unwrap();
    assert!(maps <= 60 << 20, "{maps} bytes of maps");
}

//! Python processes, recorded from outside: every CPython that is installed, a web service, one that
//! forks its workers, and what cannot be recorded.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    require,
    support::{
        Recorded, Stacks, Stage, Target, programs, record::Ended, root, target::Killed, tool,
    },
};

/// Debian's CPython and those of pyenv, one of each version that py-spy reads on x86-64.
fn pythons() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/usr/bin/python3")];
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let versions = fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().flatten();
    let three = versions.filter(|entry| entry.file_name().to_string_lossy().starts_with("3."));
    found.extend(three.map(|entry| entry.path().join("bin/python3")));
    found.retain(|path| path.is_file());
    found
}

fn python(program: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(programs().join(program));
    command
}

/// Records, and checks that hardly a sample was lost; threads that have no Python frame yet are left
/// out.
#[track_caller]
fn record(stage: &Stage, name: &str, args: &[&str]) -> Recorded {
    let mut command = Command::new(tests::binary());
    let Ended { code, said, folded, stats, .. } = stage.command(command.arg(name), args);
    assert_eq!(code, Some(0), "{name} {args:?}: {said}");
    let (all, stats) = (Stacks::parse(&folded.unwrap()), stats.unwrap());
    assert_eq!(stats["samples"], all.total(), "{said}");
    assert_eq!(stats["engine"], "py-spy");
    let lost = stats["lost"].as_object().unwrap().values().filter_map(|n| n.as_u64()).sum::<u64>();
    assert!(lost * 50 <= all.total(), "{lost} lost of {}: {said}", all.total());
    let stacks = all.filter(|stack| !stack.frames.is_empty());
    Recorded { stacks, stats, said }
}

/// Value of the stacks through a frame whose name begins so.
fn through(stacks: &Stacks, function: &str) -> f64 {
    let begins = format!("{function} (");
    let with = stacks.filter(|stack| stack.frames.iter().any(|f| f.name.starts_with(&begins)));
    with.total() as f64
}

/// `alpha` has three quarters of the work, and nothing but work is there.
#[track_caller]
fn has_its_shares(stacks: &Stacks, least: u64) {
    stacks.at_least(least);
    let (alpha, beta) = (through(stacks, "alpha"), through(stacks, "beta"));
    let whole = alpha + beta;
    let share = alpha / whole;
    let tolerance = 4.0 * (0.75 * 0.25 / whole).sqrt() + 0.03;
    assert!((share - 0.75).abs() <= tolerance, "{share} of {whole}:\n{stacks}");
    assert!(whole >= 0.9 * stacks.total() as f64, "{whole}:\n{stacks}");
}

/// Every stack begins where the program or a thread does.
#[track_caller]
fn complete(stacks: &Stacks, roots: &[&str]) {
    let other = stacks.filter(|stack| {
        let first = stack.frames.first().map_or("", |frame| &frame.name);
        !roots.iter().any(|root| first.starts_with(root))
    });
    assert!(other.total() * 1000 <= stacks.total(), "other roots than {roots:?}:\n{other}");
}

#[test]
fn every_python_that_is_installed() {
    require!(root(), tool("python3"));
    let stage = Stage::take();
    for program in pythons() {
        let target = stage.start(Command::new(&program).arg(programs().join("work.py")));
        let pid = target.pid().to_string();
        let recorded = record(&stage, "python", &[&pid, "-d", "1.5", "--threads"]);
        let stacks = &recorded.stacks;
        eprintln!("{}: {} samples", recorded.stats["python"], stacks.total());
        has_its_shares(stacks, 40);
        // Threads that sleep, or wait for a lock, are not there, whatever the version: but for a
        // moment at the beginning.
        let others = stacks.filter(|stack| stack.frames[0].name != "MainThread");
        assert!(others.total() * 20 <= stacks.total(), "{stacks}");
        let stacks = &stacks.filter(|stack| stack.frames[0].name == "MainThread");
        let below = Stacks(
            stacks
                .0
                .iter()
                .cloned()
                .map(|mut stack| {
                    stack.frames.remove(0);
                    stack
                })
                .collect(),
        );
        complete(&below, &["<module> (work.py:"]);
    }
}

/// The interpreter and the program are where nothing is on the host, and run as nobody.
#[test]
fn a_python_of_another_user_in_a_container() {
    require!(root(), tool("python3"), tool("unshare"), tool("chroot"));
    let stage = Stage::take();
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let script = "mount -t tmpfs none \"$1\" && cd \"$1\" && mkdir usr proc inside && \
                  mount --rbind /usr usr && ln -s usr/lib usr/lib64 . && \
                  cp \"$(realpath /usr/bin/python3)\" inside/interpreter && \
                  cp \"$2\" inside/work.py && chmod 644 inside/work.py && \
                  mount -t proc proc proc && \
                  exec chroot --userspec=65534:65534 . /inside/interpreter /inside/work.py";
    let mut command = Command::new("unshare");
    command.args(["-m", "-p", "-f", "--kill-child", "sh", "-c", script, "sh"]).arg(folder.path());
    let target = stage.start(command.arg(programs().join("work.py")).env("PYTHONHOME", "/usr"));
    // With another user's rights it does not end with its parent.
    let child = Killed(target.only_child());
    let recorded = record(&stage, "python", &["--pid", &child.0, "-d", "1.5"]);
    has_its_shares(&recorded.stacks, 40);
    complete(&recorded.stacks, &["<module> ("]);
}

#[test]
fn what_waits_is_shown_when_asked_for() {
    require!(root(), tool("python3"));
    let stage = Stage::take();
    let target = stage.start(&mut python("work.py"));
    let pid = target.pid().to_string();
    let args = ["--pid", &pid, "-d", "1", "--idle", "--threads", "-F", "50"];
    let idle = record(&stage, "python", &args).stacks;
    for thread in ["MainThread", "sleeper", "waiter"] {
        let share = idle.filter(|stack| stack.frames[0].name == thread).total() as f64;
        assert!((share / idle.total() as f64 - 1.0 / 3.0).abs() < 0.05, "{thread}: {idle}");
    }
    let gil = record(&stage, "python", &["--pid", &pid, "-d", "1", "--gil"]).stacks;
    has_its_shares(&gil, 30);
    let unstopped = record(&stage, "python", &["--pid", &pid, "-d", "1", "--nonblocking"]).stacks;
    let found = through(&unstopped, "main") / unstopped.total() as f64;
    assert!(found > 0.9, "{unstopped}");
}

/// The service of `tests/programs`, and its URL; it ends its children with itself.
struct Service {
    target: Target,
    url: String,
}

impl Service {
    fn start(stage: &Stage, workers: &str) -> Self {
        let target = stage.start(python("pdie.py").arg(workers));
        let port = target.greeting().rsplit(' ').next().unwrap();
        let url = format!("http://localhost:{port}/");
        Self { target, url }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let pid = self.target.pid().to_string();
        // An error means that it has ended.
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_service_is_found_by_where_it_listens() {
    require!(root(), tool("python3"), tool("kill"));
    let stage = Stage::take();
    let service = Service::start(&stage, "0");
    let recorded = record(&stage, "pdie", &["--url", &service.url, "-d", "2"]);
    let said = &recorded.said;
    assert!(said.contains(&format!("process {} (", service.target.pid())), "{said}");
    let work =
        recorded.stacks.filter(|stack| stack.frames.iter().any(|f| f.name.starts_with("work (")));
    has_its_shares(&work, 40);
    assert!(work.total() as f64 > 0.7 * recorded.stacks.total() as f64, "{}", recorded.stacks);
    complete(&recorded.stacks, &["Thread._bootstrap (", "_bootstrap (", "<module> ("]);
    // As typed in a container, without the name of this host; long enough for one sample of a thread
    // that ends to be few.
    let ip = service.url.replace("localhost", "127.0.0.1");
    assert_eq!(record(&stage, "pdie", &["--url", &ip, "-d", "2"]).stats["engine"], "py-spy");
}

#[test]
fn of_a_forking_server_the_parent_is_recorded() {
    require!(root(), tool("python3"), tool("kill"));
    let stage = Stage::take();
    let service = Service::start(&stage, "2");
    let recorded = record(&stage, "pdie", &["--url", &service.url, "-d", "2"]);
    let said = &recorded.said;
    assert!(
        said.contains("3 processes listen on port")
            && said.contains(&service.target.pid().to_string()),
        "{said}"
    );
    let work =
        recorded.stacks.filter(|stack| stack.frames.iter().any(|f| f.name.starts_with("work (")));
    has_its_shares(&work, 40);
    // The parent alone only waits.
    let pid = service.target.pid().to_string();
    let mut command = Command::new(tests::binary());
    command.arg("python");
    let Ended { code, said, folded, .. } = stage.command(&mut command, &[&pid, "-d", "0.5"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("--subprocesses") && folded.is_none(), "{said}");
}

#[test]
fn a_python_that_ends_meanwhile_is_drawn_until_then() {
    require!(root(), tool("python3"));
    let stage = Stage::take();
    let target = stage.start(python("work.py").arg("brief"));
    let pid = target.pid().to_string();
    let began = Instant::now();
    let recorded = record(&stage, "python", &["--pid", &pid, "-d", "60"]);
    assert!(began.elapsed() < Duration::from_secs(20));
    has_its_shares(&recorded.stacks, 30);
}

#[test]
fn ends_leave_the_target_running() {
    require!(root(), tool("python3"), tool("kill"));
    let stage = Stage::take();
    let target = stage.start(&mut python("work.py"));
    let pid = target.pid().to_string();
    for (signal, code) in [("-INT", Some(0)), ("-TERM", Some(0)), ("-KILL", None)] {
        let profiler = Command::new(tests::binary())
            .args(["python", &pid, "-d", "60", "-F", "500", "-o", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(1200));
        let own = profiler.id().to_string();
        assert!(Command::new("kill").args([signal, &own]).status().unwrap().success());
        let output = profiler.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), code, "{signal}: {said}");
        if code.is_some() {
            has_its_shares(&Stacks::parse(&String::from_utf8_lossy(&output.stdout)), 30);
        }
        thread::sleep(Duration::from_millis(100));
        // Nobody traces it, and it is not stopped.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("TracerPid:\t0\n"), "{signal}: {status}");
        let ticks = |_| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap()
        };
        let before = ticks(());
        thread::sleep(Duration::from_millis(400));
        assert!(ticks(()) > before, "{signal}: it does not run on");
    }
}

#[test]
fn what_is_no_python_is_said_in_a_sentence() {
    require!(root(), tool("python3"), tool("node"), tool("sleep"));
    let stage = Stage::take();
    let node = stage
        .start(Command::new("node").args(["-e", "console.log('ready');setInterval(()=>{},1e3)"]));
    let python = stage.start(&mut python("work.py"));
    let mut sleep = Command::new("sleep").arg("60").spawn().unwrap();
    let run = |args: &[&str], user: Option<u32>| {
        let mut command = Command::new(tests::binary());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let ended = stage.command(&mut command, args);
        assert_eq!(ended.said.trim().lines().count(), 1, "one sentence: {}", ended.said);
        assert!(ended.folded.is_none());
        (ended.code, ended.said)
    };
    let (code, said) = run(&["python", "--pid", &node.pid().to_string()], None);
    assert!(
        code == Some(1) && said.contains("is Node.js") && said.contains("`flame-graph node"),
        "{said}"
    );
    let (code, said) = run(&["python", &sleep.id().to_string(), "-d", "1"], None);
    assert!(code == Some(1) && said.contains("(sleep) as a CPython"), "{said}");
    let (code, said) = run(&["python", "4194303"], None);
    assert!(code == Some(1) && said.contains("no process 4194303"), "{said}");
    let _ = python;
    let (code, said) = run(&["pdie", "--url", "http://localhost:9", "-d", "1"], None);
    assert!(code == Some(1) && said.contains("listens on port 9"), "{said}");
    // An address for documentation (RFC 5737).
    let (code, said) = run(&["pdie", "--url", "http://192.0.2.1:8000"], None);
    assert!(code == Some(1) && said.contains("is another host"), "{said}");
    sleep.kill().unwrap();
    sleep.wait().unwrap();
}

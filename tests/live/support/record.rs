//! Running the profiler. Recordings are serialized: shares and timing need the CPUs.

use std::{
    ffi::OsString,
    fs,
    path::PathBuf,
    process::{self, Command},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{Stacks, Target, scratch};

/// The right to run targets and to record them; one at a time.
pub struct Stage {
    _one: MutexGuard<'static, ()>,
}

/// What a recording left behind.
#[derive(Debug)]
pub struct Recorded {
    /// The stacks that it wrote.
    pub stacks: Stacks,
    /// The `--stats`.
    pub stats: serde_json::Value,
    /// What it said on standard error.
    pub said: String,
}

/// How a run of the profiler ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; none: by a signal.
    pub code: Option<i32>,
    /// What it said on standard error.
    pub said: String,
    /// What it, or the command that it ran, printed on standard output.
    pub printed: String,
    /// What it wrote; none: it wrote no file.
    pub folded: Option<String>,
    /// The `--stats`, if written.
    pub stats: Option<serde_json::Value>,
}

impl Recorded {
    /// What was recorded, nothing of which may be lost but what the kernel throttled: a virtual machine
    /// that stood still for a moment has ticks to make up for. That is the host's doing, and counted.
    fn but_for_throttling(stacks: Stacks, mut stats: serde_json::Value, said: String) -> Self {
        let lost = stats["lost"].as_object_mut().unwrap();
        lost.remove("throttled");
        assert!(lost.is_empty(), "{said}");
        let stacks = stacks.filter(|stack| stack.process != "[lost: throttled]");
        Self { stacks, stats, said }
    }
}

impl Stage {
    /// Waits for the other tests' recordings.
    pub fn take() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        Self { _one: ONE.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Starts a program and waits until it says `ready`.
    pub fn start(&self, command: &mut Command) -> Target {
        Target::start(command)
    }

    /// Starts a program without arguments.
    pub fn run(&self, program: impl Into<PathBuf>) -> Target {
        Target::start(&mut Command::new(program.into()))
    }

    /// Records these targets for some seconds at 999 Hz.
    pub fn record(&self, targets: &[&Target], seconds: f64) -> Recorded {
        let pids: Vec<_> = targets.iter().map(|target| target.pid().to_string()).collect();
        self.cpu(&["--pid", &pids.join(","), "-F", "999", "-d", &seconds.to_string()])
    }

    /// Records with these arguments, and checks what holds for every recording: every sample that
    /// was taken is drawn, and none was lost but by the kernel's throttling.
    ///
    /// # Panics
    /// When the profiler fails or the figures do not add up.
    pub fn cpu(&self, args: &[&str]) -> Recorded {
        let ended = self.profiler(args);
        let Ended { code, said, folded, stats, .. } = ended;
        assert_eq!(code, Some(0), "flame-graph cpu {args:?}: {said}");
        let (stacks, stats) = (Stacks::parse(&folded.unwrap()), stats.unwrap());
        assert_eq!(stats["samples"], stacks.total(), "samples are not all drawn: {said}");
        Recorded::but_for_throttling(stacks, stats, said)
    }

    /// Runs `flame-graph cpu` with these arguments, whatever comes of it.
    pub fn profiler(&self, args: &[&str]) -> Ended {
        self.command(Command::new(tests::binary()).arg("cpu"), args)
    }

    /// Records by a collector, `flame-graph NAME`, and checks that the figures add up.
    ///
    /// # Panics
    /// When it fails.
    pub fn collect(&self, name: &str, args: &[&str]) -> Recorded {
        let Ended { code, said, folded, stats, .. } =
            self.command(Command::new(tests::binary()).arg(name), args);
        assert_eq!(code, Some(0), "flame-graph {name} {args:?}: {said}");
        Recorded::but_for_throttling(Stacks::parse(&folded.unwrap()), stats.unwrap(), said)
    }

    /// Runs a prepared `flame-graph SUBCOMMAND` with these arguments too, whatever comes of it.
    pub fn command(&self, command: &mut Command, args: &[&str]) -> Ended {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let folder = scratch().join(format!("out-{}-{number}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (folded, stats) = (folder.join("stacks.folded"), folder.join("stats.json"));
        let (options, after) = match args.iter().position(|arg| *arg == "--") {
            Some(at) => args.split_at(at),
            None => (args, &[][..]),
        };
        command.args(options);
        command.args([OsString::from("-o"), folded.clone().into()]);
        command.args([OsString::from("--stats"), stats.clone().into()]).args(after);
        let output = command.output().unwrap();
        let ended = Ended {
            code: output.status.code(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
            printed: String::from_utf8_lossy(&output.stdout).into_owned(),
            folded: fs::read_to_string(folded).ok(),
            stats: fs::read(stats).ok().map(|text| serde_json::from_slice(&text).unwrap()),
        };
        fs::remove_dir_all(folder).unwrap();
        ended
    }
}

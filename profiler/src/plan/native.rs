//! Recordings by our own engines: whom, how long, what is shown.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use super::{DEFAULT_DURATION, Host, PlanError, duration, outputs};
use crate::{
    cli,
    export::output::Output,
    fold::{Side, View},
};

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
}

/// The plan of `flame-graph cpu`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn cpu(cpu: cli::Cpu, host: &Host) -> Result<CpuPlan, PlanError> {
    let cli::Cpu { targets, frequency: hertz, engine, show, written, stats } = cpu;
    let view = view(&show)?;
    let frequency = frequency(&hertz, host)?;
    let given = targets.duration.as_deref().map(duration).transpose()?;
    let outputs = outputs(&written.output)?;
    let target = target(targets)?;
    let until_end = matches!(target, Target::Command { .. });
    Ok(CpuPlan {
        target,
        duration: given.or((!until_end).then_some(DEFAULT_DURATION)),
        frequency,
        engine,
        outputs,
        title: written.title.unwrap_or_else(|| "CPU time".to_owned()),
        threads: show.threads,
        view,
        stats,
    })
}

fn view(show: &cli::Show) -> Result<View, PlanError> {
    let side = match (show.user_only, show.kernel_only) {
        (true, true) => return Err(PlanError::NoSide),
        (true, false) => Side::User,
        (false, true) => Side::Kernel,
        (false, false) => Side::Both,
    };
    Ok(View { side, inlined: !show.no_inline })
}

fn target(targets: cli::Targets) -> Result<Target, PlanError> {
    let cli::Targets { pid: pids, children, all, user, command: argv, .. } = targets;
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
        let number = super::pid(&pid)?;
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{cli::Cli, plan::Plan};

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

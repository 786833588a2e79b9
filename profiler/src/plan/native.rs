//! Recordings by our own engines: whom, how long, what is shown.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use profiler_ebpf::glob::{GlobError, Globs};
use reqwest::Url;

use super::{DEFAULT_DURATION, Host, PlanError, duration, id, outputs};
use crate::{
    cli,
    export::output::Output,
    fold::{Side, View},
    source::native::{Labels, Waits, limits::Bound, times::States},
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
    /// Threads.
    Threads {
        /// Their ids, in the order given, each once.
        tids: Vec<u32>,
        /// The processes that they must belong to; empty: any.
        pids: Vec<u32>,
    },
    /// A command that is run, and what it forks.
    Command {
        /// The program and its arguments.
        argv: Vec<OsString>,
        /// The user to run it as.
        user: Option<String>,
    },
}

/// What of a target is recorded: what passes each of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// What is in this cgroup, or below it.
    pub cgroup: Option<PathBuf>,
    /// Threads that have a name like this, or whose process has.
    pub names: Option<Box<Globs>>,
}

/// A recording of CPU time, or of waits.
#[derive(Clone, Debug)]
pub struct CpuPlan {
    /// What is recorded.
    pub target: Target,
    /// What of it.
    pub filter: Filter,
    /// How long; none: until the command ends.
    pub duration: Option<Duration>,
    /// Samples a second on each CPU, where what runs is sampled.
    pub frequency: u64,
    /// Which waits are recorded; none: what runs.
    pub waits: Option<Waits>,
    /// What takes the samples; none: whatever works, without a word when that is eBPF.
    pub engine: Option<cli::Engine>,
    /// What is written.
    pub outputs: Vec<Output>,
    /// Heading of the picture.
    pub title: String,
    /// What the first frames tell apart.
    pub labels: Labels,
    /// What is shown.
    pub view: View,
    /// Whether runtimes are asked for perf maps.
    pub perf_maps: bool,
    /// Which servers are asked for debug files; none: no server.
    pub debuginfod: Option<Debuginfod>,
    /// Bounds that are lower than usual.
    pub limits: Vec<(Bound, usize)>,
    /// Where figures about the recording go.
    pub stats: Option<PathBuf>,
}

/// Servers of debug files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debuginfod {
    /// Their addresses, at least one, the first to be asked first.
    pub servers: Vec<Url>,
    /// Where files are kept.
    pub cache: Option<PathBuf>,
}

/// The plan of `flame-graph cpu`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn cpu(cpu: cli::Cpu, host: &Host) -> Result<CpuPlan, PlanError> {
    let cli::Cpu { targets, frequency: hertz, engine, show, per_cpu, names, written, account } =
        cpu;
    samples(engine)?;
    let view = view(&show)?;
    let frequency = frequency(&hertz, host)?;
    let given = targets.duration.as_deref().map(duration).transpose()?;
    let outputs = outputs(&written.output)?;
    let limits = bounds(&account.limit)?;
    let (target, filter) = whom(targets)?;
    Ok(CpuPlan {
        duration: how_long(given, &target),
        target,
        filter,
        frequency,
        waits: None,
        engine,
        outputs,
        title: written.title.unwrap_or_else(|| "CPU time".to_owned()),
        labels: Labels { threads: show.threads, pids: show.pids, cpus: per_cpu },
        view,
        perf_maps: names.enable_perf_maps,
        debuginfod: servers(&names, host)?,
        limits,
        stats: account.stats,
    })
}

/// Whether an engine samples what runs.
fn samples(engine: Option<cli::Engine>) -> Result<(), PlanError> {
    match engine {
        Some(cli::Engine::Perf) => Err(PlanError::TimesOnly),
        _ => Ok(()),
    }
}

fn bounds(texts: &[String]) -> Result<Vec<(Bound, usize)>, PlanError> {
    texts.iter().map(|text| bound(text)).collect()
}

/// A bound and its value: `rows=1000`.
fn bound(text: &str) -> Result<(Bound, usize), PlanError> {
    let bound = text.split_once('=').and_then(|(name, value)| {
        let digits = value.bytes().all(|byte| byte.is_ascii_digit());
        Some((Bound::named(name)?, value.parse().ok().filter(|_| digits)?))
    });
    bound.ok_or_else(|| PlanError::Limit(text.to_owned()))
}

/// The servers that are to be asked for debug files, if any are.
fn servers(names: &cli::Names, host: &Host) -> Result<Option<Debuginfod>, PlanError> {
    if !names.debuginfod {
        return Ok(None);
    }
    let urls = host.debuginfod_urls.as_deref().unwrap_or_default().split_whitespace();
    let server = |(number, text): (usize, &str)| {
        let url = Url::parse(text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        url.ok_or(PlanError::Server(number))
    };
    let servers: Vec<Url> = (1..).zip(urls).map(server).collect::<Result<_, _>>()?;
    if servers.is_empty() {
        return Err(PlanError::NoServer);
    }
    Ok(Some(Debuginfod { servers, cache: host.debuginfod_cache.clone() }))
}

/// The plan of `flame-graph offcpu`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn off_cpu(off_cpu: cli::OffCpu, host: &Host) -> Result<CpuPlan, PlanError> {
    let cli::OffCpu { targets, engine, show, names, written, account } = off_cpu;
    let stacks = &show.stacks;
    let view = view(stacks)?;
    let given = targets.duration.as_deref().map(duration).transpose()?;
    let outputs = outputs(&written.output)?;
    let (target, filter) = whom(targets)?;
    let everything = target == Target::Host && filter == Filter::default();
    Ok(CpuPlan {
        duration: how_long(given, &target),
        waits: Some(waits(&show, everything)?),
        target,
        filter,
        frequency: 0,
        engine,
        outputs,
        title: written.title.unwrap_or_else(|| "Off-CPU time".to_owned()),
        labels: Labels { threads: stacks.threads, pids: stacks.pids, cpus: false },
        view,
        perf_maps: names.enable_perf_maps,
        debuginfod: servers(&names, host)?,
        limits: bounds(&account.limit)?,
        stats: account.stats,
    })
}

/// The plan of `flame-graph wall`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn wall(wall: cli::Wall, host: &Host) -> Result<CpuPlan, PlanError> {
    let cli::Wall { mut waits, frequency: hertz } = wall;
    samples(waits.engine)?;
    let title = waits.written.title.take();
    let frequency = frequency(&hertz, host)?;
    let plan = off_cpu(waits, host)?;
    let waits = plan.waits.map(|waits| Waits { on_cpu: true, ..waits });
    let title = title.unwrap_or_else(|| "Wall-clock time".to_owned());
    Ok(CpuPlan { frequency, waits, title, ..plan })
}

/// Which waits are recorded, and how they are shown.
fn waits(show: &cli::ShowWaits, everything: bool) -> Result<Waits, PlanError> {
    let bound = |option, text: &Option<String>| {
        let wrong = |text: &String| PlanError::Block { option, text: text.clone() };
        text.as_ref().map(|text| super::time(text).ok_or_else(|| wrong(text))).transpose()
    };
    let min = bound("--min-block", &show.min_block)?;
    let max = bound("--max-block", &show.max_block)?;
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return Err(PlanError::Blocks);
    }
    let mut states = States::default();
    for name in &show.state {
        states.add(name).ok_or_else(|| PlanError::State(name.clone()))?;
    }
    let fold_idle = match show.idle {
        Some(how) => how == cli::Idle::Hide,
        None => everything,
    };
    Ok(Waits { on_cpu: false, min, max, states, fold_idle, wakers: show.wakers })
}

/// A command is recorded until it ends, unless a time is given.
fn how_long(given: Option<Duration>, target: &Target) -> Option<Duration> {
    let until_end = matches!(target, Target::Command { .. });
    given.or((!until_end).then_some(DEFAULT_DURATION))
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

/// Whom to record, and what of it: a sample must belong to the target and pass each filter.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn whom(targets: cli::Targets) -> Result<(Target, Filter), PlanError> {
    let cli::Targets { pid, children, tid, all, cgroup, comm, user, command: argv, .. } = targets;
    let given = [
        ("--pid", !pid.is_empty()),
        ("--tid", !tid.is_empty()),
        ("--all", all),
        ("a command", !argv.is_empty()),
    ];
    let given: Vec<_> = given.into_iter().filter(|(_, is_given)| *is_given).collect();
    if let [(first, _), (second, _), ..] = given[..]
        && (first, second) != ("--pid", "--tid")
    {
        return Err(PlanError::TwoTargets(first, second));
    }
    if let [_, _, (third, _), ..] = given[..] {
        return Err(PlanError::TwoTargets("--pid", third));
    }
    if children && !tid.is_empty() {
        return Err(PlanError::TwoTargets("--tid", "--children"));
    }
    if children && pid.is_empty() && argv.is_empty() {
        return Err(PlanError::Needs { option: "--children", needs: "--pid" });
    }
    if user.is_some() && argv.is_empty() {
        return Err(PlanError::Needs {
            option: "--user", needs: "a command: `-- COMMAND ARGS…`"
        });
    }
    let filter = Filter { cgroup, names: names(comm)? };
    let (pids, tids) = (numbers(pid, PlanError::Pid)?, numbers(tid, PlanError::Tid)?);
    let target = match (argv.is_empty(), tids.is_empty(), pids.is_empty()) {
        (false, ..) => Target::Command { argv, user },
        (true, false, _) => Target::Threads { tids, pids },
        (true, true, false) => Target::Processes { pids, children },
        (true, true, true) => Target::Host,
    };
    Ok((target, filter))
}

/// Ids of processes or threads, each once.
fn numbers(texts: Vec<String>, wrong: fn(String) -> PlanError) -> Result<Vec<u32>, PlanError> {
    let mut numbers = Vec::with_capacity(texts.len());
    for text in texts {
        let number = id(&text, wrong)?;
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn names(patterns: Vec<OsString>) -> Result<Option<Box<Globs>>, PlanError> {
    let mut globs = Box::new(Globs::new());
    let any = !patterns.is_empty();
    for pattern in patterns {
        if let Err(error) = globs.add(pattern.as_encoded_bytes()) {
            let why = match error {
                GlobError::Empty => "matches no name; give a pattern such as `nginx*`",
                GlobError::Class => {
                    "has a `[` without a `]`, or with a wrong range; write `\\[` for the character"
                }
                GlobError::Escape => "ends in a `\\` with nothing behind it; write `\\\\`",
                GlobError::TooLong => {
                    "matches no name, as the kernel keeps 15 bytes of each; give the first 15"
                }
                GlobError::TooMany => {
                    "is one pattern too many: all together have 64 characters at the most"
                }
            };
            return Err(PlanError::Comm { pattern, why });
        }
    }
    Ok(any.then_some(globs))
}

/// Samples a second.
pub(super) fn frequency(text: &str, host: &Host) -> Result<u64, PlanError> {
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
        let host = Host { max_frequency: Some(50_000), ..Host::default() };
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
    fn waits_are_recorded_like_cpu_time() {
        let plan = timed("offcpu --pid 7 --threads -d 2").unwrap();
        let processes = Target::Processes { pids: vec![7], children: false };
        assert_eq!((plan.target, plan.waits), (processes, Some(Waits::default())));
        assert_eq!((plan.duration, plan.labels.threads), (Some(Duration::from_secs(2)), true));
        assert!(timed("offcpu --user-only --kernel-only").is_err());
        assert!(timed("offcpu --pid 1 --all").is_err());
        let plan = timed("wall -F 199 -- ls").unwrap();
        assert_eq!((plan.frequency, plan.duration), (199, None));
        assert!(plan.waits.unwrap().on_cpu);
        assert_eq!(plan.title, "Wall-clock time");
    }

    fn timed(args: &str) -> Result<CpuPlan, String> {
        let words = ["flame-graph"].into_iter().chain(args.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        match Plan::new(cli, &Host::default()) {
            Ok(Plan::Cpu(plan)) => Ok(plan),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn waits_have_bounds_and_states() {
        let waits = |args: &str| timed(&format!("offcpu {args}")).map(|plan| plan.waits.unwrap());
        let bounded = waits("--min-block 50us --max-block 2s").unwrap();
        assert_eq!(bounded.min, Some(Duration::from_micros(50)));
        assert_eq!(bounded.max, Some(Duration::from_secs(2)));
        for (args, said) in [
            ("--min-block 0", "--min-block: \"0\" is not a time above 0"),
            ("--min-block -1ms", "is not a time above 0"),
            ("--max-block 5parsecs", "--max-block: \"5parsecs\" is not a time"),
            ("--min-block 2s --max-block 1s", "no wait lies between"),
            ("--state sleeping,dreaming", "\"dreaming\" is none of sleeping, uninterruptible"),
        ] {
            let error = waits(args).unwrap_err();
            assert!(error.contains(said), "{args}: {error}");
        }
        assert!(waits("").unwrap().fold_idle && waits("--all --idle hide").unwrap().fold_idle);
        for shown in ["--pid 1", "--comm x", "--all --idle show"] {
            assert!(!waits(shown).unwrap().fold_idle, "{shown}");
        }
        assert_ne!(waits("--state runnable").unwrap().states, States::default());
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
        assert!(cpu("--engine perf").unwrap_err().contains("`flame-graph perf`"));
        assert!(timed("wall --engine perf").unwrap_err().contains("of `offcpu`"));
        assert_eq!(timed("offcpu --engine perf").unwrap().engine, Some(cli::Engine::Perf));
        assert!(cpu("--engine dtrace").is_err());
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
    fn threads_may_be_bound_to_processes() {
        let threads = |tids: &[u32], pids: &[u32]| Target::Threads {
            tids: tids.to_vec(),
            pids: pids.to_vec(),
        };
        assert_eq!(cpu("--tid 12,7 --tid 12").unwrap().target, threads(&[12, 7], &[]));
        assert_eq!(cpu("--tid 12 --pid 5,6").unwrap().target, threads(&[12], &[5, 6]));
        for wrong in ["0", "x", "1,,2", "4294967295"] {
            assert!(cpu(&format!("--tid {wrong}")).unwrap_err().contains("not a thread id"));
        }
    }

    #[test]
    fn filters_go_with_every_target() {
        let mut globs = Box::new(Globs::new());
        globs.add(b"nginx*").unwrap();
        globs.add(b"t[0-9]").unwrap();
        let filter = Filter { cgroup: Some("/x".into()), names: Some(globs) };
        for target in ["", "--all", "--pid 1 --children", "--tid 1", "--pid 1 --tid 2"] {
            let args = format!("--comm nginx* --comm t[0-9] --cgroup /x {target}");
            assert_eq!(cpu(&args).unwrap().filter, filter);
            assert_eq!(cpu(target).unwrap().filter, Filter::default());
        }
        assert_eq!(cpu("--comm nginx* --comm t[0-9] --cgroup /x -- ls").unwrap().filter, filter);
    }

    #[test]
    fn names_that_cannot_match_are_said() {
        for (pattern, said) in [
            ("--comm=", "matches no name"),
            ("--comm [a", "`[` without a `]`"),
            ("--comm [z-a]", "wrong range"),
            ("--comm a\\", "nothing behind it"),
            ("--comm a-very-long-name", "15 bytes"),
            ("--comm=*a -- --comm", ""),
        ] {
            let result = cpu(pattern);
            let wrong = result.as_ref().err().is_some_and(|error| error.contains(said));
            assert!(if said.is_empty() { result.is_ok() } else { wrong }, "{pattern}: {result:?}");
        }
        let many: Vec<_> = (0..10).map(|n| format!("--comm a{n}bcdefgh")).collect();
        assert!(cpu(&many.join(" ")).unwrap_err().contains("64 characters"));
    }

    #[test]
    fn first_frames_tell_apart_what_is_asked_for() {
        assert_eq!(cpu("").unwrap().labels, Labels::default());
        let labels = Labels { threads: true, pids: true, cpus: true };
        assert_eq!(cpu("--threads --pids --per-cpu").unwrap().labels, labels);
    }

    #[test]
    fn bounds_have_names_and_numbers() {
        assert_eq!(cpu("").unwrap().limits, []);
        let limits = cpu("--limit rows=1000,stacks=0 --limit ring-bytes=4096").unwrap().limits;
        assert_eq!(limits, [(Bound::Rows, 1000), (Bound::Stacks, 0), (Bound::Ring, 4096)]);
        for wrong in ["rows", "rows=", "rows=x", "rows=-1", "rows=+1", "row=1", "=1"] {
            let error = cpu(&format!("--limit {wrong}")).unwrap_err();
            assert!(error.contains("is not a bound and its number"), "{wrong}: {error}");
            assert!(error.contains("sideband-bytes, targets"), "{wrong}: {error}");
        }
    }

    #[test]
    fn servers_of_debug_files_come_from_the_environment() {
        let of = |subcommand: &str, urls: &str| {
            let cli = Cli::try_parse_from(["flame-graph", subcommand, "--debuginfod"]).unwrap();
            let host = Host {
                debuginfod_urls: Some(urls.to_owned()),
                debuginfod_cache: Some("/cache".into()),
                ..Host::default()
            };
            match Plan::new(cli, &host) {
                Ok(Plan::Cpu(plan)) => Ok(plan.debuginfod.unwrap()),
                Ok(other) => Err(format!("{other:?}")),
                Err(error) => Err(error.to_string()),
            }
        };
        let plan = |urls: &str| of("cpu", urls);
        let found = plan(" https://a.example/x  http://[::1]:8002\n").unwrap();
        let servers: Vec<_> = found.servers.iter().map(Url::as_str).collect();
        assert_eq!(servers, ["https://a.example/x", "http://[::1]:8002/"]);
        assert_eq!(found.cache, Some("/cache".into()));
        for subcommand in ["offcpu", "wall"] {
            assert_eq!(of(subcommand, "https://a.example").unwrap().servers.len(), 1);
        }
        assert!(plan("").unwrap_err().contains("DEBUGINFOD_URLS names"));
        let wrong = plan("http://a.example ftp://me:secret@b.example").unwrap_err();
        assert!(wrong.contains("address 2") && !wrong.contains("secret"), "{wrong}");
        assert_eq!(cpu("").unwrap().debuginfod, None);
    }

    #[test]
    fn contradictions_are_said() {
        for (args, said) in [
            ("--all --pid 1", "--pid and --all name two targets"),
            ("--pid 1 -- ls", "--pid and a command name two targets"),
            ("--all -- ls", "--all and a command name two targets"),
            ("--tid 1 --all", "--tid and --all name two targets"),
            ("--tid 1 -- ls", "--tid and a command name two targets"),
            ("--pid 1 --tid 1 --all", "--pid and --all name two targets"),
            ("--pid 1 --tid 1 -- ls", "--pid and a command name two targets"),
            ("--pid 1 --tid 1 --children", "--tid and --children name two targets"),
            ("--children", "--children needs --pid"),
            ("--comm x --children", "--children needs --pid"),
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

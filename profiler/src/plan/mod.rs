//! What the command line means: every value parsed, every default filled in, every contradiction
//! refused. Nothing here touches the host; what it allows comes in as [`Host`].
//!
//! * [`native`]: recordings by our own engines.
//! * [`collect`]: recordings by collectors; [`attach`]: by those that attach to JavaScript; [`perf`]:
//!   by perf; [`python`]: of Python processes.

pub mod attach;
pub mod collect;
pub mod native;
pub mod perf;
pub mod python;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use crate::{
    cli::{Cli, Command},
    export::output::{Output, OutputError},
    model::secret::Secret,
    source::{http::AddressError, native::limits::Bound, websocket::SocketUrlError},
};
pub use attach::Attach;
pub use collect::{CollectPlan, Collector, Common};
pub use native::{CpuPlan, Filter, Target};
pub use perf::{PerfPlan, PerfTarget};
pub use python::{PythonPlan, PythonTarget};

/// Duration of a recording when none is given.
const DEFAULT_DURATION: Duration = Duration::from_secs(30);
/// Longer recordings are taken for a slip.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is to be done.
#[derive(Debug)]
pub enum Plan {
    /// Record CPU time, or waits.
    Cpu(CpuPlan),
    /// Have a service or a runtime record.
    Collect(Box<CollectPlan>),
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

/// Drawing of what was recorded before.
#[derive(Clone, Debug)]
pub struct FilePlan {
    /// The input; none: standard input.
    pub input: Option<PathBuf>,
    /// What is written.
    pub outputs: Vec<Output>,
    /// Heading of the picture.
    pub title: String,
    /// Which values are drawn, where a profile has several.
    pub sample_type: Option<String>,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Whether the time in which nothing ran is shown.
    pub idle: bool,
}

/// What of the host bounds a plan.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// `kernel.perf_event_max_sample_rate`, in samples a second; none: not known.
    pub max_frequency: Option<u64>,
    /// `RESQ_TOKEN` of the environment; none: not set, or empty.
    pub token: Option<Secret>,
    /// `RESQ_API_KEY`, likewise.
    pub api_key: Option<Secret>,
    /// `DEBUGINFOD_URLS`; none: not set.
    pub debuginfod_urls: Option<String>,
    /// The folder that debuginfod's clients keep files in.
    pub debuginfod_cache: Option<PathBuf>,
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
    /// An engine that does not sample what runs.
    #[error(
        "--engine perf is an engine of `offcpu` only; `flame-graph perf` samples CPU time by perf"
    )]
    TimesOnly,
    /// No server to ask.
    #[error(
        "--debuginfod asks the servers that DEBUGINFOD_URLS names, and it names none; set it, and \
         let it pass sudo: `sudo --preserve-env=DEBUGINFOD_URLS`"
    )]
    NoServer,
    /// A server that cannot be asked. What stands there may hold a credential.
    #[error("--debuginfod: address {0} in DEBUGINFOD_URLS is no http or https address")]
    Server(usize),
    /// Both sides exclusively.
    #[error("--user-only and --kernel-only together leave nothing to show; give one of them")]
    NoSide,
    /// A pid that cannot be one.
    #[error("--pid: {0:?} is not a process id")]
    Pid(String),
    /// A tid that cannot be one.
    #[error("--tid: {0:?} is not a thread id")]
    Tid(String),
    /// A pattern that cannot be used.
    #[error("--comm: {pattern:?} {why}")]
    Comm {
        /// The pattern.
        pattern: OsString,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A duration that cannot be used.
    #[error("--duration: {0:?} is not a time above 0, such as 10, 0.5, 10s or 2m, up to 365 days")]
    Duration(String),
    /// A bound of waits that cannot be used.
    #[error("{option}: {text:?} is not a time above 0, such as 50us, 1ms or 2s")]
    Block {
        /// The option.
        option: &'static str,
        /// What was given.
        text: String,
    },
    /// Bounds of waits that leave none.
    #[error("--min-block is above --max-block: no wait lies between them")]
    Blocks,
    /// A state that threads do not have.
    #[error(
        "--state: {0:?} is none of sleeping, uninterruptible, stopped, traced, idle, frozen, \
         runnable"
    )]
    State(String),
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
    /// A bound that there is not, or no number.
    #[error(
        "--limit: {0:?} is not a bound and its number, as in `rows=1000`; the bounds are {names}",
        names = Bound::ALL.map(Bound::name).join(", ")
    )]
    Limit(String),
    /// A process where a service is meant.
    #[error("{0} asks a service by its --url and records no --pid; `cpu --pid` does")]
    NoPid(&'static str),
    /// An option of services where a process is meant.
    #[error("{command} records a process of this host and asks no service: it takes no {option}")]
    NoService {
        /// The subcommand.
        command: &'static str,
        /// The option.
        option: &'static str,
    },
    /// A service where a process is meant.
    #[error("{0} records a process of this host and asks no --url; give --pid")]
    NoUrl(&'static str),
    /// An interval that cannot be used.
    #[error("--interval: {0:?} is not a time with a unit from 1us to 1s, such as 100us or 1ms")]
    Interval(String),
    /// Nothing that shows who asks.
    #[error(
        "{0} wants to know who asks: set RESQ_TOKEN or RESQ_API_KEY, or give --token-file, --token \
         or --api-key"
    )]
    NoCredential(&'static str),
    /// The same credential in two ways.
    #[error("--token and --token-file are two ways of giving one thing; give one of them")]
    TwoCredentials,
    /// A URL that cannot be used.
    #[error("--url: {0}")]
    Url(#[from] AddressError),
    /// An inspector's URL that cannot be used.
    #[error("--url: {0}")]
    SocketUrl(#[from] SocketUrlError),
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
            Command::Bun(bun) => Ok(Self::Collect(Box::new(attach::bun(bun, host)?))),
            Command::Cpu(cpu) => Ok(Self::Cpu(native::cpu(*cpu, host)?)),
            Command::OffCpu(waits) => Ok(Self::Cpu(native::off_cpu(*waits, host)?)),
            Command::Wall(wall) => Ok(Self::Cpu(native::wall(*wall, host)?)),
            Command::Hce(hce) => Ok(Self::Collect(Box::new(collect::hce(hce, host)?))),
            Command::Api(api) => Ok(Self::Collect(Box::new(collect::api(api, host)?))),
            Command::Dotnet(dotnet) => Ok(Self::Collect(Box::new(collect::dotnet(dotnet)?))),
            Command::Node(node) => Ok(Self::Collect(Box::new(attach::node(node, host)?))),
            Command::Pdie(pdie) => Ok(Self::Collect(Box::new(python::pdie(pdie)?))),
            Command::Perf(perf) => Ok(Self::Collect(Box::new(perf::perf(perf, host)?))),
            Command::Pprof(pprof) => Ok(Self::Collect(Box::new(collect::pprof(pprof)?))),
            Command::Python(python) => Ok(Self::Collect(Box::new(python::python(python)?))),
            Command::File(file) => Ok(Self::File(FilePlan {
                input: (file.input != "-").then(|| file.input.into()),
                outputs: outputs(&file.written.output)?,
                title: file.written.title.unwrap_or_else(|| "Flame graph".to_owned()),
                sample_type: file.sample_type,
                threads: file.threads,
                idle: file.idle,
            })),
            Command::Doctor(doctor) => {
                Ok(Self::Doctor { json: doctor.json, verbose: doctor.verbose })
            }
        }
    }
}

fn duration(text: &str) -> Result<Duration, PlanError> {
    let duration = time(text).filter(|time| *time <= MAX_DURATION);
    duration.ok_or_else(|| PlanError::Duration(text.to_owned()))
}

/// A time above 0, in seconds unless it says otherwise.
fn time(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 5] =
        [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (number, unit) = UNITS
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .unwrap_or((text, 1.0));
    // Floating-point text may also be `inf`, `nan` or `1e9`: none of these is a time here.
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let time = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()?;
    (!time.is_zero()).then_some(time)
}

/// A process id.
fn pid(text: &str) -> Result<u32, PlanError> {
    id(text, PlanError::Pid)
}

/// An id of a process or a thread.
fn id(text: &str, wrong: fn(String) -> PlanError) -> Result<u32, PlanError> {
    // The kernel's own type is a signed 32-bit number.
    let number = text.trim().parse().ok().filter(|id| (1..=i32::MAX as u32).contains(id));
    number.ok_or_else(|| wrong(text.to_owned()))
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

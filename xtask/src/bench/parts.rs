//! The parts of the benchmark. Each returns its rows of the table.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};

use super::{
    churn, filters, kinds,
    numbers::{self, Row, TOOLS, Unit, Values, line},
    programs::{self, Program, Running},
    tools::{self, Run, Settings, Subject, Tool},
};

/// What the figures mean, below the table's head.
pub const NOTES: &str = "\
slowdown: CPU time for the same work, against the same process beside which no tool runs
tool CPU, peak memory: of the tool until its picture is written; for perf, of `perf record` and
  `perf script` (which is less than a picture: folding and drawing are not counted; of a whole
  host it is run with --no-inline, because with inlined calls it can take minutes); samply's is
  a profile with its symbols, which it cannot make of a whole host
stop to picture: from the signal that ends a recording to its SVG; for perf, to `perf script`'s end
start to first sample: on the samples' own clock; perf's includes the start of its process
complete: reaches _start or the thread's start; the recorder's word for ours, and for the
  others the address of the last frame compared with the program's entry point and thread roots
kinds: the same of the programs of the live tests, for the others by the names of their roots
walk: run time of our BPF program as the kernel counts it, at 999 Hz, less its runs that found
  another process than the target
churn: one recording of the whole host, with 200 processes that sleep and 200 a second that begin;
  its tool CPU is in the mean, and includes the start and the picture
filters: run time of our BPF program by tick while every CPU runs what the filter rejects";

/// How the parts are run.
pub struct Context {
    pub quick: bool,
    pub scratch: PathBuf,
    /// Those that are there.
    pub tools: Vec<Tool>,
}

/// The recordings of each tool.
pub type Runs = [Vec<Run>; TOOLS.len()];

impl Context {
    pub fn rounds(&self, all: usize, quick: usize) -> usize {
        if self.quick { quick } else { all }
    }

    /// A recording. That a tool fails is a result, too: it is said, and the others go on.
    pub fn record(&self, tool: Tool, program: &dyn Subject, settings: Settings) -> Option<Run> {
        let run = tools::record(tool, program, settings, &self.scratch);
        run.inspect_err(|error| eprintln!("  no figures of one recording: {error:#}")).ok()
    }

    pub fn settings(&self, frequency: u32, seconds: f64, quick: f64) -> Settings {
        let seconds = if self.quick { quick } else { seconds };
        Settings { frequency, window: Duration::from_secs_f64(seconds), host: false }
    }
}

/// A part.
pub struct Part {
    pub name: &'static str,
    pub run: fn(&Context) -> Result<Vec<Row>>,
}

const PARTS: &[Part] = &[
    Part { name: "cost", run: cost },
    Part { name: "host", run: host },
    Part { name: "churn", run: churn::churn },
    Part { name: "complete", run: complete },
    Part { name: "kinds", run: kinds::kinds },
    Part { name: "shares", run: shares },
    Part { name: "walk", run: walk },
    Part { name: "filters", run: filters::filters },
];

/// The parts of these names; all when none is named.
///
/// # Errors
/// When there is no part of a name.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Part>> {
    let known = |name: &str| PARTS.iter().any(|part| part.name == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let all: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        bail!("there is no part `{unknown}`: the parts are {}", all.join(", "));
    }
    let is_chosen = |part: &&Part| names.is_empty() || names.iter().any(|name| name == part.name);
    Ok(PARTS.iter().filter(is_chosen).collect())
}

/// A figure of each tool's runs.
fn values(runs: &Runs, figure: impl Fn(&Run) -> Option<f64>) -> Values {
    runs.each_ref().map(|runs| runs.iter().filter_map(&figure).collect())
}

/// What a recording costs, at both rates.
fn cost(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for frequency in [99, 999] {
        let settings = context.settings(frequency, 2.5, 1.0);
        rows.extend(costs(context, "cost", settings)?);
    }
    Ok(rows)
}

/// The same of a whole-host recording.
fn host(context: &Context) -> Result<Vec<Row>> {
    let settings = Settings { host: true, ..context.settings(99, 3.0, 1.0) };
    costs(context, "host", settings)
}

fn costs(context: &Context, part: &'static str, settings: Settings) -> Result<Vec<Row>> {
    let program = programs::RECURSION_45;
    let mut runs: Runs = Default::default();
    let mut slowdowns: Values = Default::default();
    for _ in 0..context.rounds(if settings.host { 3 } else { 4 }, 1) {
        // One process for a round: where its code lies decides its speed too.
        let running = Running::start(&program, &context.scratch)?;
        let alone = running.rate(settings.window)?;
        for &tool in context.tools.iter().filter(|tool| !settings.host || tool.records_hosts()) {
            let Some(run) = context.record(tool, &running, settings) else { continue };
            if let (Some(alone), Some(rate)) = (alone, run.rate) {
                slowdowns[tool as usize].push((alone / rate - 1.0) * 100.0);
            }
            runs[tool as usize].push(run);
        }
    }
    let subject = format!("{}, {} Hz", program.name, settings.frequency);
    let row = |figure, unit, values| Row { part, subject: subject.clone(), figure, unit, values };
    let megabytes = |name: &'static str| move |run: &Run| run.stat(name).map(|bytes| bytes / 1e6);
    Ok(vec![
        row("slowdown", Unit::Percent, slowdowns),
        row("tool CPU", Unit::Milliseconds, values(&runs, |run| Some(run.cpu_ms))),
        row("peak memory", Unit::Megabytes, values(&runs, |run| Some(run.peak_mb))),
        row("map memory", Unit::Megabytes, values(&runs, megabytes("map_bytes"))),
        row(
            "stop to picture",
            Unit::Milliseconds,
            values(&runs, |run| Some(run.stop_to_picture_ms)),
        ),
        row("start to first sample", Unit::Milliseconds, values(&runs, |run| run.first_sample_ms)),
        row(
            "data written",
            Unit::Megabytes,
            values(&runs, |run| Some(run.data_mb).filter(|mb| *mb > 0.0)),
        ),
        row("samples", Unit::Count, values(&runs, |run| Some(run.samples))),
    ])
}

/// Stacks that reach their root, program by program.
fn complete(context: &Context) -> Result<Vec<Row>> {
    let settings = context.settings(499, 0.8, 0.5);
    let mut rows = Vec::new();
    for program in programs::ALL {
        let mut runs: Runs = Default::default();
        for _ in 0..context.rounds(2, 1) {
            let running = Running::start(program, &context.scratch)?;
            for &tool in &context.tools {
                runs[tool as usize].extend(context.record(tool, &running, settings));
            }
        }
        rows.push(completeness("complete", program.name.to_owned(), &runs));
    }
    Ok(rows)
}

/// The share of stacks that reach their root.
pub fn completeness(part: &'static str, subject: String, runs: &Runs) -> Row {
    let share = |run: &Run| (run.samples > 0.0).then(|| run.complete / run.samples * 100.0);
    let values = values(runs, share);
    Row { part, subject, figure: "complete stacks", unit: Unit::Percent, values }
}

/// Functions of the program of known shares, and these.
const KNOWN_SHARES: [(&str, f64); 3] = [("half", 0.5), ("three_tenths", 0.3), ("one_fifth", 0.2)];

/// How far the shares that a tool shows are from those that are known.
fn shares(context: &Context) -> Result<Vec<Row>> {
    let settings = context.settings(999, 5.0, 3.0);
    let mut runs: Runs = Default::default();
    for _ in 0..context.rounds(3, 1) {
        let running = Running::start(&programs::SHARES, &context.scratch)?;
        for &tool in &context.tools {
            runs[tool as usize].extend(context.record(tool, &running, settings));
        }
    }
    Ok(vec![Row {
        part: "shares",
        subject: format!("{}, 999 Hz", programs::SHARES.name),
        figure: "greatest error",
        unit: Unit::Points,
        values: values(&runs, share_error),
    }])
}

/// The greatest error of a share, in points.
fn share_error(run: &Run) -> Option<f64> {
    let error = |(name, share): &(&str, f64)| {
        let shown = run.by_function.get(*name).copied().unwrap_or_default() / run.samples;
        (shown - share).abs() * 100.0
    };
    (run.samples > 0.0).then(|| KNOWN_SHARES.iter().map(error).fold(0.0, f64::max))
}

/// What a sample and a frame cost in the kernel: the run time of our BPF program by samples of
/// different depth. The line through the recursions has the time of a frame as its slope.
fn walk(context: &Context) -> Result<Vec<Row>> {
    let recursions = [programs::RECURSION_4, programs::RECURSION_45, programs::RECURSION_120];
    let pythons = [programs::PYTHON, programs::PYTHON_NATIVE];
    let all: Vec<Program> = recursions.iter().chain(&pythons).copied().collect();
    let settings = context.settings(999, 2.0, 1.0);
    let mut points: Vec<Vec<Point>> = vec![Vec::new(); all.len()];
    let (mut others, mut bases, mut slopes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..context.rounds(4, 1) {
        let mut round = Vec::new();
        let other = other_run(context, settings)?;
        others.push(other);
        for (index, program) in all.iter().enumerate() {
            let running = Running::start(program, &context.scratch)?;
            let run = context.record(Tool::Ours, &running, settings);
            if let Some(point) = run.as_ref().and_then(|run| Point::of(run, other)) {
                points[index].push(point);
                if index < recursions.len() {
                    round.push((point.frames, point.nanoseconds));
                }
            }
        }
        if let Some((base, slope)) = line(&round) {
            bases.push(base);
            slopes.push(slope);
        }
    }
    let row = |subject: &str, figure, unit, ours| Row {
        part: "walk",
        subject: subject.to_owned(),
        figure,
        unit,
        values: numbers::ours(ours),
    };
    let base = numbers::Spread::of(&bases).map_or(0.0, |spread| spread.median);
    let mut rows = vec![
        row("another process", "a run that takes no sample", Unit::Nanoseconds, others),
        row("recursions", "a frame (slope)", Unit::Nanoseconds, slopes),
        row("recursions", "a sample (without frames)", Unit::Nanoseconds, bases),
    ];
    for (program, points) in all.iter().zip(points) {
        let figures = |f: &dyn Fn(&Point) -> f64| points.iter().map(f).collect::<Vec<_>>();
        let name = program.name;
        rows.push(row(name, "frames walked", Unit::Count, figures(&|p| p.frames)));
        rows.push(row(name, "a sample", Unit::Nanoseconds, figures(&|p| p.nanoseconds)));
        rows.push(row(
            name,
            "a frame, less the sample's own",
            Unit::Nanoseconds,
            figures(&|p| (p.nanoseconds - base) / p.frames),
        ));
    }
    Ok(rows)
}

/// Nanoseconds of a run of our BPF program that finds a process which is not the target: with a
/// target that is stopped there are no other runs.
fn other_run(context: &Context, settings: Settings) -> Result<f64> {
    let stopped = Running::start(&programs::RECURSION_4, &context.scratch)?;
    stopped.pause();
    tools::run_time(&["--pid", &stopped.pid().to_string()], settings, &context.scratch)
}

/// What one recording tells of our BPF program.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    /// User frames of a sample.
    frames: f64,
    /// Run time of a sample.
    nanoseconds: f64,
}

impl Point {
    /// `other` is the time of a run that takes no sample.
    fn of(run: &Run, other: f64) -> Option<Self> {
        let all = run.stat("bpf_nanoseconds_per_sample")?;
        let (runs, samples) = (run.stat("bpf_runs")?, run.stat("samples")?);
        let frames = all / run.stat("bpf_nanoseconds_per_frame")?;
        let nanoseconds = all - (runs / samples - 1.0) * other;
        (frames.is_finite() && nanoseconds.is_finite()).then_some(Self { frames, nanoseconds })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_are_chosen_by_name() {
        assert_eq!(chosen(&[]).unwrap().len(), PARTS.len());
        let names: Vec<_> = chosen(&["walk".to_owned(), "cost".to_owned()]).unwrap();
        assert_eq!(names.iter().map(|part| part.name).collect::<Vec<_>>(), ["cost", "walk"]);
        let error = chosen(&["speed".to_owned()]).err().unwrap().to_string();
        assert!(error.contains("`speed`") && error.contains("shares"), "{error}");
    }

    #[test]
    fn the_greatest_error_of_a_share_is_in_points() {
        let mut run = Run { samples: 100.0, ..Run::default() };
        for (name, count) in [("half", 52.0), ("three_tenths", 29.5), ("one_fifth", 18.5)] {
            run.by_function.insert(name.to_owned(), count);
        }
        assert!((share_error(&run).unwrap() - 2.0).abs() < 1e-9);
        run.by_function.remove("half");
        assert!((share_error(&run).unwrap() - 50.0).abs() < 1e-9);
        assert_eq!(share_error(&Run::default()), None);
    }

    #[test]
    fn run_times_become_points() {
        let stats = json!({
            "bpf_runs": 300, "samples": 100,
            "bpf_nanoseconds_per_sample": 4500.0, "bpf_nanoseconds_per_frame": 90.0,
        });
        let run = Run { stats: Some(stats), ..Run::default() };
        let point = Point { frames: 50.0, nanoseconds: 4100.0 };
        assert_eq!(Point::of(&run, 200.0), Some(point));
        assert_eq!(Point::of(&Run::default(), 0.0), None);
    }
}

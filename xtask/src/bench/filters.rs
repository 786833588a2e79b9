//! What it costs to turn away what is not recorded: the run time of our BPF program at a tick of
//! the clock that finds a task which the filter rejects.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::available_parallelism,
};

use anyhow::{Context as _, Result};

use super::{
    numbers::{Row, Unit, ours},
    parts::Context,
    programs::{RECURSION_4, Running},
    tools::{self, Subject as _},
};

/// Measures each filter while every CPU has other work.
///
/// # Errors
/// When a program cannot be started, or no cgroup be made.
pub fn filters(context: &Context) -> Result<Vec<Row>> {
    let settings = context.settings(999, 2.0, 1.0);
    let cgroups = Cgroups::mount(&context.scratch.join("cgroups"))?;
    let mut busy = Vec::new();
    for number in 0..available_parallelism()?.get() {
        let page = context.scratch.join(format!("busy-{number}"));
        fs::create_dir_all(&page)?;
        let program = Running::start(&RECURSION_4, &page)?;
        cgroups.enter(program.pid())?;
        busy.push(program);
    }
    let stopped = Running::start(&RECURSION_4, &context.scratch)?;
    stopped.pause();
    let (id, other) = (stopped.pid().to_string(), cgroups.other.display().to_string());
    let filters: [(&'static str, &str, &str); 4] = [
        ("--pid", "--pid", &id),
        ("--tid", "--tid", &id),
        ("--comm, of a thread with another name", "--comm", "no*such[a-z]name"),
        ("--cgroup, of a task four levels deep elsewhere", "--cgroup", &other),
    ];
    let mut values = vec![Vec::new(); filters.len()];
    for _ in 0..context.rounds(4, 1) {
        for ((_, option, value), values) in filters.iter().zip(&mut values) {
            values.push(tools::run_time(&[option, value], settings, &context.scratch)?);
        }
    }
    drop(busy);
    let rows = filters.iter().zip(values).map(|((name, ..), values)| Row {
        part: "filters",
        subject: (*name).to_owned(),
        figure: "a tick that it rejects",
        unit: Unit::Nanoseconds,
        values: ours(values),
    });
    Ok(rows.collect())
}

/// A hierarchy of cgroups that is mounted while this lives: one deep folder, and an empty one.
struct Cgroups {
    mount: PathBuf,
    top: PathBuf,
    deep: PathBuf,
    other: PathBuf,
}

impl Cgroups {
    fn mount(mount: &Path) -> Result<Self> {
        fs::create_dir_all(mount)?;
        let mut command = Command::new("mount");
        let status = command.args(["-t", "cgroup2", "none"]).arg(mount).status();
        anyhow::ensure!(status.is_ok_and(|status| status.success()), "cannot mount cgroup2");
        let top = mount.join(format!("flame-graph-bench-{}", std::process::id()));
        let (deep, other) = (top.join("a/b/c"), top.join("other"));
        let cgroups = Self { mount: mount.to_owned(), top, deep, other };
        for folder in [&cgroups.deep, &cgroups.other] {
            fs::create_dir_all(folder).context("cannot make a cgroup")?;
        }
        Ok(cgroups)
    }

    fn enter(&self, pid: u32) -> Result<()> {
        let file = self.deep.join("cgroup.procs");
        fs::write(&file, pid.to_string()).context("cannot move a process to a cgroup")
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // Whoever is still in it goes where it cannot be in the way.
        let procs = fs::read_to_string(self.deep.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines() {
            let _ = fs::write(self.mount.join("cgroup.procs"), pid);
        }
        for below in ["a/b/c", "a/b", "a", "other", ""] {
            // A folder that stays holds nothing.
            let _ = fs::remove_dir(self.top.join(below));
        }
        let _ = Command::new("umount").arg(&self.mount).status();
    }
}

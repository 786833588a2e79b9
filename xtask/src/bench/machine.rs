//! The kind of machine that figures were measured on.

use std::{fmt, fs, path::Path, process::Command};

use crate::shell;

/// A machine's kind, as far as it matters for a profiler.
pub struct Machine {
    cpus: usize,
    model: String,
    virtual_machine: bool,
    kernel: String,
    /// Whether there are hardware counters.
    pmu: bool,
    perf: String,
    /// Load averages.
    pub load: String,
}

impl Machine {
    /// This machine.
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let (cpus, model, virtual_machine) = cpus(&cpuinfo);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let perf = shell::output(Command::new("perf").arg("--version")).unwrap_or_default();
        Self {
            cpus,
            model,
            virtual_machine,
            kernel: kernel.trim().to_owned(),
            pmu: Path::new("/sys/bus/event_source/devices/cpu").exists(),
            perf,
            load: load(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.virtual_machine { "virtual machine" } else { "machine" };
        let pmu = if self.pmu { "a PMU" } else { "no PMU" };
        let Self { cpus, model, kernel, perf, .. } = self;
        write!(f, "{kind}, {cpus} CPUs ({model}), Linux {kernel}, {pmu}; {perf}")
    }
}

/// Load averages of 1, 5 and 15 minutes: what else ran.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Number of CPUs, their model, and whether a hypervisor runs them.
fn cpus(cpuinfo: &str) -> (usize, String, bool) {
    let value = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim())
    };
    let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let model = value("model name").unwrap_or("unknown").to_owned();
    let flags = value("flags").unwrap_or_default();
    (cpus, model, flags.split(' ').any(|flag| flag == "hypervisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_tells_the_kind() {
        let one = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu hypervisor avx\n\n";
        assert_eq!(cpus(&one.repeat(2)), (2, "AMD EPYC".to_owned(), true));
        assert_eq!(cpus(""), (0, "unknown".to_owned(), false));
    }
}

//! Which engine a recording uses on this host, and why. Pure: it decides from a [`Host`].

pub mod advice;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::capabilities::{Host, Lockdown, Namespace};
use super::probe::{Feature, Refusal};

/// What takes the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// BPF programs that walk stacks in the kernel.
    Ebpf,
    /// Perf events with copies of stacks, walked by this process.
    PerfEvent,
    /// Nothing can.
    None,
}

impl Engine {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::PerfEvent => "perf-event",
            Self::None => "none",
        }
    }
}

/// What can be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every process of the host.
    Host,
    /// Processes of the same user.
    OwnProcesses,
    /// None.
    Nothing,
}

/// An engine, and what it is good for here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EngineChoice {
    /// Which engine.
    pub engine: Engine,
    /// Why this one, in a sentence without a full stop.
    pub reason: String,
    /// What it can record.
    pub scope: Scope,
    /// It sees kernel frames.
    pub kernel_frames: bool,
}

/// What an engine is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Sample what runs (`cpu`).
    Sample,
    /// Time waits (`offcpu`, `wall`).
    Time,
}

/// The engine for a task: eBPF, else perf events, else none.
#[must_use]
pub fn engine(host: &Host, task: Task) -> EngineChoice {
    let obstacle = match ebpf(host, task) {
        Ok(choice) => return choice,
        Err(obstacle) => obstacle,
    };
    match perf_event(host) {
        Ok(choice) => EngineChoice { reason: format!("{obstacle}; {}", choice.reason), ..choice },
        Err(second) => EngineChoice {
            engine: Engine::None,
            reason: format!("{obstacle}; {second}"),
            scope: Scope::Nothing,
            kernel_frames: false,
        },
    }
}

/// The eBPF engine.
///
/// # Errors
///
/// What stands in its way, in a sentence without a full stop.
pub fn ebpf(host: &Host, task: Task) -> Result<EngineChoice, String> {
    let timing = Feature::TIMING.into_iter().filter(|_| task == Task::Time);
    let mut needed = Feature::SAMPLING.into_iter().chain(timing);
    if let Some(feature) = needed.find(|feature| !host.works(*feature)) {
        return Err(obstacle(host, feature));
    }
    if !host.kernel.btf {
        return Err(
            "the kernel shows no BTF, from which the eBPF engine learns the layout of its \
                    structures"
                .to_owned(),
        );
    }
    Ok(EngineChoice {
        engine: Engine::Ebpf,
        reason: "every BPF feature that it needs works".to_owned(),
        scope: Scope::Host,
        kernel_frames: true,
    })
}

/// The engine of perf events and stack copies.
///
/// # Errors
///
/// What stands in its way, in a sentence without a full stop.
pub fn perf_event(host: &Host) -> Result<EngineChoice, String> {
    let choice = |reason: &str, scope, kernel_frames| {
        let reason = reason.to_owned();
        Ok(EngineChoice { engine: Engine::PerfEvent, reason, scope, kernel_frames })
    };
    for feature in [Feature::UserCpuClock, Feature::StackCopies] {
        if let Some(refusal) = host.probes.refusal(feature) {
            return Err(format!("perf events ({}): {}", feature.name(), refusal.reason));
        }
        if !host.works(feature) {
            return Err(format!("perf events ({}) were not tried", feature.name()));
        }
    }
    if host.works(Feature::HostCpuClock) && host.works(Feature::HostSideBand) {
        choice("perf events with stack copies record the whole host", Scope::Host, true)
    } else if host.works(Feature::KernelCpuClock) {
        choice("perf events with stack copies record your own processes", Scope::OwnProcesses, true)
    } else {
        let reason = "perf events with stack copies record your own processes, user frames only";
        choice(reason, Scope::OwnProcesses, false)
    }
}

/// Why the eBPF engine lacks a feature that it needs.
fn obstacle(host: &Host, feature: Feature) -> String {
    if host.settings.lockdown == Some(Lockdown::Confidentiality) {
        return "lockdown (confidentiality) forbids BPF programs to read memory".to_owned();
    }
    let Some(refusal) = host.probes.refusal(feature) else {
        return format!("{} were not tried", feature.name());
    };
    if forbidden(refusal) {
        return if host.container.user_namespace == Namespace::Own {
            "in a user namespace of its own even root may not load BPF programs".to_owned()
        } else if feature.is_bpf() {
            "this user may not load BPF programs (that takes root, or CAP_BPF and CAP_PERFMON)"
                .to_owned()
        } else {
            format!("this user may not open perf events ({})", feature.name())
        };
    }
    let newer = matches!(feature, Feature::Loop | Feature::UserRegisters);
    if newer && !host.kernel.is_at_least(6, 1) {
        return format!(
            "kernel {} has no {}, which the eBPF engine needs (6.1 and newer have it)",
            host.kernel.release,
            feature.name()
        );
    }
    format!("{}: {}", feature.name(), refusal.reason)
}

/// The kernel has it, but not for us.
fn forbidden(refusal: &Refusal) -> bool {
    matches!(refusal.errno, libc::EPERM | libc::EACCES)
}

//! What this host lacks: for each thing what it costs and how to get it. Pure.

use serde::Serialize;

use super::super::capabilities::{Capability, Host, Lockdown, Namespace};
use super::super::probe::Feature;
use super::{EngineChoice, Scope, Task, engine, forbidden};

/// Something that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The thing.
    pub what: String,
    /// What is lost without it.
    pub cost: String,
    /// How to get it.
    pub remedy: String,
    /// Recordings are poorer without it. False: it is listed because other tools need it.
    pub needed: bool,
}

/// The rate that recordings have by default, in Hz.
const DEFAULT_FREQUENCY: u64 = 99;

/// Everything that is missing; what is needed first.
#[must_use]
pub fn missing(host: &Host) -> Vec<Missing> {
    let choice = engine(host, Task::Sample);
    let mut list = Vec::new();
    kernel(host, &choice, &mut list);
    privileges(host, &choice, &mut list);
    container(host, &choice, &mut list);
    settings(host, &choice, &mut list);
    unneeded(host, &mut list);
    list
}

fn entry(what: &str, cost: &str, remedy: &str) -> Missing {
    Missing { what: what.into(), cost: cost.into(), remedy: remedy.into(), needed: true }
}

/// What the kernel itself lacks or forbids to everyone.
fn kernel(host: &Host, choice: &EngineChoice, list: &mut Vec<Missing>) {
    let instead = without_ebpf(choice);
    if host.settings.lockdown == Some(Lockdown::Confidentiality) {
        let remedy = "boot with lockdown=integrity, or without lockdown";
        list.push(entry("freedom from lockdown (confidentiality)", &instead, remedy));
        return;
    }
    let lacks = |feature| host.probes.refusal(feature).is_some_and(|refusal| !forbidden(refusal));
    if !host.kernel.btf {
        let remedy = "use a kernel built with CONFIG_DEBUG_INFO_BTF (distributions' are)";
        list.push(entry("the kernel's BTF (/sys/kernel/btf/vmlinux)", &instead, remedy));
    }
    let absent: Vec<&str> = Feature::SAMPLING
        .into_iter()
        .filter(|feature| lacks(*feature))
        .map(Feature::name)
        .collect();
    if !absent.is_empty() {
        let remedy = if host.kernel.is_at_least(6, 1) {
            "use a kernel built with CONFIG_BPF_SYSCALL, CONFIG_BPF_EVENTS and CONFIG_PERF_EVENTS; \
             in a container, allow bpf and perf_event_open in its seccomp profile"
        } else {
            "use Linux 6.1 or newer"
        };
        list.push(entry(&format!("of the kernel: {}", absent.join(", ")), &instead, remedy));
    }
    if host.kernel.btf && lacks(Feature::SleepableTaskIterator) {
        let cost = "waits are timed by perf events, which do not tell what a thread waits for";
        list.push(entry("sleepable task iterators", cost, "use Linux 6.1 or newer"));
    }
}

/// What this user may not do.
fn privileges(host: &Host, choice: &EngineChoice, list: &mut Vec<Missing>) {
    let refused = |feature| host.probes.refusal(feature).is_some_and(forbidden);
    let own_namespace = host.container.user_namespace == Namespace::Own;
    if refused(Feature::PerfEventProgram) || refused(Feature::HostCpuClock) {
        let remedy = if own_namespace {
            "run it outside of the user namespace, as the host's root"
        } else if host.privileges.euid == Some(0) && !host.container.is_likely() {
            "add CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH to root's capabilities"
        } else if host.privileges.euid == Some(0) {
            "start the container with --privileged, or with --cap-add BPF, PERFMON and SYS_PTRACE \
             and a seccomp profile that allows bpf and perf_event_open"
        } else {
            "run it as root: sudo flame-graph …"
        };
        let what = "permission to load BPF programs and observe the host (CAP_BPF, CAP_PERFMON)";
        list.push(entry(what, &without_ebpf(choice), remedy));
    } else {
        let capabilities = host.privileges.capabilities;
        let lacks = |capability| own_namespace || !capabilities.allows(capability);
        if lacks(Capability::CapSysPtrace) {
            let cost = "processes of other users that began before the recording have no names";
            list.push(entry("CAP_SYS_PTRACE", cost, "run it as root, or add this capability"));
        }
        if lacks(Capability::CapDacReadSearch) {
            let cost = "programs whose files this user cannot read have neither stacks nor names";
            list.push(entry("CAP_DAC_READ_SEARCH", cost, "run it as root, or add this capability"));
        }
    }
    if choice.scope == Scope::Nothing && refused(Feature::UserCpuClock) {
        let cost = "not even your own processes can be recorded";
        let remedy = "run it as root, or sysctl -w kernel.perf_event_paranoid=2 \
                      (in a container: allow perf_event_open in its seccomp profile)";
        list.push(entry("perf events for unprivileged users", cost, remedy));
    } else if choice.scope == Scope::OwnProcesses && !choice.kernel_frames {
        let remedy = "run it as root, or sysctl -w kernel.perf_event_paranoid=1";
        list.push(entry("kernel samples of your own processes", "no kernel frames", remedy));
    }
}

fn container(host: &Host, choice: &EngineChoice, list: &mut Vec<Missing>) {
    if host.container.pid_namespace == Namespace::Own && choice.scope == Scope::Host {
        let what = "the host's process numbers (this is a PID namespace of its own)";
        let cost = "processes outside of this container cannot be named nor chosen by --pid";
        list.push(entry(what, cost, "start the container with --pid=host"));
    }
}

fn settings(host: &Host, choice: &EngineChoice, list: &mut Vec<Missing>) {
    if choice.kernel_frames && !host.kernel_symbols() {
        let remedy = match host.settings.kptr_restrict {
            Some(2..) => "sysctl -w kernel.kptr_restrict=1",
            _ => "run it as root, or add CAP_SYSLOG",
        };
        list.push(entry("the kernel's symbols", "kernel frames have no names", remedy));
    }
    let highest = host.settings.perf_event_max_sample_rate;
    if let Some(rate) = highest.filter(|rate| *rate < DEFAULT_FREQUENCY) {
        let what = format!("a sampling rate of {DEFAULT_FREQUENCY} Hz (the limit is {rate})");
        let remedy = "name a lower rate by --frequency, or raise it: \
                      sysctl -w kernel.perf_event_max_sample_rate=100000";
        list.push(entry(&what, "recordings at the default rate are refused", remedy));
    }
}

/// What other tools need and this one does not, and what changes without it.
fn unneeded(host: &Host, list: &mut Vec<Missing>) {
    let mut push = |absent: bool, what: &str, cost: &str, remedy: &str| {
        if absent {
            list.push(Missing { needed: false, ..entry(what, cost, remedy) });
        }
    };
    let lacks = |feature| host.probes.refusal(feature).is_some_and(|refusal| !forbidden(refusal));
    push(
        lacks(Feature::HardwareCycles),
        "hardware counters (a PMU)",
        "none for shares: a timer samples instead, and code that keeps interrupts off is charged \
         where it lets them in again",
        "use a machine, or a virtual one, whose PMU is passed through",
    );
    push(
        lacks(Feature::KprobeProgram),
        "kprobes",
        "none: no engine needs them",
        "use a kernel built with CONFIG_KPROBE_EVENTS",
    );
    for (mounted, name, path) in [
        (host.mounts.tracefs, "tracefs", "/sys/kernel/tracing"),
        (host.mounts.debugfs, "debugfs", "/sys/kernel/debug"),
        (host.mounts.bpffs, "bpffs", "/sys/fs/bpf"),
    ] {
        let kind = if name == "bpffs" { "bpf" } else { name };
        let remedy = format!("mount -t {kind} none {path}");
        push(!mounted, &format!("{name} (not mounted)"), "none: no engine needs it", &remedy);
    }
}

/// What is lost with the eBPF engine.
fn without_ebpf(choice: &EngineChoice) -> String {
    match (choice.scope, choice.kernel_frames) {
        (Scope::Host, _) => {
            "stacks are copied and walked outside of the kernel: more overhead, and deep stacks \
             are cut"
        }
        (Scope::OwnProcesses, true) => "only your own processes can be recorded",
        (Scope::OwnProcesses, false) => {
            "only your own processes can be recorded, without kernel frames"
        }
        (Scope::Nothing, _) => "nothing can be recorded",
    }
    .to_owned()
}

//! Engine and advice by table: hosts on which some features work.

use super::super::capabilities::{Capabilities, Container, Kernel, Privileges, Settings};
use super::advice::{Missing, missing};
use super::*;

fn refusal(errno: i32) -> Refusal {
    std::io::Error::from_raw_os_error(errno).into()
}

/// Root on a full host, but for what is refused.
fn host(refused: &[(Feature, i32)]) -> Host {
    let mut host = Host {
        kernel: Kernel { release: "6.12.0".into(), version: Some((6, 12)), btf: true },
        settings: Settings {
            perf_event_paranoid: Some(2),
            kptr_restrict: Some(1),
            perf_event_max_sample_rate: Some(100_000),
            ..Settings::default()
        },
        privileges: Privileges {
            uid: Some(0),
            euid: Some(0),
            capabilities: Capabilities(u64::MAX),
            ..Privileges::default()
        },
        container: Container {
            pid_namespace: Namespace::Host,
            user_namespace: Namespace::Host,
            signs: Vec::new(),
        },
        ..Host::default()
    };
    host.mounts.tracefs = true;
    host.mounts.debugfs = true;
    host.mounts.bpffs = true;
    for feature in Feature::ALL {
        let errno = refused.iter().find(|(other, _)| *other == feature).map(|(_, errno)| *errno);
        host.probes.set(feature, errno.map_or(Ok(()), |errno| Err(refusal(errno))));
    }
    host
}

/// All that an unprivileged user is refused, and what else is named.
fn unprivileged(more: &[Feature]) -> Host {
    let bpf = Feature::ALL.into_iter().filter(|feature| feature.is_bpf());
    let refused = bpf.chain([Feature::HostCpuClock, Feature::HostSideBand]);
    let refused: Vec<(Feature, i32)> =
        refused.chain(more.iter().copied()).map(|feature| (feature, libc::EPERM)).collect();
    let mut host = host(&refused);
    host.privileges = Privileges { uid: Some(1000), euid: Some(1000), ..Privileges::default() };
    host
}

#[test]
fn the_engine_by_what_works() {
    use Feature as F;
    let mut locked = host(&[(F::KernelStack, libc::EINVAL)]);
    locked.settings.lockdown = Some(Lockdown::Confidentiality);
    let mut blind = host(&[]);
    blind.kernel.btf = false;
    let mut old = host(&[(F::Loop, libc::EINVAL), (F::UserRegisters, libc::EINVAL)]);
    old.kernel = Kernel { release: "5.10.0-x".into(), version: Some((5, 10)), btf: true };
    let mut rootless = unprivileged(&[]);
    rootless.container.user_namespace = Namespace::Own;

    for (name, host, engine, scope, kernel_frames, because) in [
        ("all", host(&[]), Engine::Ebpf, Scope::Host, true, "works"),
        ("kprobes", host(&[(F::KprobeProgram, 22)]), Engine::Ebpf, Scope::Host, true, "works"),
        ("no PMU", host(&[(F::HardwareCycles, 2)]), Engine::Ebpf, Scope::Host, true, "works"),
        ("lockdown", locked, Engine::PerfEvent, Scope::Host, true, "lockdown"),
        ("no BTF", blind, Engine::PerfEvent, Scope::Host, true, "BTF"),
        ("5.10", old, Engine::PerfEvent, Scope::Host, true, "5.10.0-x has no bpf_loop"),
        (
            "no bpf()",
            host(&[(F::PerfEventProgram, libc::ENOSYS)]),
            Engine::PerfEvent,
            Scope::Host,
            true,
            "no such system call",
        ),
        ("paranoid 1", unprivileged(&[]), Engine::PerfEvent, Scope::OwnProcesses, true, "CAP_BPF"),
        (
            "paranoid 2",
            unprivileged(&[F::KernelCpuClock]),
            Engine::PerfEvent,
            Scope::OwnProcesses,
            false,
            "user frames only",
        ),
        ("rootless", rootless, Engine::PerfEvent, Scope::OwnProcesses, true, "user namespace"),
        (
            "paranoid 3",
            unprivileged(&[F::KernelCpuClock, F::UserCpuClock, F::StackCopies]),
            Engine::None,
            Scope::Nothing,
            false,
            "not permitted",
        ),
        (
            "no perf events",
            host(&[(F::HostCpuClock, libc::EPERM), (F::UserCpuClock, libc::ENOSYS)]),
            Engine::None,
            Scope::Nothing,
            false,
            "perf events",
        ),
        ("untried", Host::default(), Engine::None, Scope::Nothing, false, "not tried"),
    ] {
        let choice = super::engine(&host, Task::Sample);
        assert_eq!((choice.engine, choice.scope), (engine, scope), "{name}: {choice:?}");
        assert_eq!(choice.kernel_frames, kernel_frames, "{name}");
        assert!(choice.reason.contains(because), "{name}: {}", choice.reason);
        assert!(!choice.reason.ends_with('.') && !choice.reason.contains('\n'), "{name}");
    }
}

/// Words on what is needed and missing.
fn needed(host: &Host) -> Vec<String> {
    let needed = missing(host).into_iter().filter(|missing| missing.needed);
    needed.map(|missing| missing.what).collect()
}

#[test]
fn waits_take_more() {
    let lacks = host(&[(Feature::BtfTracepointProgram, libc::EINVAL)]);
    assert_eq!(engine(&lacks, Task::Sample).engine, Engine::Ebpf);
    let choice = engine(&lacks, Task::Time);
    assert_eq!((choice.engine, choice.scope), (Engine::PerfEvent, Scope::Host));
    assert!(choice.reason.contains("tp_btf programs"), "{}", choice.reason);
    assert_eq!(engine(&host(&[]), Task::Time).engine, Engine::Ebpf);
}

#[test]
fn a_full_host_lacks_nothing() {
    assert_eq!(missing(&host(&[])), []);
}

#[test]
fn what_is_missing_has_a_cost_and_a_remedy() {
    let find = |host: &Host, what: &str| -> Missing {
        let list = missing(host);
        let found = list.iter().find(|missing| missing.what.contains(what)).cloned();
        found.unwrap_or_else(|| panic!("no {what} in {list:?}"))
    };
    let user = unprivileged(&[Feature::KernelCpuClock]);
    let permission = find(&user, "CAP_BPF");
    assert!(permission.cost.contains("own processes") && permission.remedy.contains("sudo"));
    assert!(find(&user, "kernel samples").remedy.contains("perf_event_paranoid=1"));
    assert_eq!(needed(&user).len(), 2, "{:?}", needed(&user));

    let all = [Feature::KernelCpuClock, Feature::UserCpuClock, Feature::StackCopies];
    assert!(find(&unprivileged(&all), "unprivileged users").remedy.contains("paranoid=2"));

    let mut rootless = unprivileged(&[]);
    rootless.container.user_namespace = Namespace::Own;
    rootless.privileges.euid = Some(0);
    assert!(find(&rootless, "CAP_BPF").remedy.contains("user namespace"));
    rootless.container.user_namespace = Namespace::Host;
    assert!(find(&rootless, "CAP_BPF").remedy.contains("root's capabilities"));
    rootless.container.signs.push("/.dockerenv exists".into());
    assert!(find(&rootless, "CAP_BPF").remedy.contains("--privileged"));

    let mut few = host(&[]);
    few.privileges.capabilities = Capabilities(1 << 39 | 1 << 38);
    assert_eq!(needed(&few), ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "the kernel's symbols"]);

    let mut old = host(&[(Feature::Loop, libc::EINVAL)]);
    old.kernel.version = Some((5, 10));
    assert!(find(&old, "bpf_loop").remedy.contains("6.1"));
    let mut locked = host(&[(Feature::KernelStack, libc::EINVAL)]);
    locked.settings.lockdown = Some(Lockdown::Confidentiality);
    assert_eq!(needed(&locked).len(), 1);
    assert!(find(&locked, "lockdown").remedy.contains("integrity"));
    let mut blind = host(&[]);
    blind.kernel.btf = false;
    assert!(find(&blind, "BTF").remedy.contains("CONFIG_DEBUG_INFO_BTF"));

    let mut inside = host(&[]);
    inside.container.pid_namespace = Namespace::Own;
    assert!(find(&inside, "process numbers").remedy.contains("--pid=host"));
    let mut hidden = host(&[]);
    hidden.settings.kptr_restrict = Some(2);
    assert!(find(&hidden, "symbols").remedy.contains("kptr_restrict=1"));
    let mut slow = host(&[]);
    slow.settings.perf_event_max_sample_rate = Some(50);
    assert!(find(&slow, "99 Hz").what.contains("50"));
}

#[test]
fn what_others_need_is_told_as_such() {
    let mut bare =
        host(&[(Feature::KprobeProgram, libc::ENOENT), (Feature::HardwareCycles, libc::ENOENT)]);
    bare.mounts = super::super::capabilities::Mounts::default();
    let list = missing(&bare);
    assert_eq!(list.len(), 5);
    assert!(list.iter().all(|missing| !missing.needed && missing.cost.starts_with("none")));
    assert_eq!(engine(&bare, Task::Sample).engine, Engine::Ebpf);
}

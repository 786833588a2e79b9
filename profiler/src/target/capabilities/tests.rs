//! Hosts made of files, and this one.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::target::engine::{Task, engine};

fn host(files: &[(&str, &str)], links: &[(&str, &str)]) -> (TempDir, Roots) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    for (path, target) in links {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }
    let under = |name| dir.path().join(name);
    let roots = Roots { proc: under("proc"), sys: under("sys"), root: dir.path().to_owned() };
    (dir, roots)
}

#[test]
fn every_file_is_read() {
    let (_dir, roots) = host(
        &[
            ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
            ("proc/sys/kernel/perf_event_paranoid", "-1\n"),
            ("proc/sys/kernel/kptr_restrict", "1\n"),
            ("proc/sys/kernel/perf_event_max_sample_rate", "50000\n"),
            ("proc/sys/kernel/perf_event_mlock_kb", "516\n"),
            ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
            ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n"),
            ("sys/kernel/btf/vmlinux", ""),
            ("sys/devices/system/cpu/online", "0-2,5\n"),
            (
                "proc/self/status",
                "Name:\tx\nUid:\t1000\t0\t0\t0\nCapEff:\t000000c000280004\nNSpid:\t9\n",
            ),
            (
                "proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max locked memory         65536                unlimited            bytes\n",
            ),
            ("proc/self/mounts", "none /sys/kernel/tracing tracefs rw 0 0\nx /b bpf rw 0 0\n"),
            ("proc/self/cgroup", "0::/system.slice/docker-12ab.scope\n"),
            ("run/systemd/container", "pod\x1b[31mman\n"),
        ],
        &[("proc/self/ns/pid", "pid:[4026532001]"), ("proc/self/ns/user", "user:[4026531837]")],
    );
    let host = Host::read(&roots);
    assert_eq!(
        (host.kernel.release.as_str(), host.kernel.version),
        ("6.1.0-18-amd64", Some((6, 1)))
    );
    assert!(host.kernel.btf && host.kernel.is_at_least(6, 1) && !host.kernel.is_at_least(6, 2));
    let settings = &host.settings;
    assert_eq!(settings.perf_event_paranoid, Some(-1));
    assert_eq!(settings.kptr_restrict, Some(1));
    assert_eq!(settings.perf_event_max_sample_rate, Some(50_000));
    assert_eq!(settings.perf_event_mlock_kb, Some(516));
    assert_eq!(settings.unprivileged_bpf_disabled, Some(2));
    assert_eq!(settings.lockdown, Some(Lockdown::Integrity));
    assert_eq!(host.cpus, [0, 1, 2, 5]);
    let privileges = &host.privileges;
    assert_eq!(
        (privileges.uid, privileges.euid, privileges.memlock),
        (Some(1000), Some(0), Some(65_536))
    );
    for capability in Capability::ALL {
        let expected = capability != Capability::CapSyslog;
        assert_eq!(privileges.capabilities.has(capability), expected, "{}", capability.name());
    }
    assert_eq!(host.mounts, Mounts { tracefs: true, debugfs: false, bpffs: true });
    assert_eq!(host.container.pid_namespace, Namespace::Own);
    assert_eq!(host.container.user_namespace, Namespace::Host);
    let statement = host.container.statement();
    assert!(statement.contains("own process numbers") && statement.contains("docker"));
    assert!(!statement.contains('\x1b'), "{statement}");
    assert!(!host.kernel_symbols());
}

#[test]
fn a_host_without_any_file_is_known_for_nothing() {
    let (_dir, roots) = host(&[], &[]);
    let host = Host::read(&roots);
    assert_eq!(host.kernel.version, None);
    assert!(!host.kernel.btf && !host.kernel.is_at_least(0, 0));
    assert_eq!(host.privileges.capabilities, Capabilities::default());
    assert_eq!(host.settings.lockdown, None);
    assert!(host.cpus.is_empty() && host.container.signs.is_empty());
    assert_eq!(host.container.statement(), "no sign of one");
    assert_eq!(host.probes.iter().count(), 0);
}

#[test]
fn senseless_files_count_as_missing() {
    let huge = "9".repeat(3 << 20);
    let (_dir, roots) = host(
        &[
            ("proc/sys/kernel/osrelease", "six.one"),
            ("proc/sys/kernel/kptr_restrict", &huge),
            ("sys/kernel/security/lockdown", "[none"),
            ("proc/self/status", "Uid:\nCapEff:\txyz\n"),
            ("proc/self/limits", "Max locked memory"),
            ("sys/devices/system/cpu/online", "0-4294967295"),
        ],
        &[],
    );
    let host = Host::read(&roots);
    assert_eq!(host.kernel.version, None);
    assert_eq!(host.settings.kptr_restrict, None);
    assert_eq!(host.settings.lockdown, None);
    assert_eq!((host.privileges.uid, host.privileges.memlock), (None, None));
    assert!(host.cpus.is_empty());
}

#[test]
fn lists_of_cpus() {
    for (list, expected) in [
        ("0", Some(vec![0])),
        ("0-1", Some(vec![0, 1])),
        ("8,0-1,1", Some(vec![0, 1, 8])),
        ("", None),
        ("1-0", None),
        ("0-", None),
        ("a", None),
        ("0-99999", None),
    ] {
        assert_eq!(parse_cpu_list(list), expected, "{list}");
    }
    assert!(parse_cpu_list(&vec!["0-60000"; 100].join(",")).is_none());
    assert!(!online_cpus().is_empty());
}

#[test]
fn admin_includes_the_newer_capabilities() {
    let admin = Capabilities(1 << 21);
    assert!(admin.allows(Capability::CapBpf) && admin.allows(Capability::CapPerfmon));
    assert!(!admin.has(Capability::CapBpf) && !admin.allows(Capability::CapSysPtrace));
}

#[test]
fn kernel_symbols_by_setting_and_privilege() {
    let host = |kptr, paranoid, syslog, user_namespace| Host {
        settings: Settings {
            kptr_restrict: Some(kptr),
            perf_event_paranoid: Some(paranoid),
            ..Settings::default()
        },
        privileges: Privileges {
            capabilities: Capabilities(u64::from(syslog) << 34),
            ..Privileges::default()
        },
        container: Container { user_namespace, ..Container::default() },
        ..Host::default()
    };
    for (kptr, paranoid, syslog, namespace, expected) in [
        (0, 1, false, Namespace::Host, true),
        (0, 2, false, Namespace::Host, false),
        (0, 2, true, Namespace::Host, true),
        (1, -1, false, Namespace::Host, false),
        (1, 2, true, Namespace::Host, true),
        (1, 2, true, Namespace::Own, false),
        (2, -1, true, Namespace::Host, false),
    ] {
        let host = host(kptr, paranoid, syslog, namespace);
        assert_eq!(host.kernel_symbols(), expected, "{kptr} {paranoid} {syslog} {namespace:?}");
    }
}

#[test]
fn this_host_is_known() {
    let host = Host::detect();
    assert!(host.kernel.version.is_some());
    assert!(!host.cpus.is_empty());
    assert_eq!(host.privileges.euid, Some(rustix::process::geteuid().as_raw()));
    assert_eq!(host.probes.iter().count(), Feature::ALL.len());
    // The quick look comes to the same engine.
    let quick = Host::detect_for_cpu();
    assert!(quick.probes.iter().count() < Feature::ALL.len());
    for task in [Task::Sample, Task::Time] {
        assert_eq!(engine(&quick, task), engine(&host, task));
    }
}

//! The files that tell what the host allows, each read with a bound.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::{Capabilities, Kernel, Lockdown, Mounts, Privileges, Roots, Settings};

/// Most bytes read of one file; a list of mounts may be long.
const LIMIT: u64 = 1 << 20;

/// Most CPUs taken of a list: `NR_CPUS` is 8,192 at the most today.
const MAX_CPUS: usize = 1 << 16;

/// A file's text, up to a bound; `None`: it cannot be read.
pub(super) fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.trim().parse().ok()
}

pub(super) fn kernel(roots: &Roots) -> Kernel {
    let release = text(&roots.proc.join("sys/kernel/osrelease")).unwrap_or_default();
    let release = release.trim().to_owned();
    let btf = File::open(roots.sys.join("kernel/btf/vmlinux")).is_ok();
    Kernel { version: version(&release), release, btf }
}

/// Major and minor of `6.1.0-18-amd64`, `6.12-rc1`, `5.10`.
fn version(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let digits = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

pub(super) fn settings(roots: &Roots) -> Settings {
    let kernel = roots.proc.join("sys/kernel");
    Settings {
        perf_event_paranoid: number(&kernel.join("perf_event_paranoid")),
        kptr_restrict: number(&kernel.join("kptr_restrict")),
        perf_event_max_sample_rate: number(&kernel.join("perf_event_max_sample_rate")),
        perf_event_mlock_kb: number(&kernel.join("perf_event_mlock_kb")),
        unprivileged_bpf_disabled: number(&kernel.join("unprivileged_bpf_disabled")),
        lockdown: lockdown(&roots.sys.join("kernel/security/lockdown")),
    }
}

/// The file lists every mode, the one in force in brackets: `none [integrity] confidentiality`.
fn lockdown(path: &Path) -> Option<Lockdown> {
    let text = text(path)?;
    let (_, rest) = text.split_once('[')?;
    match rest.split_once(']')?.0 {
        "none" => Some(Lockdown::None),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

pub(super) fn privileges(roots: &Roots) -> Privileges {
    let status = text(&roots.proc.join("self/status")).unwrap_or_default();
    let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    let mut users = field("Uid:").unwrap_or_default().split_whitespace();
    let mut user = || users.next().and_then(|user| user.parse().ok());
    let effective = field("CapEff:").and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    Privileges {
        uid: user(),
        euid: user(),
        capabilities: Capabilities(effective.unwrap_or(0)),
        memlock: memlock(&roots.proc.join("self/limits")),
    }
}

fn memlock(path: &Path) -> Option<u64> {
    let text = text(path)?;
    let limits = text.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    match limits.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        bytes => bytes.parse().ok(),
    }
}

pub(super) fn mounts(roots: &Roots) -> Mounts {
    let text = text(&roots.proc.join("self/mounts")).unwrap_or_default();
    let mounted = |kind| text.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    Mounts { tracefs: mounted("tracefs"), debugfs: mounted("debugfs"), bpffs: mounted("bpf") }
}

pub(super) fn online_cpus(roots: &Roots) -> Vec<u32> {
    let list = text(&roots.sys.join("devices/system/cpu/online"));
    list.and_then(|list| parse_cpu_list(list.trim())).unwrap_or_default()
}

/// CPUs of a list as the kernel prints it, `0-3,8,10-11`, ascending. `None`: not such a list, or
/// one of more CPUs than any kernel has.
#[must_use]
pub fn parse_cpu_list(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || (last - first) as usize >= MAX_CPUS - cpus.len() {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

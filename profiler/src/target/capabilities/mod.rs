//! What the host allows: kernel, settings, privileges, container.
//!
//! [`Host::read`] takes files alone, below roots that tests can choose; [`Host::detect`] also
//! tries what the kernel takes (see [`super::probe`]). A file that is missing or odd is `None`,
//! never an error: this is what explains errors.

mod container;
mod files;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::Serialize;

use super::probe::{Feature, Probes};
pub use container::{Container, Namespace};
pub use files::parse_cpu_list;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Where procfs is mounted.
    pub proc: PathBuf,
    /// Where sysfs is mounted.
    pub sys: PathBuf,
    /// The file system's root, for the marks that container engines leave.
    pub root: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), root: "/".into() }
    }
}

/// What the host allows.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The kernel.
    pub kernel: Kernel,
    /// Its settings.
    pub settings: Settings,
    /// What this process may do.
    pub privileges: Privileges,
    /// Signs of a container.
    pub container: Container,
    /// File systems that other tools need.
    pub mounts: Mounts,
    /// CPUs that are online, ascending; empty: not known.
    pub cpus: Vec<u32>,
    /// What was tried.
    pub probes: Probes,
}

/// The kernel.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Kernel {
    /// Its release, as `uname -r` prints it.
    pub release: String,
    /// Major and minor version of that.
    pub version: Option<(u32, u32)>,
    /// It shows its BTF: the layout of its structures.
    pub btf: bool,
}

impl Kernel {
    /// It is of this version or newer; false where the version is not known.
    #[must_use]
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        self.version.is_some_and(|version| version >= (major, minor))
    }
}

/// Settings of the kernel; `None`: this kernel has no such setting, or it cannot be read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Settings {
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i64>,
    /// `kernel.kptr_restrict`.
    pub kptr_restrict: Option<i64>,
    /// `kernel.perf_event_max_sample_rate`, in Hz.
    pub perf_event_max_sample_rate: Option<u64>,
    /// `kernel.perf_event_mlock_kb`, KiB of perf buffers for each CPU and unprivileged user.
    pub perf_event_mlock_kb: Option<u64>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<i64>,
    /// What lockdown forbids even root.
    pub lockdown: Option<Lockdown>,
}

/// Modes of `/sys/kernel/security/lockdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// Nothing is forbidden.
    None,
    /// The kernel may not be changed.
    Integrity,
    /// Nor its memory be read: no BPF reads, no perf.
    Confidentiality,
}

/// What this process may do.
#[derive(Clone, Debug, Default)]
pub struct Privileges {
    /// Real user.
    pub uid: Option<u32>,
    /// Effective user.
    pub euid: Option<u32>,
    /// Effective capabilities.
    pub capabilities: Capabilities,
    /// Soft limit of locked memory in bytes, `u64::MAX`: none. BPF maps count since 5.11 by
    /// cgroup instead.
    pub memlock: Option<u64>,
}

/// A set of capabilities, as `CapEff` of `/proc/PID/status` has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

/// A capability that matters here. Numbers: include/uapi/linux/capability.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum Capability {
    /// Read files whatever their permissions.
    CapDacReadSearch = 2,
    /// Read other users' processes.
    CapSysPtrace = 19,
    /// Everything; it includes CAP_BPF and CAP_PERFMON.
    CapSysAdmin = 21,
    /// See the kernel's addresses.
    CapSyslog = 34,
    /// Observe the host through perf events (since 5.8).
    CapPerfmon = 38,
    /// Load BPF programs (since 5.8).
    CapBpf = 39,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::CapBpf,
        Self::CapPerfmon,
        Self::CapSysAdmin,
        Self::CapSysPtrace,
        Self::CapDacReadSearch,
        Self::CapSyslog,
    ];

    /// Its name in manuals.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CapDacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::CapSysPtrace => "CAP_SYS_PTRACE",
            Self::CapSysAdmin => "CAP_SYS_ADMIN",
            Self::CapSyslog => "CAP_SYSLOG",
            Self::CapPerfmon => "CAP_PERFMON",
            Self::CapBpf => "CAP_BPF",
        }
    }
}

impl Capabilities {
    /// The capability itself is in the set.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        self.0 >> (capability as u8) & 1 == 1
    }

    /// The set allows what the capability allows.
    #[must_use]
    pub fn allows(self, capability: Capability) -> bool {
        let admin = matches!(capability, Capability::CapBpf | Capability::CapPerfmon);
        self.has(capability) || (admin && self.has(Capability::CapSysAdmin))
    }
}

/// File systems that other tools need and this one does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mounts {
    /// tracefs.
    pub tracefs: bool,
    /// debugfs.
    pub debugfs: bool,
    /// The BPF file system.
    pub bpffs: bool,
}

impl Host {
    /// Reads the host's files and tries everything that its kernel may take: for `doctor`, as it
    /// takes some 60 ms. Nothing on the host changes.
    #[must_use]
    pub fn detect() -> Self {
        Self::detect_with(&Feature::ALL, false)
    }

    /// Reads the host's files and tries what the choice of an engine for `cpu` depends on: a few
    /// milliseconds.
    #[must_use]
    pub fn detect_for_cpu() -> Self {
        let needed = [&Feature::SAMPLING[..], &Feature::TIMING, &Feature::PERF_EVENT];
        Self::detect_with(&needed.concat(), false)
    }

    /// Reads the host's files and tries features; when `verbose`, with the verifier's words on
    /// refused programs.
    #[must_use]
    pub fn detect_with(features: &[Feature], verbose: bool) -> Self {
        let roots = Roots::default();
        let mut host = Self::read(&roots);
        let cpu = host.cpus.first().copied().unwrap_or(0);
        host.probes = Probes::run(features, &roots.sys, cpu, verbose);
        host
    }

    /// Reads files alone; nothing is tried.
    #[must_use]
    pub fn read(roots: &Roots) -> Self {
        Self {
            kernel: files::kernel(roots),
            settings: files::settings(roots),
            privileges: files::privileges(roots),
            container: container::detect(roots),
            mounts: files::mounts(roots),
            cpus: files::online_cpus(roots),
            probes: Probes::default(),
        }
    }

    /// A feature was tried and works.
    #[must_use]
    pub fn works(&self, feature: Feature) -> bool {
        self.probes.works(feature)
    }

    /// Names of kernel functions can be read: `kallsyms_show_value` of kernel/ksyms_common.c.
    #[must_use]
    pub fn kernel_symbols(&self) -> bool {
        let syslog = self.privileges.capabilities.has(Capability::CapSyslog)
            && self.container.user_namespace != Namespace::Own;
        match self.settings.kptr_restrict {
            Some(0) => self.settings.perf_event_paranoid.is_some_and(|level| level <= 1) || syslog,
            Some(1) => syslog,
            _ => false,
        }
    }
}

/// The CPUs that are online, ascending; CPU 0 where that cannot be read.
#[must_use]
pub fn online_cpus() -> Vec<u32> {
    let cpus = files::online_cpus(&Roots::default());
    if cpus.is_empty() { vec![0] } else { cpus }
}

//! The report as data. Names and meanings of the fields are stable: `schema` grows when one
//! changes; fields may be added without that.

use serde::Serialize;

use crate::target::capabilities::{
    Capability, Container, Host, Kernel, Mounts, Namespace, Settings,
};
use crate::target::engine::advice::{self, Missing};
use crate::target::engine::{Engine, EngineChoice, Scope, Task, engine};
use crate::target::probe::{Feature, Outcome, Refusal};

/// What `flame-graph doctor --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The version of this format: 1.
    pub schema: u32,
    /// The version of flame-graph.
    pub flame_graph: &'static str,
    /// `release` (as `uname -r`), `version` ([major, minor] or null), `btf`.
    pub kernel: Kernel,
    /// Settings by their sysctl names without `kernel.`, and `lockdown` (`none`, `integrity`,
    /// `confidentiality`); null: the kernel has no such setting.
    pub settings: Settings,
    /// What this user may do.
    pub privileges: PrivilegesReport,
    /// `pid_namespace` and `user_namespace` (`host`, `own`, `unknown`), `signs` (sentences).
    pub container: Container,
    /// `tracefs`, `debugfs`, `bpffs`: mounted or not.
    pub mounts: Mounts,
    /// The numbers of the CPUs that are online.
    pub cpus: Vec<u32>,
    /// Names of kernel functions can be read.
    pub kernel_symbols: bool,
    /// What was tried, BPF first.
    pub features: Vec<FeatureReport>,
    /// The engine of each subcommand.
    pub engines: Vec<EngineReport>,
    /// What is missing: `what`, `cost`, `remedy`, and `needed` (false: other tools need it, this
    /// one does not).
    pub missing: Vec<Missing>,
}

/// What this user may do.
#[derive(Debug, Serialize)]
pub struct PrivilegesReport {
    /// Real user; null: not known.
    pub uid: Option<u32>,
    /// Effective user; null: not known.
    pub euid: Option<u32>,
    /// The capabilities, of those that matter, that this process has.
    pub capabilities: Vec<Capability>,
    /// Limit of locked memory in bytes; null: none, or not known.
    pub memlock_bytes: Option<u64>,
}

/// One feature that was tried.
#[derive(Debug, Serialize)]
pub struct FeatureReport {
    /// Its stable name, in snake case.
    pub feature: Feature,
    /// Its name for people.
    pub name: &'static str,
    /// It belongs to BPF, or else to perf events.
    pub bpf: bool,
    /// It works.
    pub works: bool,
    /// Why it does not: `errno` (0: the kernel was not asked), `reason`, and when verbose
    /// `verifier_log`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// The engine of one subcommand.
#[derive(Debug, Serialize)]
pub struct EngineReport {
    /// The subcommand.
    pub command: &'static str,
    /// It can be used on this host by this user.
    pub usable: bool,
    /// `engine` (`ebpf`, `perf_event`, `none`), `reason`, `scope` (`host`, `own_processes`,
    /// `nothing`), `kernel_frames`.
    #[serde(flatten)]
    pub choice: EngineChoice,
}

impl Report {
    /// The report on a host.
    #[must_use]
    pub fn new(host: &Host) -> Self {
        Self {
            schema: 1,
            flame_graph: env!("CARGO_PKG_VERSION"),
            kernel: host.kernel.clone(),
            settings: host.settings.clone(),
            privileges: privileges(host),
            container: host.container.clone(),
            mounts: host.mounts,
            cpus: host.cpus.clone(),
            kernel_symbols: host.kernel_symbols(),
            features: host.probes.iter().map(feature).collect(),
            engines: engines(host),
            missing: advice::missing(host),
        }
    }

    /// Capabilities count nowhere but in a user namespace of our own.
    #[must_use]
    pub fn capabilities_are_void(&self) -> bool {
        self.container.user_namespace == Namespace::Own
    }
}

fn privileges(host: &Host) -> PrivilegesReport {
    let privileges = &host.privileges;
    let mut capabilities = Capability::ALL.to_vec();
    capabilities.retain(|capability| privileges.capabilities.has(*capability));
    PrivilegesReport {
        uid: privileges.uid,
        euid: privileges.euid,
        capabilities,
        memlock_bytes: privileges.memlock.filter(|limit| *limit != u64::MAX),
    }
}

fn feature((feature, outcome): (Feature, &Outcome)) -> FeatureReport {
    FeatureReport {
        feature,
        name: feature.name(),
        bpf: feature.is_bpf(),
        works: outcome.is_ok(),
        refusal: outcome.clone().err(),
    }
}

fn engines(host: &Host) -> Vec<EngineReport> {
    let row = |command, task| {
        let choice = engine(host, task);
        EngineReport { command, usable: choice.engine != Engine::None, choice }
    };
    let file = EngineChoice {
        engine: Engine::None,
        reason: "it reads files and needs nothing of the host".to_owned(),
        scope: Scope::Nothing,
        kernel_frames: false,
    };
    vec![
        row("cpu", Task::Sample),
        row("offcpu", Task::Time),
        row("wall", Task::Time),
        EngineReport { command: "file", usable: true, choice: file },
    ]
}

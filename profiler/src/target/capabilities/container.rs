//! Whether this process runs in a container, as far as that can be told.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{Roots, files};

/// A namespace of this process, compared with the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// The host's own.
    Host,
    /// Another.
    Own,
    /// It could not be told.
    #[default]
    Unknown,
}

/// Signs of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Container {
    /// The PID namespace: in another than the host's, the host's processes have no numbers.
    pub pid_namespace: Namespace,
    /// The user namespace: in another than the host's, capabilities do not count for BPF and perf.
    pub user_namespace: Namespace,
    /// What else points to a container: files that engines leave, the cgroup's name.
    pub signs: Vec<String>,
}

impl Container {
    /// Something points to a container.
    #[must_use]
    pub fn is_likely(&self) -> bool {
        self.pid_namespace == Namespace::Own || !self.signs.is_empty()
    }

    /// What is known, in a few words.
    #[must_use]
    pub fn statement(&self) -> String {
        let mut parts = vec![match (self.pid_namespace, self.signs.is_empty()) {
            (Namespace::Own, _) => "in a container with its own process numbers".to_owned(),
            (Namespace::Host, true) => "none: this is the host".to_owned(),
            (Namespace::Host, false) => "signs of one, but the host's process numbers".to_owned(),
            (Namespace::Unknown, true) => "no sign of one".to_owned(),
            (Namespace::Unknown, false) => "probably in one".to_owned(),
        }];
        if self.user_namespace == Namespace::Own {
            parts.push("in its own user namespace".to_owned());
        }
        if !self.signs.is_empty() {
            parts.push(format!("({})", self.signs.join(", ")));
        }
        parts.join(" ")
    }
}

/// Inodes of the host's namespaces: `PROC_PID_INIT_INO` and `PROC_USER_INIT_INO` of
/// include/linux/proc_ns.h, fixed since 3.8.
const HOST_PID: &str = "pid:[4026531836]";
const HOST_USER: &str = "user:[4026531837]";

/// Words in the path of a cgroup that container engines choose.
const ENGINES: [&str; 6] = ["docker", "kubepods", "libpod", "containerd", "lxc", "crio"];

pub(super) fn detect(roots: &Roots) -> Container {
    let namespace = |name: &str, host: &str| match fs::read_link(roots.proc.join(name)) {
        Ok(link) if link == Path::new(host) => Namespace::Host,
        Ok(_) => Namespace::Own,
        Err(_) => Namespace::Unknown,
    };
    let mut signs = Vec::new();
    for mark in [".dockerenv", "run/.containerenv"] {
        if roots.root.join(mark).exists() {
            signs.push(format!("/{mark} exists"));
        }
    }
    if let Some(name) = files::text(&roots.root.join("run/systemd/container")) {
        // Bounded and without control characters: it goes to a terminal.
        let name: String = name.chars().filter(char::is_ascii_graphic).take(32).collect();
        signs.push(format!("systemd says {name}"));
    }
    let cgroups = files::text(&roots.proc.join("self/cgroup")).unwrap_or_default();
    if let Some(engine) = ENGINES.iter().find(|engine| cgroups.contains(*engine)) {
        signs.push(format!("a cgroup of {engine}"));
    }
    Container {
        pid_namespace: namespace("self/ns/pid", HOST_PID),
        user_namespace: namespace("self/ns/user", HOST_USER),
        signs,
    }
}

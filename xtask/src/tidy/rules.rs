//! The tables that the rules of house style are checked against.

/// Lines of a file, its tests not counted.
pub const FILE_LINES: usize = 450;
/// Lines of any function.
pub const FUNCTION_LINES: usize = 100;
/// Lines of all but the longest twentieth of functions.
pub const FUNCTION_LINES_95TH: usize = 45;

/// Files and folders that may hold `unsafe`, and why they must.
pub const UNSAFE_FILES: &[(&str, &str)] = &[
    ("profiler-ebpf/src/config.rs", "globals that user space patches are read volatile"),
    ("profiler-ebpf/src/main.rs", "BPF entry points and the license have link names"),
    ("profiler-ebpf/src/kernel.rs", "BPF helpers take raw pointers"),
    ("profiler-ebpf/src/maps.rs", "map values are shared memory"),
    ("profiler-ebpf/src/proof.rs", "BPF helpers take raw pointers"),
    ("profiler-ebpf/src/sample.rs", "BPF helpers take raw pointers"),
    ("profiler-ebpf/src/stack.rs", "BPF helpers take raw pointers"),
    ("profiler-ebpf/src/stacks.rs", "BPF helpers take raw pointers"),
    ("profiler-ebpf/src/sums.rs", "BPF helpers take raw pointers"),
    ("profiler-ebpf/src/switch.rs", "BPF helpers take raw pointers"),
    ("profiler-ebpf/src/tables.rs", "BPF helpers take raw pointers"),
    ("profiler-ebpf/src/targets.rs", "BPF helpers take raw pointers"),
    ("profiler-ebpf/src/visit.rs", "BPF helpers take raw pointers"),
    ("profiler-ebpf/src/wake.rs", "BPF helpers take raw pointers"),
    ("profiler/src/source/native/ebpf/ticks.rs", "ioctl of a perf event"),
    ("profiler/src/source/native/ebpf/mapped.rs", "tables shared with the BPF programs"),
    ("profiler/src/target/probe/bpf.rs", "bpf(2) has no safe binding for what is tried here"),
    ("profiler/src/target/probe/perf.rs", "perf_event_open(2) has no safe binding"),
    ("profiler/src/unwind/tests/own_stack.rs", "reads its own stack"),
    ("profiler/src/source/native/perf_event/events.rs", "ioctl of a perf event"),
    ("profiler/src/source/native/ring.rs", "a ring shared with the kernel"),
    ("profiler/src/source/native/sideband.rs", "perf_event_open and the ring it maps"),
    ("profiler/src/source/native/samples.rs", "a record's bytes are read as its header"),
    ("profiler/src/target/heap.rs", "malloc_trim has no safe binding"),
    ("profiler/src/target/image.rs", "maps files that nobody else can change"),
    ("profiler/src/target/command.rs", "user names by libc, and what a child does before exec"),
];

/// What each module of the profiler may import, besides itself: data flows one way. A module that
/// is not here may import nothing.
pub const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("unwind", &["model"]),
    ("target", &["model"]),
    ("format", &["model"]),
    ("symbolize", &["model", "unwind", "target", "format"]),
    ("fold", &["model", "format"]),
    ("source", &["model", "unwind", "target", "format"]),
    ("export", &["model", "format", "fold"]),
    ("cli", &["model"]),
    ("plan", &["model", "target", "format", "fold", "export", "source", "cli"]),
    ("doctor", &["model", "target", "source", "cli", "plan"]),
    (
        "pipeline",
        &[
            "model",
            "unwind",
            "target",
            "format",
            "symbolize",
            "fold",
            "source",
            "export",
            "cli",
            "plan",
            "doctor",
        ],
    ),
];

/// The module whose children are implementations that must not know each other.
pub const SOURCES: &str = "source";
/// Its children that are no implementations, but what these have in common.
pub const SHARED_BY_SOURCES: &[&str] =
    &["http", "inspector", "perf_record", "session", "websocket"];

/// The README's first two commands: the program's main job, and the tests. `.ci/run` calls the
/// second.
pub const README_COMMANDS: [&str; 2] = ["cargo run --release -- cpu", "cargo xtask test"];

/// What the top of the repository holds, beside names that begin with a dot.
pub const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "profiler",
    "profiler-ebpf",
    "tests",
    "xtask",
];

/// Hosts of package registries. They are put together here, so that this file names none.
pub fn registry_hosts() -> Vec<String> {
    let hosts: &[&[&str]] = &[
        &["crates", "io"],
        &["npmjs", "org"],
        &["npmjs", "com"],
        &["pypi", "org"],
        &["pythonhosted", "org"],
        &["rubygems", "org"],
        &["proxy", "golang", "org"],
        &["repo", "maven", "apache", "org"],
        &["nuget", "org"],
    ];
    hosts.iter().map(|parts| parts.join(".")).collect()
}

//! A recording (raw frames, straight from a source) and a profile (frames with names).

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    frame::{Frame, RawFrame},
    loss::Losses,
    metric::Metric,
    stacks::Stacks,
};

/// What is known about where a recording came from; every output can carry it.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// Heading of the picture.
    pub title: String,
    /// What was recorded: `whole host`, `pid 12`, a command line.
    pub target: String,
    /// Which engine or collector recorded it: `ebpf`, `folded`.
    pub engine: String,
    /// When the recording began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Samples a second on each CPU, where that applies.
    pub frequency: Option<u64>,
}

/// What kind of thing was mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// A file.
    File,
    /// Memory of no file in this process (of the initial PID namespace): code made at run time.
    Anonymous {
        /// The process.
        pid: u32,
    },
    /// The kernel's vDSO.
    Vdso,
}

/// What executable code was mapped from, kept open so that it can be symbolized after its process
/// has exited or the path leads elsewhere. One for each distinct file of a recording, and one for
/// the anonymous memory of each process.
#[derive(Debug)]
pub struct Module {
    /// What kind of thing it is.
    pub kind: ModuleKind,
    /// Path in the process's own mount namespace, as the kernel reports it; `//anon` or `[vdso]`.
    pub path: Arc<str>,
    /// GNU build ID, where the kernel or the file tells it.
    pub build_id: Option<Vec<u8>>,
    /// An open handle to the very file that is mapped. None: it could not be opened. Of anonymous
    /// memory: the jitdump in which its process tells what it makes, if it has mapped one.
    pub file: Option<File>,
    /// Why `file` is None.
    pub refused: Option<String>,
}

impl Module {
    /// A file, opened or refused with a reason.
    #[must_use]
    pub fn file(path: Arc<str>, build_id: Option<Vec<u8>>, file: Result<File, String>) -> Self {
        let (file, refused) = match file {
            Ok(file) => (Some(file), None),
            Err(why) => (None, Some(why)),
        };
        Self { kind: ModuleKind::File, path, build_id, file, refused }
    }

    /// The anonymous memory of a process.
    #[must_use]
    pub fn anonymous(pid: u32) -> Self {
        let path = "//anon".into();
        let kind = ModuleKind::Anonymous { pid };
        Self { kind, path, build_id: None, file: None, refused: None }
    }

    /// The vDSO.
    #[must_use]
    pub fn vdso() -> Self {
        let path = "[vdso]".into();
        Self { kind: ModuleKind::Vdso, path, build_id: None, file: None, refused: None }
    }
}

/// Stacks of raw frames, as a source collected them.
#[derive(Debug)]
pub struct Recording {
    /// Where it came from.
    pub metadata: Metadata,
    /// What the values of a stack are.
    pub metrics: Vec<Metric>,
    /// The stacks. The first frame of each is [`RawFrame::Process`].
    pub stacks: Stacks<RawFrame>,
    /// The modules that [`RawFrame::User`] frames point into.
    pub modules: Vec<Arc<Module>>,
    /// What was lost or cut short.
    pub losses: Losses,
    /// Samples that were taken, those of lost stacks included.
    pub samples: u64,
    /// Stacks that reach their root.
    pub complete: u64,
}

impl Recording {
    /// A recording that caught nothing.
    #[must_use]
    pub fn empty(metadata: Metadata) -> Self {
        Self {
            metadata,
            metrics: vec![Metric::samples()],
            stacks: Stacks::new(1),
            modules: Vec::new(),
            losses: Losses::default(),
            samples: 0,
            complete: 0,
        }
    }
}

/// Stacks of named frames.
#[derive(Debug)]
pub struct Profile {
    /// Where it came from.
    pub metadata: Metadata,
    /// What the values of a stack are.
    pub metrics: Vec<Metric>,
    /// The stacks, process frame first.
    pub stacks: Stacks<Frame>,
    /// What was lost or cut short.
    pub losses: Losses,
    /// Samples that were taken.
    pub samples: u64,
    /// Stacks that reach their root.
    pub complete: u64,
}

//! Frames before symbolization ([`RawFrame`]) and after it ([`Frame`]).

use std::sync::Arc;

use super::{
    address::CodeAddress,
    loss::{Loss, Truncation},
};

/// Number of a module in its recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub u32);

/// A frame as a source saw it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RawFrame {
    /// The process that the stack belongs to: always the first frame of a stack.
    Process(Arc<str>),
    /// The thread, when threads are told apart.
    Thread(Arc<str>),
    /// A user-space code address in a module, independent of where a process mapped it.
    User {
        /// The module it lies in.
        module: ModuleId,
        /// The address: a file offset in a file or the vDSO, the process's own address in
        /// anonymous memory.
        address: CodeAddress,
    },
    /// The same in anonymous memory, where what lies at an address changes and it is known when.
    Made {
        /// The module it lies in.
        module: ModuleId,
        /// The process's own address.
        address: CodeAddress,
        /// When it was sampled: `CLOCK_MONOTONIC`, nanoseconds.
        time: u64,
    },
    /// A user-space address in no known mapping.
    Unmapped(CodeAddress),
    /// A kernel code address.
    Kernel(CodeAddress),
    /// A frame that already has a name.
    Named(Frame),
    /// The stack does not reach its root.
    Truncated(Truncation),
    /// Samples that are missing altogether.
    Lost(Loss),
}

/// What kind of code a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameKind {
    /// A process: the first frame of a stack.
    Process,
    /// A thread: the second one, when asked for.
    Thread,
    /// Compiled user-space code.
    Native,
    /// Kernel code.
    Kernel,
    /// Code made at run time.
    Jit,
    /// An interpreter's frame.
    Interpreted,
    /// Not code: `[truncated: …]`, `[lost: …]`.
    Marker,
}

/// A frame with a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Function name, demangled; or `[module+0xoffset]`, or a marker's text in brackets.
    pub name: Arc<str>,
    /// What kind of code it is.
    pub kind: FrameKind,
    /// Whether the call was inlined into the frame below it.
    pub inlined: bool,
    /// Whether `name` comes from a symbol (or an interpreter), as against a placeholder that we
    /// made. Symbol names are escaped so that they cannot pose as one of ours.
    pub symbol: bool,
    /// File name of the mapped module.
    pub module: Option<Arc<str>>,
    /// Source file.
    pub file: Option<Arc<str>>,
    /// Source line, from 1.
    pub line: Option<u32>,
}

impl Frame {
    /// A frame of this kind named by a symbol, with nothing else known.
    #[must_use]
    pub fn symbol(name: impl Into<Arc<str>>, kind: FrameKind) -> Self {
        Self {
            name: name.into(),
            kind,
            inlined: false,
            symbol: true,
            module: None,
            file: None,
            line: None,
        }
    }

    /// A frame whose name is ours: a marker, or a placeholder for an unknown function.
    #[must_use]
    pub fn placeholder(name: impl Into<Arc<str>>, kind: FrameKind) -> Self {
        Self { symbol: false, ..Self::symbol(name, kind) }
    }
}

/// Name of the file at the end of a path as the kernel reports it.
#[must_use]
pub fn file_name(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

/// The placeholder for an unknown function: `[libfoo.so+0x1234]`.
#[must_use]
pub fn unknown(module: &str, offset: u64) -> String {
    // `[vdso]` keeps one pair of brackets.
    let module = module.strip_prefix('[').and_then(|m| m.strip_suffix(']')).unwrap_or(module);
    format!("[{module}+{offset:#x}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_name_module_and_offset() {
        assert_eq!(
            unknown(file_name("/usr/lib/libfoo.so.1 (deleted)"), 0x12),
            "[libfoo.so.1+0x12]"
        );
        assert_eq!(unknown("[vdso]", 0x9c0), "[vdso+0x9c0]");
    }
}

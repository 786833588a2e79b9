//! The frames of a sample while its lines come, and the names that all samples share.

use rustc_hash::FxHashMap;

use super::{PerfScriptError, line::Line};
use crate::{
    format::folded::{MAX_FRAMES, MAX_NAMES},
    model::{
        frame::{Frame, FrameKind, RawFrame, file_name},
        loss::Truncation,
    },
};

/// Every frame that was read, once.
pub struct Names<F> {
    /// Indexes into `frames` by what perf writes behind the address, in the kernel and outside.
    known: FxHashMap<Box<str>, [u32; 2]>,
    frames: Vec<F>,
}

/// The stack of a sample.
#[derive(Default)]
pub struct Open {
    /// Indexes of frames, the leaf first.
    frames: Vec<u32>,
    /// More frames than are kept, or one in nothing.
    pub cut: Option<Truncation>,
}

impl<F: From<RawFrame>> Names<F> {
    pub fn new() -> Self {
        Self { known: FxHashMap::default(), frames: Vec::new() }
    }

    fn index(&mut self, line: &Line<'_>) -> Result<u32, PerfScriptError> {
        let slot = usize::from(line.in_kernel());
        let key = format!("{}\0{}", line.symbol, line.module);
        let known = self.known.get(&*key).map_or(u32::MAX, |known| known[slot]);
        if known != u32::MAX {
            return Ok(known);
        }
        let next = self.frames.len();
        let index = u32::try_from(next).ok().filter(|_| next < MAX_NAMES);
        let index = index.ok_or(PerfScriptError::TooManyNames)?;
        self.frames.push(RawFrame::Named(named(line)).into());
        self.known.entry(key.into()).or_insert([u32::MAX; 2])[slot] = index;
        Ok(index)
    }
}

impl Open {
    /// Takes the next frame in.
    pub fn add<F: From<RawFrame>>(
        &mut self,
        line: &Line<'_>,
        names: &mut Names<F>,
    ) -> Result<(), PerfScriptError> {
        if self.cut.is_some() {
            return Ok(());
        }
        let unmapped = line.is_unmapped() && !line.in_kernel();
        if unmapped || self.frames.len() >= MAX_FRAMES {
            let cause = if unmapped { Truncation::UnknownMapping } else { Truncation::TooDeep };
            self.cut = Some(cause);
            return Ok(());
        }
        self.frames.push(names.index(line)?);
        Ok(())
    }

    /// What begins the stack when it was cut.
    pub fn truncated<F: From<RawFrame>>(&self) -> Option<F> {
        self.cut.map(|cause| RawFrame::Truncated(cause).into())
    }

    /// The frames from the root down.
    pub fn root_first<'a, F>(&'a self, names: &'a Names<F>) -> impl Iterator<Item = &'a F> {
        self.frames.iter().rev().map(|index| &names.frames[*index as usize])
    }
}

/// The frame of a line.
fn named(line: &Line<'_>) -> Frame {
    let kind = match line.module {
        _ if line.in_kernel() => FrameKind::Kernel,
        module if is_made_at_run_time(module) => FrameKind::Jit,
        _ => FrameKind::Native,
    };
    let module = file_name(line.module);
    let mut frame = if !line.is_unknown() {
        Frame::symbol(line.symbol, kind)
    } else if module.is_empty() || module.starts_with('[') {
        let name = if module.is_empty() { "[unknown]" } else { module };
        Frame::placeholder(name, kind)
    } else {
        Frame::placeholder(format!("[{module}]"), kind)
    };
    frame.inlined = line.is_inlined();
    let known = !module.is_empty() && !line.is_inlined();
    frame.module = known.then(|| module.into());
    frame
}

/// `/tmp/perf-12.map` and `jitted-12-3.so`, as perf calls code that has no file.
fn is_made_at_run_time(module: &str) -> bool {
    let name = file_name(module);
    let numbered = |before, after: &str| {
        let middle = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        middle.is_some_and(|m| !m.is_empty() && m.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
    };
    numbered("perf-", ".map") || numbered("jitted-", ".so") || module.starts_with("//anon")
}

//! Frames and ends of walks, as they become frames of a recording.

use std::sync::Arc;

use profiler_ebpf::wire::{FRAME_ADDRESS, FRAME_EXACT, Outcome, SampleHeader};

use super::{
    Labels,
    modules::Modules,
    regions::{Regions, region_at},
    samples::Sample,
};
use crate::model::{address::CodeAddress, frame::RawFrame, loss::Truncation, profile::ModuleKind};

impl Labels {
    /// The first frame: the name of the process, with what is asked for behind it.
    #[must_use]
    pub fn process(self, comm: &Arc<str>, sample: &Sample) -> Arc<str> {
        let SampleHeader { pid, cpu, .. } = sample.header;
        match (self.pids, self.cpus) {
            (false, false) => comm.clone(),
            (true, false) => format!("{comm} (pid {pid})").into(),
            (false, true) => format!("{comm} (cpu {cpu})").into(),
            (true, true) => format!("{comm} (pid {pid}, cpu {cpu})").into(),
        }
    }
}

/// The frames without the one that a walk went astray to: a return address in no mapping.
#[must_use]
pub fn true_frames<'a>(
    frames: &'a [u64],
    cause: Option<Truncation>,
    regions: &Regions,
) -> &'a [u64] {
    match frames {
        [callees @ .., last]
            if cause == Some(Truncation::UnknownMapping)
                && !callees.is_empty()
                && region_at(regions, code_address(*last).lookup()).is_none() =>
        {
            callees
        }
        _ => frames,
    }
}

/// Whether a thread is within execve(2), as far as a sample shows it: the registers are those of
/// the program that was left, and neither its code nor its stack is there any more.
#[must_use]
pub fn is_in_exec(sample: &Sample, regions: &Regions) -> bool {
    has_left_memory(sample) && region_at(regions, sample.header.registers.ip).is_none()
}

/// Whether a thread in the kernel has nothing left of the stack that its registers point to.
#[must_use]
pub fn has_left_memory(sample: &Sample) -> bool {
    Outcome::from_number(sample.header.outcome) == Some(Outcome::RowsPending)
        && !sample.kernel.is_empty()
        && sample.stack.is_empty()
}

/// The address of a frame as a sample carries it.
#[must_use]
pub fn code_address(word: u64) -> CodeAddress {
    let address = word & FRAME_ADDRESS;
    if word & FRAME_EXACT != 0 { CodeAddress::Exact(address) } else { CodeAddress::Return(address) }
}

/// The frame of a user address, in terms of the module that is mapped there.
#[must_use]
pub fn user_frame(word: u64, regions: &Regions, modules: &Modules) -> RawFrame {
    let address = code_address(word);
    let Some(region) = region_at(regions, address.lookup()) else {
        return RawFrame::Unmapped(address);
    };
    let address = match modules.module(region.module).kind {
        ModuleKind::Anonymous { .. } => address,
        ModuleKind::File | ModuleKind::Vdso => {
            let offset = |address: u64| address - region.start + region.offset;
            match address {
                CodeAddress::Exact(address) => CodeAddress::Exact(offset(address)),
                CodeAddress::Return(address) => CodeAddress::Return(offset(address)),
            }
        }
    };
    RawFrame::User { module: region.module, address }
}

/// Why a stack that ended so is short; None: it reaches its root.
#[must_use]
pub fn truncation(outcome: Outcome) -> Option<Truncation> {
    Some(match outcome {
        Outcome::Complete | Outcome::NoUserStack => return None,
        Outcome::UnknownMapping => Truncation::UnknownMapping,
        Outcome::RowsPending => Truncation::RowsPending,
        Outcome::UnreadableStack => Truncation::UnreadableStack,
        Outcome::StackNotAdvancing => Truncation::StackNotAdvancing,
        Outcome::NoFramePointer => Truncation::NoFramePointer,
        Outcome::UnsupportedRule => Truncation::UnsupportedRule,
        Outcome::TooDeep => Truncation::TooDeep,
        Outcome::BadTables | Outcome::Walking => Truncation::BadTables,
        Outcome::Compat => Truncation::Compat,
        Outcome::CopyEnded => Truncation::CopyEnded,
        Outcome::NoRoom => Truncation::TablesFull,
        Outcome::NotCopied => Truncation::NotCopied,
    })
}

/// Frames that are recorded with their times at the most; later ones are named by what lay at their
/// addresses last. Each makes a stack of its own.
const MAX_TIMED: usize = 1 << 17;

/// Gives frames the time of their sample, where it is of use.
#[derive(Debug, Default)]
pub struct Timer {
    timed: usize,
}

impl Timer {
    /// The frame, with its time when its process tells when it made which code.
    #[must_use]
    pub fn time(&mut self, frame: RawFrame, time: u64, modules: &Modules) -> RawFrame {
        match frame {
            RawFrame::User { module, address }
                if self.timed < MAX_TIMED && modules.tells_times(module) =>
            {
                self.timed += 1;
                RawFrame::Made { module, address, time }
            }
            frame => frame,
        }
    }
}

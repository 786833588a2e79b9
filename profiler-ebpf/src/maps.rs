//! The maps. User space may lower or raise `max_entries` when it loads them.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use profiler_ebpf::{
    glob::Globs,
    walk::Walk,
    wire::{
        COUNTERS, Counter, MAX_RULES, MAX_SEGMENTS, Mapping, PAYLOAD_WORDS, PageRows,
        ProcessMappings, Rule, SEGMENT_ROWS, SampleHeader,
    },
};

/// `BPF_F_MMAPABLE` (linux/bpf.h): user space fills the array through mmap, with no system call.
const MMAPABLE: usize = 1 << 10;

/// Rows: the value of an inner map is one segment.
pub type Segment = Array<[u32; SEGMENT_ROWS], 1, MMAPABLE>;

/// What a sample is put together in. Too large for a per-CPU map, whose values end at 32 KiB.
#[repr(C)]
pub struct Scratch {
    /// The record as it is sent.
    pub header: SampleHeader,
    /// Its payload.
    pub words: [u64; PAYLOAD_WORDS],
    /// The walk.
    pub walk: Walk,
    /// Outcome of the walk so far.
    pub outcome: u32,
    /// Frames recorded so far, kernel frames included: index of the next word.
    pub next: u32,
    /// First address of the window.
    pub window_start: u64,
    /// Stack words fetched together.
    pub window: [u64; WINDOW_WORDS],
}

/// Words fetched at once from the stack.
pub const WINDOW_WORDS: usize = 64;

/// Samples, as `SampleHeader` and payload.
#[btf_map]
pub static SAMPLES: RingBuf<SampleHeader, { 1 << 22 }> = RingBuf::new();
/// Scratch space by CPU number.
#[btf_map]
pub static SCRATCH: Array<Scratch, 1> = Array::new();
/// Counters by [`Counter`].
#[btf_map]
pub static COUNTS: PerCpuArray<u64, COUNTERS> = PerCpuArray::new();
/// Target processes by thread group id; the value is 1 when its children are targets, too. Or
/// target threads by their ids.
#[btf_map]
pub static TARGETS: HashMap<u32, u32, 16384> = HashMap::new();
/// The names that are sampled, when not all are.
#[btf_map]
pub static NAMES: Array<Globs, 1> = Array::new();
/// Mappings of processes by thread group id.
#[btf_map]
pub static PROCESSES: HashMap<u32, ProcessMappings, 8192> = HashMap::new();
/// The mapping table.
#[btf_map]
pub static MAPPINGS: Array<Mapping, 16384, MMAPABLE> = Array::new();
/// The page index.
#[btf_map]
pub static PAGES: Array<PageRows, { 1 << 19 }, MMAPABLE> = Array::new();
/// The rules.
#[btf_map]
pub static RULES: Array<Rule, MAX_RULES, MMAPABLE> = Array::new();
/// The row segments.
#[btf_map]
pub static SEGMENTS: ArrayOfMaps<Segment, MAX_SEGMENTS> = ArrayOfMaps::new();

/// Adds to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter, n: u64) {
    if let Some(value) = COUNTS.get_ptr_mut(counter as u32) {
        // SAFETY: a live map value that only this CPU writes.
        unsafe { *value += n };
    }
}

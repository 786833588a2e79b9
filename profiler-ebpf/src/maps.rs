//! The maps. User space may lower or raise `max_entries` when it loads them.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, bpf_map_type, task_struct},
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, RingBuf},
    helpers::generated::bpf_task_storage_get,
    macros::btf_map,
};
use profiler_ebpf::{
    glob::Globs,
    threads::Clock,
    walk::Walk,
    wire::{
        COUNTERS, Control, Counter, KERNEL_PROOF_WORDS, MAX_RULES, MAX_SEGMENTS, MAX_WAYS, Mapping,
        PAYLOAD_WORDS, PROOF_WORDS, PageRows, ProcessMappings, Rule, SEGMENT_ROWS, SLOTS,
        SampleHeader, WaitSum, Way,
    },
};

use crate::stack::PtRegs;

/// `BPF_F_MMAPABLE` (linux/bpf.h): user space fills the array through mmap, with no system call.
const MMAPABLE: usize = 1 << 10;

/// Memory is taken as it is needed.
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

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
    /// A number that stands for the frames so far.
    pub hash: u64,
    /// What the walk depended on.
    pub proof: Proof,
    /// Where the frame pointer and rbx of the present frame were read.
    pub origins: [Origin; 2],
    /// The registers that the task entered the kernel with.
    pub regs: PtRegs,
    /// How the kernel stack is recognized.
    pub kernel_proof: KernelProof,
    /// A key of [`WAYS`].
    pub place: [u64; 2],
    /// A pointer, as a number.
    pub number: u64,
    /// When stacks of waits were last copied for the host, in units of some time.
    pub copied_at: u64,
    /// How much of them, since that time began.
    pub copied: u64,
    /// How many there were in all.
    pub copies: u64,
    /// The kernel frame whose return address is looked for.
    pub frame: u32,
    /// Whether words are taken from the proof that there is, and not from all of the stack.
    pub again: u32,
}

/// What a kernel stack is recognized by.
#[repr(C)]
pub struct KernelProof {
    /// Stands for the words.
    pub hash: u64,
    /// How many there are; 0: the stack cannot be recognized.
    pub words: u32,
    /// Bytes in which they lie, from where the task left its CPU.
    pub span: u32,
    /// Where they are, in words from there.
    pub places: [u16; KERNEL_PROOF_WORDS],
}

/// Where a walk read a register of its present frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Origin {
    /// The address; 0: it still is what it was in the top frame.
    pub address: u64,
    /// The register.
    pub value: u64,
    /// Whether it could be read.
    pub is_read: u64,
}

/// What a walk depended on: where all of it is the same again, so is the stack.
#[repr(C)]
pub struct Proof {
    /// The stack pointer of the top frame.
    pub start: u64,
    /// How many stack words were read; more than [`PROOF_WORDS`]: the stack cannot be recognized.
    pub words: u32,
    /// Registers of the top frame beside ip and sp: bits of `walk::depends`.
    pub depends: u32,
    /// The words.
    pub values: [u64; PROOF_WORDS],
    /// Where they are, in words from the stack pointer on.
    pub places: [u16; PROOF_WORDS],
}

/// Sums of waits.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sums {
    /// Time waited for something.
    pub blocked: u64,
    /// Time waited for a CPU.
    pub runnable: u64,
    /// The longest.
    pub longest: u64,
    /// How many.
    pub waits: u64,
}

/// A thread's waits in one stack.
#[repr(C)]
pub struct Slot {
    /// What the stack is called; 0: the slot is free.
    pub stack: u64,
    /// Top user frame.
    pub ip: u64,
    /// Its stack pointer.
    pub sp: u64,
    /// Its frame pointer.
    pub bp: u64,
    /// Its rbx.
    pub bx: u64,
    /// Stands for the kernel frames.
    pub kernel: u64,
    /// The stack of who ended the waits that are summed.
    pub waker: u64,
    /// The sums.
    pub sums: Sums,
    /// Why the thread waits.
    pub state: u32,
    /// Bytes above the stack pointer in which those words of the proof lie that are read together.
    pub span: u32,
    /// How the kernel's part of the stack is recognized.
    pub kernel_proof: KernelProof,
    /// How the user's part is.
    pub proof: Proof,
}

/// A thread and where its time goes.
#[repr(C)]
pub struct Thread {
    /// Its time. All zeros: the thread is new here.
    pub clock: Clock,
    /// Changes with each execve(2).
    pub exec_id: u64,
    /// Its name.
    pub comm: [u64; 2],
    /// The name of its process.
    pub process: [u64; 2],
    /// The stack of who ended its last wait; 0: nobody yet.
    pub waker: u64,
    /// Its process.
    pub pid: u32,
    /// Its id.
    pub tid: u32,
    /// The slot of the wait that is open or came last; [`SLOTS`] and above: it is not wanted.
    pub slot: u32,
    /// The slot to be used next.
    pub next: u32,
    /// Waits that are too short for a stack.
    pub short: Sums,
    /// Waits that are longer than is asked for.
    pub long: Sums,
    /// Its last stacks.
    pub slots: [Slot; SLOTS],
}

/// What a task carries (`BPF_MAP_TYPE_TASK_STORAGE`): gone when it is.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: a definition for the loader; nothing reads its pointers.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }

    /// What a task carries, if anything.
    #[inline(always)]
    pub fn get(&self, task: *const u8) -> *mut T {
        self.call(task, 0)
    }

    /// What a task carries from now on; null: there is no room now.
    #[inline(always)]
    pub fn make(&self, task: *const u8) -> *mut T {
        self.call(task, u64::from(BPF_LOCAL_STORAGE_GET_F_CREATE))
    }

    #[inline(always)]
    fn call(&self, task: *const u8, flags: u64) -> *mut T {
        let task = task.cast_mut().cast::<task_struct>();
        let map = core::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the loader turns the definition into the map; the task is a trusted pointer, as
        // the verifier checks.
        unsafe { bpf_task_storage_get(map, task, core::ptr::null_mut(), flags).cast() }
    }
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
/// Threads whose waits are timed.
#[btf_map]
pub static THREADS: TaskStorage<Thread> = TaskStorage::new();
/// Sums that a thread has no more room for, or that are its last.
#[btf_map]
pub static TIMES: RingBuf<WaitSum, { 1 << 20 }> = RingBuf::new();
/// Stacks of waits that were sent.
#[btf_map]
pub static STACKS: HashMap<u64, u32, 32768> = HashMap::new();
/// What user space says meanwhile.
#[btf_map]
pub static CONTROL: Array<Control, 1> = Array::new();
/// The mapping table.
#[btf_map]
pub static MAPPINGS: Array<Mapping, 16384, MMAPABLE> = Array::new();
/// The page index.
#[btf_map]
pub static PAGES: Array<PageRows, { 1 << 19 }, MMAPABLE> = Array::new();
/// The rules.
#[btf_map]
pub static RULES: Array<Rule, MAX_RULES, MMAPABLE> = Array::new();
/// Ways out of places in code that was made at run time, by process and address.
#[btf_map]
pub static WAYS: HashMap<[u64; 2], Way, MAX_WAYS, NO_PREALLOC> = HashMap::new();
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

//! Types that cross the border between the BPF programs and user space.
//!
//! Every type here is `repr(C)`, has no padding and no pointers, and is valid for any bit pattern;
//! the assertions below keep it so. Sizes are part of the contract: the BPF object is compiled
//! from the same source.

mod rule;

pub use rule::{Rule, cfa, saved};

/// Bytes of one page of text: the unit of the page index.
pub const TEXT_PAGE: u64 = 4096;
/// log2 of [`TEXT_PAGE`].
pub const TEXT_PAGE_SHIFT: u32 = 12;
/// Rows in one row segment; the value of one inner map is `4 * SEGMENT_ROWS` bytes (1 MiB).
pub const SEGMENT_ROWS: usize = 1 << 18;
/// Row segments that can exist at once.
pub const MAX_SEGMENTS: usize = 64;
/// Rules that can exist at once, host-wide. A row holds a rule's number in 16 bits.
pub const MAX_RULES: usize = 1 << 14;
/// The most executable mappings of one process that a walk can search.
pub const MAX_PROCESS_MAPPINGS: u32 = 1 << 13;
/// The most user frames a walk collects; deeper stacks keep the leaf side.
pub const MAX_USER_FRAMES: usize = 2048;
/// The most kernel frames asked of `bpf_get_stack` (the kernel's own default limit,
/// `kernel.perf_event_max_stack`, is 127).
pub const MAX_KERNEL_FRAMES: usize = 127;
/// The most bytes of a user stack that are handed up when the walk needs the host.
pub const MAX_STACK_COPY: usize = 104 * 1024;
/// Bytes that the stack is copied by.
pub const STACK_PAGE: u64 = 4096;
/// Words of a sample's payload: kernel frames, user frames, then the stack copy.
pub const PAYLOAD_WORDS: usize = 16384 - SampleHeader::WORDS;

/// One row of the unwind table: the low 12 bits of the address where it begins to hold (bits 0 to
/// 15) and the number of its rule (bits 16 to 31).
///
/// The rows of a page are sorted by address; the first one begins at offset 0.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row(pub u32);

impl Row {
    /// A row that holds from `offset` (within its page) on.
    #[must_use]
    pub const fn new(offset: u16, rule: u16) -> Self {
        Self((rule as u32) << 16 | offset as u32)
    }

    /// Where in its page the row begins to hold.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self) -> u32 {
        self.0 & 0xffff
    }

    /// Number of the rule that holds there.
    #[inline(always)]
    #[must_use]
    pub const fn rule(self) -> u32 {
        self.0 >> 16
    }
}

/// Where the rows of one 4 KiB page of text lie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRows {
    /// Number of the row segment.
    pub segment: u16,
    /// Number of rows; 0: the page has no unwind information.
    pub len: u16,
    /// Index of the first row in its segment.
    pub start: u32,
}

/// What is known of the text in a mapping ([`Mapping::kind`]).
pub mod mapping_kind {
    /// Its rows are not compiled yet: hand the sample up.
    pub const PENDING: u32 = 0;
    /// Its rows are in the tables.
    pub const ROWS: u32 = 1;
    /// It has none (anonymous, JIT, a file that could not be read): step by frame pointer.
    pub const NO_ROWS: u32 = 2;
    /// It has rows, for which the tables have no room.
    pub const NO_ROOM: u32 = 3;
    /// It was made at run time and does not keep to frame pointers: step by the [`Way`](super::Way)
    /// out of each place, and where none is known, hand the sample up.
    pub const FOLLOWED: u32 = 4;
}

/// One executable mapping of a process. A process's mappings are sorted by `start`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Index of the [`PageRows`] of the page at `start`.
    pub first_page: u32,
    /// One of [`mapping_kind`].
    pub kind: u32,
}

/// Where a process's mappings lie in the mapping table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMappings {
    /// Index of the first.
    pub first: u32,
    /// How many.
    pub len: u32,
}

/// Places of code that was made at run time, of which the kernel side knows the way out at once.
pub const MAX_WAYS: usize = 1 << 14;

/// The way out of a place in code that was made at run time, as the host found it by following the
/// instructions from there. Its key is the process and the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The 8 bytes of code that were there.
    pub code: u64,
    /// How to step to the caller.
    pub rule: Rule,
    /// 1: the caller may have jumped there, from code of the same kind; 0: it has called.
    pub jumps: u64,
}

/// Number of general registers, in DWARF order on x86-64: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp,
/// r8 to r15 (System V ABI, figure 3.36).
pub const GENERAL_REGISTERS: usize = 16;
/// DWARF number of rbx on x86-64.
pub const DWARF_BX: usize = 3;
/// DWARF number of the frame pointer on x86-64.
pub const DWARF_BP: usize = 6;
/// DWARF number of the stack pointer on x86-64.
pub const DWARF_SP: usize = 7;

/// How a walk ended ([`SampleHeader::outcome`]).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// There is no user stack (a kernel thread, or it was not asked for).
    NoUserStack = 0,
    /// The walk reached the outermost frame.
    Complete = 1,
    /// No mapping is known at the address: the host may know more.
    UnknownMapping = 2,
    /// The rows of the mapping are not compiled yet: the host finishes the walk.
    RowsPending = 3,
    /// Stack memory could not be read.
    UnreadableStack = 4,
    /// The stack pointer did not move towards the root.
    StackNotAdvancing = 5,
    /// A frame without unwind information has no usable frame pointer.
    NoFramePointer = 6,
    /// Unwind information that the rules cannot express, or registers that are no longer known.
    UnsupportedRule = 7,
    /// More frames than [`MAX_USER_FRAMES`].
    TooDeep = 8,
    /// The kernel took the walk's data for invalid (a table index beyond its map).
    BadTables = 9,
    /// A 32-bit process.
    Compat = 10,
    /// Still walking; never sent.
    Walking = 11,
    /// The copy of the stack that was handed up ends before the walk did.
    CopyEnded = 12,
    /// The tables have no room for the rows of the mapping.
    NoRoom = 13,
    /// The host was to go on with it, and too many stacks were copied for that just before.
    NotCopied = 14,
}

impl Outcome {
    /// Every outcome, in the order of its number.
    pub const ALL: [Self; 15] = [
        Self::NoUserStack,
        Self::Complete,
        Self::UnknownMapping,
        Self::RowsPending,
        Self::UnreadableStack,
        Self::StackNotAdvancing,
        Self::NoFramePointer,
        Self::UnsupportedRule,
        Self::TooDeep,
        Self::BadTables,
        Self::Compat,
        Self::Walking,
        Self::CopyEnded,
        Self::NoRoom,
        Self::NotCopied,
    ];

    /// The outcome with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// Set in a user frame whose address is the interrupted instruction itself, not a return address.
pub const FRAME_EXACT: u64 = 1 << 63;
/// Set in a user frame that was found by frame pointer for want of unwind information.
pub const FRAME_BY_POINTER: u64 = 1 << 62;
/// The address bits of a user frame.
pub const FRAME_ADDRESS: u64 = (1 << 61) - 1;
/// Set in [`Registers::flags`] while `general` holds the registers of the top frame: in it, and in
/// its caller.
pub const GENERAL_KNOWN: u64 = 1;

/// Registers of a walk at one frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Instruction pointer or return address.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub bp: u64,
    /// rbx.
    pub bx: u64,
    /// [`FRAME_EXACT`] and [`FRAME_BY_POINTER`] as they belong to `ip`, and [`GENERAL_KNOWN`].
    pub flags: u64,
    /// General registers by DWARF number, while `flags` has [`GENERAL_KNOWN`].
    pub general: [u64; GENERAL_REGISTERS],
}

/// What begins every record of the sample ring buffer. Behind it lie `kernel_frames` words of
/// kernel addresses (leaf first), `user_frames` words of user frames (leaf first), and
/// `copy_bytes` bytes of the stack from `registers.sp` on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleHeader {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// Process (thread group) id, as seen from the initial PID namespace.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// CPU number.
    pub cpu: u32,
    /// An [`Outcome`].
    pub outcome: u32,
    /// Words of kernel frames.
    pub kernel_frames: u32,
    /// Words of user frames.
    pub user_frames: u32,
    /// Bytes of stack copy; only when the host is to go on with the walk.
    pub copy_bytes: u32,
    /// Pages of the stack copy that could not be read, a bit each from the lowest on.
    pub copy_holes: u32,
    /// The thread's name (`comm`) when it was sampled, NUL-padded.
    pub comm: [u8; 16],
    /// Where the walk stands; only when the host is to go on with it.
    pub registers: Registers,
    /// What the stack is called by the sums of waits; 0: it is a sample and belongs to no wait.
    pub stack: u64,
}

impl SampleHeader {
    /// The header's size in words of 8 bytes.
    pub const WORDS: usize = size_of::<Self>() / 8;
}

/// What a [`WaitSum`] is a sum of.
pub mod sum_kind {
    /// Waits in one stack.
    pub const STACK: u32 = 0;
    /// Waits that are shorter than is worth a stack of their own.
    pub const SHORT: u32 = 1;
    /// Waits that are longer than is asked for.
    pub const LONG: u32 = 2;
    /// What a thread did beside waiting: its time on CPU, of which there is one for each thread.
    pub const THREAD: u32 = 3;
}

/// Time of a thread, summed in the kernel. Times are in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitSum {
    /// The stack, as [`SampleHeader::stack`] calls it.
    pub stack: u64,
    /// The stack of who ended these waits, likewise; 0: nobody yet, or it is not asked for.
    pub waker: u64,
    /// When the thread began to be counted: tells threads apart that had the same id.
    pub born: u64,
    /// Time that it waited for something.
    pub blocked: u64,
    /// Time that it waited for a CPU.
    pub runnable: u64,
    /// Time that it ran.
    pub on_cpu: u64,
    /// The longest wait.
    pub longest: u64,
    /// How many waits.
    pub waits: u64,
    /// Process (thread group) id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Why it waited: one of [`wait`](crate::threads::wait).
    pub state: u32,
    /// One of [`sum_kind`].
    pub kind: u32,
    /// The thread's name.
    pub comm: [u8; 16],
    /// The name of its process's first thread.
    pub process: [u8; 16],
}

/// What user space tells the programs that keep time while they run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// When the recording began (`CLOCK_MONOTONIC`, nanoseconds); 0: it has not.
    pub begin: u64,
    /// When it ended; 0: it has not.
    pub end: u64,
}

/// Stacks that a thread's waits are summed by at a time.
pub const SLOTS: usize = 4;
/// The most stack words by which a stack is recognized without walking it.
pub const PROOF_WORDS: usize = 64;
/// How far above the stack pointer those may lie that are read together, in bytes.
pub const PROOF_SPAN: usize = 4096;
/// The most words by which a kernel stack is recognized without unwinding it.
pub const KERNEL_PROOF_WORDS: usize = 64;
/// The most bytes of a kernel stack that they may lie in.
pub const KERNEL_PROOF_SPAN: usize = 4096;

/// Counters that the BPF programs keep (index in the counter map, one value a CPU).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Samples that belong to the target.
    Samples = 0,
    /// Samples that did not fit into the ring buffer.
    RingFull = 1,
    /// Samples for which there was no per-CPU scratch space.
    NoScratch = 2,
    /// New processes that did not fit into the target table.
    TargetsFull = 3,
    /// User frames walked in the kernel.
    Frames = 4,
    /// Threads whose time was not kept until their end, or the recording's, for want of room.
    NoThread = 5,
    /// Nanoseconds of sums that did not fit into their ring buffer.
    TimeLost = 6,
    /// Stacks of waits that did not fit into the ring buffer; they are sent when they are next met.
    StackUnsent = 7,
    /// Stacks that were sent before, and again for want of room to remember that.
    StackAgain = 8,
    /// Tasks that the present pass over all tasks had to leave to the next.
    VisitLeft = 9,
    /// Times that a thread left a CPU.
    Switches = 10,
    /// Of these, times that its stack was walked.
    Walks = 11,
}

/// Number of [`Counter`]s.
pub const COUNTERS: usize = 12;

const _: () = {
    assert!(size_of::<Row>() == 4);
    assert!(size_of::<PageRows>() == 8);
    assert!(size_of::<Mapping>() == 24);
    assert!(size_of::<ProcessMappings>() == 8);
    assert!(size_of::<Way>() == 40);
    assert!(size_of::<Registers>() == 168);
    assert!(size_of::<SampleHeader>() == 56 + 168 + 8);
    assert!(size_of::<WaitSum>() == 112);
    assert!(
        PROOF_WORDS.is_power_of_two() && PROOF_SPAN.is_power_of_two() && SLOTS.is_power_of_two()
    );
    assert!(MAX_RULES <= 1 << 16);
    assert!(SEGMENT_ROWS.is_power_of_two() && MAX_SEGMENTS.is_power_of_two());
    assert!(
        MAX_KERNEL_FRAMES + 1 + MAX_USER_FRAMES + MAX_STACK_COPY / 8 <= PAYLOAD_WORDS,
        "the payload holds the largest sample"
    );
    assert!(MAX_STACK_COPY / STACK_PAGE as usize <= 32, "holes of the copy fit into their bits");
};

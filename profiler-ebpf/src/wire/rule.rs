//! How to step from a frame to its caller.

/// How the canonical frame address is found ([`Rule::cfa`]).
pub mod cfa {
    /// No unwind information: step by frame pointer.
    pub const NONE: u8 = 0;
    /// `sp + cfa_offset`.
    pub const SP: u8 = 1;
    /// `bp + cfa_offset`.
    pub const BP: u8 = 2;
    /// `register + cfa_offset`; registers other than sp, bp and rbx are known in the top frame, and in
    /// its caller, whose rules speak of one only if what was called leaves it alone, which nothing
    /// proves: hand-written functions call each other so (x264).
    pub const REGISTER: u8 = 3;
    /// `*(sp + cfa_offset) + cfa_add`.
    pub const DEREF_SP: u8 = 4;
    /// `*(bp + cfa_offset) + cfa_add`.
    pub const DEREF_BP: u8 = 5;
    /// A lazy PLT stub: `sp + 8 + 8 * ((ip & 15) >= cfa_offset)`.
    pub const PLT: u8 = 6;
    /// A signal frame: ip at `*(sp + ra_offset)`, sp at `*(sp + cfa_offset)`, bp at
    /// `*(sp + fp_offset)`.
    pub const SIGNAL: u8 = 7;
    /// The return address is undefined: the outermost frame.
    pub const END: u8 = 8;
    /// Unwind information that these rules cannot express.
    pub const UNSUPPORTED: u8 = 9;
    /// `bp + cfa_offset`, on another stack: the function was called there and moved to this one
    /// (Go's `systemstack`).
    pub const BP_SWITCH: u8 = 10;
    /// The bytes between two functions. No call is there to return from: a return address behind
    /// them was planted, and its frame is the outermost (makecontext(3) plants the first address
    /// of a function).
    pub const PADDING: u8 = 11;
    /// `*(sp + 8 * register + cfa_offset) + cfa_add`: behind an array on the stack that has as many
    /// words as a register says (OpenSSL's `bn_mul_mont`).
    pub const DEREF_INDEX: u8 = 12;
}

/// Where a register of the caller was saved ([`Rule::fp`], [`Rule::ra`]).
pub mod saved {
    /// It still holds the caller's value (never for the return address).
    pub const SAME: u8 = 0;
    /// At `CFA + offset`.
    pub const AT_CFA: u8 = 1;
    /// At `bp + offset`.
    pub const AT_BP: u8 = 2;
    /// At `sp + offset`.
    pub const AT_SP: u8 = 3;
    /// In the register whose DWARF number is the offset, as [`super::cfa::REGISTER`] has it.
    pub const REGISTER: u8 = 4;
    /// Not recoverable.
    pub const UNDEFINED: u8 = 5;
}

/// How to step from a frame to its caller. Registers are DWARF numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// One of [`cfa`].
    pub cfa: u8,
    /// DWARF number of the CFA's register, for [`cfa::REGISTER`] and [`cfa::DEREF_INDEX`].
    pub cfa_register: u8,
    /// Where the caller's frame pointer is: one of [`saved`].
    pub fp: u8,
    /// Where the return address is: one of [`saved`], on x86-64 nearly always `AT_CFA` - 8.
    pub ra: u8,
    /// Offset added to the CFA's register.
    pub cfa_offset: i32,
    /// Offset added after a dereference.
    pub cfa_add: i32,
    /// Offset of the saved frame pointer.
    pub fp_offset: i32,
    /// Offset of the return address.
    pub ra_offset: i32,
    /// Where the caller's rbx was saved, from the CFA (from sp in a signal frame); 0: it still
    /// holds the caller's value. The dynamic loader's lazy binding keeps its CFA in rbx.
    pub bx_offset: i32,
}

impl Rule {
    /// The rule of addresses without unwind information; it is always number 0 of the rule table.
    pub const NONE: Self = Self {
        cfa: cfa::NONE,
        cfa_register: 0,
        fp: saved::SAME,
        ra: saved::UNDEFINED,
        cfa_offset: 0,
        cfa_add: 0,
        fp_offset: 0,
        ra_offset: 0,
        bx_offset: 0,
    };
}

const _: () = assert!(size_of::<Rule>() == 24);

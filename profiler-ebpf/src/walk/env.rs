//! What a walk goes by: tables and memory, and which registers a step depends on.

use crate::wire::{Mapping, PageRows, Row, Rule, Way};

/// Tables and memory as the walker sees them.
pub trait Env {
    /// A row segment that was looked up.
    type Segment: Copy;
    /// Memory is a copy of the stack from the top frame's stack pointer on. Compilers do not say in
    /// their tables that an epilogue has popped a register: what was saved below the stack pointer
    /// is not in the copy, but in the register again.
    const COPY: bool = false;
    /// Ways out of code that was made at run time may be known.
    const KNOWS_WAYS: bool = false;

    /// The mapping at this index of the mapping table.
    fn mapping(&self, index: u32) -> Option<&Mapping>;
    /// Where the rows of a page of text lie.
    fn page(&self, index: u32) -> Option<PageRows>;
    /// The row segment of this number.
    fn segment(&self, number: u16) -> Option<Self::Segment>;
    /// A row of a segment; the index wraps at the segment's size.
    fn row(&self, segment: Self::Segment, index: u32) -> Row;
    /// The rule of this number.
    fn rule(&self, number: u32) -> Option<&Rule>;
    /// The 8 bytes of the stack at an address.
    fn word(&mut self, address: u64) -> Option<u64>;
    /// The 8 bytes of code at an address.
    fn code(&mut self, address: u64) -> Option<u64>;
    /// The way out of a place in code that was made at run time, where one is known.
    #[inline(always)]
    fn way(&self, _address: u64) -> Option<&Way> {
        None
    }
    /// The same for a word that holds a register of the caller, one of [`depends`]: the walk depends
    /// on it only if a later step depends on that register.
    #[inline(always)]
    fn register(&mut self, _register: u32, address: u64) -> Option<u64> {
        self.word(address)
    }
    /// Told what a step depends on beside the words that it reads, the instruction pointer and the
    /// stack pointer: bits of [`depends`].
    #[inline(always)]
    fn depends(&mut self, _on: u32) {}
}

/// Registers that a step may depend on.
pub mod depends {
    use crate::wire::{DWARF_BP, DWARF_BX, DWARF_SP, Rule, cfa, saved};

    /// The frame pointer.
    pub const BP: u32 = 1;
    /// rbx.
    pub const BX: u32 = 2;
    /// Others.
    pub const GENERAL: u32 = 4;

    /// Those that a step by this rule depends on.
    #[inline(always)]
    #[must_use]
    pub const fn of(rule: &Rule) -> u32 {
        let mut on = 0;
        if matches!(rule.cfa, cfa::BP | cfa::BP_SWITCH | cfa::DEREF_BP)
            || rule.fp == saved::AT_BP
            || rule.ra == saved::AT_BP
        {
            on |= BP;
        }
        if matches!(rule.cfa, cfa::REGISTER | cfa::DEREF_INDEX) {
            on |= register(rule.cfa_register as i32);
        }
        if rule.fp == saved::REGISTER {
            on |= register(rule.fp_offset);
        }
        if rule.ra == saved::REGISTER {
            on |= register(rule.ra_offset);
        }
        on
    }

    const fn register(number: i32) -> u32 {
        match number as usize {
            DWARF_BP => BP,
            DWARF_BX => BX,
            DWARF_SP => 0,
            _ => GENERAL,
        }
    }
}

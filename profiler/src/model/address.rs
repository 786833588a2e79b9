//! Kinds of code address as types, so that they cannot be mixed up.

/// An address in a process's code, as a stack walk found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CodeAddress {
    /// The instruction being executed (the top frame, or one interrupted by a signal).
    Exact(u64),
    /// The instruction after a call.
    Return(u64),
}

impl CodeAddress {
    /// The raw address.
    #[must_use]
    pub fn raw(self) -> u64 {
        match self {
            Self::Exact(address) | Self::Return(address) => address,
        }
    }

    /// The address to look symbols and unwind rows up with: that of the instruction itself, or one
    /// inside the call instruction. The only place where one is subtracted from a return address.
    #[must_use]
    pub fn lookup(self) -> u64 {
        match self {
            Self::Exact(address) => address,
            Self::Return(address) => address.saturating_sub(1),
        }
    }
}

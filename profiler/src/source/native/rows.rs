//! What is known of a module's unwind rows.

use super::installed::FileTables;

/// Where the unwind rows of a module are.
#[derive(Debug)]
pub enum Rows {
    /// No sample has needed them.
    Idle,
    /// Being compiled.
    Compiling,
    /// In the tables.
    Installed(FileTables),
    /// There are none: frame pointers are all there is.
    None,
    /// The tables have no room for them.
    Refused,
    /// There are none, and frame pointers lead astray: walks are handed up where no way is known, and
    /// the code is followed.
    Followed,
    /// The same, but following it leads nowhere.
    Astray,
}

impl Rows {
    /// Whether it is not decided yet what they are.
    #[must_use]
    pub fn are_pending(&self) -> bool {
        matches!(self, Self::Idle | Self::Compiling)
    }
}

//! Writing profiles: one trait, one file for each format, and the outputs they go to.

pub mod folded;
pub mod output;
pub mod svg;
pub mod text;

use std::{io::Write, path::Path};

use crate::model::profile::Profile;

/// Why a profile cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No stack has a value.
    #[error("there is nothing to draw: no stack has a value")]
    Empty,
    /// The output failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A format that profiles can be written in.
pub trait Export {
    /// Writes the first metric of a profile.
    ///
    /// # Errors
    /// The profile is empty, or `out` failed: what was written until then is of no use.
    fn export(&self, profile: &Profile, out: &mut dyn Write) -> Result<(), ExportError>;
}

/// The formats, each known by the endings of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A picture: [`svg`].
    Svg,
    /// Folded text: [`folded`].
    Folded,
}

impl Format {
    /// Every ending that chooses a format, for messages.
    pub const ENDINGS: &'static str = ".svg, .folded, .txt";

    /// The format that a file's ending chooses.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "svg" => Some(Self::Svg),
            "folded" | "txt" => Some(Self::Folded),
            _ => None,
        }
    }

    /// What writes this format.
    #[must_use]
    pub fn exporter(self) -> &'static dyn Export {
        match self {
            Self::Svg => &svg::Svg,
            Self::Folded => &folded::Folded,
        }
    }
}

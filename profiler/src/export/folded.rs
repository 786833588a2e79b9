//! Folded text, by the one codec.

use std::io::Write;

use super::{Export, ExportError};
use crate::{format::folded, model::profile::Profile};

/// Writes folded text.
#[derive(Clone, Copy, Debug)]
pub struct Folded;

impl Export for Folded {
    fn export(&self, profile: &Profile, out: &mut dyn Write) -> Result<(), ExportError> {
        if profile.stacks.total(0) == 0 {
            return Err(ExportError::Empty);
        }
        folded::write(&profile.stacks, 0, out)?;
        Ok(out.flush()?)
    }
}

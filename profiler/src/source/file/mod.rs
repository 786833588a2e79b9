//! Profiles that were written down before, by us or by others, known by their content.

pub mod folded;

use std::{
    io::{self, BufRead, Cursor, Read as _},
    time::{Duration, UNIX_EPOCH},
};

use crate::{
    format::{
        Kind, detect,
        folded::FoldedError,
        foreign::{self, ForeignError},
        gzip::{self, GzipError},
    },
    model::profile::{Metadata, Profile, Recording},
};

/// Longer inputs are refused, in bytes, also as they are when unpacked. Folded text, which is read
/// line by line, has its own limit.
const MAX_INPUT: usize = 256 << 20;
/// So much of an input tells its format.
const START: u64 = 4096;

/// What to make of an input; what its format does not know does not matter.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Heading of the picture.
    pub title: &'a str,
    /// The sample type of a pprof profile.
    pub sample_type: Option<&'a str>,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Whether the time in which nothing ran is shown.
    pub idle: bool,
}

/// An input that was read.
#[derive(Debug)]
pub struct Read {
    /// What it holds.
    pub content: Content,
    /// What is to be said about it, a clause each.
    pub remarks: Vec<String>,
}

/// What an input holds.
#[derive(Debug)]
pub enum Content {
    /// Folded text, which has names of its own.
    Profile(Profile),
    /// What another profiler wrote.
    Recording(Recording),
}

/// Why an input cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// More than is read.
    #[error("it is longer than {MAX_INPUT} bytes")]
    TooLarge,
    /// It cannot be unpacked.
    #[error(transparent)]
    Gzip(#[from] GzipError),
    /// Folded text that is none.
    #[error(transparent)]
    Folded(#[from] FoldedError),
    /// A profile of others that is none.
    #[error(transparent)]
    Foreign(#[from] ForeignError),
}

/// Reads a profile. `name` is what the picture calls it.
///
/// # Errors
/// What is wrong with it.
pub fn read(mut input: impl BufRead, name: &str, options: &Options<'_>) -> Result<Read, FileError> {
    let mut start = Vec::new();
    input.by_ref().take(START).read_to_end(&mut start)?;
    let packed = gzip::is_packed(&start);
    if !packed && detect(&start) == Kind::Folded {
        return read_folded(Cursor::new(start).chain(input), name, options);
    }
    let mut bytes = start;
    input.take(MAX_INPUT as u64).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_INPUT {
        return Err(FileError::TooLarge);
    }
    if packed {
        bytes = gzip::unpack(&bytes, MAX_INPUT)?;
        if detect(&bytes) == Kind::Folded {
            return read_folded(&*bytes, name, options);
        }
    }
    let Options { title, sample_type, threads, idle } = *options;
    let options = foreign::Options { sample_type, threads, idle, process: name };
    let mut decoded = foreign::decode(&bytes, &options)?;
    let remarks = std::mem::take(&mut decoded.remarks);
    let metadata = Metadata {
        title: title.to_owned(),
        target: name.to_owned(),
        engine: "file".to_owned(),
        start: UNIX_EPOCH,
        duration: Duration::ZERO,
        frequency: None,
    };
    Ok(Read { content: Content::Recording(decoded.recording(metadata)), remarks })
}

fn read_folded(input: impl BufRead, name: &str, options: &Options<'_>) -> Result<Read, FileError> {
    let folded::Source { profile, not_utf8 } = folded::read(input, name, options.title)?;
    let remark =
        || format!("it has {not_utf8} lines that are not UTF-8; such bytes are shown as \\xNN");
    let remarks = (not_utf8 > 0).then(remark).into_iter().collect();
    Ok(Read { content: Content::Profile(profile), remarks })
}

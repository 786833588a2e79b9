//! The one codec of folded stacks: a line is `process-name;root;…;leaf COUNT`.
//!
//! # Frames
//! Kernel frames end in `_[k]`, code made at run time in `_[j]`, inlined calls in `_[i]`. An inlined
//! call inside kernel or run-time code keeps the `_[k]` or `_[j]`: where code runs says more than
//! how it was called. `[truncated: cause]` and `[lost: cause]` are markers, other names in brackets
//! (`[module+0xoffset]`) stand for functions without a name. Neither files nor lines of source
//! code, nor the difference between interpreted, thread and native frames, survive the format.
//!
//! # Escapes
//! Names of symbols, processes and threads belong to others, so nothing in them may read as
//! structure. Written as `\xNN` (ASCII) or `\u{N}`, in lower-case hexadecimal:
//! * `;`, control characters, line and paragraph separators, bidirectional overrides and what XML
//!   cannot hold (U+FFFE, U+FFFF), anywhere;
//! * a leading `[` of a name that is not one of our own, and the bracket of a trailing `_[k]`,
//!   `_[i]` or `_[j]` of any name;
//! * a space that begins or ends a name, and a `#` that begins a line;
//! * a backslash that would otherwise begin such an escape; any other stays as it is.
//!
//! Reading reverses exactly this. Bytes that are not UTF-8 become the text `\x80`…`\xff`, which no
//! name's escape uses. A function without any name is `[unknown]`.

use std::{
    borrow::Cow,
    io::{self, BufRead, Read as _, Write},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use crate::model::{
    frame::{Frame, FrameKind},
    stacks::{StackId, Stacks},
};

/// More frames than this in one line are refused.
pub const MAX_FRAMES: usize = 10_000;
/// Longer lines are refused, in bytes.
pub const MAX_LINE: usize = 16 << 20;
/// Longer inputs are refused, in bytes. Reading takes memory in proportion, some ten times as much.
pub const MAX_INPUT: u64 = 512 << 20;
/// More distinct frame texts than this are refused. No program has as many functions; input that
/// does (names with an address or a number in each) takes far more memory than it has bytes.
pub const MAX_NAMES: usize = 4 << 20;

const UNKNOWN: &str = "[unknown]";
const MARKERS: [&str; 2] = ["[truncated: ", "[lost: "];

/// Why folded text cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FoldedError {
    /// No line has a stack with a count above 0.
    #[error("it holds no stack with a count above 0: nothing to draw")]
    Empty,
    /// A line that does not end in a count.
    #[error("line {line} does not end in a count: {text}")]
    NoCount {
        /// Line number, from 1.
        line: u64,
        /// The end of the line, shortened and printable.
        text: String,
    },
    /// A line with a count and nothing else.
    #[error("line {line} has a count but no stack")]
    NoStack {
        /// Line number, from 1.
        line: u64,
    },
    /// A count that does not fit 64 bits.
    #[error("line {line} has a count above {max}", max = u64::MAX)]
    HugeCount {
        /// Line number, from 1.
        line: u64,
    },
    /// A sum of counts that does not fit 64 bits.
    #[error("up to line {line} the counts add up to more than {max}", max = u64::MAX)]
    HugeTotal {
        /// Line number, from 1.
        line: u64,
    },
    /// A stack of more than [`MAX_FRAMES`] frames.
    #[error("line {line} has more than {MAX_FRAMES} frames")]
    TooDeep {
        /// Line number, from 1.
        line: u64,
    },
    /// A line of more than [`MAX_LINE`] bytes.
    #[error("line {line} is longer than {MAX_LINE} bytes")]
    LongLine {
        /// Line number, from 1.
        line: u64,
    },
    /// An input of more than [`MAX_INPUT`] bytes.
    #[error("it is longer than {MAX_INPUT} bytes")]
    TooLarge,
    /// More than [`MAX_NAMES`] distinct frame texts.
    #[error("up to line {line} it has more than {MAX_NAMES} different function names")]
    TooManyNames {
        /// Line number, from 1.
        line: u64,
    },
    /// The input failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Folded text as stacks of one metric.
#[derive(Debug)]
pub struct Folded {
    /// The stacks; the first frame of each is taken for the process.
    pub stacks: Stacks<Frame>,
    /// Lines that held bytes which are not UTF-8.
    pub not_utf8: u64,
}

/// Reads folded text, line by line.
///
/// # Errors
/// The first line that is not a stack and a count, or that exceeds a limit of this module.
pub fn read(mut input: impl BufRead) -> Result<Folded, FoldedError> {
    let mut reader = Reader {
        stacks: Stacks::new(1),
        names: FxHashMap::default(),
        frames: Vec::new(),
        max_names: MAX_NAMES,
        total: 0,
    };
    let (mut not_utf8, mut number, mut bytes) = (0, 0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = MAX_LINE as u64 + 2;
        let length = input.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        number += 1;
        bytes += length as u64;
        if bytes > MAX_INPUT {
            return Err(FoldedError::TooLarge);
        }
        if line.strip_suffix(b"\n").unwrap_or(&line).len() > MAX_LINE {
            return Err(FoldedError::LongLine { line: number });
        }
        let text = decode_utf8(&line);
        not_utf8 += u64::from(matches!(text, Cow::Owned(_)));
        reader.line(number, text.trim_ascii())?;
    }
    if reader.total == 0 {
        return Err(FoldedError::Empty);
    }
    Ok(Folded { stacks: reader.stacks, not_utf8 })
}

/// What is kept from line to line.
struct Reader {
    stacks: Stacks<Frame>,
    /// Indexes into `frames` by the frame's text, so that each is decoded once: of the text as a
    /// first frame and as a later one. `u32::MAX` is none yet.
    names: FxHashMap<Box<str>, [u32; 2]>,
    frames: Vec<Frame>,
    max_names: usize,
    total: u64,
}

impl Reader {
    fn line(&mut self, line: u64, text: &str) -> Result<(), FoldedError> {
        if text.is_empty() || text == "#" || text.starts_with("# ") {
            return Ok(());
        }
        let (stack, count) = split_count(line, text)?;
        self.total = self.total.checked_add(count).ok_or(FoldedError::HugeTotal { line })?;
        if stack.bytes().filter(|byte| *byte == b';').count() >= MAX_FRAMES {
            return Err(FoldedError::TooDeep { line });
        }
        let mut id = StackId::ROOT;
        for (depth, text) in stack.split(';').enumerate() {
            let frame = self.frame(line, text, depth == 0)?;
            id = self.stacks.push(id, &self.frames[frame as usize]);
        }
        self.stacks.add(id, 0, count);
        Ok(())
    }

    /// The index of the frame that a text stands for.
    fn frame(&mut self, line: u64, text: &str, first: bool) -> Result<u32, FoldedError> {
        let slot = usize::from(first);
        if let Some(known) = self.names.get(text)
            && known[slot] != u32::MAX
        {
            return Ok(known[slot]);
        }
        let index = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        if self.frames.len() >= self.max_names || index == u32::MAX {
            return Err(FoldedError::TooManyNames { line });
        }
        self.frames.push(read_frame(text, first));
        self.names.entry(text.into()).or_insert([u32::MAX; 2])[slot] = index;
        Ok(index)
    }
}

/// Divides a trimmed line into its stack and its count.
fn split_count(line: u64, text: &str) -> Result<(&str, u64), FoldedError> {
    let (stack, count) = match text.rsplit_once([' ', '\t']) {
        Some((stack, count)) => (stack.trim_ascii_end(), count),
        None => ("", text),
    };
    if !count.bytes().all(|byte| byte.is_ascii_digit()) {
        let start = text.char_indices().rev().nth(39).map_or(0, |(at, _)| at);
        return Err(FoldedError::NoCount { line, text: printable(&text[start..]) });
    }
    let count = count.parse().map_err(|_| FoldedError::HugeCount { line })?;
    if stack.is_empty() {
        return Err(FoldedError::NoStack { line });
    }
    Ok((stack, count))
}

/// UTF-8 text of a line; bytes that are none as `\xNN`.
fn decode_utf8(line: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(line) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(line.len() + 16);
    for chunk in line.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    Cow::Owned(text)
}

/// The frame that a text between two `;` stands for.
/// The frame that a text stands for; `first`: it is the first of its stack.
pub(super) fn read_frame(text: &str, first: bool) -> Frame {
    let (name, suffix) = match annotation(text) {
        Some((name, suffix)) if !name.is_empty() => (name, Some(suffix)),
        _ => (text, None),
    };
    let ours = name.is_empty() || name.starts_with('[');
    let kind = match suffix {
        Some('k') => FrameKind::Kernel,
        Some('j') => FrameKind::Jit,
        Some(_) => FrameKind::Native,
        None if first && !ours => FrameKind::Process,
        None if first || is_marker(name) => FrameKind::Marker,
        None => FrameKind::Native,
    };
    let name = if name.is_empty() { Cow::Borrowed(UNKNOWN) } else { unescape(name) };
    let mut frame = Frame::symbol(name, kind);
    frame.symbol = !ours;
    frame.inlined = suffix == Some('i');
    frame
}

/// Divides `name_[x]` into the name and the annotation's letter.
fn annotation(text: &str) -> Option<(&str, char)> {
    ['k', 'i', 'j'].into_iter().find_map(|letter| {
        let name = text.strip_suffix(']')?.strip_suffix(letter)?.strip_suffix("_[")?;
        Some((name, letter))
    })
}

fn is_marker(name: &str) -> bool {
    MARKERS.iter().any(|marker| name.starts_with(marker))
}

/// Writes one metric of stacks as folded text: one line for each distinct stack, sorted.
///
/// # Errors
/// Those of `out`.
pub fn write(stacks: &Stacks<Frame>, metric: usize, out: &mut dyn Write) -> io::Result<()> {
    let texts: Stacks<Arc<str>> = stacks.map(|frame| vec![Arc::from(frame_text(frame))]);
    let mut lines: Vec<(String, u64)> = texts
        .iter()
        .filter(|(_, values)| values[metric] > 0)
        .map(|(id, values)| (stack_text(&texts.root_first(id)), values[metric]))
        .collect();
    lines.sort_unstable();
    for (stack, count) in &lines {
        writeln!(out, "{stack} {count}")?;
    }
    Ok(())
}

fn stack_text(frames: &[&Arc<str>]) -> String {
    let Some((first, rest)) = frames.split_first() else { return UNKNOWN.to_owned() };
    let mut text = root_text(first).into_owned();
    for frame in rest {
        text.push(';');
        text.push_str(frame);
    }
    text
}

/// A frame's text where it begins a line: a comment's `#` is escaped.
#[must_use]
pub fn root_text(text: &str) -> Cow<'_, str> {
    match text.strip_prefix('#') {
        Some(rest) => Cow::Owned(format!("\\x23{rest}")),
        None => Cow::Borrowed(text),
    }
}

/// The text of one frame: its escaped name and its annotation.
#[must_use]
pub fn frame_text(frame: &Frame) -> String {
    if frame.name.is_empty() {
        return format!("{UNKNOWN}{}", suffix(frame));
    }
    let foreign = frame.symbol
        || matches!(frame.kind, FrameKind::Process | FrameKind::Thread)
        // As it would be read: a blank at the end is escaped, and then it is no marker.
        || (frame.kind != FrameKind::Marker && is_marker(&escape(&frame.name, false)));
    let mut text = escape(&frame.name, foreign);
    text.push_str(suffix(frame));
    text
}

fn suffix(frame: &Frame) -> &'static str {
    match frame.kind {
        FrameKind::Kernel => "_[k]",
        FrameKind::Jit => "_[j]",
        _ if frame.inlined => "_[i]",
        _ => "",
    }
}

fn escape(name: &str, foreign: bool) -> String {
    let mut text = String::with_capacity(name.len() + 4);
    let bracket = annotation(name).map(|(stem, _)| stem.len() + 1);
    for (at, c) in name.char_indices() {
        let structural = match c {
            '\\' => parse_escape(&name[at..]).is_some(),
            '[' => (foreign && at == 0) || bracket == Some(at),
            ' ' => at == 0 || at + 1 == name.len(),
            c => is_unsafe(c),
        };
        if structural { push_escape(&mut text, c) } else { text.push(c) }
    }
    text
}

/// Text for a person to read: line breaks, control characters and the like escaped as in names.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c != ';' && is_unsafe(c) { push_escape(&mut safe, c) } else { safe.push(c) }
    }
    safe
}

fn push_escape(text: &mut String, c: char) {
    let code = u32::from(c);
    text.push_str(&if c.is_ascii() {
        format!("\\x{code:02x}")
    } else {
        format!("\\u{{{code:x}}}")
    });
}

/// Characters that never stand in a line as they are.
fn is_unsafe(c: char) -> bool {
    c == ';'
        || c.is_control()
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        name.push_str(&rest[..at]);
        rest = &rest[at..];
        let (c, length) = parse_escape(rest).unwrap_or(('\\', 1));
        name.push(c);
        rest = &rest[length..];
    }
    name.push_str(rest);
    Cow::Owned(name)
}

/// The character and length of the escape that `text` begins with, of those that [`escape`] makes.
fn parse_escape(text: &str) -> Option<(char, usize)> {
    let (digits, length) = match text.strip_prefix("\\x") {
        Some(rest) => (rest.get(..2)?, 4),
        None => {
            let digits = text.strip_prefix("\\u{")?.split('}').next()?;
            (digits, digits.len() + 4)
        }
    };
    if length > text.len() || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
    let known = is_unsafe(c) || matches!(c, '\\' | '[' | ' ' | '#');
    // One spelling for each: what reads as an escape is exactly what would be written.
    let mut canonical = String::new();
    push_escape(&mut canonical, c);
    (known && text.starts_with(&canonical)).then_some((c, length))
}

#[cfg(test)]
mod tests;

//! The bytes of a nettrace file: numbers, strings, and the headers of objects, blocks and events.
//!
//! Format: `documentation/design-docs/ipc-protocol.md` and `NetTraceFormat.md` of dotnet/diagnostics
//! and microsoft/perfview, version 4.

use super::NettraceError;

/// What a file begins with.
pub const MAGIC: &[u8] = b"Nettrace";
/// What follows, with its length before it.
const SERIALIZATION: &[u8] = b"\x14\0\0\0!FastSerialization.1";
/// How long both are.
pub const START: usize = MAGIC.len() + SERIALIZATION.len();

/// No reference: where an object could begin, the end of the file.
const NULL: u8 = 1;
const BEGIN: u8 = 5;
const END: u8 = 6;

/// Names of objects are short words.
const MAX_NAME: u32 = 64;
/// Runtimes write blocks of some 100 kB; larger ones are refused, in bytes.
const MAX_BLOCK: u32 = 16 << 20;
/// The first object, the only one that is no block.
const TRACE: &[u8] = b"Trace";
/// How long it is.
const TRACE_SIZE: usize = 48;
/// Versions of the format that are read: the first object's.
const VERSION: u32 = 4;

/// Bytes that are read from the front.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next bytes; none: there are not so many.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// A byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// A number of two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// A number of four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number of eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number in groups of seven bits, the lowest first.
    fn packed(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn packed_u32(&mut self) -> Option<u32> {
        u32::try_from(self.packed()?).ok()
    }

    /// UTF-16 up to a NUL.
    pub fn text(&mut self) -> Option<String> {
        let units = self.0.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        self.take(2 * units.len() + 2)?;
        Some(String::from_utf16_lossy(&units))
    }
}

/// Checks the start of a file; false: more of it is needed.
pub fn check_start(bytes: &[u8]) -> Result<bool, NettraceError> {
    let mut expected = MAGIC.iter().chain(SERIALIZATION);
    if bytes.iter().zip(&mut expected).all(|(byte, expected)| byte == expected) {
        return Ok(bytes.len() >= START);
    }
    if bytes.starts_with(&[MAGIC, &[0; 4]].concat()) {
        // The versions since 5 say theirs after a zero.
        return Err(NettraceError::Version(
            Cursor(&bytes[MAGIC.len() + 4..]).u32().unwrap_or_default(),
        ));
    }
    Err(NettraceError::NoTrace)
}

/// An object of the file.
#[derive(Debug)]
pub enum Object<'a> {
    /// The first one.
    Trace(Trace),
    /// A block of this name, and what is in it.
    Block(&'a [u8], &'a [u8]),
    /// None: the file's end.
    End,
}

/// What the first object tells.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    /// Year, month, day, hour, minute, second, millisecond (UTC).
    pub began: [u16; 7],
    /// Ticks of the clock in a second.
    pub ticks: u64,
    /// Nanoseconds between two samples of a thread.
    pub interval: u32,
}

/// Reads the object that begins at `offset` of the file, and how long it is; none: it is not all
/// there.
pub fn object(bytes: &[u8], offset: u64) -> Result<Option<(Object<'_>, usize)>, NettraceError> {
    let damaged = || NettraceError::Damaged(offset);
    let mut cursor = Cursor(bytes);
    match cursor.u8() {
        None => return Ok(None),
        Some(NULL) => return Ok(Some((Object::End, 1))),
        Some(BEGIN) => {}
        Some(_) => return Err(damaged()),
    }
    let Some(tags) = cursor.take(2) else { return Ok(None) };
    if tags != [BEGIN, NULL] {
        return Err(damaged());
    }
    let (Some(_), Some(oldest_reader), Some(len)) = (cursor.u32(), cursor.u32(), cursor.u32())
    else {
        return Ok(None);
    };
    if len > MAX_NAME {
        return Err(damaged());
    }
    let (Some(name), Some(tag)) = (cursor.take(len as usize), cursor.u8()) else {
        return Ok(None);
    };
    if tag != END {
        return Err(damaged());
    }
    let object = if name == TRACE {
        if oldest_reader > VERSION {
            return Err(NettraceError::Version(oldest_reader));
        }
        let Some(body) = cursor.take(TRACE_SIZE) else { return Ok(None) };
        Object::Trace(trace(body).ok_or_else(damaged)?)
    } else {
        let Some(size) = cursor.u32() else { return Ok(None) };
        if size > MAX_BLOCK {
            return Err(damaged());
        }
        // Blocks begin at multiples of four bytes of the file.
        let at = offset + (bytes.len() - cursor.0.len()) as u64;
        let padding = (at.next_multiple_of(4) - at) as usize;
        let body = cursor.take(padding).and_then(|_| cursor.take(size as usize));
        let Some(body) = body else { return Ok(None) };
        Object::Block(name, body)
    };
    match cursor.u8() {
        None => Ok(None),
        Some(END) => Ok(Some((object, bytes.len() - cursor.0.len()))),
        Some(_) => Err(damaged()),
    }
}

fn trace(body: &[u8]) -> Option<Trace> {
    let mut body = Cursor(body);
    let [year, month, _weekday, day, hour, minute, second, millisecond] =
        [(); 8].map(|()| body.u16().unwrap_or_default());
    let began = [year, month, day, hour, minute, second, millisecond];
    let _time = body.u64()?;
    let ticks = body.u64()?;
    let _pointer_size = body.u32()?;
    let _process = body.u32()?;
    let _processors = body.u32()?;
    let interval = body.u32()?;
    Some(Trace { began, ticks, interval })
}

/// An event of a block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event<'a> {
    /// Its kind, as a block of kinds named it; 0: it names one.
    pub metadata: u32,
    /// Its number among those that were written by `writer`.
    pub sequence: u32,
    /// The thread that wrote it.
    pub writer: u64,
    /// The thread that it is about.
    pub thread: u64,
    /// Its stack, as a block of stacks numbered it.
    pub stack: u32,
    /// When.
    pub time: u64,
    /// The rest.
    pub payload: &'a [u8],
}

/// The events of a block, each with a header that says only what differs from the one before.
#[derive(Debug)]
pub struct Events<'a> {
    rest: Cursor<'a>,
    last: Event<'a>,
    payload_size: u32,
}

/// The header of a block of events.
const BLOCK_HEADER: u16 = 20;
/// Its flag: headers of events are packed, as those of every runtime are.
const PACKED: u16 = 1;

impl<'a> Events<'a> {
    /// Those of a block; none: it is damaged.
    pub fn of(block: &'a [u8]) -> Option<Self> {
        let mut start = Cursor(block);
        let (size, flags) = (start.u16()?, start.u16()?);
        if size < BLOCK_HEADER || flags & PACKED == 0 {
            return None;
        }
        let mut rest = Cursor(block);
        rest.take(usize::from(size))?;
        Some(Self { rest, last: Event::default(), payload_size: 0 })
    }

    /// The next one: none at the end, `Some(None)` where the block is damaged.
    pub fn next(&mut self) -> Option<Option<Event<'a>>> {
        (!self.rest.0.is_empty()).then(|| self.read())
    }

    fn read(&mut self) -> Option<Event<'a>> {
        const METADATA: u8 = 1;
        const WRITER: u8 = 1 << 1;
        const THREAD: u8 = 1 << 2;
        const STACK: u8 = 1 << 3;
        const ACTIVITY: u8 = 1 << 4;
        const RELATED_ACTIVITY: u8 = 1 << 5;
        const PAYLOAD: u8 = 1 << 7;
        let Self { rest, last, payload_size } = self;
        let flags = rest.u8()?;
        let has = |flag| flags & flag != 0;
        if has(METADATA) {
            last.metadata = rest.packed_u32()?;
        }
        if has(WRITER) {
            last.sequence = last.sequence.wrapping_add(rest.packed_u32()?);
            last.writer = rest.packed()?;
            let _processor = rest.packed_u32()?;
        }
        if last.metadata != 0 {
            last.sequence = last.sequence.wrapping_add(1);
        }
        if has(THREAD) {
            last.thread = rest.packed()?;
        }
        if has(STACK) {
            last.stack = rest.packed_u32()?;
        }
        last.time = last.time.wrapping_add(rest.packed()?);
        for activity in [ACTIVITY, RELATED_ACTIVITY] {
            if has(activity) {
                rest.take(16)?;
            }
        }
        if has(PAYLOAD) {
            *payload_size = rest.packed_u32()?;
        }
        last.payload = rest.take(*payload_size as usize)?;
        Some(*last)
    }
}

/// The stacks of a block: the number of the first one, then each one's addresses, leaf first.
pub fn stacks(block: &[u8]) -> Option<(u32, u32, Cursor<'_>)> {
    let mut cursor = Cursor(block);
    Some((cursor.u32()?, cursor.u32()?, cursor))
}

/// The next stack of a block.
pub fn stack<'a>(rest: &mut Cursor<'a>) -> Option<impl DoubleEndedIterator<Item = u64> + 'a> {
    let size = rest.u32()? as usize;
    let (addresses, _) = rest.take(size)?.as_chunks();
    Some(addresses.iter().map(|bytes| u64::from_le_bytes(*bytes)))
}

/// The number of the last event of each thread that writes, as a sequence point tells it.
pub fn sequence_point(block: &[u8]) -> Option<impl Iterator<Item = (u64, u32)>> {
    let mut cursor = Cursor(block);
    let (_time, count) = (cursor.u64()?, cursor.u32()?);
    Some((0..count).map_while(move |_| Some((cursor.u64()?, cursor.u32()?))))
}

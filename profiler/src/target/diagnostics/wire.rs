//! The messages of .NET's diagnostics socket: bytes only.
//!
//! Format: `documentation/design-docs/ipc-protocol.md` of dotnet/diagnostics. A message is a header
//! (a magic word, the whole size, a set of commands, the command) and what the command takes.

/// What every message begins with.
const MAGIC: &[u8; 14] = b"DOTNET_IPC_V1\0";
/// How long a header is.
pub const HEADER: usize = 20;
/// Answers are short; longer ones are refused, in bytes.
const MAX_ANSWER: usize = 4096;

/// A command: its set, and its number there.
type Command = [u8; 2];
const STOP_TRACING: Command = [2, 1];
const COLLECT_TRACING: Command = [2, 2];
const ENABLE_PERF_MAP: Command = [4, 5];
const DISABLE_PERF_MAP: Command = [4, 6];
/// The command of an answer.
const OK: Command = [0xff, 0];
const ERROR: Command = [0xff, 0xff];

/// The trace's form: nettrace.
const NETTRACE: u32 = 1;
/// Events about more than what goes wrong.
const INFORMATIONAL: u32 = 4;
const VERBOSE: u32 = 5;
/// Keywords of the runtime's own events (ClrEtwAll.man): methods that are compiled, and loaded from
/// images that were compiled before; the heap.
const METHODS: u64 = 0x10 | 0x20;
const HEAP: u64 = 0x1;

/// Something that writes events, and which ones it is to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provider {
    name: &'static str,
    keywords: u64,
    level: u32,
}

/// What takes stacks of all managed threads at an interval, and what names their methods.
pub const SAMPLES: [Provider; 2] = [
    Provider {
        name: "Microsoft-DotNETCore-SampleProfiler",
        keywords: 0xf000_0000_0000,
        level: INFORMATIONAL,
    },
    Provider { name: "Microsoft-Windows-DotNETRuntime", keywords: METHODS, level: INFORMATIONAL },
];

/// What tells of allocations, and what names their methods.
pub const ALLOCATIONS: [Provider; 1] = [Provider {
    name: "Microsoft-Windows-DotNETRuntime",
    keywords: METHODS | HEAP,
    level: VERBOSE,
}];

/// Asks for a trace by these providers; the runtime keeps up to `megabytes` until they are read.
#[must_use]
pub fn collect_tracing(megabytes: u32, providers: &[Provider]) -> Vec<u8> {
    let mut body = [megabytes, NETTRACE, providers.len() as u32].map(u32::to_le_bytes).concat();
    for Provider { name, keywords, level } in providers {
        body.extend(keywords.to_le_bytes());
        body.extend(level.to_le_bytes());
        body.extend(text(name));
        // No filter.
        body.extend(text(""));
    }
    message(COLLECT_TRACING, &body)
}

/// Ends a trace.
#[must_use]
pub fn stop_tracing(session: u64) -> Vec<u8> {
    message(STOP_TRACING, &session.to_le_bytes())
}

/// Has the runtime write a perf map of the code that it has made, and of what it makes from now on.
#[must_use]
pub fn enable_perf_map() -> Vec<u8> {
    /// Of the files that it can write: the map alone.
    const MAP: u32 = 3;
    message(ENABLE_PERF_MAP, &MAP.to_le_bytes())
}

/// Ends that.
#[must_use]
pub fn disable_perf_map() -> Vec<u8> {
    message(DISABLE_PERF_MAP, &[])
}

fn message(command: Command, body: &[u8]) -> Vec<u8> {
    let size = (HEADER + body.len()) as u16;
    [&MAGIC[..], &size.to_le_bytes(), &command, &[0; 2], body].concat()
}

/// Text after its length, both with a NUL.
fn text(text: &str) -> Vec<u8> {
    let units: Vec<u16> = text.encode_utf16().chain([0]).collect();
    let len = (units.len() as u32).to_le_bytes();
    len.into_iter().chain(units.into_iter().flat_map(u16::to_le_bytes)).collect()
}

/// Why an answer is none that helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not of this protocol.
    #[error("it answers in another language than .NET's diagnostics")]
    Foreign,
    /// The runtime does not know the command.
    #[error("this version of .NET does not know the command, which .NET 8 does")]
    Unknown,
    /// It refused, with a number of its own.
    #[error("it refused: error {0:#010x}")]
    Refused(u32),
}

/// What the header of an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How many bytes follow.
    pub size: usize,
    ok: bool,
}

/// Reads the header of an answer.
///
/// # Errors
/// When it is none.
pub fn answer(header: [u8; HEADER]) -> Result<Answer, AnswerError> {
    let (magic, rest) = header.split_at(MAGIC.len());
    let [low, high, set, command, ..] = *rest else { return Err(AnswerError::Foreign) };
    let size = usize::from(u16::from_le_bytes([low, high])).checked_sub(HEADER);
    let size = size.filter(|size| magic == MAGIC && *size <= MAX_ANSWER);
    let size = size.ok_or(AnswerError::Foreign)?;
    match [set, command] {
        OK => Ok(Answer { size, ok: true }),
        ERROR => Ok(Answer { size, ok: false }),
        _ => Err(AnswerError::Foreign),
    }
}

impl Answer {
    /// What the answer is, by the bytes that follow its header: its first number, if any.
    ///
    /// # Errors
    /// What the runtime could not do.
    pub fn number(self, body: &[u8]) -> Result<u64, AnswerError> {
        /// `DS_IPC_E_UNKNOWN_COMMAND`.
        const UNKNOWN_COMMAND: u32 = 0x8013_1385;
        if self.ok {
            let number = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            return Ok(number.unwrap_or_default());
        }
        Err(match body.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)) {
            Some(UNKNOWN_COMMAND) => AnswerError::Unknown,
            Some(code) => AnswerError::Refused(code),
            None => AnswerError::Foreign,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_runtimes_read_them() {
        let stop = stop_tracing(0x0102_0304_0506_0708);
        assert_eq!(stop, b"DOTNET_IPC_V1\0\x1c\0\x02\x01\0\0\x08\x07\x06\x05\x04\x03\x02\x01");
        let map = enable_perf_map();
        assert_eq!(map, b"DOTNET_IPC_V1\0\x18\0\x04\x05\0\0\x03\0\0\0");
        assert_eq!(disable_perf_map(), b"DOTNET_IPC_V1\0\x14\0\x04\x06\0\0");
        let collect = collect_tracing(64, &ALLOCATIONS);
        assert_eq!(&collect[14..20], [collect.len() as u8, 0, 2, 2, 0, 0]);
        let body = [64, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0x31, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0];
        assert_eq!(&collect[20..44], body);
        assert_eq!(&collect[44..52], [32, 0, 0, 0, b'M', 0, b'i', 0]);
        assert_eq!(&collect[44 + 4 + 2 * 31..], [0, 0, 1, 0, 0, 0, 0, 0]);
    }

    fn header(magic: &[u8], size: u16, command: [u8; 2]) -> [u8; HEADER] {
        let bytes = [magic, &size.to_le_bytes(), &command, &[0; 2]].concat();
        bytes.try_into().unwrap()
    }

    #[test]
    fn answers_are_told_from_errors_and_from_others() {
        let session = answer(header(MAGIC, 28, OK)).unwrap();
        assert_eq!(session.size, 8);
        assert_eq!(session.number(&7_u64.to_le_bytes()), Ok(7));
        assert_eq!(answer(header(MAGIC, 20, OK)).unwrap().number(&[]), Ok(0));
        let error = answer(header(MAGIC, 24, ERROR)).unwrap();
        let number = |code: u32| error.number(&code.to_le_bytes()).unwrap_err();
        assert_eq!(number(0x8013_1385), AnswerError::Unknown);
        assert_eq!(number(0x8000_4005).to_string(), "it refused: error 0x80004005");
        assert_eq!(error.number(&[]), Err(AnswerError::Foreign));
        for foreign in [
            header(b"HTTP/1.1 400 B", 28, OK),
            header(MAGIC, 19, OK),
            header(MAGIC, u16::MAX, OK),
            header(MAGIC, 28, COLLECT_TRACING),
        ] {
            assert_eq!(answer(foreign), Err(AnswerError::Foreign));
        }
    }
}

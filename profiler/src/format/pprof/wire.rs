//! The messages of pprof's `profile.proto`
//! (<https://github.com/google/pprof/blob/main/proto/profile.proto>), as far as they are read here,
//! and a look at them that takes no memory.

use prost::Message;

/// A profile.
#[derive(Clone, PartialEq, Message)]
pub struct Profile {
    /// What the values of each sample are.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// The samples.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// Mapped files, the program itself first.
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    /// Code locations.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// Functions.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// All text; the first is empty.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub string_table: Vec<Vec<u8>>,
    /// Time of collection, nanoseconds since 1970.
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    /// How long it was collected, in nanoseconds.
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    /// What `period` counts.
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    /// How much of it lies between two samples.
    #[prost(int64, tag = "12")]
    pub period: i64,
    /// Name (text) of the sample type to be shown.
    #[prost(int64, tag = "14")]
    pub default_sample_type: i64,
}

/// What a value is; both are indexes of text.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct ValueType {
    /// What is counted.
    #[prost(int64, tag = "1")]
    pub r#type: i64,
    /// In which unit.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// A stack and its values.
#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    /// Ids of locations, the leaf first.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// One value a sample type.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    /// What else is known of it.
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// A property of a sample.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Label {
    /// Its name (text).
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// Its value, when that is text.
    #[prost(int64, tag = "2")]
    pub str: i64,
    /// Its value, when that is a number.
    #[prost(int64, tag = "3")]
    pub num: i64,
}

/// A mapped file.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Mapping {
    /// Its id, not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Where it begins in memory.
    #[prost(uint64, tag = "2")]
    pub memory_start: u64,
    /// Where this lies in the file.
    #[prost(uint64, tag = "4")]
    pub file_offset: u64,
    /// Its name (text).
    #[prost(int64, tag = "5")]
    pub filename: i64,
}

/// A place in code.
#[derive(Clone, PartialEq, Message)]
pub struct Location {
    /// Its id, not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Id of its mapping, or 0.
    #[prost(uint64, tag = "2")]
    pub mapping_id: u64,
    /// Its address.
    #[prost(uint64, tag = "3")]
    pub address: u64,
    /// The functions there: inlined ones first, the one that they are inlined into last.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
}

/// A line in a function.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Line {
    /// Id of the function.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    /// Line of source code, or 0.
    #[prost(int64, tag = "2")]
    pub line: i64,
}

/// A function; names are indexes of text.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Function {
    /// Its id, not 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name for people.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// Its name for the linker.
    #[prost(int64, tag = "3")]
    pub system_name: i64,
    /// Its source file.
    #[prost(int64, tag = "4")]
    pub filename: i64,
}

/// The field numbers of a profile, from its beginning on, without reading what the fields hold.
/// It ends with the bytes, or with None where they cannot be a profile.
pub fn fields(bytes: &[u8]) -> impl Iterator<Item = Option<u64>> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let at = rest.take()?;
        if at.is_empty() {
            return None;
        }
        let read = field(at);
        rest = read.map(|(_, rest)| rest);
        Some(read.map(|(number, _)| number))
    })
}

/// Whether bytes, which may be cut anywhere, are fields of a profile.
pub fn begins(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Some((_, length, rest)) = head(bytes) else { return false };
        if length > rest.len() as u64 {
            break;
        }
        bytes = &rest[length as usize..];
    }
    true
}

/// The number of a field that a profile has, in the encoding that it has there, and what follows.
fn field(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, length, rest) = head(bytes)?;
    Some((number, rest.get(usize::try_from(length).ok()?..)?))
}

/// The number of a field, how many bytes it holds after its head, and what follows the head.
fn head(bytes: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (key, rest) = varint(bytes)?;
    let (value, rest) = varint(rest)?;
    match (key >> 3, key & 7) {
        // A comment (13) is a number, or many packed ones.
        (number @ (1..=6 | 11 | 13), 2) => Some((number, value, rest)),
        (number @ (7..=10 | 12..=15), 0) => Some((number, 0, rest)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at).min(63);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

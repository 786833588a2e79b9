//! What the events say that are read: which kinds there are, methods, samples, allocations.

use super::wire::Cursor;

/// The kinds of events that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A thread's stack, taken at an interval.
    Sample,
    /// Where a method's code lies.
    Method,
    /// So many bytes were allocated since the one before.
    Allocation,
}

/// The number that a block of kinds gives a kind, and the kind; none: it is damaged.
pub fn kind(payload: &[u8]) -> Option<(u32, Option<Kind>)> {
    let mut cursor = Cursor(payload);
    let (id, provider, event) = (cursor.u32()?, cursor.text()?, cursor.u32()?);
    // Numbers of events are those of the runtime's manifest, ClrEtwAll.man.
    let kind = match (provider.as_str(), event) {
        ("Microsoft-DotNETCore-SampleProfiler", 0) => Some(Kind::Sample),
        // MethodLoadVerbose and MethodUnloadVerbose; at the end MethodDCEndVerbose.
        (
            "Microsoft-Windows-DotNETRuntime" | "Microsoft-Windows-DotNETRuntimeRundown",
            143 | 144,
        ) => Some(Kind::Method),
        ("Microsoft-Windows-DotNETRuntime", 10) => Some(Kind::Allocation),
        _ => None,
    };
    Some((id, kind))
}

/// A method and where its code lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// Where it begins.
    pub start: u64,
    /// Its size in bytes.
    pub size: u32,
    /// Its name after those of its namespace and class: `System.String.Concat`.
    pub name: String,
}

/// Reads a method.
pub fn method(payload: &[u8]) -> Option<Method> {
    let mut cursor = Cursor(payload);
    let (_method, _module) = (cursor.u64()?, cursor.u64()?);
    let (start, size) = (cursor.u64()?, cursor.u32()?);
    let (_token, _flags) = (cursor.u32()?, cursor.u32()?);
    let (class, name) = (cursor.text()?, cursor.text()?);
    let name = match (class.as_str(), name.as_str()) {
        ("", "") => return None,
        ("", name) => name.to_owned(),
        (class, name) => format!("{class}.{name}"),
    };
    Some(Method { start, size, name })
}

/// Whether a sample found its thread in managed code; otherwise it waited, or ran native code.
pub fn is_managed(payload: &[u8]) -> Option<bool> {
    match Cursor(payload).u32()? {
        1 => Some(false),
        2 => Some(true),
        _ => None,
    }
}

/// Bytes that were allocated, and the type of the last object among them.
pub fn allocation(payload: &[u8]) -> Option<(u64, String)> {
    let mut cursor = Cursor(payload);
    let (amount, _kind, _instance) = (cursor.u32()?, cursor.u32()?, cursor.u16()?);
    let (long, _type) = (cursor.u64()?, cursor.u64()?);
    let name = cursor.text()?;
    Some((if long == 0 { amount.into() } else { long }, name))
}

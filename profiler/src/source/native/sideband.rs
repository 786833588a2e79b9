//! Perf side-band: records of executable mappings, names, forks and exits, with times.
//!
//! One dummy software event per CPU; decoding is pure. Formats: perf_event_open(2), section
//! "MMAP layout".

use std::{io, os::fd::FromRawFd, os::fd::OwnedFd};

use perf_event_open_sys::{self as sys, bindings};

use super::{limits::PAGE, ring::PerfRing};

/// Records younger than this may still be on their way into another CPU's buffer.
pub const SETTLE_NANOSECONDS: u64 = 2_000_000;

/// A record about processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// What happened.
    pub event: Event,
}

/// What a record tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An executable mapping appeared.
    Mmap {
        /// First address.
        start: u64,
        /// Bytes.
        len: u64,
        /// File offset of `start`.
        offset: u64,
        /// Which file.
        identity: Identity,
        /// Its path as the process sees it, or a name such as `//anon` or `[vdso]`.
        path: Vec<u8>,
    },
    /// A thread has a new name.
    Comm {
        /// The name.
        name: Vec<u8>,
        /// Because the process began another program.
        exec: bool,
    },
    /// A process (or a thread, when the process ids are equal) was created.
    Fork {
        /// Process id of the parent.
        parent_pid: u32,
        /// Thread id of the parent.
        parent_tid: u32,
    },
    /// A thread ended.
    Exit,
    /// The kernel lost this many records.
    Lost(u64),
}

/// What tells one mapped file from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Its GNU build ID.
    BuildId(Vec<u8>),
    /// Its place in a file system.
    Inode {
        /// Device number: major and minor.
        device: (u32, u32),
        /// Inode number; 0: no file.
        inode: u64,
        /// Inode generation; 0 where it is not known.
        generation: u64,
    },
}

/// The side-band of all CPUs.
pub struct Sideband {
    /// With how many records each had no room for.
    rings: Vec<(PerfRing, u64)>,
}

/// Bytes of the longest record: a path takes the most (PATH_MAX).
const LONGEST: usize = 4096 + 256;

impl Sideband {
    /// Opens one event on each of these CPUs, with a buffer of so many bytes (pages, a power of
    /// two), and starts them.
    ///
    /// # Errors
    ///
    /// What perf_event_open answers: EACCES or EPERM without CAP_PERFMON.
    pub fn open(cpus: &[u32], bytes: usize) -> io::Result<Self> {
        let mut rings = Vec::with_capacity(cpus.len());
        for cpu in cpus {
            rings.push((PerfRing::new(open_dummy(*cpu, bytes)?, bytes / PAGE)?, 0));
        }
        Ok(Self { rings })
    }

    /// The events, to poll.
    pub fn fds(&self) -> impl Iterator<Item = &OwnedFd> {
        self.rings.iter().map(|(ring, _)| ring.fd())
    }

    /// Appends what is there to `records`, CPU by CPU. Gives how many could not be decoded.
    pub fn drain(&mut self, records: &mut Vec<Record>) -> u64 {
        let mut malformed = 0;
        for (ring, known) in &mut self.rings {
            let was_full = ring.may_lack(LONGEST);
            let mut told = 0;
            ring.drain(|kind, misc, body| match decode(kind, misc, body) {
                Ok(Some(Record { event: Event::Lost(n), .. })) => told += n,
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(Malformed) => malformed += 1,
            });
            // The kernel tells of a loss by a record only with the next one, which may be long after. To
            // ask it takes an interrupt of that CPU.
            if was_full || told > 0 {
                let lost = match ring.lost() {
                    Some(all) => all.saturating_sub(std::mem::replace(known, all)),
                    None => told,
                };
                records.push(Record { time: 0, pid: 0, tid: 0, event: Event::Lost(lost) });
            }
        }
        malformed
    }
}

fn open_dummy(cpu: u32, bytes: usize) -> io::Result<OwnedFd> {
    let mut attr = software(bindings::PERF_COUNT_SW_DUMMY, bytes);
    follow(&mut attr);
    attr.read_format = u64::from(bindings::PERF_FORMAT_LOST);
    open_event(&mut attr, -1, cpu)
}

/// A software event whose records carry ids and time, with a buffer of this size.
pub(super) fn software(config: bindings::perf_sw_ids, buffer: usize) -> bindings::perf_event_attr {
    let mut attr = bindings::perf_event_attr {
        size: size_of::<bindings::perf_event_attr>() as u32,
        type_: bindings::PERF_TYPE_SOFTWARE,
        config: u64::from(config),
        sample_type: u64::from(bindings::PERF_SAMPLE_TID | bindings::PERF_SAMPLE_TIME),
        clockid: libc::CLOCK_MONOTONIC,
        ..Default::default()
    };
    attr.set_sample_id_all(1);
    attr.set_use_clockid(1);
    attr.set_watermark(1);
    attr.__bindgen_anon_2.wakeup_watermark = (buffer / 4) as u32;
    attr
}

/// Has an event tell of processes and their mappings.
pub(super) fn follow(attr: &mut bindings::perf_event_attr) {
    attr.set_mmap(1);
    attr.set_mmap2(1);
    attr.set_comm(1);
    attr.set_comm_exec(1);
    attr.set_task(1);
    attr.set_build_id(1);
}

/// Opens an event of a thread (0: the calling one, -1: all) on a CPU. Older kernels lack build IDs
/// (before 5.12), the inheritance by threads alone (before 5.13) and the count of lost records (before
/// 6.0): it does without.
pub(super) fn open_event(
    attr: &mut bindings::perf_event_attr,
    tid: i32,
    cpu: u32,
) -> io::Result<OwnedFd> {
    let flags = u64::from(bindings::PERF_FLAG_FD_CLOEXEC);
    // SAFETY: a valid attribute structure; the result is checked.
    let fd = unsafe { sys::perf_event_open(attr, tid, cpu as i32, -1, flags) };
    if fd >= 0 {
        // SAFETY: a new descriptor that nothing else owns.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let error = io::Error::last_os_error();
    let newer = attr.build_id() != 0 || attr.inherit_thread() != 0 || attr.read_format != 0;
    if error.raw_os_error() == Some(libc::EINVAL) && newer {
        // The newest first: nothing is to be missed that a kernel has.
        if attr.read_format == 0 {
            attr.set_build_id(0);
            attr.set_inherit_thread(0);
        }
        attr.read_format = 0;
        return open_event(attr, tid, cpu);
    }
    Err(error)
}

/// A record that is too short for its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Takes little-endian values out of a record.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A NUL-terminated string, padded to 8 bytes; the trailer is not part of it.
    fn string(&mut self, trailer: usize) -> Result<Vec<u8>, Malformed> {
        let len = self.0.len().checked_sub(trailer).ok_or(Malformed)?;
        let bytes = self.take(len)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Ok(bytes[..end].to_vec())
    }
}

/// Bytes that `sample_id_all` adds to each record: pid, tid, time.
const TRAILER: usize = 16;

/// Decodes a record's body; Ok(None): a type that is of no interest.
///
/// # Errors
///
/// [`Malformed`] when it is too short.
pub fn decode(kind: u32, misc: u16, body: &[u8]) -> Result<Option<Record>, Malformed> {
    let trailer_at = body.len().checked_sub(TRAILER).ok_or(Malformed)?;
    let mut trailer = Reader(&body[trailer_at..]);
    let (_, _, time) = (trailer.u32()?, trailer.u32()?, trailer.u64()?);
    let mut reader = Reader(body);
    let record = match kind {
        bindings::PERF_RECORD_MMAP2 => {
            let (pid, tid) = (reader.u32()?, reader.u32()?);
            let (start, len, offset) = (reader.u64()?, reader.u64()?, reader.u64()?);
            let identity = identity(reader.take(24)?, misc)?;
            let (_protection, _flags) = (reader.u32()?, reader.u32()?);
            let path = reader.string(TRAILER)?;
            Record { time, pid, tid, event: Event::Mmap { start, len, offset, identity, path } }
        }
        bindings::PERF_RECORD_COMM => {
            let (pid, tid) = (reader.u32()?, reader.u32()?);
            let name = reader.string(TRAILER)?;
            let exec = u32::from(misc) & bindings::PERF_RECORD_MISC_COMM_EXEC != 0;
            Record { time, pid, tid, event: Event::Comm { name, exec } }
        }
        bindings::PERF_RECORD_FORK => {
            let (pid, parent_pid) = (reader.u32()?, reader.u32()?);
            let (tid, parent_tid) = (reader.u32()?, reader.u32()?);
            Record { time, pid, tid, event: Event::Fork { parent_pid, parent_tid } }
        }
        bindings::PERF_RECORD_EXIT => {
            let (pid, _) = (reader.u32()?, reader.u32()?);
            let tid = reader.u32()?;
            Record { time, pid, tid, event: Event::Exit }
        }
        bindings::PERF_RECORD_LOST => {
            let _id = reader.u64()?;
            Record { time, pid: 0, tid: 0, event: Event::Lost(reader.u64()?) }
        }
        _ => return Ok(None),
    };
    Ok(Some(record))
}

fn identity(bytes: &[u8], misc: u16) -> Result<Identity, Malformed> {
    let mut reader = Reader(bytes);
    if u32::from(misc) & bindings::PERF_RECORD_MISC_MMAP_BUILD_ID != 0 {
        let len = usize::from(*bytes.first().ok_or(Malformed)?).min(20);
        return Ok(Identity::BuildId(bytes[4..4 + len].to_vec()));
    }
    let device = (reader.u32()?, reader.u32()?);
    Ok(Identity::Inode { device, inode: reader.u64()?, generation: reader.u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_trailer(mut body: Vec<u8>) -> Vec<u8> {
        body.extend(1u32.to_le_bytes());
        body.extend(2u32.to_le_bytes());
        body.extend(77u64.to_le_bytes());
        body
    }

    #[test]
    fn comm_is_decoded_with_its_time() {
        let mut body = Vec::new();
        body.extend(10u32.to_le_bytes());
        body.extend(11u32.to_le_bytes());
        body.extend(b"worker\0\0");
        let misc = bindings::PERF_RECORD_MISC_COMM_EXEC as u16;
        let record = decode(bindings::PERF_RECORD_COMM, misc, &with_trailer(body)).unwrap();
        let event = Event::Comm { name: b"worker".to_vec(), exec: true };
        assert_eq!(record, Some(Record { time: 77, pid: 10, tid: 11, event }));
    }

    #[test]
    fn mmap_carries_a_build_id() {
        let mut body = Vec::new();
        body.extend(10u32.to_le_bytes());
        body.extend(10u32.to_le_bytes());
        for word in [0x1000u64, 0x2000, 0x3000] {
            body.extend(word.to_le_bytes());
        }
        let mut id = [0u8; 24];
        id[0] = 3;
        id[4..7].copy_from_slice(&[1, 2, 3]);
        body.extend(id);
        body.extend([0; 8]);
        body.extend(b"/bin/x\0\0");
        let misc = bindings::PERF_RECORD_MISC_MMAP_BUILD_ID as u16;
        let record = decode(bindings::PERF_RECORD_MMAP2, misc, &with_trailer(body)).unwrap();
        let Some(Record { event: Event::Mmap { start, len, offset, identity, path }, .. }) = record
        else {
            unreachable!("an mmap record")
        };
        assert_eq!((start, len, offset), (0x1000, 0x2000, 0x3000));
        assert_eq!(identity, Identity::BuildId(vec![1, 2, 3]));
        assert_eq!(path, b"/bin/x");
    }

    #[test]
    fn short_records_are_refused() {
        for kind in 0..20 {
            for len in 0..40 {
                let _ = decode(kind, 0, &vec![0; len]);
            }
        }
        assert_eq!(decode(bindings::PERF_RECORD_MMAP2, 0, &[0; 20]), Err(Malformed));
    }
}

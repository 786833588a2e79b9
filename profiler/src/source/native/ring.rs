//! Reading a perf ring buffer (`struct perf_event_mmap_page`, linux/perf_event.h).

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use memmap2::{MmapOptions, MmapRaw};
use perf_event_open_sys::bindings::perf_event_mmap_page;

/// The ring buffer of one perf event.
pub struct PerfRing {
    fd: OwnedFd,
    memory: MmapRaw,
    data_size: usize,
    scratch: Vec<u8>,
}

impl PerfRing {
    /// Maps the buffer of an event, `pages` (a power of two) pages of data.
    ///
    /// # Errors
    ///
    /// What mmap answers: EPERM when the locked memory is not allowed.
    pub fn new(fd: OwnedFd, pages: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let memory = MmapOptions::new().len((pages + 1) * page).map_raw(fd.as_raw_fd())?;
        Ok(Self { fd, memory, data_size: pages * page, scratch: Vec::new() })
    }

    /// The event.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn positions(&self) -> (&AtomicU64, &AtomicU64) {
        let page = self.memory.as_mut_ptr().cast::<perf_event_mmap_page>();
        // SAFETY: the first page of the mapping is this structure; the kernel updates both
        // positions atomically, and they are aligned to 8 bytes.
        unsafe {
            (
                AtomicU64::from_ptr(&raw mut (*page).data_head),
                AtomicU64::from_ptr(&raw mut (*page).data_tail),
            )
        }
    }

    /// Whether a record of so many bytes may have found no room since the last time the buffer was
    /// emptied.
    pub fn may_lack(&self, bytes: usize) -> bool {
        let (head, tail) = self.positions();
        let used = head.load(Ordering::Acquire).wrapping_sub(tail.load(Ordering::Relaxed));
        used.saturating_add(bytes as u64) > self.data_size as u64
    }

    /// Records for which there was no room, from the first on; None: the kernel (before 6.0) does not
    /// tell, or the event was not opened with `PERF_FORMAT_LOST` alone.
    pub fn lost(&self) -> Option<u64> {
        let mut words = [0; 16];
        let read = rustix::io::read(&self.fd, &mut words).ok()?;
        let lost = words.last_chunk::<8>().filter(|_| read == words.len())?;
        Some(u64::from_ne_bytes(*lost))
    }

    /// Hands every record that is there to `each`: its type, its misc bits and its body.
    pub fn drain(&mut self, mut each: impl FnMut(u32, u16, &[u8])) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let (head, tail) = self.positions();
        let end = head.load(Ordering::Acquire);
        let mut at = tail.load(Ordering::Relaxed);
        while at + 8 <= end {
            let mut header = [0; 8];
            self.copy(at, &mut header);
            let [a, b, c, d, e, f, g, h] = header;
            let size = usize::from(u16::from_le_bytes([g, h]));
            if size < 8 || at + size as u64 > end {
                at = end;
                break;
            }
            scratch.resize(size - 8, 0);
            self.copy(at + 8, &mut scratch);
            each(u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), &scratch);
            at += size as u64;
        }
        tail.store(at, Ordering::Release);
        self.scratch = scratch;
    }

    /// Copies out of the data area, around its end.
    fn copy(&self, position: u64, target: &mut [u8]) {
        let page = rustix::param::page_size();
        let start = (position % self.data_size as u64) as usize;
        let first = target.len().min(self.data_size - start);
        // SAFETY: both parts lie in the data area behind the first page; the kernel does not
        // write to what lies between tail and head.
        unsafe {
            let data = self.memory.as_ptr().add(page);
            std::ptr::copy_nonoverlapping(data.add(start), target.as_mut_ptr(), first);
            let rest = target.len() - first;
            std::ptr::copy_nonoverlapping(data, target.as_mut_ptr().add(first), rest);
        }
    }
}

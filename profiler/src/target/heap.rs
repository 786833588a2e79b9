//! Giving memory back that the allocator holds.

/// Returns what was freed to the system. glibc keeps it otherwise, once large blocks have been freed
/// (mallopt(3), `M_MMAP_THRESHOLD`): after the unwind rows of a compiler that is tens of megabytes.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays() {
        let blocks: Vec<_> = (0..200u8).map(|n| vec![n; 50_000]).collect();
        let kept: Vec<_> = blocks.into_iter().filter(|block| block[0] < 100).collect();
        trim();
        assert!(kept.iter().all(|block| block.iter().all(|byte| *byte == block[0])));
    }
}

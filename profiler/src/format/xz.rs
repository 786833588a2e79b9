//! xz, bounded: a few bytes of it can stand for terabytes, or ask for gigabytes to unpack them.

use std::io::Read as _;

use lzma_rust2::XzReader;

/// Memory for unpacking, in KiB: what the largest dictionary of `xz -9` takes, and some.
const MAX_MEMORY: u32 = 72 << 10;

/// Why packed bytes cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum XzError {
    /// More than the bound.
    #[error("unpacked it is larger than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
    /// It is none, ends too soon, is damaged, or takes too much memory.
    #[error("its xz data cannot be unpacked: {0}")]
    Damaged(#[from] std::io::Error),
}

/// Unpacks bytes to at most `limit` bytes.
///
/// # Errors
/// Which of these failed.
pub fn unpack(bytes: &[u8], limit: usize) -> Result<Vec<u8>, XzError> {
    let mut unpacked = Vec::new();
    let reader = XzReader::new_mem_limit(bytes, true, MAX_MEMORY);
    reader.take(limit as u64 + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() > limit { Err(XzError::TooLarge { limit }) } else { Ok(unpacked) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `symbols` as `xz --check=crc32` packs it.
    const PACKED: &[u8] =
        b"\xfd\x37\x7a\x58\x5a\x00\x00\x01\x69\x22\xde\x36\x02\x00\x21\x01\x16\x00\x00\x00\x74\
          \x2f\xe5\xa3\x01\x00\x06\x73\x79\x6d\x62\x6f\x6c\x73\x00\x00\x85\x4d\x83\xdf\x00\x01\
          \x1b\x07\x12\xeb\xd4\x17\x90\x42\x99\x0d\x01\x00\x00\x00\x00\x01\x59\x5a";

    #[test]
    fn what_was_packed_comes_back() {
        assert_eq!(unpack(PACKED, 7).unwrap(), b"symbols");
        assert!(matches!(unpack(PACKED, 6), Err(XzError::TooLarge { limit: 6 })));
        let twice = [PACKED, PACKED].concat();
        assert_eq!(unpack(&twice, 100).unwrap(), b"symbolssymbols");
    }

    #[test]
    fn damage_is_an_error() {
        for length in 0..PACKED.len() {
            assert!(matches!(unpack(&PACKED[..length], 100), Err(XzError::Damaged(_))), "{length}");
        }
        for at in 0..PACKED.len() {
            let mut damaged = PACKED.to_vec();
            damaged[at] ^= 0x10;
            assert!(unpack(&damaged, 100).map_or(true, |bytes| bytes == b"symbols"), "{at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(rest: Vec<u8>) {
            let _ = unpack(&[&PACKED[..12], &rest].concat(), 1 << 16);
        }
    }
}

//! gzip, bounded: a few bytes of it can stand for terabytes.

use std::io::Read as _;

use flate2::bufread::MultiGzDecoder;

/// Why packed bytes cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum GzipError {
    /// More than the bound.
    #[error("unpacked it is larger than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
    /// It ends too soon, or is damaged.
    #[error("its gzip data is damaged or cut short: {0}")]
    Damaged(#[from] std::io::Error),
}

/// Whether bytes begin as gzip data does (RFC 1952).
#[must_use]
pub fn is_packed(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Unpacks bytes to at most `limit` bytes.
///
/// # Errors
/// Which of these failed.
pub fn unpack(bytes: &[u8], limit: usize) -> Result<Vec<u8>, GzipError> {
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(bytes).take(limit as u64 + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() > limit { Err(GzipError::TooLarge { limit }) } else { Ok(unpacked) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_was_packed_comes_back() {
        let packed = pack(b"profile");
        assert!(is_packed(&packed));
        assert_eq!(unpack(&packed, 7).unwrap(), b"profile");
        let twice = [packed.clone(), packed].concat();
        assert_eq!(unpack(&twice, 100).unwrap(), b"profileprofile");
    }

    #[test]
    fn bombs_and_damage_are_errors() {
        let bomb = pack(&vec![0; 1 << 20]);
        assert!(bomb.len() < 20_000);
        assert!(matches!(unpack(&bomb, 1000), Err(GzipError::TooLarge { limit: 1000 })));
        let whole = pack(b"a profile");
        for length in 2..whole.len() {
            assert!(matches!(unpack(&whole[..length], 100), Err(GzipError::Damaged(_))));
        }
    }
}

//! Samples as the engines hand them over: a header, frames, and sometimes a copy of the stack.

use profiler_ebpf::wire::{MAX_STACK_COPY, PAYLOAD_WORDS, STACK_PAGE, SampleHeader};

/// A sample of one thread. Frames are leaf first.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When, who, and how the walk ended.
    pub header: SampleHeader,
    /// Addresses in the kernel.
    pub kernel: Box<[u64]>,
    /// User frames with their flags (`FRAME_EXACT`, `FRAME_BY_POINTER`).
    pub user: Vec<u64>,
    /// A copy of the stack, when the walk is to go on here.
    pub stack: Box<[u8]>,
    /// The address that the copy begins at.
    pub stack_start: u64,
}

/// A record that does not hold what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Sample {
    /// Decodes a record of the sample ring buffer.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub fn decode(record: &[u8]) -> Result<Self, Malformed> {
        let (head, payload) =
            record.split_at_checked(size_of::<SampleHeader>()).ok_or(Malformed)?;
        // SAFETY: `head` has the header's size, and the header is valid for any bits.
        let header: SampleHeader = unsafe { head.as_ptr().cast::<SampleHeader>().read_unaligned() };
        let (kernel, user) = (header.kernel_frames as usize, header.user_frames as usize);
        let copy = header.copy_bytes as usize;
        if kernel > PAYLOAD_WORDS || user > PAYLOAD_WORDS || copy > MAX_STACK_COPY {
            return Err(Malformed);
        }
        let (kernel, rest) = payload.split_at_checked(kernel * 8).ok_or(Malformed)?;
        let (user, rest) = rest.split_at_checked(user * 8).ok_or(Malformed)?;
        let stack = rest.get(..copy).ok_or(Malformed)?;
        Ok(Self {
            header,
            kernel: words(kernel).collect(),
            user: words(user).collect(),
            stack: stack.into(),
            stack_start: header.registers.sp,
        })
    }

    /// Bytes that it takes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + (self.kernel.len() + self.user.len()) * 8 + self.stack.len()
    }

    /// The word of the stack copy at an address.
    ///
    /// # Errors
    ///
    /// Where the address lies, seen from the copy.
    pub fn word(&self, address: u64) -> Result<u64, Beyond> {
        let offset = address.checked_sub(self.stack_start).ok_or(Beyond::Below)?;
        let offset = usize::try_from(offset).map_err(|_| Beyond::Above)?;
        let end = offset.checked_add(8).ok_or(Beyond::Above)?;
        let bytes = self.stack.get(offset..end).and_then(|bytes| bytes.try_into().ok());
        let word = bytes.map(u64::from_ne_bytes).ok_or(Beyond::Above)?;
        let is_hole = |offset| self.header.copy_holes >> self.piece(offset) & 1 != 0;
        if is_hole(offset) || is_hole(end - 1) { Err(Beyond::Hole) } else { Ok(word) }
    }

    /// Which piece of the copy holds a byte.
    fn piece(&self, offset: usize) -> usize {
        let first = STACK_PAGE - (self.stack_start & (STACK_PAGE - 1));
        match offset.checked_sub(first as usize) {
            None => 0,
            Some(behind) => (1 + behind / STACK_PAGE as usize).min(31),
        }
    }

    /// The thread's name.
    #[must_use]
    pub fn comm(&self) -> String {
        let comm = &self.header.comm;
        let len = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
        String::from_utf8_lossy(&comm[..len]).into_owned()
    }
}

/// An address that the stack copy does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Below it.
    Below,
    /// Above it: a longer copy would hold it.
    Above,
    /// In a page that could not be read.
    Hole,
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(header: SampleHeader, payload: &[u64]) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<SampleHeader>()];
        // The counts lie behind time, pid, tid, cpu and outcome.
        bytes[24..28].copy_from_slice(&header.kernel_frames.to_ne_bytes());
        bytes[28..32].copy_from_slice(&header.user_frames.to_ne_bytes());
        bytes[32..36].copy_from_slice(&header.copy_bytes.to_ne_bytes());
        bytes.extend(payload.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn frames_and_stack_are_told_apart() {
        let header = SampleHeader {
            kernel_frames: 1,
            user_frames: 2,
            copy_bytes: 16,
            ..SampleHeader::default()
        };
        let sample = Sample::decode(&record(header, &[1, 2, 3, 4, 5])).unwrap();
        assert_eq!((&*sample.kernel, &*sample.user), (&[1][..], &[2, 3][..]));
        assert_eq!((sample.word(0), sample.word(8)), (Ok(4), Ok(5)));
        assert_eq!(sample.word(16), Err(Beyond::Above));
    }

    #[test]
    fn holes_hold_nothing() {
        let header = SampleHeader {
            copy_bytes: 16,
            copy_holes: 1,
            registers: profiler_ebpf::wire::Registers { sp: 4088, ..Default::default() },
            ..SampleHeader::default()
        };
        let mut sample = Sample::decode(&record(header, &[1, 2])).unwrap();
        (sample.header.copy_holes, sample.stack_start) = (1, header.registers.sp);
        assert_eq!(sample.word(4088), Err(Beyond::Hole));
        assert_eq!(sample.word(4096), Ok(2));
    }

    #[test]
    fn what_the_header_promises_must_be_there() {
        let header = SampleHeader { user_frames: 3, ..SampleHeader::default() };
        assert!(Sample::decode(&record(header, &[1, 2])).is_err());
        let header = SampleHeader { user_frames: u32::MAX, ..SampleHeader::default() };
        assert!(Sample::decode(&record(header, &[1, 2])).is_err());
        assert!(Sample::decode(&[0; 10]).is_err());
    }
}

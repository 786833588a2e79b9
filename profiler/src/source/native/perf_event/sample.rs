//! Decoding `PERF_RECORD_SAMPLE` (perf_event_open(2), section "MMAP layout"). Pure.

use perf_event_open_sys::bindings;
use profiler_ebpf::wire::{FRAME_EXACT, GENERAL_KNOWN, Outcome, Registers, SampleHeader};

use crate::source::native::{
    samples::Sample,
    sideband::{Malformed, Reader},
};

/// What the samples of an event hold beside ids and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Kernel frames.
    pub kernel: bool,
    /// User registers and a copy of the stack.
    pub user: bool,
    /// The id of the thread's cgroup.
    pub cgroup: bool,
}

/// A sample as it was decoded.
#[derive(Debug)]
pub struct Decoded {
    /// The sample.
    pub sample: Sample,
    /// The id of the thread's cgroup, if asked for.
    pub cgroup: Option<u64>,
}

/// The registers asked for: those of the walk, in the order of the numbers of `enum
/// perf_event_x86_regs`: ax, bx, cx, dx, si, di, bp, sp, ip (0 to 8), r8 to r15 (16 to 23).
pub const REGISTERS: u64 = 0xff_01ff;
/// How many these are.
const COUNT: usize = REGISTERS.count_ones() as usize;

impl Layout {
    /// Bits of `sample_type`. The order of ids and time is that of the records' trailers.
    #[must_use]
    pub fn sample_type(self) -> u64 {
        let mut bits = bindings::PERF_SAMPLE_TID | bindings::PERF_SAMPLE_TIME;
        if self.kernel {
            bits |= bindings::PERF_SAMPLE_CALLCHAIN;
        }
        if self.user {
            bits |= bindings::PERF_SAMPLE_REGS_USER | bindings::PERF_SAMPLE_STACK_USER;
        }
        if self.cgroup {
            bits |= bindings::PERF_SAMPLE_CGROUP;
        }
        u64::from(bits)
    }

    /// Decodes the body of a sample taken on this CPU. Its walk stands at the top frame.
    ///
    /// # Errors
    ///
    /// [`Malformed`] when it does not hold what it says.
    pub fn decode(self, body: &[u8], cpu: u32) -> Result<Decoded, Malformed> {
        let mut reader = Reader::new(body);
        let (pid, tid, time) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let kernel = if self.kernel { kernel_frames(&mut reader)? } else { Box::default() };
        let (mut outcome, mut registers) = (Outcome::NoUserStack, Registers::default());
        let (mut user, mut stack) = (Vec::new(), Box::<[u8]>::default());
        if self.user {
            match reader.u64()? {
                NO_REGISTERS => {}
                abi => {
                    registers = read_registers(&mut reader)?;
                    outcome = match abi {
                        ABI_64 => Outcome::RowsPending,
                        _ => Outcome::Compat,
                    };
                }
            }
            let copy = read_stack(&mut reader)?;
            if outcome == Outcome::RowsPending {
                user.push(registers.ip | FRAME_EXACT);
                stack = copy.into();
            }
        }
        let cgroup = if self.cgroup { Some(reader.u64()?) } else { None };
        let header = SampleHeader {
            time,
            pid,
            tid,
            cpu,
            outcome: outcome as u32,
            kernel_frames: kernel.len() as u32,
            user_frames: user.len() as u32,
            copy_bytes: stack.len() as u32,
            registers,
            ..SampleHeader::default()
        };
        let sample = Sample { header, kernel, user, stack_start: header.registers.sp, stack };
        Ok(Decoded { sample, cgroup })
    }
}

/// `PERF_SAMPLE_REGS_ABI_NONE`: a thread without a user side.
const NO_REGISTERS: u64 = 0;
/// `PERF_SAMPLE_REGS_ABI_64`.
const ABI_64: u64 = 2;
/// Values from this one on stand for a change of context, not for an address
/// (`PERF_CONTEXT_MAX`).
const CONTEXT: u64 = -4095_i64 as u64;

fn kernel_frames(reader: &mut Reader<'_>) -> Result<Box<[u64]>, Malformed> {
    let count = usize::try_from(reader.u64()?).map_err(|_| Malformed)?;
    let bytes = reader.take(count.checked_mul(8).ok_or(Malformed)?)?;
    let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
    Ok(words.filter(|word| *word < CONTEXT).collect())
}

fn read_registers(reader: &mut Reader<'_>) -> Result<Registers, Malformed> {
    let mut values = [0; COUNT];
    for value in &mut values {
        *value = reader.u64()?;
    }
    let [ax, bx, cx, dx, si, di, bp, sp, ip, r8, r9, r10, r11, r12, r13, r14, r15] = values;
    // The order of DWARF numbers.
    let general = [ax, dx, cx, bx, si, di, bp, sp, r8, r9, r10, r11, r12, r13, r14, r15];
    Ok(Registers { ip, sp, bp, bx, flags: FRAME_EXACT | GENERAL_KNOWN, general })
}

/// The part of the copy that the kernel could fill.
fn read_stack<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let size = usize::try_from(reader.u64()?).map_err(|_| Malformed)?;
    if size == 0 {
        return Ok(&[]);
    }
    let copy = reader.take(size)?;
    let filled = usize::try_from(reader.u64()?).map_err(|_| Malformed)?;
    copy.get(..filled).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Layout = Layout { kernel: true, user: true, cgroup: true };

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// pid 7, tid 8, time 9, one kernel frame behind its marker, registers 100 to 116, 16 bytes of
    /// stack of which 8 are filled.
    fn sample(abi: u64) -> Vec<u8> {
        let mut words = vec![8 << 32 | 7, 9, 2, -128_i64 as u64, 0xffff_ffff_8100_0000, abi];
        if abi != NO_REGISTERS {
            words.extend(100..117);
        }
        words.extend([16, 0xaa, 0xbb, 8, 42]);
        bytes(&words)
    }

    #[test]
    fn a_sample_stands_at_its_top_frame() {
        let Decoded { sample, cgroup } = BOTH.decode(&sample(ABI_64), 3).unwrap();
        assert_eq!(cgroup, Some(42));
        let SampleHeader { pid, tid, time, cpu, outcome, registers, .. } = sample.header;
        assert_eq!((pid, tid, time, cpu), (7, 8, 9, 3));
        assert_eq!(Outcome::from_number(outcome), Some(Outcome::RowsPending));
        assert_eq!(&*sample.kernel, &[0xffff_ffff_8100_0000]);
        assert_eq!(sample.user, [108 | FRAME_EXACT]);
        assert_eq!((registers.ip, registers.sp, registers.bp, registers.bx), (108, 107, 106, 101));
        // rax, rdx, rcx, rbx, …, r15.
        assert_eq!(registers.general[..5], [100, 103, 102, 101, 104]);
        assert_eq!(registers.general[15], 116);
        assert_eq!(sample.word(107), Ok(0xaa));
        assert!(sample.word(115).is_err(), "what the kernel could not fill is no stack");
    }

    #[test]
    fn threads_without_a_user_side() {
        let decoded = BOTH.decode(&sample(NO_REGISTERS), 0).unwrap().sample;
        assert_eq!(decoded.header.outcome, Outcome::NoUserStack as u32);
        assert!(decoded.user.is_empty() && decoded.stack.is_empty());
        let kernel_only = Layout { kernel: true, user: false, cgroup: false };
        let Decoded { sample: decoded, cgroup } =
            kernel_only.decode(&bytes(&[7, 9, 1, 0x10]), 0).unwrap();
        assert_eq!(cgroup, None);
        assert_eq!((&*decoded.kernel, decoded.header.outcome), (&[0x10][..], 0));
    }

    #[test]
    fn processes_of_32_bits_are_told() {
        let decoded = BOTH.decode(&sample(1), 0).unwrap().sample;
        assert_eq!(decoded.header.outcome, Outcome::Compat as u32);
        assert!(decoded.user.is_empty());
    }

    #[test]
    fn what_is_promised_must_be_there() {
        let whole = sample(ABI_64);
        for len in 0..whole.len() {
            assert!(BOTH.decode(&whole[..len], 0).is_err(), "{len} bytes");
        }
        for counts in [u64::MAX, 1 << 61, 1 << 32] {
            assert!(BOTH.decode(&bytes(&[7, 9, counts, 0]), 0).is_err());
        }
        // More filled than copied.
        let mut wrong = sample(ABI_64);
        let end = wrong.len();
        wrong[end - 16..end - 8].copy_from_slice(&17_u64.to_le_bytes());
        assert_eq!(BOTH.decode(&wrong, 0).map(|_| ()), Err(Malformed));
    }
}

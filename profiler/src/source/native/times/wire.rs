//! Sums of waits as the kernel side sends them.

use profiler_ebpf::wire::WaitSum;

/// Takes a record of the ring buffer apart; None: it is too short.
#[must_use]
pub fn decode(record: &[u8]) -> Option<WaitSum> {
    let mut rest = record.get(..size_of::<WaitSum>())?;
    let mut long = || {
        let (word, behind) = rest.split_first_chunk()?;
        rest = behind;
        Some(u64::from_ne_bytes(*word))
    };
    let [stack, waker] = [long()?, long()?];
    let [born, blocked, runnable] = [long()?, long()?, long()?];
    let [on_cpu, longest, waits] = [long()?, long()?, long()?];
    let mut short = || {
        let (word, behind) = rest.split_first_chunk()?;
        rest = behind;
        Some(u32::from_ne_bytes(*word))
    };
    let [pid, tid, state, kind] = [short()?, short()?, short()?, short()?];
    let (comm, rest) = rest.split_first_chunk()?;
    let (process, _) = rest.split_first_chunk()?;
    Some(WaitSum {
        stack,
        waker,
        born,
        blocked,
        runnable,
        on_cpu,
        longest,
        waits,
        pid,
        tid,
        state,
        kind,
        comm: *comm,
        process: *process,
    })
}

/// A thread's name as the kernel keeps it.
#[must_use]
pub fn name(bytes: &[u8; 16]) -> String {
    let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_its_place() {
        let numbers = [1, 99, 2, 3, 4, 5, 6, 7u64];
        let numbers: Vec<u8> = numbers.into_iter().flat_map(u64::to_ne_bytes).collect();
        let ids: Vec<u8> = (8..=11u32).flat_map(u32::to_ne_bytes).collect();
        let record =
            [&numbers[..], &ids, b"worker\0\0\0\0\0\0\0\0\0\0", b"a-name-of-16-byt"].concat();
        let sum = decode(&record).unwrap();
        let expected = WaitSum {
            stack: 1,
            waker: 99,
            born: 2,
            blocked: 3,
            runnable: 4,
            on_cpu: 5,
            longest: 6,
            waits: 7,
            pid: 8,
            tid: 9,
            state: 10,
            kind: 11,
            comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
            process: *b"a-name-of-16-byt",
        };
        assert_eq!(sum, expected);
        assert_eq!(
            (name(&sum.comm), name(&sum.process)),
            ("worker".into(), "a-name-of-16-byt".into())
        );
    }

    #[test]
    fn short_records_are_refused() {
        for len in 0..size_of::<WaitSum>() {
            assert_eq!(decode(&vec![0; len]), None);
        }
    }
}

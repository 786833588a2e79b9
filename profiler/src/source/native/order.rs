//! The order of records and samples where their times say less than the samples themselves.

use super::{
    frames::has_left_memory,
    samples::Sample,
    sideband::{Event, Record},
};

/// How far a record of a thread's end, or of its next program, may be from that.
const CHANGING_NANOSECONDS: u64 = 1_000_000;

/// Puts records where the samples of their threads say that what they tell of took place: the end of a
/// thread behind its last sample, which may be taken while it writes the record, and another program
/// before samples of a thread that has left the memory of the one before.
pub fn follow_threads(records: &mut [Record], samples: &[Sample]) {
    for at in 0..records.len() {
        let Record { time, pid, tid, .. } = records[at];
        let own = |sample: &&Sample| sample.header.tid == tid;
        let behind = samples.partition_point(|sample| sample.header.time <= time);
        // Where something else is told of the process meanwhile, another thread may have its id.
        let of_process = |record: &Record| record.pid == pid;
        records[at].time = match records[at].event {
            Event::Exit => {
                let near = |sample: &&Sample| sample.header.time - time <= CHANGING_NANOSECONDS;
                let last = samples[behind..].iter().take_while(near).filter(own).last();
                let Some(last) = last.map(|sample| sample.header.time) else { continue };
                let mut meanwhile = records[at + 1..].iter().take_while(|other| other.time <= last);
                if meanwhile.any(of_process) {
                    continue;
                }
                last + 1
            }
            Event::Comm { exec: true, .. } => {
                let near = |sample: &&Sample| time - sample.header.time <= CHANGING_NANOSECONDS;
                let own = samples[..behind].iter().rev().take_while(near).filter(own);
                let left = own.take_while(|sample| has_left_memory(sample)).last();
                let Some(first) = left.map(|sample| sample.header.time) else { continue };
                let mut meanwhile =
                    records[..at].iter().rev().take_while(|other| other.time >= first);
                if meanwhile.any(of_process) {
                    continue;
                }
                first
            }
            _ => continue,
        };
    }
    records.sort_by_key(|record| record.time);
}

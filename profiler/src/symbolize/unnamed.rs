//! Where functions without a name begin, from the unwind tables, which stripped files keep.
//!
//! All samples of such a function thus share one frame, instead of one for each instruction.

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, UnwindSection};
use object::{Object, ObjectSection};

/// The address at which the function around each of these begins; None where no table tells.
#[must_use]
pub fn starts(file: &object::File<'_>, addresses: &[u64]) -> Vec<Option<u64>> {
    find(file, addresses).unwrap_or_else(|| vec![None; addresses.len()])
}

fn find(file: &object::File<'_>, addresses: &[u64]) -> Option<Vec<Option<u64>>> {
    let index = file.section_by_name(".eh_frame_hdr")?;
    let frames = file.section_by_name(".eh_frame")?;
    let mut bases =
        BaseAddresses::default().set_eh_frame_hdr(index.address()).set_eh_frame(frames.address());
    if let Some(text) = file.section_by_name(".text") {
        bases = bases.set_text(text.address());
    }
    let data = index.data().ok()?;
    let index = EhFrameHdr::new(data, LittleEndian).parse(&bases, 8).ok()?;
    let index = index.table()?;
    let frames = EhFrame::from(EndianSlice::new(frames.data().ok()?, LittleEndian));
    let start = |address: &u64| {
        let entry = index.fde_for_address(&frames, &bases, *address, EhFrame::cie_from_offset);
        entry.ok().map(|entry| entry.initial_address())
    };
    Some(addresses.iter().map(start).collect())
}

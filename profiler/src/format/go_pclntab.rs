//! The function table of Go programs (section `.gopclntab`), which even stripped ones need and keep.
//!
//! Layouts of Go 1.18 to 1.26 (`runtime/symtab.go`, `internal/abi/symtab.go`): a header with the
//! offsets of its parts, a table of (start, record) pairs of 4 bytes each relative to the start of
//! the text, and records that begin with the start again and the offset of the name.

/// First word of the header: of Go 1.18 and of 1.20.
const MAGIC: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
const HEADER: usize = 72;

/// The table of one program.
#[derive(Clone, Copy, Debug)]
pub struct Table<'data> {
    names: &'data [u8],
    /// The pairs, and behind them the records.
    functions: &'data [u8],
    count: usize,
    /// Where the program's text begins; 0 when the file leaves that to its runtime data (as from
    /// Go 1.26 on) or to relocation.
    pub text: u64,
}

impl<'data> Table<'data> {
    /// Reads the header; None when it is of another version or makes no sense.
    #[must_use]
    pub fn parse(data: &'data [u8]) -> Option<Self> {
        let magic = u32_at(data, 0)?;
        let pointer_size = *data.get(7)?;
        if !MAGIC.contains(&magic) || pointer_size != 8 || data.len() < HEADER {
            return None;
        }
        let part = |field| data.get(usize::try_from(u64_at(data, field)?).ok()?..);
        let table = Self {
            names: part(32)?,
            functions: part(64)?,
            count: usize::try_from(u64_at(data, 8)?).ok()?,
            text: u64_at(data, 24)?,
        };
        // One more start ends the last function.
        let bytes = table.count.checked_mul(8)?.checked_add(4)?;
        (table.count > 0 && bytes <= table.functions.len()).then_some(table)
    }

    /// Where the first function begins, relative to the text.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.start(0)
    }

    /// The name of the function at an offset into the text.
    #[must_use]
    pub fn name(&self, offset: u64) -> Option<&'data [u8]> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.start(middle)? <= offset { low = middle + 1 } else { high = middle }
        }
        let index = low.checked_sub(1)?;
        if self.start(index + 1)? <= offset {
            return None;
        }
        let record = u32_at(self.functions, index * 8 + 4)? as usize;
        let name = u32_at(self.functions, record.checked_add(4)?)? as usize;
        let name = self.names.get(name..)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        (end > 0).then_some(&name[..end])
    }

    fn start(&self, index: usize) -> Option<u64> {
        u32_at(self.functions, index * 8).map(u64::from)
    }
}

fn u32_at(data: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*data.get(offset..)?.first_chunk()?))
}

fn u64_at(data: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*data.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Functions `one` at 0..16 and `two` at 16..48.
    fn table() -> Vec<u8> {
        let mut data = Vec::new();
        data.extend(MAGIC[1].to_le_bytes());
        data.extend([0, 0, 1, 8]);
        let names = b"one\0two\0";
        let functions = HEADER as u64 + names.len() as u64;
        for word in [2, 0, 0x1000, HEADER as u64, 0, 0, 0, functions] {
            data.extend(word.to_le_bytes());
        }
        data.extend(names);
        for word in [0, 20, 16, 28, 48, 0, 0, 16, 4] {
            data.extend(u32::to_le_bytes(word));
        }
        data
    }

    #[test]
    fn functions_have_their_names() {
        let data = table();
        let table = Table::parse(&data).unwrap();
        assert_eq!((table.text, table.first()), (0x1000, Some(0)));
        let names = [0, 15, 16, 47, 48, u64::MAX].map(|offset| table.name(offset));
        let (one, two) = (Some(&b"one"[..]), Some(&b"two"[..]));
        assert_eq!(names, [one, one, two, two, None, None]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(position in 0_usize..116, byte: u8, cut in 0_usize..117, offset: u64) {
            let mut data = table();
            data[position] = byte;
            let _ = Table::parse(&data[..cut.min(data.len())]).map(|table| table.name(offset));
            let _ = Table::parse(&data).map(|table| table.name(offset % 64));
        }
    }
}

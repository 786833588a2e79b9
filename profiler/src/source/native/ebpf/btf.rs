//! Offsets of kernel structure fields, from the host's BTF.
//!
//! Rust programs cannot be relocated by CO-RE, so the few offsets they need are looked up here and
//! handed over as constants. Format: Documentation/bpf/btf.rst of the kernel.

use std::collections::HashMap;

/// Why an offset is not known.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// Not BTF, or cut short.
    #[error("the kernel's BTF is malformed")]
    Malformed,
    /// The kernel has no such field.
    #[error("the kernel's BTF has no field `{field}` in `struct {structure}`")]
    Missing {
        /// Name of the structure.
        structure: String,
        /// Name of the field.
        field: String,
    },
}

/// Where a field lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bits from the start of the structure.
    pub bit_offset: u32,
}

impl Field {
    /// Bytes from the start of the structure.
    #[must_use]
    pub fn byte_offset(self) -> u32 {
        self.bit_offset / 8
    }
}

const MAGIC: u16 = 0xeb9f;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// BTF as bytes (little-endian, the host's), with the types indexed.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Byte offset in `types` by type id.
    offsets: Vec<u32>,
}

impl<'a> Btf<'a> {
    /// Reads the header and finds every type.
    ///
    /// # Errors
    ///
    /// [`BtfError::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let magic = bytes.get(..2).ok_or(BtfError::Malformed)?;
        if magic != MAGIC.to_le_bytes() {
            return Err(BtfError::Malformed);
        }
        let header_len = word(bytes, 4)? as usize;
        let section = |offset: usize, len: usize| {
            let start = header_len.checked_add(word(bytes, offset)? as usize);
            let start = start.ok_or(BtfError::Malformed)?;
            let end = start.checked_add(word(bytes, len)? as usize).ok_or(BtfError::Malformed)?;
            bytes.get(start..end).ok_or(BtfError::Malformed)
        };
        let types = section(8, 12)?;
        let strings = section(16, 20)?;
        let mut offsets = vec![0];
        let mut at = 0;
        while at < types.len() {
            offsets.push(u32::try_from(at).map_err(|_| BtfError::Malformed)?);
            at += 12 + trailer_len(word(types, at + 4)?).ok_or(BtfError::Malformed)?;
        }
        Ok(Self { types, strings, offsets })
    }

    /// The fields of a structure by name.
    ///
    /// # Errors
    ///
    /// [`BtfError::Missing`] when one is not there.
    pub fn fields<const N: usize>(
        &self,
        structure: &str,
        names: [&str; N],
    ) -> Result<[Field; N], BtfError> {
        let mut found = HashMap::new();
        for id in 1..self.offsets.len() {
            let (name, info) = self.head(id)?;
            if kind(info) == KIND_STRUCT && name == structure.as_bytes() {
                self.members(id, 0, 0, &mut found)?;
                break;
            }
        }
        let mut fields = [Field { bit_offset: 0 }; N];
        for (field, name) in fields.iter_mut().zip(names) {
            *field = *found.get(name.as_bytes()).ok_or_else(|| BtfError::Missing {
                structure: structure.to_owned(),
                field: name.to_owned(),
            })?;
        }
        Ok(fields)
    }

    /// Collects members, those of anonymous structures and unions inside included.
    fn members(
        &self,
        id: usize,
        base: u32,
        depth: u32,
        found: &mut HashMap<&'a [u8], Field>,
    ) -> Result<(), BtfError> {
        let (_, info) = self.head(id)?;
        if depth > 8 || !matches!(kind(info), KIND_STRUCT | KIND_UNION) {
            return Ok(());
        }
        let at = self.offsets[id] as usize + 12;
        for index in 0..(info & 0xffff) as usize {
            let member = at + index * 12;
            let name = self.string(word(self.types, member)?)?;
            let type_id = word(self.types, member + 4)? as usize;
            let offset = word(self.types, member + 8)?;
            // With kind_flag the upper 8 bits are the size of a bit field.
            let offset = if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
            let bit_offset = base.checked_add(offset).ok_or(BtfError::Malformed)?;
            if name.is_empty() {
                if type_id < self.offsets.len() {
                    self.members(type_id, bit_offset, depth + 1, found)?;
                }
            } else {
                found.entry(name).or_insert(Field { bit_offset });
            }
        }
        Ok(())
    }

    fn head(&self, id: usize) -> Result<(&'a [u8], u32), BtfError> {
        let at = *self.offsets.get(id).ok_or(BtfError::Malformed)? as usize;
        Ok((self.string(word(self.types, at)?)?, word(self.types, at + 4)?))
    }

    fn string(&self, offset: u32) -> Result<&'a [u8], BtfError> {
        let rest = self.strings.get(offset as usize..).ok_or(BtfError::Malformed)?;
        let len = rest.iter().position(|byte| *byte == 0).ok_or(BtfError::Malformed)?;
        Ok(&rest[..len])
    }
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Bytes behind the 12 bytes that every type has; None: an unknown kind.
fn trailer_len(info: u32) -> Option<usize> {
    let len = (info & 0xffff) as usize;
    Some(match kind(info) {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * len,
        6 | 13 => 8 * len,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let end = at.checked_add(4).ok_or(BtfError::Malformed)?;
    let word = bytes.get(at..end).and_then(|bytes| bytes.try_into().ok());
    word.map(u32::from_le_bytes).ok_or(BtfError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_an_error() {
        assert!(Btf::parse(b"").is_err());
        assert!(Btf::parse(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 255, 255]).is_err());
    }

    #[test]
    fn the_running_kernel_has_the_fields() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            return;
        };
        let btf = Btf::parse(&bytes).unwrap();
        let [flags, tgid] = btf.fields("task_struct", ["flags", "tgid"]).unwrap();
        assert!(flags.byte_offset() > 0 && tgid.byte_offset() > flags.byte_offset());
        assert!(btf.fields("task_struct", ["no_such_field"]).is_err());
    }
}

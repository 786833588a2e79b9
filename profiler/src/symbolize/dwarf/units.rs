//! Which units cover the addresses, and the units that references lead to.

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use gimli::{
    AttributeValue, DebugInfoOffset, Dwarf, Unit, UnitHeader, UnitOffset, UnitRef, UnitType,
};

use super::{Budget, Queries, Reader};

/// Units that references lead to are kept up to this number.
const KEPT: usize = 64;

/// The units of a file.
pub struct Directory<'dwarf, 'data> {
    /// The file's DWARF.
    pub dwarf: &'dwarf Dwarf<Reader<'data>>,
    /// Where units begin, ascending.
    offsets: Vec<usize>,
    kept: HashMap<usize, Rc<Unit<Reader<'data>>>>,
    supplementary: Option<Box<Self>>,
}

impl<'dwarf, 'data> Directory<'dwarf, 'data> {
    /// Reads the unit headers, up to the first that makes no sense.
    pub fn new(dwarf: &'dwarf Dwarf<Reader<'data>>) -> Self {
        let mut offsets = Vec::new();
        let mut headers = dwarf.units();
        while let Ok(Some(header)) = headers.next() {
            offsets.extend(header.debug_info_offset().map(|offset| offset.0));
        }
        Self { dwarf, offsets, kept: HashMap::new(), supplementary: None }
    }

    /// The units of the supplementary file, if there is one.
    pub fn supplementary(&mut self) -> Option<&mut Self> {
        if self.supplementary.is_none() {
            self.supplementary = Some(Box::new(Self::new(self.dwarf.sup()?)));
        }
        self.supplementary.as_deref_mut()
    }

    /// The units that say they cover an address, by where they begin.
    pub fn covering(&self, queries: Queries<'_>, budget: &mut Budget) -> BTreeSet<usize> {
        let mut hits = BTreeSet::new();
        let mut indexed = Vec::new();
        let mut headers = self.dwarf.debug_aranges.headers();
        while let Ok(Some(header)) = headers.next() {
            let offset = header.debug_info_offset().0;
            // Two units in the same place would be read twice, a thousand of them without end.
            if self.offsets.binary_search(&offset).is_err() {
                continue;
            }
            let mut entries = header.entries();
            let mut any = false;
            while let Ok(Some(entry)) = entries.next() {
                if budget.take().is_err() {
                    return hits;
                }
                let range = entry.range();
                any |= range.begin < range.end;
                if !queries.within(range.begin, range.end).is_empty() {
                    hits.insert(offset);
                }
            }
            if any {
                indexed.push(offset);
            }
        }
        indexed.sort_unstable();
        // Not every compiler writes the index, and some leave units out.
        for offset in &self.offsets {
            if budget.check().is_err() {
                break;
            }
            if indexed.binary_search(offset).is_err()
                && self.root_covers(*offset, queries, budget).unwrap_or(false)
            {
                hits.insert(*offset);
            }
        }
        hits
    }

    fn root_covers(
        &self,
        offset: usize,
        queries: Queries<'_>,
        budget: &mut Budget,
    ) -> gimli::Result<bool> {
        let header = self.dwarf.unit_header(DebugInfoOffset(offset))?;
        if !matches!(header.type_(), UnitType::Compilation | UnitType::Skeleton(_)) {
            return Ok(false);
        }
        let unit = self.dwarf.unit(header)?;
        let mut entries = unit.entries_raw(None)?;
        let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(false) };
        let mut ranges = Ranges::default();
        for specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(*specification)?;
            ranges.note(attribute.name(), attribute.value());
        }
        let mut covers = false;
        ranges.each(unit.unit_ref(self.dwarf), budget, |begin, end| {
            covers |= !queries.within(begin, end).is_empty();
        })?;
        Ok(covers)
    }

    /// The unit that begins here.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn unit(&mut self, offset: usize) -> gimli::Result<Rc<Unit<Reader<'data>>>> {
        if let Some(unit) = self.kept.get(&offset) {
            return Ok(Rc::clone(unit));
        }
        let header: UnitHeader<_> = self.dwarf.unit_header(DebugInfoOffset(offset))?;
        let unit = Rc::new(self.dwarf.unit(header)?);
        if self.kept.len() >= KEPT {
            self.kept.clear();
        }
        self.kept.insert(offset, Rc::clone(&unit));
        Ok(unit)
    }

    /// The unit that an entry lies in, and where in it.
    ///
    /// # Errors
    ///
    /// When no unit is there or it cannot be read.
    pub fn entry(
        &mut self,
        offset: DebugInfoOffset,
    ) -> gimli::Result<(Rc<Unit<Reader<'data>>>, UnitOffset)> {
        let missing = gimli::Error::NoEntryAtGivenOffset(offset.0 as u64);
        let after = self.offsets.partition_point(|begin| *begin <= offset.0);
        let begin = *after.checked_sub(1).and_then(|i| self.offsets.get(i)).ok_or(missing)?;
        let unit = self.unit(begin)?;
        let inside = offset.to_unit_offset(&unit.header).ok_or(missing)?;
        Ok((unit, inside))
    }
}

/// The attributes of an entry that say which addresses it covers.
#[derive(Default)]
pub struct Ranges<'data> {
    low: Option<AttributeValue<Reader<'data>>>,
    high: Option<AttributeValue<Reader<'data>>>,
    list: Option<AttributeValue<Reader<'data>>>,
}

impl<'data> Ranges<'data> {
    /// Takes an attribute when it is one of them.
    pub fn note(&mut self, name: gimli::DwAt, value: AttributeValue<Reader<'data>>) {
        match name {
            gimli::DW_AT_low_pc => self.low = Some(value),
            gimli::DW_AT_high_pc => self.high = Some(value),
            gimli::DW_AT_ranges => self.list = Some(value),
            _ => {}
        }
    }

    /// Visits each range as begin and end.
    ///
    /// # Errors
    ///
    /// When the values cannot be read, or the budget is used up.
    pub fn each(
        &self,
        unit: UnitRef<'_, Reader<'data>>,
        budget: &mut Budget,
        mut visit: impl FnMut(u64, u64),
    ) -> gimli::Result<()> {
        if let Some(list) = self.list {
            let Some(mut ranges) = unit.attr_ranges(list)? else { return Ok(()) };
            while let Some(range) = ranges.next()? {
                budget.take()?;
                visit(range.begin, range.end);
            }
            return Ok(());
        }
        budget.take()?;
        let (Some(low), Some(high)) = (self.low, self.high) else { return Ok(()) };
        let Some(begin) = unit.attr_address(low)? else { return Ok(()) };
        let end = match high {
            AttributeValue::Udata(size) => Some(begin.saturating_add(size)),
            high => unit.attr_address(high)?,
        };
        visit(begin, end.unwrap_or(begin));
        Ok(())
    }
}

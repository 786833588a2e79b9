//! Functions and inlined calls of one unit that hold the addresses.

use std::rc::Rc;

use gimli::{AttributeValue, DwTag, Unit, UnitOffset};
use rustc_hash::FxHashMap;

use super::{
    Budget, Queries, Reader,
    units::{Directory, Ranges},
};

/// References between entries of one function are followed this far.
const MAX_REFERENCES: usize = 16;

/// Inlined calls deeper than this are left out: compilers stop long before.
const MAX_INLINED: usize = 512;

/// A function at an address, with what is known of its call.
#[derive(Clone, Debug, Default)]
pub struct Found<'data> {
    /// Name as DWARF has it.
    pub name: Option<&'data [u8]>,
    /// File (of the unit's line program) and line in the caller; for an inlined call only.
    pub call: Option<(u64, u32)>,
}

/// The functions at one address while entries are visited.
struct Open<'data> {
    /// The function that was compiled.
    owner: UnitOffset,
    /// Depth of the last entry.
    depth: isize,
    calls: Vec<Found<'data>>,
}

/// What is read of an entry.
#[derive(Default)]
struct Entry<'data> {
    ranges: Ranges<'data>,
    linkage_name: Option<AttributeValue<Reader<'data>>>,
    name: Option<AttributeValue<Reader<'data>>>,
    origin: Option<AttributeValue<Reader<'data>>>,
    call_file: u64,
    call_line: u32,
    sibling: Option<UnitOffset>,
}

impl<'data> Entry<'data> {
    fn note(&mut self, attribute: &gimli::Attribute<Reader<'data>>) {
        let value = attribute.value();
        match attribute.name() {
            gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name => {
                self.linkage_name = Some(value);
            }
            gimli::DW_AT_name => self.name = Some(value),
            gimli::DW_AT_abstract_origin => self.origin = Some(value),
            gimli::DW_AT_specification if self.origin.is_none() => self.origin = Some(value),
            gimli::DW_AT_call_file => {
                self.call_file = match value {
                    AttributeValue::FileIndex(file) => file,
                    value => value.udata_value().unwrap_or(0),
                };
            }
            gimli::DW_AT_call_line => {
                let line = value.udata_value().unwrap_or(0);
                self.call_line = u32::try_from(line).unwrap_or(0);
            }
            gimli::DW_AT_sibling => {
                if let AttributeValue::UnitRef(offset) = value {
                    self.sibling = Some(offset);
                }
            }
            name => self.ranges.note(name, value),
        }
    }
}

/// The functions at each query that this unit has, by number of the query.
///
/// # Errors
///
/// When the unit cannot be read to its end, or the budget is used up.
pub fn walk<'data>(
    directory: &mut Directory<'_, 'data>,
    unit: &Rc<Unit<Reader<'data>>>,
    queries: Queries<'_>,
    budget: &mut Budget,
) -> gimli::Result<Vec<(usize, Vec<Found<'data>>)>> {
    let unit_ref = unit.unit_ref(directory.dwarf);
    let mut open: FxHashMap<usize, Open<'data>> = FxHashMap::default();
    let mut entries = unit.entries_raw(None)?;
    // After a jump gimli counts depth from 0 again.
    let mut base = 0;
    // The compiled functions around the entry, and the depth below which all is skipped.
    let mut owners: Vec<(isize, UnitOffset)> = Vec::new();
    let mut skip_below = isize::MAX;
    while !entries.is_empty() {
        let depth = base + entries.next_depth();
        let offset = entries.next_offset();
        let Some(abbreviation) = entries.read_abbreviation()? else { continue };
        let tag = abbreviation.tag();
        if depth <= skip_below {
            skip_below = isize::MAX;
        }
        let wanted = skip_below == isize::MAX && is_function(tag);
        if !wanted {
            entries.skip_attributes(abbreviation.attributes())?;
            continue;
        }
        let mut entry = Entry::default();
        for specification in abbreviation.attributes() {
            entry.note(&entries.read_attribute(*specification)?);
        }
        while owners.last().is_some_and(|(owner, _)| *owner >= depth) {
            owners.pop();
        }
        if tag == gimli::DW_TAG_subprogram {
            owners.push((depth, offset));
        }
        let mut hits = Vec::new();
        entry.ranges.each(unit_ref, budget, |begin, end| {
            hits.extend(queries.within(begin, end));
        })?;
        if hits.is_empty() {
            // Nothing below it holds an address either: on with what follows it.
            if let Some(sibling) = entry.sibling.filter(|sibling| *sibling > entries.next_offset())
                && abbreviation.has_children()
            {
                entries = unit.entries_raw(Some(sibling))?;
                base = depth;
            } else {
                skip_below = depth;
            }
            continue;
        }
        let Some((_, owner)) = owners.last().copied() else { continue };
        let mut name = None;
        for query in hits {
            if !takes(&open, query, tag, depth, owner) {
                continue;
            }
            // References can lead through many large units.
            budget.check()?;
            let name = *name.get_or_insert_with(|| name_of(directory, unit, &entry));
            let inlined = tag == gimli::DW_TAG_inlined_subroutine;
            let call = inlined.then_some((entry.call_file, entry.call_line));
            let at = open.entry(query).or_insert(Open { owner, depth, calls: Vec::new() });
            at.depth = depth;
            at.calls.push(Found { name, call });
        }
    }
    let mut found: Vec<_> = open.into_iter().map(|(query, at)| (query, at.calls)).collect();
    found.sort_unstable_by_key(|(query, _)| *query);
    Ok(found)
}

fn is_function(tag: DwTag) -> bool {
    tag == gimli::DW_TAG_subprogram || tag == gimli::DW_TAG_inlined_subroutine
}

/// Whether an entry adds to the functions at a query: the first compiled one that holds it does,
/// and then only what is nested in that one.
fn takes(
    open: &FxHashMap<usize, Open<'_>>,
    query: usize,
    tag: DwTag,
    depth: isize,
    owner: UnitOffset,
) -> bool {
    match open.get(&query) {
        None => tag == gimli::DW_TAG_subprogram,
        Some(at) => {
            tag == gimli::DW_TAG_inlined_subroutine
                && at.owner == owner
                && at.depth < depth
                && at.calls.len() < MAX_INLINED
        }
    }
}

/// The name of a function: its linkage name where one of the entries it refers to has one.
fn name_of<'data>(
    directory: &mut Directory<'_, 'data>,
    unit: &Rc<Unit<Reader<'data>>>,
    entry: &Entry<'data>,
) -> Option<&'data [u8]> {
    let mut directory = directory;
    let mut unit = Rc::clone(unit);
    let mut short = None;
    let (mut linkage, mut name, mut origin) = (entry.linkage_name, entry.name, entry.origin);
    for _ in 0..MAX_REFERENCES {
        let text = |value: Option<AttributeValue<Reader<'data>>>| {
            let text = directory.dwarf.attr_string(&unit, value?).ok()?.slice();
            (!text.is_empty()).then_some(text)
        };
        if let Some(linkage) = text(linkage) {
            return Some(linkage);
        }
        short = short.or_else(|| text(name));
        let Some(to) = origin else { break };
        let offset = match to {
            AttributeValue::UnitRef(offset) => offset,
            AttributeValue::DebugInfoRef(offset) => {
                let Ok((other, offset)) = directory.entry(offset) else { break };
                unit = other;
                offset
            }
            AttributeValue::DebugInfoRefSup(offset) => {
                let Some(supplementary) = directory.supplementary() else { break };
                directory = supplementary;
                let Ok((other, offset)) = directory.entry(offset) else { break };
                unit = other;
                offset
            }
            _ => break,
        };
        let Ok(read) = read_names(&unit, offset) else { break };
        (linkage, name, origin) = (read.linkage_name, read.name, read.origin);
    }
    short
}

fn read_names<'data>(
    unit: &Unit<Reader<'data>>,
    offset: UnitOffset,
) -> gimli::Result<Entry<'data>> {
    let mut entry = Entry::default();
    let mut entries = unit.entries_raw(Some(offset))?;
    if let Some(abbreviation) = entries.read_abbreviation()? {
        for specification in abbreviation.attributes() {
            entry.note(&entries.read_attribute(*specification)?);
        }
    }
    Ok(entry)
}

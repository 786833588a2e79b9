//! Source positions from the line program of one unit.

use gimli::{Dwarf, Unit};
use rustc_hash::FxHashMap;

use super::{Budget, Call, Chain, Position, Queries, Reader, functions::Found};

/// The line program of a unit.
pub struct Lines<'unit, 'data> {
    dwarf: &'unit Dwarf<Reader<'data>>,
    unit: &'unit Unit<Reader<'data>>,
}

impl<'unit, 'data> Lines<'unit, 'data> {
    /// The line program of this unit.
    pub fn new(dwarf: &'unit Dwarf<Reader<'data>>, unit: &'unit Unit<Reader<'data>>) -> Self {
        Self { dwarf, unit }
    }

    /// File number and line at each query that the program covers, by number of the query.
    ///
    /// # Errors
    ///
    /// When the program cannot be read to its end, or the budget is used up.
    pub fn positions(
        &self,
        queries: Queries<'_>,
        budget: &mut Budget,
    ) -> gimli::Result<FxHashMap<usize, (u64, u32)>> {
        let mut positions = FxHashMap::default();
        let Some(program) = self.unit.line_program.clone() else { return Ok(positions) };
        let mut rows = program.rows();
        // The row before: where it begins, its file and its line.
        let mut last: Option<(u64, u64, u32)> = None;
        while let Some((_, row)) = rows.next_row()? {
            budget.take()?;
            let address = row.address();
            if let Some((begin, file, line)) = last.take() {
                for query in queries.within(begin, address) {
                    positions.entry(query).or_insert((file, line));
                }
            }
            if !row.end_sequence() {
                let line = row.line().map_or(0, |line| line.get());
                last = Some((address, row.file_index(), u32::try_from(line).unwrap_or(0)));
            }
        }
        Ok(positions)
    }

    /// Puts positions to the functions at an address: each has that of the call of the next, and
    /// the last one that of the address itself.
    pub fn chain(&self, found: Vec<Found<'_>>, leaf: Option<(u64, u32)>) -> Chain {
        let mut at: Vec<Option<(u64, u32)>> =
            found.iter().skip(1).map(|function| function.call).collect();
        at.push(leaf);
        found
            .into_iter()
            .zip(at)
            .map(|(function, at)| Call {
                name: function.name.map(<[u8]>::to_vec),
                position: at.map(|(file, line)| self.position(file, line)).unwrap_or_default(),
            })
            .collect()
    }

    fn position(&self, file: u64, line: u32) -> Position {
        Position { file: self.file(file), line: Some(line).filter(|line| *line > 0) }
    }

    fn file(&self, number: u64) -> Option<String> {
        let header = self.unit.line_program.as_ref()?.header();
        let file = header.file(number)?;
        let text = |value| {
            let text = self.dwarf.attr_string(self.unit, value).ok()?;
            Some(String::from_utf8_lossy(text.slice()).into_owned())
        };
        let name = text(file.path_name())?;
        if name.is_empty() {
            return None;
        }
        // Directories are relative to the one that the compiler ran in.
        let compiled = self.unit.comp_dir.map(|directory| directory.to_string_lossy());
        let mut path = std::path::PathBuf::from(compiled.unwrap_or_default().into_owned());
        // Number 0 is that one itself.
        if file.directory_index() != 0 {
            path.push(file.directory(header).and_then(text).unwrap_or_default());
        }
        path.push(name);
        Some(path.to_string_lossy().into_owned())
    }
}

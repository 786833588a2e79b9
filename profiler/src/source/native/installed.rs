//! Where the unwind rows of a file are in the walker's tables.

use profiler_ebpf::wire::{TEXT_PAGE, TEXT_PAGE_SHIFT};

use super::extents::Extent;
use crate::unwind::TextRange;

/// A part of a mapping, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// The page index entry of its first page; None: it has no rows.
    pub first_page: Option<u32>,
}

/// Where the rows of one file are installed.
#[derive(Clone, Debug, Default)]
pub struct FileTables {
    /// Its text, and where the pages of that are.
    pub text: Vec<(TextRange, Extent)>,
    /// The segments' numbers, and where in them its rows are.
    pub rows: Vec<(u16, Extent)>,
    /// Numbers of the rules that they use.
    pub rules: Vec<u16>,
}

impl FileTables {
    /// Splits a mapping of `len` bytes from a file offset on into what has pages in the index and
    /// what has not. Where two text ranges share a page of the file, the mapping belongs to the
    /// one that it overlaps most.
    pub fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = Piece> + use<> {
        let end = offset.saturating_add(len);
        let mut overlaps: Vec<(u64, u64, u64, u32)> = Vec::new();
        for (range, extent) in &self.text {
            let first = range.offset & !(TEXT_PAGE - 1);
            let last = first + u64::from(extent.len) * TEXT_PAGE;
            if first.max(offset) < last.min(end) {
                overlaps.push((first.max(offset), last.min(end), first, extent.start));
            }
        }
        overlaps.sort_by_key(|(from, to, ..)| std::cmp::Reverse(to - from));
        let mut pieces: Vec<Piece> = Vec::new();
        for (from, to, first, page) in overlaps {
            // What a larger overlap has taken is at one end of it.
            let from = pieces
                .iter()
                .map(|p| p.end)
                .filter(|end| *end > from && *end <= to)
                .max()
                .unwrap_or(from);
            let to = pieces
                .iter()
                .map(|p| p.start)
                .filter(|s| *s < to && *s >= from)
                .min()
                .unwrap_or(to);
            if from < to && !pieces.iter().any(|p| p.start <= from && to <= p.end) {
                let page = page + ((from - first) >> TEXT_PAGE_SHIFT) as u32;
                pieces.push(Piece { start: from, end: to, first_page: Some(page) });
            }
        }
        pieces.sort_by_key(|piece| piece.start);
        let mut all = Vec::with_capacity(pieces.len() * 2 + 1);
        let mut at = offset;
        for piece in pieces {
            if at < piece.start {
                all.push(Piece { start: at, end: piece.start, first_page: None });
            }
            at = piece.end;
            all.push(piece);
        }
        if at < end {
            all.push(Piece { start: at, end, first_page: None });
        }
        all.into_iter().map(move |piece| Piece {
            start: piece.start - offset,
            end: piece.end - offset,
            ..piece
        })
    }

    /// How many rows are installed.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.iter().map(|(_, extent)| u64::from(extent.len)).sum()
    }
}

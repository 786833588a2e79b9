//! What a process has mapped: regions by address, and as the walker searches them.

use std::sync::Arc;

use profiler_ebpf::wire::{Mapping, mapping_kind};

use super::{modules::Modules, rows::Rows};
use crate::model::frame::ModuleId;

/// An executable mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// File offset of `start`.
    pub offset: u64,
    /// What is mapped.
    pub module: ModuleId,
}

/// Regions sorted by address, none overlapping.
pub type Regions = Arc<Vec<Region>>;

/// Puts a region in, over whatever lay there before.
pub fn insert(regions: &mut Vec<Region>, region: Region, modules: &mut Modules) {
    let Region { start, end, .. } = region;
    let first = regions.partition_point(|other| other.end <= start);
    let last = regions.partition_point(|other| other.start < end);
    let mut kept = Vec::with_capacity(3);
    for old in regions.get(first..last.max(first)).unwrap_or_default() {
        if old.start < start {
            modules.hold(old.module);
            kept.push(Region { end: start, ..*old });
        }
        if old.end > end {
            modules.hold(old.module);
            kept.push(Region { start: end, offset: old.offset + (end - old.start), ..*old });
        }
        modules.release(old.module);
    }
    kept.push(region);
    kept.sort_by_key(|region| region.start);
    regions.splice(first..last.max(first), kept);
}

/// The region at an address.
#[must_use]
pub fn region_at(regions: &[Region], address: u64) -> Option<&Region> {
    let at = regions.partition_point(|region| region.end <= address);
    regions.get(at).filter(|region| region.start <= address)
}

/// Regions as the walker searches them.
#[must_use]
pub fn wire_mappings(regions: &[Region], modules: &Modules) -> Vec<Mapping> {
    let mut mappings = Vec::with_capacity(regions.len());
    for region in regions {
        let Region { start, end, offset, module } = *region;
        let plain = |kind| Mapping { start, end, first_page: 0, kind };
        match modules.rows(module) {
            Rows::Idle | Rows::Compiling => mappings.push(plain(mapping_kind::PENDING)),
            Rows::Followed => mappings.push(plain(mapping_kind::FOLLOWED)),
            Rows::None | Rows::Astray => mappings.push(plain(mapping_kind::NO_ROWS)),
            Rows::Refused => mappings.push(plain(mapping_kind::NO_ROOM)),
            Rows::Installed(file) => {
                let pieces = file.pieces(offset, end - start);
                mappings.extend(pieces.map(|piece| Mapping {
                    start: start + piece.start,
                    end: start + piece.end,
                    first_page: piece.first_page.unwrap_or_default(),
                    kind: match piece.first_page {
                        Some(_) => mapping_kind::ROWS,
                        None => mapping_kind::NO_ROWS,
                    },
                }));
            }
        }
    }
    mappings
}
